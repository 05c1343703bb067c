//! Pushing: a commit brought to a branch of a remote, with proof of what happened there.
//!
//! Nothing of the repository changes, its remote-tracking refs neither: the remote is named by its
//! URL, and only the remote itself says where its branch stands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{CommandError, Fault, Git, redacted, redacted_words};
use super::links::Link;
use super::remote::may_pass;
use super::remotes::Remote;
use super::repo::{Closed, CommitId, Repository, read};
use super::staging::{MAX_FILE, Withheld, exposed_between};

/// How long the first word of a remote may take. What needs a person (a passphrase, a login) never
/// comes.
const ASK: Duration = Duration::from_secs(30);

/// How long a push may take: the first one of a large history over a slow line.
const PUSH: Duration = Duration::from_secs(15 * 60);

/// Files that an error names.
const MOST_NAMED: usize = 10;

/// Something that must not leave the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The commit that holds it.
    pub commit: CommitId,
    /// The file, and why.
    pub file: Withheld,
}

/// Why nothing was pushed, or what is not known of the remote.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no remote.
    #[error("{0} has no remote to push to: add one with `git remote add origin URL`")]
    NoRemote(PathBuf),
    /// The commits hold what must not be published.
    #[error("the push was stopped: {}; take it out of those commits first", listed(.0))]
    Exposed(Vec<Exposed>),
    /// The commits name commits of submodules that nobody else could get.
    #[error("the push was stopped: no remote is known to have {}; push that first", links(.0))]
    Loose(Vec<Link>),
    /// The remote did not let us in, or did not answer.
    #[error("{url} could not be reached as you: {stderr}")]
    Unreachable {
        /// The remote, without a credential.
        url: String,
        /// What git or ssh said.
        stderr: String,
        /// Whether trying again may help. Not where it kept silent to the end of its time: whoever
        /// waits was held up long enough.
        may_pass: bool,
    },
    /// The remote's branch is not where a push could begin.
    #[error("the remote's '{branch}' holds other work (at {found}): it was not overwritten")]
    Moved {
        /// The branch.
        branch: String,
        /// Where it stands.
        found: CommitId,
    },
    /// The remote refused.
    #[error("{url} refused '{branch}': {stderr}")]
    Refused {
        /// The remote, without a credential.
        url: String,
        /// The branch.
        branch: String,
        /// What it said.
        stderr: String,
    },
    /// Git does not say where a remote is.
    #[error("git does not say where the remote '{name}' is")]
    Unnamed {
        /// The remote.
        name: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git does not say which remotes there are.
    #[error("git does not say which remotes {repository} has")]
    Unlisted {
        /// The repository.
        repository: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// It would not go where it went when the run began.
    #[error(
        "the push was stopped: '{name}' leads to {now} now, and when the run began work for this \
         branch was pushed to {then}. The run may have changed that: set it back (`git config \
         --show-origin --get-regexp '^(remote|branch|url)'` shows who says so) and complete again, or \
         push the branch yourself"
    )]
    Redirected {
        /// The remote.
        name: String,
        /// Where it leads, without a credential.
        now: String,
        /// Where it led, without a credential.
        then: String,
    },
    /// A rule for this very URL would lead git on from it.
    #[error(
        "the configuration leads '{name}' to {url}, and by url.{base}.insteadOf (or pushInsteadOf) on \
         from there: take one of these rules out"
    )]
    RewrittenTwice {
        /// The remote.
        name: String,
        /// Where git goes for it, without a credential.
        url: String,
        /// Where the rule leads, without a credential.
        base: String,
    },
    /// Git's data cannot be read.
    #[error("the repository {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

fn listed(all: &[Exposed]) -> String {
    let one = |exposed: &Exposed| {
        let (file, commit) = (&exposed.file, &exposed.commit.as_str()[..10]);
        format!("{} {} (in {commit})", file.path.display(), file.why)
    };
    let mut text = all.iter().take(MOST_NAMED).map(one).collect::<Vec<_>>().join(", ");
    if all.len() > MOST_NAMED {
        text.push_str(&format!(" and {} more", all.len() - MOST_NAMED));
    }
    text
}

fn links(all: &[Link]) -> String {
    all.iter().take(MOST_NAMED).map(Link::to_string).collect::<Vec<_>>().join(", ")
}

impl Repository {
    /// A command that goes to the remote's URL as it is. Git would rewrite it by the user's rules,
    /// which were applied to it already; a rule for the whole URL wins over theirs.
    fn going_to(&self, remote: &Remote) -> Git {
        let rule = |kind: &str| format!("url.{}.{kind}", remote.url);
        Git::on_repository(self.common_dir())
            .over_network()
            .config(&rule("insteadOf"), &remote.url)
            .config(&rule("pushInsteadOf"), &remote.url)
    }

    /// Where a branch of the remote stands now, by the remote's own word.
    ///
    /// # Errors
    /// [`PublishError::Unreachable`] within 30 s.
    pub async fn remote_tip(
        &self,
        remote: &Remote,
        branch: &str,
    ) -> Result<Option<CommitId>, PublishError> {
        let output = self
            .going_to(remote)
            .timeout(ASK)
            .args(["ls-remote", "--quiet", "--upload-pack=git-upload-pack", "--"])
            .args([&remote.url, &format!("refs/heads/{branch}")])
            .run()
            .await
            .map_err(|source| unreachable(remote, &source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = format!("\trefs/heads/{branch}");
        let line = text.lines().find_map(|line| line.strip_suffix(&wanted));
        Ok(line.and_then(|id| id.parse().ok()))
    }

    /// Where all branches of the remote stand now, by the remote's own word.
    ///
    /// # Errors
    /// [`PublishError::Unreachable`] within 30 s.
    pub async fn remote_tips(&self, remote: &Remote) -> Result<Vec<CommitId>, PublishError> {
        let output = self
            .going_to(remote)
            .timeout(ASK)
            .args(["ls-remote", "--quiet", "--heads", "--upload-pack=git-upload-pack", "--"])
            .arg(&remote.url)
            .run()
            .await
            .map_err(|source| unreachable(remote, &source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let ids = text.lines().filter_map(|line| line.split_once('\t')?.0.parse().ok());
        Ok(ids.collect())
    }

    /// Brings `commit` to the remote's branch, which must not hold anything else: it stands at
    /// `before`, or is not there.
    ///
    /// # Errors
    /// [`PublishError`]; whether the remote has it is then only known by asking it.
    pub async fn push(
        &self,
        remote: &Remote,
        branch: &str,
        commit: &CommitId,
        before: Option<&CommitId>,
    ) -> Result<(), PublishError> {
        self.send(remote, branch, Some(commit), before).await
    }

    /// Deletes the remote's branch if it still stands at `at`.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn unpublish(
        &self,
        remote: &Remote,
        branch: &str,
        at: &CommitId,
    ) -> Result<(), PublishError> {
        self.send(remote, branch, None, Some(at)).await
    }

    async fn send(
        &self,
        remote: &Remote,
        branch: &str,
        commit: Option<&CommitId>,
        before: Option<&CommitId>,
    ) -> Result<(), PublishError> {
        let name = format!("refs/heads/{branch}");
        // the lease lets only the expected tip be replaced, and `before` is an ancestor
        let lease = format!("--force-with-lease={name}:{}", before.map_or("", CommitId::as_str));
        let done = self
            .going_to(remote)
            .config("push.gpgSign", "false")
            .config("push.followTags", "false")
            .config("push.recurseSubmodules", "no")
            .timeout(PUSH)
            .args(["push", "--quiet", "--no-verify", "--receive-pack=git-receive-pack", &lease])
            .arg("--")
            .args([&remote.url, &format!("{}:{name}", commit.map_or("", CommitId::as_str))])
            .run()
            .await;
        let Err(source) = done else { return Ok(()) };
        let refused =
            ["[rejected]", "[remote rejected]", "stale info", "pre-receive hook declined"];
        if refused.iter().any(|words| source.stderr().contains(words)) {
            let (url, branch) = (redacted(&remote.url), branch.to_owned());
            return Err(PublishError::Refused { url, branch, stderr: said(&source) });
        }
        Err(unreachable(remote, &source))
    }

    /// What a push of `head` would publish and must not: secrets and blobs in any commit that none
    /// of the remote's tips holds, be it that a later one takes them out again. Commits of the user
    /// that were never pushed are among them.
    ///
    /// # Errors
    /// [`PublishError::Unreadable`].
    pub async fn exposed(
        &self,
        published: Vec<CommitId>,
        head: &CommitId,
    ) -> Result<Vec<Exposed>, PublishError> {
        let (place, head) = (self.common_dir().to_owned(), head.clone());
        read(move || look_through(&place, &published, &head))
            .await
            .and_then(|found| found)
            .map_err(|source| self.unreadable(source))
    }

    /// Fails where a push of `head` would publish a gitlink that leads nowhere.
    ///
    /// # Errors
    /// [`PublishError::Loose`] with them.
    pub async fn refuse_loose(
        &self,
        published: Vec<CommitId>,
        head: &CommitId,
    ) -> Result<(), PublishError> {
        let links = self.loose_links(published, head).await;
        let links = links.map_err(|source| self.unreadable(source))?;
        if links.is_empty() { Ok(()) } else { Err(PublishError::Loose(links)) }
    }

    pub(super) fn unreadable(&self, source: git2::Error) -> PublishError {
        PublishError::Unreadable { path: self.common_dir().to_owned(), source }
    }
}

fn unreachable(remote: &Remote, source: &CommandError) -> PublishError {
    let may_pass = matches!(source.fault, Fault::Failed { .. }) && may_pass(source.stderr());
    PublishError::Unreachable { url: redacted(&remote.url), stderr: said(source), may_pass }
}

/// What git said, without a credential that a URL in it may hold.
fn said(source: &CommandError) -> String {
    match &source.fault {
        Fault::TimedOut(limit) => {
            format!("no answer within {} s; is a login or passphrase needed?", limit.as_secs())
        }
        _ if source.stderr().trim().is_empty() => source.to_string(),
        _ => redacted_words(source.stderr()),
    }
}

fn look_through(
    place: &Path,
    published: &[CommitId],
    head: &CommitId,
) -> Result<Vec<Exposed>, git2::Error> {
    let repository = git2::Repository::open(place)?;
    let mut walk = repository.revwalk()?;
    walk.push(head.oid()?)?;
    for tip in published {
        // what is not known here holds nothing that is
        if repository.find_commit(tip.oid()?).is_ok() {
            walk.hide(tip.oid()?)?;
        }
    }
    let mut all = Vec::new();
    for id in walk {
        let commit = repository.find_commit(id?)?;
        let found = brought(&repository, &commit)?;
        all.extend(found.into_iter().map(|file| Exposed { commit: commit.id().into(), file }));
    }
    Ok(all)
}

/// What a commit itself brings: of a merge, what none of its sides had.
fn brought(
    repository: &git2::Repository,
    commit: &git2::Commit<'_>,
) -> Result<Vec<Withheld>, git2::Error> {
    let after = commit.tree()?;
    let mut parents = commit.parents();
    let Some(first) = parents.next() else {
        return exposed_between(repository, None, &after, MAX_FILE);
    };
    let mut found = exposed_between(repository, Some(&first.tree()?), &after, MAX_FILE)?;
    for parent in parents {
        if found.is_empty() {
            break;
        }
        let here = exposed_between(repository, Some(&parent.tree()?), &after, MAX_FILE)?;
        found.retain(|file| here.iter().any(|other| other.path == file.path));
    }
    Ok(found)
}
