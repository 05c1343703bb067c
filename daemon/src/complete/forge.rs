//! The forges: from a remote's URL to the command and the page that open a pull request. Pure.

/// Which program opens pull requests there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GitHub, by `gh`.
    GitHub,
    /// GitLab, by `glab`.
    GitLab,
}

/// A repository on a forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forge {
    /// Which forge; none for one that we know no program for.
    pub kind: Option<Kind>,
    /// Its host.
    pub host: String,
    /// Owner (or groups) and name, joined by `/`.
    pub path: String,
}

/// What a pull request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The branch that holds the work.
    pub branch: &'a str,
    /// The branch that it goes to.
    pub target: &'a str,
    /// Its title.
    pub title: &'a str,
    /// Its text.
    pub body: &'a str,
}

impl Forge {
    /// The forge of a remote; none for a folder or a `file://` URL.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        let (host, path) = match url.split_once("://") {
            Some((scheme, rest)) => {
                let known = ["https", "http", "ssh", "git"].contains(&scheme);
                rest.split_once('/').filter(|_| known)?
            }
            None => url.split_once(':').filter(|(host, _)| !host.contains('/'))?,
        };
        let host = host.rsplit('@').next().unwrap_or(host);
        let host = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
        let path = path.trim_matches('/').trim_end_matches(".git").to_owned();
        if host.is_empty() || !path.contains('/') {
            return None;
        }
        let kind = match &host {
            host if host.contains("github") => Some(Kind::GitHub),
            host if host.contains("gitlab") => Some(Kind::GitLab),
            _ => None,
        };
        Some(Self { kind, host, path })
    }

    /// The page on which a person opens the pull request.
    #[must_use]
    pub fn page(&self, request: &Request<'_>) -> String {
        let Self { host, path, .. } = self;
        let (branch, target) = (encoded(request.branch), encoded(request.target));
        match self.kind {
            Some(Kind::GitLab) => format!(
                "https://{host}/{path}/-/merge_requests/new?merge_request%5Bsource_branch%5D=\
                 {branch}&merge_request%5Btarget_branch%5D={target}"
            ),
            _ => format!("https://{host}/{path}/compare/{target}...{branch}?expand=1"),
        }
    }

    fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
}

impl Kind {
    /// The program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::GitHub => "gh",
            Self::GitLab => "glab",
        }
    }

    /// Its arguments that list the open pull requests of the branch, as JSON.
    #[must_use]
    pub fn find(self, forge: &Forge, request: &Request<'_>) -> Vec<String> {
        let repository = forge.repository();
        let words: Vec<&str> = match self {
            Self::GitHub => vec![
                "pr",
                "list",
                "--repo",
                &repository,
                "--head",
                request.branch,
                "--state",
                "open",
                "--json",
                "url",
            ],
            Self::GitLab => vec![
                "mr",
                "list",
                "--repo",
                &repository,
                "--source-branch",
                request.branch,
                "--output",
                "json",
            ],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Its arguments that open the pull request and print its address.
    #[must_use]
    pub fn open(self, forge: &Forge, request: &Request<'_>) -> Vec<String> {
        let Request { branch, target, title, body } = *request;
        let repository = forge.repository();
        let words: Vec<&str> = match self {
            Self::GitHub => vec![
                "pr",
                "create",
                "--repo",
                &repository,
                "--head",
                branch,
                "--base",
                target,
                "--title",
                title,
                "--body",
                body,
            ],
            Self::GitLab => vec![
                "mr",
                "create",
                "--repo",
                &repository,
                "--source-branch",
                branch,
                "--target-branch",
                target,
                "--title",
                title,
                "--description",
                body,
                "--yes",
            ],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// The address in what [`Kind::find`] printed.
    #[must_use]
    pub fn found(self, output: &str) -> Option<String> {
        let key = match self {
            Self::GitHub => "url",
            Self::GitLab => "web_url",
        };
        let rows: serde_json::Value = serde_json::from_str(output).ok()?;
        rows.get(0)?.get(key)?.as_str().map(str::to_owned)
    }
}

/// The address in what a program printed when it opened a pull request: the last one.
#[must_use]
pub fn address(output: &str) -> Option<String> {
    let is_address = |word: &&str| word.starts_with("https://") || word.starts_with("http://");
    output.split_whitespace().rfind(is_address).map(str::to_owned)
}

/// What may stand in a part of an address: all else as `%XX`.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request<'_> =
        Request { branch: "hayward/fix it#1", target: "main", title: "t", body: "b" };

    #[test]
    fn a_forge_is_read_from_every_kind_of_url() {
        for url in [
            "https://github.com/o/r.git",
            "https://me:secret@github.com/o/r",
            "git@github.com:o/r.git",
            "ssh://git@GitHub.com:22/o/r.git/",
        ] {
            let forge = Forge::of(url).unwrap();
            assert_eq!((forge.host.as_str(), forge.path.as_str()), ("github.com", "o/r"), "{url}");
            assert_eq!(forge.kind, Some(Kind::GitHub));
        }
        let deep = Forge::of("https://gitlab.example.org/a/b/c.git").unwrap();
        assert_eq!((deep.kind, deep.path.as_str()), (Some(Kind::GitLab), "a/b/c"));
        for none in ["/srv/r.git", "file:///srv/o/r", "../r", "https://host"] {
            assert_eq!(Forge::of(none), None, "{none}");
        }
    }

    #[test]
    fn pages_hold_no_odd_letter_and_no_credential() {
        let page = Forge::of("https://me:secret@github.com/o/r").unwrap().page(&REQUEST);
        assert_eq!(page, "https://github.com/o/r/compare/main...hayward/fix%20it%231?expand=1");
    }

    #[test]
    fn addresses_are_found_in_what_programs_print() {
        assert_eq!(
            address("Creating…\n\nhttps://github.com/o/r/pull/7\n").as_deref(),
            Some("https://github.com/o/r/pull/7")
        );
        assert_eq!(address("nothing"), None);
        assert_eq!(Kind::GitHub.found("[{\"url\":\"u\"}]").as_deref(), Some("u"));
        assert_eq!(Kind::GitHub.found("[]"), None);
        assert_eq!(Kind::GitLab.found("[{\"web_url\":\"w\"}]").as_deref(), Some("w"));
    }
}
