//! What a repository records of a worktree: the folder `worktrees/<id>` of its common folder.
//!
//! A record comes and goes by one rename, so that a git which lists worktrees never meets half of
//! one. While a worktree is ours alone its record is locked: no `git worktree prune` touches it,
//! and after a crash the lock says that no agent ever had it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::super::repo::CommitId;
use super::yard::gone;
use super::{EMAIL, NAME};
use hayward_shared::time::Timestamp;

/// With what the reason of each lock of ours begins.
const LOCK: &str = "hayward: ";

/// With what the id of each record of ours begins.
const PREFIX: &str = "hayward-";

/// A record that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::git) struct Record {
    folder: PathBuf,
}

/// Why a worktree is ours alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::git) enum Hold {
    /// It is being made for a task.
    Making,
    /// It is being made for the pool.
    Filling,
    /// It waits in the pool; the text is the pool's own.
    Ready(String),
    /// It is on its way from the pool to a task.
    Claimed,
    /// It is whole, and its task has not begun.
    Awaiting,
}

impl Hold {
    /// The lock's reason, a line.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Making => format!("{LOCK}being made\n"),
            Self::Filling => format!("{LOCK}being made for the pool\n"),
            Self::Ready(stamp) => format!("{LOCK}ready in the pool {stamp}\n"),
            Self::Claimed => format!("{LOCK}being claimed\n"),
            Self::Awaiting => format!("{LOCK}waits for its task\n"),
        }
    }

    /// Reads a lock's reason; none when the lock is not ours.
    fn parse(text: &str) -> Option<Self> {
        let ours = text.trim_end().strip_prefix(LOCK)?;
        Some(match ours.strip_prefix("ready in the pool ") {
            Some(stamp) => Self::Ready(stamp.to_owned()),
            None if ours == "being made" => Self::Making,
            None if ours == "being made for the pool" => Self::Filling,
            None if ours == "waits for its task" => Self::Awaiting,
            None => Self::Claimed,
        })
    }
}

impl Record {
    /// The records of the repository, those of the user's own worktrees too.
    pub(in crate::git) fn all(common: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(common.join("worktrees")) else { return Vec::new() };
        entries.flatten().map(|entry| Self { folder: entry.path() }).collect()
    }

    /// The record that the `.git` file of the worktree names.
    pub(in crate::git) fn of(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path.join(".git")).ok()?;
        let folder = PathBuf::from(text.strip_prefix("gitdir: ")?.trim_end());
        folder.is_dir().then_some(Self { folder })
    }

    /// Records a worktree at `path`, whose folder is made with it. Its HEAD is on the branch, which is
    /// at the commit, or on the commit itself; its index is empty. The id is new each time: what a git
    /// of a former attempt still writes goes nowhere.
    ///
    /// # Errors
    /// The disk's; the folder at `path` is then for [`super::leftover::take_down`] to remove.
    pub(in crate::git) fn enter(
        common: &Path,
        path: &Path,
        (commit, branch): (&CommitId, Option<&str>),
        hold: &Hold,
        now: Timestamp,
    ) -> io::Result<Self> {
        let id = fresh_id();
        let staged = Self { folder: common.join(&id) };
        let record = Self { folder: common.join("worktrees").join(&id) };
        let entered = staged.furnish(path, (commit, branch), hold, now).and_then(|()| {
            fs::create_dir_all(path)?;
            let link = [b"gitdir: ", bytes(&record.folder), b"\n"].concat();
            fs::write(path.join(".git"), link)?;
            fs::create_dir_all(common.join("worktrees"))?;
            fs::rename(&staged.folder, &record.folder)
        });
        if entered.is_err() {
            gone(fs::remove_dir_all(&staged.folder))?;
        }
        entered.map(|()| record)
    }

    /// Makes the folder with all that git wants in it.
    fn furnish(
        &self,
        path: &Path,
        (commit, branch): (&CommitId, Option<&str>),
        hold: &Hold,
        now: Timestamp,
    ) -> io::Result<()> {
        fs::create_dir(&self.folder)?;
        fs::create_dir(self.folder.join("refs"))?;
        fs::create_dir(self.folder.join("logs"))?;
        fs::write(self.folder.join("commondir"), "../..\n")?;
        fs::write(self.folder.join("locked"), hold.text())?;
        self.point_at(path)?;
        self.set_head(commit, branch, now)
    }

    /// Its folder, which is the git directory of the worktree.
    pub(in crate::git) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The index of the worktree.
    pub(in crate::git) fn index(&self) -> PathBuf {
        self.folder.join("index")
    }

    /// Where the worktree is said to be; it may not be there.
    pub(in crate::git) fn path(&self) -> Option<PathBuf> {
        let text = fs::read(self.folder.join("gitdir")).ok()?;
        let text =
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(text.trim_ascii_end());
        Path::new(text).parent().map(Path::to_owned)
    }

    /// Whether its worktree is there.
    pub(in crate::git) fn stands(&self) -> bool {
        let named = self.path().and_then(|path| Self::of(&path));
        named.is_some_and(|named| {
            named.folder.canonicalize().ok() == self.folder.canonicalize().ok()
        })
    }

    /// Says where the worktree is.
    pub(in crate::git) fn point_at(&self, path: &Path) -> io::Result<()> {
        let mut text = bytes(&path.join(".git")).to_vec();
        text.push(b'\n');
        self.replace("gitdir", &text)
    }

    /// Puts HEAD on the branch, or on the commit itself, and begins its log anew.
    pub(in crate::git) fn set_head(
        &self,
        commit: &CommitId,
        branch: Option<&str>,
        now: Timestamp,
    ) -> io::Result<()> {
        let head = match branch {
            Some(branch) => format!("ref: refs/heads/{branch}\n"),
            None => format!("{commit}\n"),
        };
        let none = "0".repeat(commit.as_str().len());
        let at = now.millis().div_euclid(1000);
        let log = format!("{none} {commit} {NAME} <{EMAIL}> {at} +0000\tworktree: made\n");
        self.replace("logs/HEAD", log.as_bytes())?;
        self.replace("HEAD", head.as_bytes())
    }

    /// The commit or branch that HEAD names, as it is written.
    pub(in crate::git) fn head(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("HEAD")).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// The branch that HEAD is on, without `refs/heads/`.
    pub(in crate::git) fn branch(&self) -> Option<String> {
        self.head()?.strip_prefix("ref: refs/heads/").map(str::to_owned)
    }

    /// Why it is ours alone; none when it is not, or when somebody else locked it.
    pub(in crate::git) fn hold(&self) -> Option<Hold> {
        Hold::parse(&self.locked()?)
    }

    /// Why it is locked, by whomever.
    pub(in crate::git) fn locked(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("locked")).ok()
    }

    /// Locks it, or gives its lock another reason.
    pub(in crate::git) fn lock(&self, hold: &Hold) -> io::Result<()> {
        self.replace("locked", hold.text().as_bytes())
    }

    /// Hands it over: from now on it is a worktree like any other.
    pub(in crate::git) fn unlock(&self) -> io::Result<()> {
        gone(fs::remove_file(self.folder.join("locked")))
    }

    /// Removes it. A git that still writes there keeps nothing from being removed.
    pub(in crate::git) fn remove(&self) -> io::Result<()> {
        let Some(common) = self.folder.parent().and_then(Path::parent) else { return Ok(()) };
        let aside = common.join(fresh_id());
        gone(fs::rename(&self.folder, &aside))?;
        gone(fs::remove_dir_all(&aside))
    }

    /// Replaces the index in one step: every gc of the user's reads it, whoever's worktree it is.
    pub(super) fn replace_index(&self, bytes: &[u8]) -> io::Result<()> {
        self.replace("index", bytes)
    }

    /// Replaces a file in one step: a reader sees the old text or the new.
    fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let next = self.folder.join(format!("{name}.hayward"));
        let written = fs::write(&next, text);
        written.and_then(|()| fs::rename(&next, self.folder.join(name))).inspect_err(|_| {
            // a half is of no use to anybody; the first error is the one to tell
            drop(fs::remove_file(&next));
        })
    }
}

/// Removes records that were cut off on their way in or out.
pub(in crate::git) fn sweep(common: &Path) -> io::Result<()> {
    for entry in fs::read_dir(common)?.flatten() {
        if is_ours(&entry.file_name().to_string_lossy()) {
            gone(fs::remove_dir_all(entry.path()))?;
        }
    }
    Ok(())
}

fn fresh_id() -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{PREFIX}{}", &random[..ID_DIGITS])
}

/// Hex digits of a record's id: 48 random bits, two never meet.
const ID_DIGITS: usize = 12;

fn is_ours(id: &str) -> bool {
    id.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == ID_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_says_what_it_is_for_and_a_strangers_is_none_of_ours() {
        let ready = Hold::Ready("a b".to_owned());
        for hold in [Hold::Making, Hold::Filling, Hold::Claimed, Hold::Awaiting, ready] {
            assert_eq!(Hold::parse(&hold.text()), Some(hold));
        }
        assert_eq!(Hold::parse("on a stick"), None);
    }

    #[test]
    fn only_ids_of_ours_are_swept() {
        assert!(is_ours(&fresh_id()));
        assert!(!is_ours("hayward-notes") && !is_ours("hooks"));
    }
}
