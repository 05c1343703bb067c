//! What went wrong with a git command, in words for people.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;

use super::super::configured::Unreadable;
use super::talk::MAX_STDOUT;

/// A git command that did not do what it was asked.
#[derive(Debug)]
pub struct CommandError {
    /// The command as people may see it: credentials in addresses are blotted out.
    pub command: String,
    /// The folder in which it ran.
    pub folder: PathBuf,
    /// What went wrong.
    pub fault: Fault,
    /// The place whose disk was full when it failed; git does not always say so.
    pub full: Option<PathBuf>,
}

/// What went wrong with a git command.
#[derive(Debug)]
pub enum Fault {
    /// It could not be started; [`io::ErrorKind::NotFound`] means that git is not installed or
    /// that the folder is gone.
    NotStarted(io::Error),
    /// It ran longer than allowed and was killed with all that it had started.
    TimedOut(Duration),
    /// It ended with an exit code that is no success; no code when a signal ended it.
    Failed {
        /// The exit code.
        code: Option<i32>,
        /// The end of its standard error.
        stderr: String,
    },
    /// It wrote more than we keep.
    TooMuchOutput,
    /// Talking to it failed.
    Broken(io::Error),
    /// It was not started: what its configuration names could not be told.
    Unsafe(Unreadable),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, folder) = (&self.command, self.folder.display());
        if let Some(full) = &self.full {
            write!(f, "the disk is full at {}: ", full.display())?;
        }
        match &self.fault {
            Fault::NotStarted(cause) if cause.kind() == io::ErrorKind::NotFound => {
                write!(
                    f,
                    "`{command}` could not start: install git, and check that {folder} exists"
                )
            }
            Fault::NotStarted(_) => write!(f, "`{command}` could not start in {folder}"),
            Fault::TimedOut(limit) => {
                write!(f, "`{command}` in {folder} took over {} s and was ended", limit.as_secs())
            }
            Fault::Failed { code: Some(code), stderr } => {
                write!(f, "`{command}` in {folder} failed with code {code}: {}", stderr.trim())
            }
            Fault::Failed { code: None, stderr } => {
                write!(f, "`{command}` in {folder} was killed: {}", stderr.trim())
            }
            Fault::TooMuchOutput => {
                write!(f, "`{command}` in {folder} wrote over {} MiB", MAX_STDOUT >> 20)
            }
            Fault::Broken(_) => write!(f, "`{command}` in {folder} broke off"),
            Fault::Unsafe(_) => {
                write!(f, "`{command}` in {folder} was not run: its configuration cannot be read")
            }
        }
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::NotStarted(cause) | Fault::Broken(cause) => Some(cause),
            Fault::Unsafe(cause) => Some(cause),
            Fault::TimedOut(_) | Fault::Failed { .. } | Fault::TooMuchOutput => None,
        }
    }
}

impl CommandError {
    /// What git said before it failed, empty when it said nothing.
    #[must_use]
    pub fn stderr(&self) -> &str {
        match &self.fault {
            Fault::Failed { stderr, .. } => stderr,
            _ => "",
        }
    }

    /// Whether a disk or quota was full: by its own count, or in the C library's words, which
    /// `LC_ALL=C` holds still.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.full.is_some()
            || ["No space left on device", "Disk quota exceeded"]
                .iter()
                .any(|words| self.stderr().contains(words))
    }
}

/// A disk with fewer bytes than this is full: a git that fails takes its half-written files back,
/// and these bytes are free again when we look.
const FULL: u64 = 256 * 1024;

/// Whether nothing more can be written where the folder is; one that cannot be asked is not full.
pub(super) fn is_full(folder: &Path) -> bool {
    // file systems that count no files say that none are left
    statvfs(folder).is_ok_and(|found| {
        found.f_bavail.saturating_mul(found.f_frsize) < FULL
            || (found.f_files > 0 && found.f_favail == 0)
    })
}
