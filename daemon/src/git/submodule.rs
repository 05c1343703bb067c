//! Submodules of a new worktree, filled from what the user's checkout has of them: no network.

use std::path::{Path, PathBuf};

use super::command::{CommandError, Git};
use super::repo::{Closed, Repository, read};

/// What became of the submodules of a worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submodules {
    /// Those that hold their files.
    pub filled: Vec<PathBuf>,
    /// Those that stay empty, with the reason.
    pub empty: Vec<(PathBuf, String)>,
}

/// Why submodules could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SubmoduleError {
    /// Git's data cannot be read.
    #[error("the submodules of {path} cannot be read: check its .gitmodules")]
    Unreadable {
        /// The worktree.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// A submodule as the worktree's commit and the user's configuration have it.
struct Found {
    name: String,
    path: PathBuf,
    /// Where the user's checkout has it from; none when it is not set up there.
    url: Option<String>,
    /// Where the user's checkout keeps its objects; none when it has none, or not the commit.
    local: Option<PathBuf>,
}

impl Repository {
    /// Fills the submodules of a new worktree from the objects that the repository has of them.
    /// One that the user's checkout does not have stays empty, as it is there. Submodules of
    /// submodules stay empty too.
    ///
    /// # Errors
    /// [`SubmoduleError`] when `.gitmodules` cannot be read.
    pub async fn fill_submodules(&self, worktree: &Path) -> Result<Submodules, SubmoduleError> {
        let path = worktree.to_owned();
        if !path.join(".gitmodules").is_file() {
            return Ok(Submodules::default());
        }
        self.in_turn(move |common| async move {
            let (place, folder) = (common.clone(), path.clone());
            let found = read(move || find(&place, &folder))
                .await
                .and_then(|found| found)
                .map_err(|source| SubmoduleError::Unreadable { path: path.clone(), source })?;
            let mut done = Submodules::default();
            for submodule in found {
                let why = match (&submodule.local, &submodule.url) {
                    (Some(local), Some(url)) => fill(&path, &submodule, local, url).await.err(),
                    _ => Some("your checkout does not have its commit".to_owned()),
                };
                match why {
                    None => done.filled.push(submodule.path),
                    Some(why) => done.empty.push((submodule.path, why)),
                }
            }
            Ok(done)
        })
        .await?
    }
}

fn find(common: &Path, worktree: &Path) -> Result<Vec<Found>, git2::Error> {
    let repository = git2::Repository::open(worktree)?;
    let config = repository.config()?.snapshot()?;
    let mut found = Vec::new();
    for submodule in repository.submodules()? {
        let Some(name) = submodule.name().ok().filter(|name| is_plain(name)) else { continue };
        let local = common.join("modules").join(name);
        found.push(Found {
            name: name.to_owned(),
            path: submodule.path().to_owned(),
            url: config.get_str(&format!("submodule.{name}.url")).ok().map(str::to_owned),
            local: submodule.head_id().filter(|wanted| has(&local, *wanted)).map(|_| local),
        });
    }
    Ok(found)
}

/// Whether the repository at `local` has the commit.
fn has(local: &Path, commit: git2::Oid) -> bool {
    git2::Repository::open(local).is_ok_and(|one| one.find_commit(commit).is_ok())
}

/// Git refuses names that climb too; we join the name to a path before git sees it.
fn is_plain(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

async fn fill(worktree: &Path, submodule: &Found, local: &Path, url: &str) -> Result<(), String> {
    let said = |error: CommandError| match error.stderr().trim() {
        "" => error.to_string(),
        words => words.to_owned(),
    };
    Git::in_worktree(worktree)
        .config(&format!("submodule.{}.url", submodule.name), &local.to_string_lossy())
        .config("protocol.file.allow", "always")
        // never a command that the configuration names as the way to update
        .args(["submodule", "--quiet", "update", "--init", "--checkout", "--"])
        .arg(&submodule.path)
        .run()
        .await
        .map_err(said)?;
    // it was cloned from the objects here; what it belongs to is elsewhere
    Git::in_worktree(&worktree.join(&submodule.path))
        .args(["config", "remote.origin.url", url])
        .run()
        .await
        .map(|_| ())
        .map_err(said)
}
