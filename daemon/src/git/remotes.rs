//! The remotes of a repository: which one work is pushed to and which one it is for, and where git
//! really goes for each.

use std::path::{Path, PathBuf};

use hayward_shared::path::is_url;

use super::command::{Git, redacted};
use super::publish::PublishError;
use super::repo::{Repository, read};

/// A remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name in the configuration.
    pub name: String,
    /// Where git goes for it, after `insteadOf` and `pushInsteadOf`; a folder by its whole path. May
    /// hold a credential: show it through [`super::command::redacted`] alone.
    pub url: String,
    /// Its URL as it is written. May hold a credential too.
    pub written: String,
}

/// What a remote is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// To push to.
    Push,
    /// For the branch that it has.
    Upstream,
}

/// A remote as the configuration has it.
struct Written {
    name: String,
    url: String,
    /// Where relative paths begin.
    top: PathBuf,
}

impl Repository {
    /// The remote that work for `target` is pushed to: that branch's own, else the configured
    /// default for pushes, else the one that the branch comes from, else `origin`, else the only one
    /// there is.
    ///
    /// # Errors
    /// [`PublishError::NoRemote`] when there is none, or several and none of these.
    pub async fn remote_for(&self, target: &str) -> Result<Remote, PublishError> {
        self.remote(target, Use::Push).await
    }

    /// The remote whose branch `target` is, which differs from [`Repository::remote_for`] where work
    /// is pushed to a fork: the one that `gh` was told of, else the one that the branch comes from,
    /// else `origin`, else the only one there is.
    ///
    /// # Errors
    /// As [`Repository::remote_for`].
    pub async fn upstream_for(&self, target: &str) -> Result<Remote, PublishError> {
        self.remote(target, Use::Upstream).await
    }

    /// The name of the remote that work for `target` is pushed to, where there is one, and the folder
    /// at which relative addresses begin.
    pub(super) async fn push_remote(
        &self,
        target: Option<&str>,
    ) -> Result<(Option<String>, PathBuf), PublishError> {
        let (place, target) = (self.common_dir().to_owned(), target.map(str::to_owned));
        let found = read(move || {
            let found = match target {
                Some(target) => find(&place, &target, Use::Push)?,
                None => None,
            };
            Ok((found.map(|found| found.name), top(&git2::Repository::open(&place)?)))
        });
        found.await.and_then(|found| found).map_err(|source| self.unreadable(source))
    }

    async fn remote(&self, target: &str, wanted: Use) -> Result<Remote, PublishError> {
        let (place, target) = (self.common_dir().to_owned(), target.to_owned());
        let found = read(move || find(&place, &target, wanted))
            .await
            .and_then(|found| found)
            .map_err(|source| self.unreadable(source))?;
        let none = || PublishError::NoRemote(self.common_dir().to_owned());
        let Written { name, url: written, top } = found.ok_or_else(none)?;
        let mut git = Git::on_repository(self.common_dir()).args(["remote", "get-url"]);
        if wanted == Use::Push {
            git = git.arg("--push");
        }
        let told = git.args(["--", &name]).run().await;
        let told =
            told.map_err(|source| PublishError::Unnamed { name: name.clone(), source })?.stdout;
        let url = whole(String::from_utf8_lossy(&told).trim(), &top);
        if wanted == Use::Push {
            self.refuse_rewriting(&name, &url).await?;
        }
        Ok(Remote { name, url, written })
    }

    /// Fails where a rule of the configuration is for all of `url`: of two such rules git takes the
    /// first, so that ours would not win.
    async fn refuse_rewriting(&self, name: &str, url: &str) -> Result<(), PublishError> {
        let (place, wanted) = (self.common_dir().to_owned(), url.to_owned());
        let base = read(move || rewriter(&place, &wanted))
            .await
            .and_then(|found| found)
            .map_err(|source| self.unreadable(source))?;
        base.map_or(Ok(()), |base| {
            let (url, base) = (redacted(url), redacted(&base));
            Err(PublishError::RewrittenTwice { name: name.to_owned(), url, base })
        })
    }
}

/// Where a rule for this very URL leads.
fn rewriter(place: &Path, url: &str) -> Result<Option<String>, git2::Error> {
    let config = git2::Repository::open(place)?.config()?.snapshot()?;
    let mut entries = config.entries(None)?;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let (Ok(key), true) = (entry.name(), entry.has_value()) else { continue };
        let rule = key.strip_prefix("url.").and_then(|rule| {
            rule.strip_suffix(".insteadof").or_else(|| rule.strip_suffix(".pushinsteadof"))
        });
        if let Some(base) = rule.filter(|base| *base != url)
            && entry.value_bytes() == url.as_bytes()
        {
            return Ok(Some(base.to_owned()));
        }
    }
    Ok(None)
}

fn find(place: &Path, target: &str, wanted: Use) -> Result<Option<Written>, git2::Error> {
    let repository = git2::Repository::open(place)?;
    let config = repository.config()?.snapshot()?;
    let said = |key: &str| config.get_str(key).ok().map(str::to_owned);
    let all = repository.remotes()?;
    let known: Vec<&str> = all.iter().flatten().flatten().collect();
    let resolved =
        |name: &&str| said(&format!("remote.{name}.gh-resolved")).as_deref() == Some("base");
    let first = match wanted {
        Use::Push => [said(&format!("branch.{target}.pushRemote")), said("remote.pushDefault")],
        Use::Upstream => [known.iter().copied().find(resolved).map(str::to_owned), None],
    };
    let rest = [
        said(&format!("branch.{target}.remote")),
        Some("origin".to_owned()),
        known.first().filter(|_| known.len() == 1).map(|only| (*only).to_owned()),
    ];
    let mut names = first.into_iter().chain(rest).flatten();
    let Some(name) = names.find(|name| known.contains(&name.as_str())) else { return Ok(None) };
    let own = || said(&format!("remote.{name}.url"));
    let url = match wanted {
        Use::Push => said(&format!("remote.{name}.pushurl")).or_else(own),
        Use::Upstream => own(),
    };
    Ok(url.map(|url| Written { name, url, top: top(&repository) }))
}

/// Where relative addresses begin.
fn top(repository: &git2::Repository) -> PathBuf {
    repository.workdir().unwrap_or_else(|| repository.path()).to_owned()
}

/// A URL as it is, a folder by its whole path.
pub(super) fn whole(url: &str, top: &Path) -> String {
    match is_url(url) {
        true => url.to_owned(),
        // an absolute path stays what it is
        false => top.join(url).to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_meant_from_the_top_of_the_checkout_and_urls_from_nowhere() {
        let whole = |url| whole(url, Path::new("/user/checkout"));
        assert_eq!(whole("../r.git"), "/user/checkout/../r.git");
        assert_eq!(whole("/srv/r.git"), "/srv/r.git");
        for url in ["git@h:o/r.git", "https://h/o/r", "file:///srv/r"] {
            assert_eq!(whole(url), url);
        }
    }
}
