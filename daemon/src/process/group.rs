//! A child and all that it starts, ended as one.

use super::with_environment;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::process::ExitStatus;
use tokio::process::{Child, Command};

/// How often marked processes are looked for: one that forks while it is killed leaves a child that
/// the look before did not see.
const LOOKS: u32 = 8;

/// A child that leads a process group. Dropping it ends the group unless the child was reaped, and
/// all that carries the child's mark.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    /// What is ended too wherever it went, as `NAME=value` of its environment.
    mark: Option<String>,
}

impl Group {
    /// Starts a child in a group of its own.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.process_group(0).kill_on_drop(true).spawn()?, mark: None })
    }

    /// Starts a child whose environment holds `name=value`. All that hold it are ended with the
    /// child, also those that left its group.
    pub(crate) fn spawn_marked(command: &mut Command, name: &str, value: &str) -> io::Result<Self> {
        let child = command.env(name, value).process_group(0).kill_on_drop(true).spawn()?;
        Ok(Self { child, mark: Some(format!("{name}={value}")) })
    }

    /// Its leader.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the leader's end, then ends what it left in its group. What left the group is
    /// ended when this is dropped.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        // once reaped, the child no longer tells its id
        let leader = self.child.id();
        let status = self.child.wait().await;
        end_group(leader);
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        end_group(self.child.id());
        if let Some(mark) = &self.mark
            && let Err(error) = end_marked(mark)
        {
            tracing::warn!(%error, mark, "what a command left running may run on");
        }
    }
}

fn end_group(leader: Option<u32>) {
    if let Some(group) = leader.and_then(|id| i32::try_from(id).ok())
        && let Err(cause) = killpg(Pid::from_raw(group), Signal::SIGKILL)
    {
        tracing::debug!(group, %cause, "the process group was gone before it was ended");
    }
}

/// Ends all processes of this user whose environment holds `entry` (`NAME=value`).
///
/// # Errors
/// The process table could not be listed, or one of them may not be ended.
pub(crate) fn end_marked(entry: &str) -> io::Result<()> {
    for _ in 0..LOOKS {
        let found = with_environment(entry, 0)?;
        if found.is_empty() {
            break;
        }
        for row in found {
            row.id.signal(Signal::SIGKILL)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessId;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// A shell that starts two sleepers, one in a session of its own, notes them and runs `then`.
    fn shell(folder: &Path, then: &str) -> Command {
        let text = format!(
            "sleep 300 & echo $! > near; setsid sh -c 'echo $$ > far; exec sleep 300' & {then}"
        );
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(text).current_dir(folder);
        command
    }

    async fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn noted(folder: &Path, name: &str) -> Option<i32> {
        std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    }

    fn gone(pid: i32) -> bool {
        ProcessId::of(pid).unwrap().is_none()
    }

    #[tokio::test]
    async fn f04_what_left_the_group_ends_with_it_however_it_ended() {
        for then in ["while ! test -s far; do :; done; exit 0", "sleep 300"] {
            let folder = tempfile::tempdir().unwrap();
            let mark = uuid::Uuid::now_v7().to_string();
            let mut command = shell(folder.path(), then);
            let mut group = Group::spawn_marked(&mut command, "HAYWARD_TEST", &mark).unwrap();
            let pids = || noted(folder.path(), "near").zip(noted(folder.path(), "far"));
            until(|| pids().is_some()).await;
            let (near, far) = pids().unwrap();
            if then.ends_with("exit 0") {
                assert!(group.ended().await.unwrap().success());
            }
            drop(group);
            until(|| gone(near) && gone(far)).await;
        }
    }
}
