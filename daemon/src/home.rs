//! The state folder: where everything of one daemon lies, and who owns it now.

use hayward_shared::id::{MachineId, RunId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The state folder of one daemon. Only the user may enter it.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Neither `--home`, `HAYWARD_HOME` nor `HOME` says where it is.
    #[error("no state folder: set HOME or HAYWARD_HOME, or give --home")]
    Nowhere,
    /// A file or folder of it cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another daemon runs on it.
    #[error("{} is in use by the daemon with pid {pid}", home.display())]
    InUse {
        /// The folder.
        home: PathBuf,
        /// The other daemon.
        pid: u32,
    },
    /// The machine's identity is damaged. A new one would leave its tasks waiting for ever.
    #[error("{} holds no machine's id: put it back from a backup, or remove it to begin anew", path.display())]
    NoMachine {
        /// The file.
        path: PathBuf,
    },
    /// A file of it does not hold what it should.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What a running daemon tells of itself, in `daemon.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// When the process started, in clock ticks since the machine did; tells a reused pid.
    pub started: u64,
    /// The relay that it is linked to.
    pub relay: String,
    /// Who it is to the relay.
    pub daemon_id: String,
    /// Its version.
    pub version: String,
}

/// Holds the state folder for one daemon; letting go frees it.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

impl Home {
    /// The folder that `--home` or `HAYWARD_HOME` names (`given`), else `~/.hayward`. Made when it
    /// is not there.
    ///
    /// # Errors
    /// [`HomeError`] when there is none or it cannot be made.
    pub fn open(given: Option<&Path>, user_home: Option<&Path>) -> Result<Self, HomeError> {
        let root = match (given, user_home) {
            (Some(given), _) => given.to_owned(),
            (None, Some(user)) => user.join(".hayward"),
            (None, None) => return Err(HomeError::Nowhere),
        };
        make_folder(&root)?;
        let root = root.canonicalize().map_err(io_error("open", &root))?;
        Ok(Self { root })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The daemon's database.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.db")
    }

    /// The embedded relay's database.
    #[must_use]
    pub fn relay_database(&self) -> PathBuf {
        self.root.join("relay.db")
    }

    /// The user's token, written by `up`.
    #[must_use]
    pub fn user_token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The daemon's own token.
    #[must_use]
    pub fn daemon_token(&self) -> PathBuf {
        self.root.join("daemon-token")
    }

    /// Where the daemon and the commands that it runs write what they do.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// What the daemon writes when it runs detached.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.logs().join("daemon.log")
    }

    /// What a setup or teardown command of a run wrote.
    #[must_use]
    pub fn chore_log(&self, run: RunId, what: &str) -> PathBuf {
        self.logs().join(format!("{what}-{run}.log"))
    }

    /// Bare clones of repositories of other machines.
    #[must_use]
    pub fn repositories(&self) -> PathBuf {
        self.root.join("repos")
    }

    /// Repositories of tasks' own, which borrow from the user's.
    #[must_use]
    pub fn lent(&self) -> PathBuf {
        self.repositories().join("lent")
    }

    /// Where worktrees are made.
    #[must_use]
    pub fn worktrees(&self) -> PathBuf {
        self.root.join("worktrees")
    }

    /// Where what is needed to compare live worktrees lies, of use to nobody once the daemon ended.
    #[must_use]
    pub fn overlap(&self) -> PathBuf {
        self.root.join("overlap")
    }

    /// Where finished work is cloned to.
    #[must_use]
    pub fn clones(&self) -> PathBuf {
        self.root.join("home")
    }

    /// The socket of the daemon's own interface.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("daemon.sock")
    }

    /// The folders of all runs.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// The folder of one run.
    #[must_use]
    pub fn run(&self, run: RunId) -> PathBuf {
        self.runs().join(run.to_string())
    }

    /// Makes the folders that a daemon works in.
    ///
    /// # Errors
    /// [`HomeError::Io`] when one cannot be made.
    pub fn furnish(&self) -> Result<(), HomeError> {
        for folder in
            [self.worktrees(), self.clones(), self.repositories(), self.runs(), self.logs()]
        {
            make_folder(&folder)?;
        }
        Ok(())
    }

    /// Takes the folder for this process, for as long as the answer lives.
    ///
    /// # Errors
    /// [`HomeError::InUse`] names the daemon that has it.
    pub fn hold(&self) -> Result<Held, HomeError> {
        let path = self.root.join("daemon.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Held { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(HomeError::InUse {
                home: self.root.clone(),
                pid: self.running()?.map_or(0, |running| running.pid),
            }),
            Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
        }
    }

    /// What the daemon that ran last told of itself. It may be gone.
    ///
    /// # Errors
    /// [`HomeError`] when the file is there and cannot be read.
    pub fn running(&self) -> Result<Option<Running>, HomeError> {
        let path = self.root.join("daemon.json");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|source| HomeError::Damaged { path, source })
    }

    /// Tells the world who runs here.
    ///
    /// # Errors
    /// [`HomeError::Io`] when it cannot be written.
    pub fn announce(&self, running: &Running) -> Result<(), HomeError> {
        let path = self.root.join("daemon.json");
        let text = serde_json::to_string(running)
            .map_err(|source| HomeError::Damaged { path: path.clone(), source })?;
        write_private(&path, &text)
    }

    /// Takes the announcement back.
    pub fn retract(&self) {
        drop(fs::remove_file(self.root.join("daemon.json")));
    }

    /// The machine's identity, made once.
    ///
    /// # Errors
    /// [`HomeError::Io`] when it cannot be read or written.
    pub fn machine(&self) -> Result<MachineId, HomeError> {
        let path = self.root.join("machine-id");
        if let Some(text) = read_if_there(&path)? {
            return text.parse().map_err(|_| HomeError::NoMachine { path });
        }
        let id = MachineId::fresh();
        write_private(&path, &id.to_string())?;
        Ok(id)
    }
}

/// A file's text without the white space around it; nothing when there is no such file.
///
/// # Errors
/// [`HomeError::Io`] when it is there and cannot be read.
pub fn read_if_there(path: &Path) -> Result<Option<String>, HomeError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path)(source)),
    }
}

/// Writes a file that only the user may read, whole or not at all.
///
/// # Errors
/// [`HomeError::Io`] when it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), HomeError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io_error("write in", folder))?;
    writeln!(file, "{text}")
        .and_then(|()| file.as_file().sync_all())
        .map_err(io_error("write", path))?;
    file.persist(path).map_err(|error| io_error("write", path)(error.error))?;
    Ok(())
}

/// Makes a folder that only the user may enter; one that is there is closed to others.
fn make_folder(path: &Path) -> Result<(), HomeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("make the folder", path))?;
    let mode = fs::metadata(path).map_err(io_error("read", path))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(io_error("close to others the folder", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time_holds_a_folder_and_the_second_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path()), None).unwrap();
        let held = home.hold().unwrap();
        home.announce(&Running {
            pid: 4711,
            started: 1,
            relay: "http://127.0.0.1:1".into(),
            daemon_id: "d".into(),
            version: "0".into(),
        })
        .unwrap();
        let refused = home.hold().unwrap_err().to_string();
        assert!(refused.contains("4711"), "{refused}");
        drop(held);
        home.hold().unwrap();
    }

    #[test]
    fn a_machine_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path()), None).unwrap();
        assert_eq!(home.machine().unwrap(), home.machine().unwrap());
        fs::write(folder.path().join("machine-id"), "x").unwrap();
        assert!(matches!(home.machine(), Err(HomeError::NoMachine { .. })));
    }
}
