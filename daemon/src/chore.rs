//! Setup and teardown of a worktree: a command of the user's, bounded in time, its output in a
//! file.

use crate::process::{self, Group};
use hayward_shared::id::RunId;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// Marks the processes of a run's chores, so that a restarted daemon ends those that its
/// predecessor left.
const MARK: &str = "HAYWARD_CHORE";

/// The end of a failed command's output that its error shows: a screen of it.
const SHOWN: u64 = 2 * 1024;

/// A command to run in a worktree.
#[derive(Debug)]
pub(crate) struct Chore<'a> {
    /// What it is to the user: `setup` or `teardown`.
    pub(crate) what: &'static str,
    pub(crate) run: RunId,
    /// For `sh -c`.
    pub(crate) command: &'a str,
    pub(crate) worktree: &'a Path,
    /// All of its environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Its output goes here, over what was there.
    pub(crate) log: PathBuf,
    pub(crate) limit: Duration,
}

/// A command that did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChoreError {
    /// It could not be started.
    #[error("the {what} command could not be started")]
    NotStarted {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// It ended badly.
    #[error("the {what} command ended with {status} (all output: {}): {tail}", log.display())]
    Failed { what: &'static str, status: ExitStatus, log: PathBuf, tail: String },
    /// It took too long and was ended.
    #[error(
        "the {what} command took over {} s and was ended (all output: {}): {tail}",
        limit.as_secs(),
        log.display()
    )]
    TimedOut { what: &'static str, limit: Duration, log: PathBuf, tail: String },
}

impl Chore<'_> {
    /// Runs it to its end. What an earlier attempt of the same run left running is ended first.
    pub(crate) async fn run(self) -> Result<(), ChoreError> {
        let (what, limit, log) = (self.what, self.limit, self.log.clone());
        let not_started = |source| ChoreError::NotStarted { what, source };
        end_leftovers(self.run).map_err(not_started)?;
        let output = open(&log).map_err(not_started)?;
        let errors = output.try_clone().map_err(not_started)?;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(self.command)
            .current_dir(self.worktree)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let mark = self.run.to_string();
        let mut group = Group::spawn_marked(&mut command, MARK, &mark).map_err(not_started)?;
        let ended = tokio::time::timeout(limit, group.ended()).await;
        drop(group);
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ChoreError::Failed { what, status, tail: tail(&log), log }),
            Ok(Err(source)) => Err(ChoreError::NotStarted { what, source }),
            Err(_) => Err(ChoreError::TimedOut { what, limit, tail: tail(&log), log }),
        }
    }
}

/// Ends what chores of this name left running, as those of a daemon that was killed.
pub(crate) fn end_leftovers(run: RunId) -> io::Result<()> {
    process::end_marked(&format!("{MARK}={run}"))
}

fn open(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(log)
}

fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(cause) => format!("(its output cannot be read: {cause})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chore<'a>(command: &'a str, folder: &'a Path, limit: Duration) -> Chore<'a> {
        let path = std::env::var("PATH").unwrap();
        Chore {
            what: "setup",
            run: RunId::fresh(),
            command,
            worktree: folder,
            environment: BTreeMap::from([("PATH".to_owned(), path), ("X".to_owned(), "7".into())]),
            log: folder.join("logs/setup.log"),
            limit,
        }
    }

    #[tokio::test]
    async fn f24_a_setup_command_works_in_the_worktree_and_its_failure_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(20);
        chore("echo $X > made; pwd", folder.path(), limit).run().await.unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("made")).unwrap(), "7\n");
        let bad = chore("echo why it broke >&2; exit 3", folder.path(), limit).run().await;
        let text = bad.unwrap_err().to_string();
        assert!(text.contains("why it broke") && text.contains('3'), "{text}");
    }

    #[tokio::test]
    async fn f04_what_a_setup_command_started_ends_with_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let command = "sleep 300 & echo $! > pid; sleep 300";
        let mut child: Option<i32> = None;
        // on a machine that stands still for a moment the first may be over before the shell runs
        for limit in [700, 5_000, 30_000] {
            let ended = chore(command, folder.path(), Duration::from_millis(limit)).run().await;
            assert!(matches!(ended, Err(ChoreError::TimedOut { .. })), "{ended:?}");
            let written = fs::read_to_string(folder.path().join("pid"));
            child = written.ok().and_then(|text| text.trim().parse().ok());
            if child.is_some() {
                break;
            }
        }
        let pid = child.unwrap();
        let begun = std::time::Instant::now();
        while process::ProcessId::of(pid).unwrap().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
