//! The folder of one run, and the records in it: how keeper and daemon know of each other when
//! neither can ask. Each record is written whole and durably, by one writer, as its doc says.

use crate::process::ProcessId;
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The name of the variable that every process of a run carries, so that all can be found.
pub const RUN_VARIABLE: &str = "HAYWARD_RUN_ID";

/// The largest terminal that a session accepts, each way.
pub const MAX_SIDE: u16 = 1000;

/// The folder of one run, mode 0700. Holds paths only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the folder; one that is there is left as it is.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The ring of the agent's output: terminal bytes, or its standard output.
    #[must_use]
    pub fn ring(&self) -> PathBuf {
        self.0.join("ring")
    }

    /// The ring of the agent's standard error; there in pipe mode only.
    #[must_use]
    pub fn stderr(&self) -> PathBuf {
        self.0.join("stderr")
    }

    /// Where the keeper's own complaints go.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("keeper.log")
    }

    /// Reads a record; `None` when it was not written yet.
    ///
    /// # Errors
    /// The disk failed, or the record is not what this version writes (`InvalidData`).
    pub fn read<R: Kept>(&self) -> io::Result<Option<R>> {
        match fs::read(self.0.join(R::NAME)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Writes a record in place of an earlier one. When this returns, it is on the disk, whole.
    ///
    /// # Errors
    /// The disk refused; the earlier record stands.
    pub fn write<R: Kept>(&self, record: &R) -> io::Result<()> {
        self.stage(record)?.persist(self.0.join(R::NAME))?;
        self.sync()
    }

    /// Writes a record in place of an earlier one, whole, but does not wait for the disk: it
    /// outlives any process, not a loss of power.
    ///
    /// # Errors
    /// The system refused; the earlier record stands.
    pub fn note<R: Kept>(&self, record: &R) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.0)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.persist(self.0.join(R::NAME))?;
        Ok(())
    }

    /// Writes a record that must not be there yet; `false` when it is.
    ///
    /// # Errors
    /// The disk refused.
    pub fn write_first<R: Kept>(&self, record: &R) -> io::Result<bool> {
        match self.stage(record)?.persist_noclobber(self.0.join(R::NAME)) {
            Ok(_) => self.sync().map(|()| true),
            Err(fault) if fault.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(fault) => Err(fault.error),
        }
    }

    /// Takes the agent's environment, and with it its secrets, out of the launch record; the rest
    /// stands. Only for whoever owns the session's start: the agent was started, or never will be.
    ///
    /// # Errors
    /// The record cannot be read or written; it stands as it was.
    pub fn forget_environment(&self) -> io::Result<()> {
        match self.read::<Launch>()? {
            Some(launch) if !launch.env.is_empty() => {
                self.write(&Launch { env: BTreeMap::new(), ..launch })
            }
            _ => Ok(()),
        }
    }

    fn stage<R: Kept>(&self, record: &R) -> io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.0)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.as_file().sync_all()?;
        Ok(file)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// A record of a run folder.
pub trait Kept: Serialize + DeserializeOwned {
    /// The name of its file.
    const NAME: &'static str;
}

/// What to run and how. Written by the daemon before it starts the keeper, readable by the user
/// only. It holds the agent's secrets, as its environment does, until the keeper has started the
/// agent; from then on it stands without them ([`RunFolder::forget_environment`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// The run.
    pub run: RunId,
    /// Its task.
    pub task: TaskId,
    /// The program, looked up on the PATH of `env`, and its arguments.
    pub argv: Vec<String>,
    /// The absolute folder that the agent starts in.
    pub cwd: PathBuf,
    /// The whole environment: nothing is inherited. Must hold [`RUN_VARIABLE`]; 128 KiB a variable
    /// and 1 MiB in all at most. Empty on the disk once the agent was started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Terminal or pipes.
    pub mode: Mode,
    /// How much output is kept, in bytes.
    pub ring_bytes: u64,
    /// Whether the session must be over at the moment that the folder's [`super::Fence`] names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
}

impl Kept for Launch {
    const NAME: &'static str = "launch.json";
}

/// What the agent's standard streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Mode {
    /// One terminal, which is also the agent's controlling one.
    Pty {
        /// Its height in characters.
        rows: u16,
        /// Its width in characters.
        cols: u16,
    },
    /// Three pipes.
    Pipe,
}

/// Who got to the folder first. Never replaced once it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "owner", rename_all = "camelCase")]
pub enum Owner {
    /// A keeper, before it did anything else.
    Keeper {
        /// The keeper.
        keeper: ProcessId,
        /// The boot that its id belongs to.
        boot: String,
    },
    /// A daemon that found no keeper, so that none can start late.
    Barred,
}

impl Kept for Owner {
    const NAME: &'static str = "owner";
}

/// Who runs. Written by the keeper before it starts the agent, and again right after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version of its socket protocol.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The keeper.
    pub keeper: ProcessId,
    /// The agent, once it was started.
    pub agent: Option<ProcessId>,
    /// The boot that both ids belong to.
    pub boot: String,
    /// When the keeper began.
    pub started_at: Timestamp,
}

impl Kept for Record {
    const NAME: &'static str = "keeper.json";
}

/// How a session ended. Written by the keeper when nothing of it runs any more; the truth from
/// then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The run.
    pub run: RunId,
    /// How the agent itself ended.
    pub how: How,
    /// When the agent itself ended.
    pub ended_at: Timestamp,
    /// When its tree was gone and its output drained.
    pub recorded_at: Timestamp,
    /// The offset behind the last byte of output.
    pub output_end: u64,
    /// The offset behind the last byte of standard error; zero with a terminal.
    pub stderr_end: u64,
    /// Whether the output was read to its end; `false` when a stranger to the tree still held it
    /// open after the bound.
    pub drained: bool,
    /// How many processes the agent left behind, which were ended.
    pub leftovers: u32,
    /// Whether the keeper ended it because its time was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
}

impl Exit {
    /// Whether it ended, or never began, because its time was over.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced || matches!(self.how, How::NotStarted { cause: LaunchFault::Fenced })
    }
}

impl Kept for Exit {
    const NAME: &'static str = "exit.json";
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum How {
    /// It left with this code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It never ran.
    NotStarted {
        /// Why.
        cause: LaunchFault,
    },
}

/// Why an agent could not be started. Also a record of its own, by which the process that was to
/// become the agent tells its keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum LaunchFault {
    /// The launch record is missing or breaks its own rules.
    #[error("the launch record cannot be used: {detail}")]
    BadLaunch {
        /// What is wrong with it.
        detail: String,
    },
    /// The folder to start in is not there.
    #[error("the folder {path} cannot be entered: {detail}")]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// No such program on the agent's PATH.
    #[error("there is no program '{program}' on the agent's PATH")]
    NoProgram {
        /// What was looked for.
        program: String,
    },
    /// The program is there, but must not or cannot be run.
    #[error("'{program}' cannot be executed: {detail}")]
    NotExecutable {
        /// The program.
        program: String,
        /// What the system said.
        detail: String,
    },
    /// The session had to be over before it began.
    #[error("the relay was not heard of in time: another daemon may have the task")]
    Fenced,
    /// The machine had no terminal, pipe or process left.
    #[error("the machine refused what a session needs: {detail}")]
    NoResources {
        /// What the system said.
        detail: String,
    },
}

impl Kept for LaunchFault {
    const NAME: &'static str = "launch-fault.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_whole_and_only_the_first_owner_stays() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(home.path().join("a/run"));
        folder.create().unwrap();
        assert_eq!(folder.read::<Owner>().unwrap(), None);
        assert!(folder.write_first(&Owner::Barred).unwrap());
        let keeper = ProcessId { pid: 1, start: 2 };
        let late = Owner::Keeper { keeper, boot: "b".into() };
        assert!(!folder.write_first(&late).unwrap());
        assert_eq!(folder.read::<Owner>().unwrap(), Some(Owner::Barred));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_environment_is_forgotten_and_all_else_of_the_launch_stays() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(home.path());
        folder.forget_environment().unwrap();
        let launch = Launch {
            run: "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap(),
            task: "01939d3a-7c00-7000-8000-0000deadbee0".parse().unwrap(),
            argv: vec!["true".into()],
            cwd: "/".into(),
            env: BTreeMap::from([("TOKEN".into(), "s3cret".into())]),
            mode: Mode::Pipe,
            ring_bytes: 1,
            fenced: false,
        };
        folder.write(&launch).unwrap();
        for _ in 0..2 {
            folder.forget_environment().unwrap();
            let bare = Launch { env: BTreeMap::new(), ..launch.clone() };
            assert_eq!(folder.read().unwrap(), Some(bare));
            let text = fs::read_to_string(folder.path().join(Launch::NAME)).unwrap();
            assert!(!text.contains("s3cret") && !text.contains("env"), "{text}");
        }
    }

    #[test]
    fn the_exit_record_reads_as_written() {
        let exit = Exit {
            run: "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap(),
            how: How::NotStarted { cause: LaunchFault::NoProgram { program: "x".into() } },
            ended_at: Timestamp::from_millis(1),
            recorded_at: Timestamp::from_millis(2),
            output_end: 3,
            stderr_end: 4,
            drained: true,
            leftovers: 5,
            fenced: false,
        };
        let text = serde_json::to_string(&exit).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"run":"01939d3a-7c00-7000-8000-0000deadbeef","how":{"kind":"notStarted","#,
                r#""cause":{"kind":"noProgram","program":"x"}},"endedAt":"1970-01-01T00:00:00.001Z","#,
                r#""recordedAt":"1970-01-01T00:00:00.002Z","outputEnd":3,"stderrEnd":4,"#,
                r#""drained":true,"leftovers":5}"#
            )
        );
        assert_eq!(serde_json::from_str::<Exit>(&text).unwrap(), exit);
    }
}
