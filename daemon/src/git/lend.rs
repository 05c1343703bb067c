//! A repository of a task's own, which borrows the objects of the user's: where agents must not
//! reach the user's configuration, refs and hooks.
//!
//! It is bare, lies beside our clones, and the task's worktree is one of its. What comes of the
//! task is fetched into the user's repository under its branch; nothing else ever goes there but
//! one ref under `refs/hayward/lent/`, which keeps the borrowed commits from being cleaned away.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hayward_shared::address::without_login;

use super::adrift::stood;
use super::carry::{carry, is_held, tips};
use super::command::{CommandError, Git};
use super::repo::{Closed, CommitId, Repository, read};
use super::salvage::{PLACE, keep, kept_as};
use super::worktree::{EMAIL, NAME, Record, is_on_a_branch};
use crate::fault;

/// Where the user's branches stand in a lent repository.
const LOCAL: &str = "refs/remotes/local/";

/// Where a repository says from where it borrows.
const ALTERNATES: &str = "objects/info/alternates";

/// The ref of a lent repository that names the commit it was made for.
const BASE: &str = "refs/hayward/base";

/// How the folder of one in the making ends.
const MAKING: &str = "new";

/// How the folder of a whole one ends.
const WHOLE: &str = "git";

/// Why no repository was lent, or nothing came back from one.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// Its folder could not be made.
    #[error("a repository of the task's own could not be made in {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Git failed.
    #[error("a repository of the task's own could not be made, or its work not brought back")]
    Git(#[source] CommandError),
    /// Git's data cannot be read or written.
    #[error("the repository {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// A worktree of it stands.
    #[error("the worktree {0} still stands: what is in it goes first")]
    InUse(PathBuf),
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Repository {
    /// Makes a repository at `to` that borrows this one's objects and holds `commit`. What one that
    /// is there holds alone is brought home first, under `name`, and it is made anew.
    ///
    /// # Errors
    /// [`LendError`]; a half-made one is cleared away by the next attempt, or at the next start.
    pub async fn lend(&self, commit: &CommitId, to: &Path, name: &str) -> Result<(), LendError> {
        self.call_in(to, name).await?;
        let (commit, to) = (commit.clone(), to.to_owned());
        self.in_turn(move |common| async move {
            let folder = |source| LendError::Folder { path: to.clone(), source };
            let aside = to.with_extension(MAKING);
            // says whose it is from the first moment: a start after a crash clears it away
            borrow(&common, &aside).map_err(folder)?;
            // borrowed first: from now on nobody cleans the commit away
            Git::on_repository(&common)
                .committer(NAME, EMAIL)
                .args(["update-ref", &kept(&to), commit.as_str()])
                .run()
                .await
                .map_err(LendError::Git)?;
            let (from, into) = (common.clone(), aside.clone());
            read(move || furnish(&from, &into, &commit))
                .await
                .and_then(|done| done)
                .map_err(|source| LendError::Unreadable { path: common.clone(), source })?;
            fault::point("lend.made").map_err(folder)?;
            fs::rename(&aside, &to).map_err(folder)
        })
        .await?
    }

    /// Fetches a branch of a repository that was lent, which holds this one's branch of the same
    /// name, if there is one.
    ///
    /// # Errors
    /// [`LendError`]; the branch stands as it stood then.
    pub async fn take_home(&self, lent: &Path, branch: &str) -> Result<(), LendError> {
        let (lent, name) = (lent.to_owned(), format!("refs/heads/{branch}"));
        self.in_turn(move |common| async move {
            Git::on_repository(&common)
                .config("protocol.file.allow", "always")
                .config("core.logAllRefUpdates", "true")
                .committer(NAME, EMAIL)
                .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc"])
                .args(["--upload-pack=git-upload-pack", "--"])
                .arg(&lent)
                .arg(format!("{name}:{name}"))
                .run()
                .await
                .map(|_| ())
                .map_err(LendError::Git)
        })
        .await?
    }

    /// Keeps under `name` every commit that a repository which was lent holds and no branch here,
    /// what was salvaged there before all else; answers the refs. Doing it again finds them again,
    /// whatever the name is then.
    ///
    /// # Errors
    /// [`LendError`], as that somebody may be at work in one of its worktrees.
    pub async fn bring_home(&self, lent: &Path, name: &str) -> Result<Vec<String>, LendError> {
        let (away, name) = (lent.to_owned(), name.to_owned());
        self.in_turn(move |common| async move {
            if !away.is_dir() {
                return Ok(Vec::new());
            }
            let at_work = |record: &Record| record.hold().is_none() && record.stands();
            if let Some(path) = Record::all(&away).iter().find(|one| at_work(one)) {
                return Err(LendError::InUse(path.path().unwrap_or_default()));
            }
            let (home, place) = (common.clone(), away.clone());
            let homeless = read(move || homeless(&home, &place))
                .await
                .and_then(|found| found)
                .map_err(|source| LendError::Unreadable { path: away.clone(), source })?;
            let mut salvage = Vec::new();
            for commit in homeless {
                let reference = match kept_as(&common, &commit).await {
                    Some(known) => Ok(known),
                    None => keep(&common, &name, &commit).await,
                };
                salvage.push(reference.map_err(LendError::Git)?);
            }
            Ok(salvage)
        })
        .await?
    }

    /// Forgets a repository that was lent, after all that is in it alone is kept under `name`: its
    /// folder, and the ref that kept what it borrowed.
    ///
    /// # Errors
    /// [`LendError`]; doing it again is harmless.
    pub async fn call_in(&self, lent: &Path, name: &str) -> Result<(), LendError> {
        self.bring_home(lent, name).await?;
        let to = lent.to_owned();
        self.in_turn(move |common| async move {
            let folder = |source| LendError::Folder { path: to.clone(), source };
            fault::point("lend.home").map_err(folder)?;
            // the folder last: while it stands, a start after a crash knows of the ref
            Git::on_repository(&common)
                .args(["update-ref", "-d", &kept(&to)])
                .run()
                .await
                .map_err(LendError::Git)?;
            fault::point("lend.forgotten").map_err(folder)?;
            for gone in [to.with_extension(MAKING), to.clone()] {
                match fs::remove_dir_all(gone) {
                    Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                        return Err(folder(cause));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await?
    }
}

/// The repositories that were lent and stand in `folder`, whole or half made, each with the common
/// folder of the one that it borrows from. Blocking.
#[must_use]
pub fn lent(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.into_iter().map(|entry| entry.path());
    let both = paths.filter_map(|path| {
        let text = fs::read(path.join(ALTERNATES)).ok()?;
        let objects = Path::new(OsStr::from_bytes(text.trim_ascii_end())).to_owned();
        Some((path.with_extension(WHOLE), objects.parent()?.to_owned()))
    });
    both.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The commits at which HEAD of a lent repository's worktree stood, and that no branch there holds.
/// Of a worktree of the user's own repository there are none: what a branch or HEAD was moved away
/// from, git keeps there for weeks, as for the user's own work. Blocking.
///
/// # Errors
/// What libgit2 said.
pub(super) fn left_behind(repository: &git2::Repository) -> Result<Vec<git2::Oid>, git2::Error> {
    let mut left = Vec::new();
    let common = repository.commondir();
    if !common.join(ALTERNATES).is_file() || repository.find_reference(BASE).is_err() {
        return Ok(left);
    }
    for at in stood(repository) {
        if repository.find_commit(at).is_ok()
            && !is_held(repository, at, &left)?
            && !is_on_a_branch(repository, at)?
        {
            left.push(at);
        }
    }
    Ok(left)
}

/// Carries home what no branch there holds; answers the commits that keep it.
fn homeless(home: &Path, away: &Path) -> Result<Vec<CommitId>, git2::Error> {
    let (home, away) = (git2::Repository::open(home)?, git2::Repository::open(away)?);
    // what was salvaged there holds most of the rest
    let mut all = tips(&away, |name| !name.starts_with(PLACE.as_bytes()))?;
    all.extend(tips(&away, |name| name.starts_with(b"refs/remotes/"))?);
    let heads = Record::all(away.commondir()).into_iter().filter_map(|record| record.head());
    all.extend(heads.filter_map(|head| git2::Oid::from_str(&head).ok()));
    all.retain(|tip| away.find_commit(*tip).is_ok());
    carry(&away, &all, &home)?;
    let mut kept: Vec<git2::Oid> = Vec::new();
    for tip in all {
        if !is_on_a_branch(&home, tip)? && !is_held(&home, tip, &kept)? {
            kept.push(tip);
        }
    }
    Ok(kept.into_iter().map(CommitId::from).collect())
}

/// Lays the folder out as far as says from where its objects are borrowed.
fn borrow(common: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into.join("objects/info"))?;
    let mut line = common.join("objects").into_os_string().into_encoded_bytes();
    line.push(b'\n');
    fs::write(into.join(ALTERNATES), line)
}

/// The ref that keeps what a lent repository borrows.
fn kept(lent: &Path) -> String {
    let name = lent.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    format!("refs/hayward/lent/{name}")
}

/// The address of a remote as an agent may know it: it leads to the same place from elsewhere, and
/// holds nobody's login. Over ssh the name is no secret, and no host lets anybody in without it.
fn address(repository: &git2::Repository, url: &str) -> String {
    let relative = Path::new(url);
    if url.starts_with("./") || url.starts_with("../") {
        let from = repository.workdir().unwrap_or_else(|| repository.path());
        return from.join(relative).to_string_lossy().into_owned();
    }
    without_login(url)
}

fn furnish(from: &Path, into: &Path, commit: &CommitId) -> Result<(), git2::Error> {
    let theirs = git2::Repository::open(from)?;
    let mut options = git2::RepositoryInitOptions::new();
    let ours = git2::Repository::init_opts(into, options.bare(true).external_template(false))?;
    let failed = |cause: io::Error| git2::Error::from_str(&cause.to_string());
    // where the history was cut short: what it borrows ends there too
    match fs::copy(from.join("shallow"), into.join("shallow")) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(cause)),
        _ => {}
    }
    let ours = git2::Repository::open(ours.path())?;
    ours.reference(BASE, commit.oid()?, true, "hayward: lend")?;
    for branch in theirs.branches(Some(git2::BranchType::Local))? {
        let (branch, _) = branch?;
        let name = String::from_utf8_lossy(branch.name_bytes()?).into_owned();
        if let Some(tip) = branch.get().target() {
            ours.reference(&format!("{LOCAL}{name}"), tip, true, "hayward: lend")?;
        }
    }
    let mut config = ours.config()?;
    // agents at work here must not meet a clean-up that one of them set off
    config.set_str("gc.auto", "0")?;
    let said = theirs.config()?.snapshot()?;
    for key in ["user.name", "user.email"] {
        if let Ok(value) = said.get_str(key) {
            config.set_str(key, value)?;
        }
    }
    for name in theirs.remotes()?.iter().flatten().flatten() {
        if let Ok(url) = said.get_str(&format!("remote.{name}.url")) {
            ours.remote(name, &address(&theirs, url))?;
        }
    }
    Ok(())
}
