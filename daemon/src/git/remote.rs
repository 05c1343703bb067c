//! Repositories elsewhere, each kept as a bare clone in `repos/` of the state folder.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hayward_shared::address::holds_password;

use super::branch::slug;
use super::command::{CommandError, Fault, Git, redacted};
use super::repo::{CommitId, OpenError, Repositories, Repository, ResolveError, read};

/// How long a fetch may take: a first clone of a large project over a slow line.
const FETCH: Duration = Duration::from_secs(30 * 60);

/// Where the remote's branches stand in the clone.
const MIRROR: &str = "+refs/heads/*:refs/remotes/origin/*";

/// Hex digits of a clone's folder name: no two URLs of one machine meet by chance.
const DIGITS: usize = 12;

/// The URL that a clone was made of; none where it holds a password, or there is none.
#[must_use]
pub fn url_of(clone: &Path) -> Option<String> {
    // its own file alone: the user's settings may put another address, with a token, in its place
    let own = git2::Config::open(&clone.join("config")).ok()?;
    let url = own.get_string("remote.origin.url").ok()?;
    (!holds_password(&url)).then_some(url)
}

/// Why a repository elsewhere cannot be used. No message holds a credential of the URL.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It could not be fetched.
    #[error("{url} could not be fetched: check the address, and that git can reach it as you")]
    Fetch {
        /// The URL.
        url: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Its clone could not be made.
    #[error("no clone of {url} could be made in {path}")]
    Clone {
        /// The URL.
        url: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its clone cannot be opened.
    #[error("the clone of {url} cannot be used")]
    Open {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: OpenError,
    },
}

impl RemoteError {
    /// Whether trying again may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => {
                matches!(source.fault, Fault::Failed { .. }) && may_pass(source.stderr())
            }
            Self::Clone { .. } | Self::Open { .. } => false,
        }
    }
}

/// The clones of this daemon. It alone knows which of them is being fetched: one fetch of each at
/// a time.
#[derive(Debug)]
pub struct Clones {
    folder: PathBuf,
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Clones {
    /// The clones in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, turns: Mutex::default() }
    }

    /// Makes the clone of `url`, or brings it up to date. Dropping the future breaks it off; nothing
    /// half is left in the clone's place.
    ///
    /// # Errors
    /// [`RemoteError`]; a clone that was there stays as it was.
    pub async fn fetch(&self, url: &str) -> Result<(), RemoteError> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(url.to_owned()).or_default().clone()
        };
        let _alone = turn.lock().await;
        let path = self.path(url);
        if path.is_dir() {
            return fetch(&path, url).await;
        }
        self.make(url, &path).await
    }

    /// The clone of `url`, as it was fetched last.
    ///
    /// # Errors
    /// [`RemoteError::Open`] where it was not fetched, or cannot be used.
    pub async fn open(
        &self,
        url: &str,
        repositories: &Repositories,
    ) -> Result<Repository, RemoteError> {
        let opened = repositories.open(&self.path(url)).await;
        opened.map_err(|source| RemoteError::Open { url: redacted(url), source })
    }

    /// Where the clone of a URL is, or would be.
    #[must_use]
    pub fn path(&self, url: &str) -> PathBuf {
        let name = url.trim_end_matches('/').trim_end_matches(".git");
        let last = name.rsplit(['/', ':']).next().unwrap_or(name);
        let hash = git2::Oid::hash_object(git2::ObjectType::Blob, url.as_bytes())
            .map_or_else(|_| "0".repeat(DIGITS), |hash| hash.to_string());
        self.folder.join(format!("{}-{}.git", slug(last), &hash[..DIGITS]))
    }

    /// Makes the clone aside, so that the one in place is always whole.
    async fn make(&self, url: &str, path: &Path) -> Result<(), RemoteError> {
        let failed =
            |source| RemoteError::Clone { url: redacted(url), path: path.to_owned(), source };
        let aside = path.with_extension("new");
        match fs::remove_dir_all(&aside) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => {}
        }
        fs::create_dir_all(&aside).map_err(failed)?;
        let git = |args: &[&str]| Git::in_worktree(&aside).args(args).run();
        let broken = |source| RemoteError::Fetch { url: redacted(url), source };
        git(&["init", "--quiet", "--bare", "--initial-branch=main"]).await.map_err(broken)?;
        for (key, value) in [
            ("remote.origin.url", url),
            ("remote.origin.fetch", MIRROR),
            // agents at work here must not meet a clean-up that one of them set off
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
        ] {
            git(&["config", key, value]).await.map_err(broken)?;
        }
        if let Err(error) = fetch(&aside, url).await {
            // its configuration holds the URL
            if let Err(cause) = fs::remove_dir_all(&aside) {
                tracing::warn!(path = %aside.display(), %cause, "half a clone is left");
            }
            return Err(error);
        }
        fs::rename(&aside, path).map_err(failed)
    }
}

/// Whether trying again may help, by what git said: the remote did not say no.
pub(super) fn may_pass(stderr: &str) -> bool {
    const FINAL: [&str; 6] = [
        "Authentication failed",
        "Permission denied",
        "could not read Username",
        "does not exist",
        "not found",
        "does not appear to be a git repository",
    ];
    !FINAL.iter().any(|words| stderr.contains(words))
}

async fn fetch(path: &Path, url: &str) -> Result<(), RemoteError> {
    let fetched = fetch_once(path, url).await;
    fetched.map_err(|source| RemoteError::Fetch { url: redacted(url), source })
}

async fn fetch_once(path: &Path, url: &str) -> Result<(), CommandError> {
    let git = || Git::on_repository(path).over_network().timeout(FETCH);
    git()
        .args(["fetch", "--quiet", "--prune", "--tags", "--force", "--upload-pack=git-upload-pack"])
        .args([url, MIRROR])
        .run()
        .await?;
    let head = git()
        .args(["ls-remote", "--symref", "--upload-pack=git-upload-pack", url, "HEAD"])
        .run()
        .await?;
    if let Some(branch) = default_branch(&head.stdout) {
        Git::on_repository(path)
            .args(["symbolic-ref", "refs/remotes/origin/HEAD"])
            .arg(format!("refs/remotes/origin/{branch}"))
            .run()
            .await?;
    }
    Ok(())
}

/// The branch in git's `ref: refs/heads/NAME<TAB>HEAD`.
fn default_branch(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().find_map(|line| line.strip_prefix("ref: refs/heads/"))?;
    line.strip_suffix("\tHEAD").map(str::to_owned)
}

impl Repository {
    /// The branch that the remote's HEAD named when it was last fetched.
    pub async fn remote_head(&self) -> Option<String> {
        let place = self.common_dir().to_owned();
        let found = read(move || {
            let repository = git2::Repository::open(&place)?;
            let head = repository.find_reference("refs/remotes/origin/HEAD")?;
            let name = head.symbolic_target_bytes().map(String::from_utf8_lossy);
            let branch =
                name.and_then(|name| name.strip_prefix("refs/remotes/origin/").map(str::to_owned));
            Ok::<_, git2::Error>(branch)
        });
        found.await.and_then(|found| found).ok().flatten()
    }

    /// The commit that a reference names on the remote whose clone this is: its branches first,
    /// then tags and commits; without one, what its HEAD names.
    ///
    /// # Errors
    /// [`ResolveError`] with similar names when there is none.
    pub async fn resolve_remote(&self, reference: Option<&str>) -> Result<CommitId, ResolveError> {
        let Some(reference) = reference.filter(|reference| *reference != "HEAD") else {
            return self.resolve("refs/remotes/origin/HEAD").await;
        };
        let short = reference.strip_prefix("refs/heads/").unwrap_or(reference);
        match self.resolve(&format!("refs/remotes/origin/{short}")).await {
            Err(ResolveError::Unknown { .. }) => self.resolve(reference).await,
            found => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_url_has_its_own_folder_with_a_readable_name() {
        let clones = Clones::new("/repos".into());
        let (one, two) = (clones.path("https://h/o/App.git"), clones.path("git@h:o/App.git"));
        assert_ne!(one, two);
        assert!(one.to_string_lossy().starts_with("/repos/app-"), "{one:?}");
        assert_eq!(one, clones.path("https://h/o/App.git"));
    }

    #[test]
    fn what_the_users_settings_put_in_place_of_an_address_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let clone = git2::Repository::init_bare(folder.path()).unwrap();
        let told = "https://h/o/app.git";
        clone.remote("origin", told).unwrap();
        let mut config = clone.config().unwrap();
        config.set_str("url.https://token@h/.insteadOf", "https://h/").unwrap();
        assert_ne!(clone.find_remote("origin").unwrap().url().ok(), Some(told));
        assert_eq!(url_of(folder.path()).as_deref(), Some(told));
        config.set_str("remote.origin.url", "https://me:secret@h/o/app.git").unwrap();
        assert_eq!(url_of(folder.path()), None);
    }

    #[test]
    fn the_default_branch_is_read() {
        let output = b"ref: refs/heads/a/b\tHEAD\n0123\tHEAD\n";
        assert_eq!(default_branch(output).as_deref(), Some("a/b"));
        assert_eq!(default_branch(b"0123\tHEAD\n"), None);
    }
}
