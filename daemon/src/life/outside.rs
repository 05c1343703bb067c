//! Copies of a task's work outside of the yard: where they may go, and how they come to be whole or
//! not at all.
//!
//! A clone is made in a folder beside its target and renamed. A note of that folder lies in
//! `home/.making/` meanwhile: what a crash left is removed at the next start.

use super::look::Work;
use crate::git::clone;
use crate::home::Home;
use crate::task::{Shop, chain};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::path::inside;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use uuid::Uuid;

/// With what the name of a clone in the making begins.
const ASIDE: &str = ".hayward-clone-";

/// The longest target: what the kernel takes as a path.
const MAX_TARGET: usize = 4_096;

/// The place that a target names, when something may be made there. Blocking.
///
/// A relative target lies below `home/` of the state folder. An absolute one needs a folder to
/// stand in, which must be in no repository or worktree and not in the state folder.
///
/// # Errors
/// A fault that says what is wrong with it.
pub(super) fn target(home: &Home, named: &str) -> Result<PathBuf, Fault> {
    let invalid = |text: String| Fault::new(Code::Invalid, text);
    if named.is_empty() || named.len() > MAX_TARGET || named.contains('\0') {
        return Err(invalid("the target is no path: name a folder that is not there yet".into()));
    }
    let path = Path::new(named);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(invalid(format!("'{named}' climbs with '..': write the path without")));
    }
    if named == "~" || named.starts_with("~/") {
        return Err(invalid(format!("'{named}' begins with '~': write the whole path")));
    }
    match path.is_absolute() {
        true => absolute(home, path),
        false => relative(home, named),
    }
}

fn relative(home: &Home, named: &str) -> Result<PathBuf, Fault> {
    let below = inside(named).filter(|path| !is_ours(path)).ok_or_else(|| {
        Fault::new(Code::Invalid, format!("'{named}' names no folder below the daemon's home"))
    })?;
    let root = home.clones();
    let mut folder = root.clone();
    for part in below.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        match folder.symlink_metadata() {
            Ok(found) if found.is_dir() => refuse_repository(&folder)?,
            Ok(_) => return Err(no_folder(&folder)),
            Err(_) => break,
        }
    }
    Ok(root.join(below))
}

fn absolute(home: &Home, path: &Path) -> Result<PathBuf, Fault> {
    let (Some(name), Some(above)) = (path.file_name(), path.parent()) else {
        return Err(Fault::new(Code::Conflict, format!("{} is there already", path.display())));
    };
    let parent = above.canonicalize().map_err(|cause| {
        let text = match cause.kind() {
            io::ErrorKind::NotFound => format!("there is no folder {}: make it", above.display()),
            io::ErrorKind::NotADirectory => return no_folder(above),
            _ => format!("{} cannot be entered: {cause}", above.display()),
        };
        Fault::new(Code::Invalid, text)
    })?;
    if !parent.is_dir() {
        return Err(no_folder(above));
    }
    if parent.starts_with(home.root()) && !parent.starts_with(home.clones()) {
        let text = format!("{} is in Hayward's own folder: name another", path.display());
        return Err(Fault::new(Code::Refused, text));
    }
    if name.eq_ignore_ascii_case(".git") || is_ours(Path::new(name)) {
        let text = format!("{} is a name that git or Hayward uses: name another", path.display());
        return Err(Fault::new(Code::Refused, text));
    }
    let below = parent.starts_with(home.clones()).then(|| home.clones());
    let around = parent.ancestors().take_while(|folder| below.as_deref() != Some(*folder));
    around.into_iter().try_for_each(refuse_repository)?;
    Ok(parent.join(name))
}

/// Fails where the folder is the top of a work tree or the inside of a repository.
fn refuse_repository(folder: &Path) -> Result<(), Fault> {
    let is_git_folder = || {
        folder.join("HEAD").is_file()
            && folder.join("objects").is_dir()
            && folder.join("refs").is_dir()
    };
    if folder.join(".git").symlink_metadata().is_err() && !is_git_folder() {
        return Ok(());
    }
    let text = format!("{} is a repository or worktree: name a folder outside", folder.display());
    Err(Fault::new(Code::Refused, text))
}

fn no_folder(path: &Path) -> Fault {
    Fault::new(Code::Conflict, format!("{} is no folder: name another place", path.display()))
}

fn is_ours(path: &Path) -> bool {
    path.components().any(|part| {
        part.as_os_str().as_bytes().starts_with(ASIDE.as_bytes()) || part.as_os_str() == MAKING
    })
}

/// Whether something stands at a target, a file or a broken link too.
pub(super) fn is_there(target: &Path) -> bool {
    target.symlink_metadata().is_ok()
}

/// Makes the clone at `target`, whole or not at all; what it brought, in words.
///
/// # Errors
/// A fault; nothing is at the target then that was not before.
pub(super) async fn copy(shop: &Shop, work: &Work, target: &Path) -> Result<String, Fault> {
    if is_there(target) {
        let what = if target.is_dir() { "a folder" } else { "a file" };
        let text = format!("{what} is at {} already: name another place", target.display());
        return Err(Fault::new(Code::Conflict, text));
    }
    let folder = target.parent().unwrap_or(target).to_owned();
    let failed = |cause: io::Error| {
        Fault::new(Code::Failed, format!("{} cannot be written: {cause}", target.display()))
    };
    let aside = Aside::begin(&shop.home, folder).map_err(failed)?;
    let (branch, head) = (work.branch.as_deref(), &work.head);
    let cloned = work.repository.clone_work(&work.kind, (branch, head), &aside.path).await;
    let brought = cloned.map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
    crate::fault::point("life.clone.made").map_err(failed)?;
    renameat_with(CWD, &aside.path, CWD, target, RenameFlags::NOREPLACE)
        .map_err(|cause| failed(cause.into()))?;
    let mut told = format!("the work is at {}", target.display());
    match (&work.kind, brought.files) {
        (clone::Work::Worktree(_), 0) => {}
        (clone::Work::Worktree(_), n) => told.push_str(&format!(", with {n} uncommitted files")),
        (clone::Work::Branch, _) => told.push_str(", from its branch: the worktree is gone"),
        (clone::Work::Salvage(name), _) => told.push_str(&format!(", from {name}")),
    }
    for (path, why) in &brought.skipped {
        told.push_str(&format!("; {} was left out: {why}", path.display()));
    }
    Ok(told)
}

/// A clone in the making; dropping it removes what is left of it.
struct Aside {
    path: PathBuf,
    note: PathBuf,
}

impl Aside {
    fn begin(home: &Home, folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let id = Uuid::new_v4().simple().to_string();
        let notes = notes(home);
        fs::create_dir_all(&notes)?;
        let aside = Self { path: folder.join(format!("{ASIDE}{id}")), note: notes.join(id) };
        fs::write(&aside.note, aside.path.as_os_str().as_bytes())?;
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        remove(&self.path, &self.note);
    }
}

const MAKING: &str = ".making";

fn notes(home: &Home) -> PathBuf {
    home.clones().join(MAKING)
}

fn remove(path: &Path, note: &Path) {
    let gone = match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    if let Err(cause) = gone.and_then(|()| fs::remove_file(note)) {
        tracing::warn!(path = %path.display(), %cause, "a clone that was cut off is left");
    }
}

/// Removes the clones that a crash cut off.
pub(super) async fn clear(shop: &Shop) {
    let notes = notes(&shop.home);
    let cleared = tokio::task::spawn_blocking(move || {
        for entry in fs::read_dir(notes).into_iter().flatten().flatten() {
            let Ok(text) = fs::read(entry.path()) else { continue };
            let path = PathBuf::from(std::ffi::OsString::from_vec(text));
            let name = path.file_name().unwrap_or_default().as_bytes();
            // a note that was cut off names nothing of ours
            if name.starts_with(ASIDE.as_bytes()) && path.is_absolute() {
                remove(&path, &entry.path());
            } else if let Err(cause) = fs::remove_file(entry.path()) {
                tracing::warn!(%cause, "a note is left");
            }
        }
    });
    if let Err(cause) = cleared.await {
        tracing::warn!(%cause, "clones that were cut off are left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ground() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(&folder.path().join("state")), None).unwrap();
        home.furnish().unwrap();
        (folder, home)
    }

    #[test]
    fn a_relative_target_lies_below_home_and_an_absolute_one_in_a_folder_that_is_there() {
        let (folder, home) = ground();
        assert_eq!(target(&home, "a/b").unwrap(), home.clones().join("a/b"));
        assert_eq!(target(&home, "./a").unwrap(), home.clones().join("a"));
        let top = folder.path().canonicalize().unwrap();
        let out = top.join("out");
        assert_eq!(target(&home, out.to_str().unwrap()).unwrap(), out);
        let own = home.clones().join("c");
        assert_eq!(target(&home, own.to_str().unwrap()).unwrap(), own);
    }

    #[test]
    fn what_leads_elsewhere_is_refused_and_says_why() {
        let (folder, home) = ground();
        let top = folder.path().canonicalize().unwrap();
        fs::write(top.join("file"), "x").unwrap();
        fs::write(home.clones().join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&top, home.clones().join("link")).unwrap();
        for inner in ["user/.git/objects", "user/src", "bare/objects", "bare/refs"] {
            fs::create_dir_all(top.join(inner)).unwrap();
        }
        fs::write(top.join("bare/HEAD"), "ref: refs/heads/main\n").unwrap();
        let at = |path: &str| top.join(path).to_str().unwrap().to_owned();
        for (wrong, says) in [
            (String::new(), "no path"),
            ("a\0b".to_owned(), "no path"),
            ("../x".to_owned(), "climbs"),
            ("a/../../x".to_owned(), "climbs"),
            (at("a/../x"), "climbs"),
            ("~/x".to_owned(), "'~'"),
            (".".to_owned(), "names no folder"),
            (".git/x".to_owned(), "names no folder"),
            (".making".to_owned(), "names no folder"),
            ("file/x".to_owned(), "is no folder"),
            ("link/x".to_owned(), "is no folder"),
            (at("missing/x"), "no folder"),
            (at("file/x"), "is no folder"),
            (at("user/x"), "repository or worktree"),
            (at("user/src/x"), "repository or worktree"),
            (at("user/.git/x"), "repository or worktree"),
            (at("bare/x"), "repository or worktree"),
            (at(".git"), "that git"),
            (home.worktrees().join("x").to_str().unwrap().to_owned(), "own folder"),
            (home.root().join("x").to_str().unwrap().to_owned(), "own folder"),
            ("/".to_owned(), "already"),
        ] {
            let fault = target(&home, &wrong).unwrap_err();
            assert!(fault.message.contains(says), "{wrong:?}: {}", fault.message);
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out(name in "[a./~]{0,12}") {
            let (_folder, home) = ground();
            if let Ok(path) = target(&home, &name) && !name.starts_with('/') {
                prop_assert!(path.starts_with(home.clones()) && path != home.clones());
            }
        }
    }
}
