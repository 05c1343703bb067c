//! Where a push would go, kept from before an agent could change it: the configuration that says so
//! is shared with the user's checkout, and an agent can write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{Git, redacted};
use super::publish::PublishError;
use super::remotes::{Remote, whole};
use super::repo::Repository;

/// Where pushes went at one moment. Without what may be secret in an address: whether another is
/// the same is told by its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destinations {
    /// The branch that work was for.
    target: Option<String>,
    /// The name of the remote that work for it was pushed to.
    remote: Option<String>,
    /// By the names of the remotes.
    all: BTreeMap<String, Address>,
}

/// An address that can be shown and recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    shown: String,
    digest: String,
}

impl Address {
    fn of(url: &str) -> Self {
        let digest = git2::Oid::hash_object(git2::ObjectType::Blob, url.as_bytes());
        let digest = digest.map(|id| id.to_string()).unwrap_or_default();
        Self { shown: redacted(url), digest }
    }
}

impl Repository {
    /// Where pushes go now; work is for `target`, where that is known.
    ///
    /// # Errors
    /// [`PublishError`] when git does not say.
    pub async fn destinations(&self, target: Option<&str>) -> Result<Destinations, PublishError> {
        let told = Git::on_repository(self.common_dir()).args(["remote", "-v"]).run().await;
        let told = told.map_err(|source| PublishError::Unlisted {
            repository: self.common_dir().to_owned(),
            source,
        })?;
        let (remote, top) = self.push_remote(target).await?;
        let mut all = BTreeMap::new();
        for (name, url) in pushes(&String::from_utf8_lossy(&told.stdout)) {
            // of several git tells the first when it is asked for one
            all.entry(name.to_owned()).or_insert(Address::of(&whole(url, &top)));
        }
        Ok(Destinations { target: target.map(str::to_owned), remote, all })
    }
}

impl Destinations {
    /// Lets a push of work for `target` to `remote` pass, if it goes where it went then. What was
    /// meant for another branch then may go to any remote of then. Where there was no remote, there
    /// is nothing to compare.
    ///
    /// # Errors
    /// [`PublishError::Redirected`].
    pub fn permit(&self, target: &str, remote: &Remote) -> Result<(), PublishError> {
        let now = Address::of(&remote.url);
        let meant = self.remote.as_ref().filter(|_| self.target.as_deref() == Some(target));
        let meant = meant.and_then(|name| self.all.get(name));
        let is_known = match meant {
            Some(then) => then.digest == now.digest,
            None => self.all.is_empty() || self.all.values().any(|one| one.digest == now.digest),
        };
        if is_known {
            return Ok(());
        }
        let then = meant.or_else(|| self.all.get(&remote.name)).map(|one| one.shown.clone());
        Err(PublishError::Redirected {
            name: remote.name.clone(),
            now: now.shown,
            then: then.unwrap_or_else(|| "nowhere by that name".to_owned()),
        })
    }
}

/// The names and addresses of `git remote -v` that are for pushes, in its order.
fn pushes(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.strip_suffix(" (push)")?.split_once('\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(name: &str, url: &str) -> Remote {
        Remote { name: name.to_owned(), url: url.to_owned(), written: url.to_owned() }
    }

    fn then() -> Destinations {
        let text = "origin\thttps://u:SECRET@h/o/r (fetch)\norigin\thttps://u:SECRET@h/o/r (push)\n\
                    mine\t/srv/a b (fetch)\nmine\t/srv/a b (push)\n";
        let all = pushes(text).map(|(name, url)| (name.to_owned(), Address::of(url))).collect();
        Destinations { target: Some("main".into()), remote: Some("origin".into()), all }
    }

    #[test]
    fn a_push_passes_only_to_where_it_went_when_the_run_began() {
        let (then, first) = (then(), remote("origin", "https://u:SECRET@h/o/r"));
        then.permit("main", &first).unwrap();
        then.permit("main", &remote("renamed", &first.url)).unwrap();
        // another remote of the user's is another place too
        let other = remote("mine", "/srv/a b");
        let text = then.permit("main", &other).unwrap_err().to_string();
        assert!(text.contains("/srv/a b") && text.contains("***@h/o/r"), "{text}");
        then.permit("release", &other).unwrap();
        let bad = remote("origin", "https://u:SECRET@evil/o/r");
        for target in ["main", "release"] {
            let text = then.permit(target, &bad).unwrap_err().to_string();
            assert!(text.contains("***@evil/o/r") && !text.contains("SECRET"), "{text}");
        }
        Destinations::default().permit("main", &bad).unwrap();
        assert!(!serde_json::to_string(&then).unwrap().contains("SECRET"));
    }
}
