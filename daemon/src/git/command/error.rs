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
        /// The end of its standard error; behind it, that the disk is full where it ran,
        /// if that is so.
        stderr: String,
    },
    /// It wrote more than we keep.
    TooMuchOutput,
    /// Talking to it failed.
    Broken(io::Error),
    /// It was not started: what its configuration names could not be told.
    Unsafe(Box<Unreadable>),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, folder) = (&self.command, self.folder.display());
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
            Fault::Unsafe(cause) => Some(cause.as_ref()),
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

    /// Whether a disk or quota was full: the C library's words, which `LC_ALL=C` holds still, or
    /// ours where git said none.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        ["No space left on device", "Disk quota exceeded", DISK_FULL]
            .iter()
            .any(|words| self.stderr().contains(words))
    }
}

/// What is added to git's words when the disk is full and it does not say so.
pub(super) const DISK_FULL: &str = "the disk is full";

/// A git that could not write is believed to have met a full disk when fewer bytes than this are
/// left: a file for which there was no room is larger than what is left, and most are smaller.
const FULL: u64 = 16 << 20;

/// Whether what git said means that the disk at the folder is full. Of a checkout it says only that
/// a file could not be written, never why.
pub(super) fn is_full(folder: &Path, stderr: &str) -> bool {
    if !stderr.contains("unable to write") && !stderr.contains("write error") {
        return false;
    }
    // file systems that count no files say that none are left
    statvfs(folder).is_ok_and(|found| {
        found.f_bavail.saturating_mul(found.f_frsize) < FULL
            || (found.f_files > 0 && found.f_favail == 0)
    })
}
