//! The folder that worktrees stand in, the notes of what is made there, and its trash.
//!
//! A note is written before anything is made and goes last: after a crash the notes say which
//! folders and repositories may hold something half done.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A folder of worktrees, as `worktrees/` of the state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Yard {
    root: PathBuf,
}

/// How those in the trash begin that may be brought back.
const ASIDE: &str = "aside-";

/// What is made at a folder of the yard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::git) struct Note {
    /// The repository's common folder.
    pub(in crate::git) common: PathBuf,
    /// The commit that the worktree is made at.
    pub(in crate::git) commit: String,
    /// The branch that is made for it.
    pub(in crate::git) branch: Option<String>,
}

impl Yard {
    /// The yard at `root`, absolute. Nothing is made before it is needed.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The yard that the worktree at `path` stands in.
    pub(in crate::git) fn around(path: &Path) -> Self {
        Self { root: path.parent().unwrap_or(path).to_owned() }
    }

    fn notes_folder(&self) -> PathBuf {
        self.root.join(".notes")
    }

    fn trash(&self) -> PathBuf {
        self.root.join(".trash")
    }

    /// Where all pools are.
    pub(in crate::git) fn pools(&self) -> PathBuf {
        self.root.join(".pool")
    }

    /// Where the pool of one repository is; the name is the same at every start.
    pub(in crate::git) fn pool_of(&self, common: &Path) -> PathBuf {
        self.pools().join(digest(common.as_os_str().as_bytes()))
    }

    /// Writes the note for `path`, whole or not at all.
    pub(in crate::git) fn note(&self, path: &Path, note: &Note) -> io::Result<()> {
        let folder = self.notes_folder();
        fs::create_dir_all(&folder)?;
        let text = serde_json::to_vec(note)?;
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&folder)?;
        file.write_all(&text)?;
        file.persist(folder.join(name_of(path))).map_err(|refused| refused.error)?;
        Ok(())
    }

    /// The note for `path`; none when there is none, or it cannot be read.
    pub(in crate::git) fn noted(&self, path: &Path) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.notes_folder().join(name_of(path))).ok()?).ok()
    }

    /// Takes the note for `path` away.
    pub(in crate::git) fn forget(&self, path: &Path) -> io::Result<()> {
        gone(fs::remove_file(self.notes_folder().join(name_of(path))))
    }

    /// All notes with the folders that they are about; a note that was never finished is dropped.
    pub(in crate::git) fn notes(&self) -> Vec<(PathBuf, Note)> {
        let Ok(entries) = fs::read_dir(self.notes_folder()) else { return Vec::new() };
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let path = self.root.join(entry.file_name());
            match self.noted(&path) {
                Some(note) => all.push((path, note)),
                None => drop(fs::remove_file(entry.path())),
            }
        }
        all
    }

    /// Takes a folder out of sight, to be given up or brought back; the trash is not emptied of it.
    /// None where nothing can be brought back: it is no folder, or another file system. Then it is
    /// discarded.
    pub(in crate::git) fn set_aside(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            return self.discard(path).map(|()| None);
        }
        let trash = self.trash();
        fs::create_dir_all(&trash)?;
        let aside = trash.join(format!("{ASIDE}{}", Uuid::new_v4().simple()));
        match fs::rename(path, &aside) {
            Err(cause) if cause.kind() == io::ErrorKind::CrossesDevices => {
                self.discard(path).map(|()| None)
            }
            renamed => renamed.map(|()| Some(aside)),
        }
    }

    /// Leaves to the trash what was set aside.
    pub(in crate::git) fn give_up(&self, aside: &Path) -> io::Result<()> {
        gone(fs::rename(aside, self.trash().join(Uuid::new_v4().simple().to_string())))
    }

    /// What was set aside and neither given up nor brought back.
    pub(in crate::git) fn aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.trash()).into_iter().flatten().flatten();
        entries.into_iter().map(|entry| entry.path()).filter(|path| is_aside(path)).collect()
    }

    /// Takes a folder out of sight at once; its bytes go when the trash is emptied. A link is
    /// unlinked, whatever it points at stays. What is gone already is fine.
    pub(in crate::git) fn discard(&self, path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(cause),
            Ok(found) if !found.is_dir() => return gone(fs::remove_file(path)),
            Ok(_) => {}
        }
        let trash = self.trash();
        fs::create_dir_all(&trash)?;
        match fs::rename(path, trash.join(Uuid::new_v4().simple().to_string())) {
            // another file system is mounted there: nothing can be renamed across it
            Err(cause) if cause.kind() == io::ErrorKind::CrossesDevices => {
                gone(fs::remove_dir_all(path))
            }
            renamed => gone(renamed),
        }
    }

    /// Deletes what was discarded, links as links. Blocks for as long as the disk takes. What
    /// cannot be deleted is left for the next time and said in the log.
    pub(in crate::git) fn empty_trash(&self) {
        let Ok(entries) = fs::read_dir(self.trash()) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !is_aside(path)) {
            if let Err(cause) = gone(delete(&path)) {
                tracing::warn!(path = %path.display(), %cause, "trash is left for later");
            }
        }
    }
}

fn is_aside(path: &Path) -> bool {
    name_of(path).as_bytes().starts_with(ASIDE.as_bytes())
}

/// Deletes a tree, also one whose folders somebody closed.
fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(path)?;
            fs::remove_dir_all(path)
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        done => done,
    }
}

/// Lets the owner into every folder of a tree; follows no link.
fn open_folders(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

/// What is gone need not be removed.
pub(in crate::git) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A short name for some bytes: git's own hash of them, 16 hex digits.
pub(in crate::git) fn digest(bytes: &[u8]) -> String {
    let whole = git2::Oid::hash_object(git2::ObjectType::Blob, bytes);
    let mut text = whole.map_or_else(|_| "0".repeat(40), |whole| whole.to_string());
    text.truncate(16);
    text
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn f27_the_trash_follows_no_link_and_a_root_that_is_one_is_unlinked() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        let yard = Yard::new(folder.path().join("yard"));
        let tree = yard.root.join("tree");
        fs::create_dir_all(tree.join("inner/closed")).unwrap();
        symlink(&outside, tree.join("inner/link")).unwrap();
        fs::write(tree.join("inner/closed/file"), "x").unwrap();
        symlink(&outside, yard.root.join("root")).unwrap();
        yard.discard(&tree).unwrap();
        yard.discard(&yard.root.join("root")).unwrap();
        yard.discard(&yard.root.join("never")).unwrap();
        assert!(!tree.exists() && !yard.root.join("root").exists());
        yard.empty_trash();
        assert_eq!(fs::read_dir(yard.trash()).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    }

    #[test]
    fn a_note_is_read_back_and_a_broken_one_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let yard = Yard::new(folder.path().to_owned());
        let path = folder.path().join("tree");
        let note = Note { common: "/r/.git".into(), commit: "1".repeat(40), branch: None };
        yard.note(&path, &note).unwrap();
        fs::write(folder.path().join(".notes/half"), "{").unwrap();
        assert_eq!(yard.notes(), [(path.clone(), note)]);
        yard.forget(&path).unwrap();
        yard.forget(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(".notes")).unwrap().count(), 0);
    }
}
