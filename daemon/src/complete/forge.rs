//! The forges: from a remote's URL to the command and the page that open a pull request. Pure.

/// Which program opens pull requests there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GitHub, by `gh`.
    GitHub,
    /// GitLab, by `glab`.
    GitLab,
}

/// What is given to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it reads.
    pub input: String,
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

/// The longest text of a pull request: what GitHub takes, in UTF-16 units. GitLab takes more, but
/// its program takes the text as one argument, which the kernel bounds to 128 KiB: there these are
/// bytes.
const MOST_BODY: usize = 65_536;

/// What stands where a longer text was cut.
const CUT: &str = "\n\n… (shortened)\n\n";

/// What a pull request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The branch that holds the work.
    pub branch: &'a str,
    /// Owner and name of the fork that has the branch, where that is another repository than the one
    /// that is asked.
    pub fork: Option<&'a str>,
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
        // where ssh goes by the port of https
        let host = match host.as_str() {
            "ssh.github.com" => "github.com".to_owned(),
            "altssh.gitlab.com" => "gitlab.com".to_owned(),
            _ => host,
        };
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
        let head = request.fork.map_or_else(String::new, |fork| format!("{}:", owner(fork)));
        match self.kind {
            // there the fork's own page offers the repository that it is a fork of
            Some(Kind::GitLab) => format!(
                "https://{host}/{}/-/merge_requests/new?merge_request%5Bsource_branch%5D=\
                 {branch}&merge_request%5Btarget_branch%5D={target}",
                request.fork.unwrap_or(path)
            ),
            _ => format!("https://{host}/{path}/compare/{target}...{head}{branch}?expand=1"),
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

    /// Its arguments that list the open pull requests of branches of that name, as JSON.
    #[must_use]
    pub fn find(self, forge: &Forge, request: &Request<'_>) -> Vec<String> {
        let (repository, branch) = (forge.repository(), request.branch);
        let words: &[&str] = match self {
            Self::GitHub => {
                let fields = "url,headRepositoryOwner";
                &[
                    "pr",
                    "list",
                    "--repo",
                    &repository,
                    "--head",
                    branch,
                    "--state",
                    "open",
                    "--json",
                    fields,
                ]
            }
            Self::GitLab => &[
                "mr",
                "list",
                "--repo",
                &repository,
                "--source-branch",
                branch,
                "--output",
                "json",
            ],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// What opens the pull request and prints its address.
    #[must_use]
    pub fn open(self, forge: &Forge, request: &Request<'_>) -> Words {
        let body = self.bounded(request.body);
        match self {
            Self::GitHub => {
                let arguments = self.command(forge, request, &["--body-file", "-"]);
                Words { arguments, input: body }
            }
            Self::GitLab => {
                let arguments = self.command(forge, request, &["--description", &body, "--yes"]);
                Words { arguments, input: String::new() }
            }
        }
    }

    /// The arguments with which a person opens the pull request, without its text.
    #[must_use]
    pub fn by_hand(self, forge: &Forge, request: &Request<'_>) -> Vec<String> {
        match self {
            Self::GitHub => self.command(forge, request, &["--body", ""]),
            Self::GitLab => self.command(forge, request, &["--description", ""]),
        }
    }

    fn command(self, forge: &Forge, request: &Request<'_>, text: &[&str]) -> Vec<String> {
        let Request { branch, fork, target, title, .. } = *request;
        let repository = forge.repository();
        let whole = fork.map(|fork| format!("{}/{fork}", forge.host));
        let head = match fork {
            Some(fork) => format!("{}:{branch}", owner(fork)),
            None => branch.to_owned(),
        };
        let mut words: Vec<&str> = match self {
            Self::GitHub => {
                vec!["pr", "create", "--repo", &repository, "--head", &head, "--base", target]
            }
            Self::GitLab => {
                let mut words = vec!["mr", "create", "--repo", &repository];
                words.extend(whole.iter().flat_map(|whole| ["--head", whole.as_str()]));
                words.extend(["--source-branch", branch, "--target-branch", target]);
                words
            }
        };
        words.extend(["--title", title]);
        words.extend(text);
        words.into_iter().map(str::to_owned).collect()
    }

    /// The address in what [`Kind::find`] printed, of a pull request whose branch is in the wanted
    /// repository where the program says whose it is.
    #[must_use]
    pub fn found(self, output: &str, forge: &Forge, request: &Request<'_>) -> Option<String> {
        let rows: Vec<serde_json::Value> = serde_json::from_str(output).ok()?;
        let wanted = owner(request.fork.unwrap_or(&forge.path));
        let is_wanted = |row: &&serde_json::Value| {
            let told = row.pointer("/headRepositoryOwner/login").and_then(|login| login.as_str());
            told.is_none_or(|login| login.eq_ignore_ascii_case(wanted))
        };
        let key = match self {
            Self::GitHub => "url",
            Self::GitLab => "web_url",
        };
        rows.iter().find(is_wanted)?.get(key)?.as_str().map(str::to_owned)
    }

    /// A text that the forge takes. Of a longer one the end of its first part goes; its last line,
    /// which names the task, stays.
    fn bounded(self, body: &str) -> String {
        let size = |c: char| match self {
            Self::GitHub => c.len_utf16(),
            Self::GitLab => c.len_utf8(),
        };
        let length = |text: &str| text.chars().map(size).sum::<usize>();
        let body = body.trim_end();
        if length(body) <= MOST_BODY {
            return body.to_owned();
        }
        let last = body.rsplit('\n').next().filter(|line| length(line) < MOST_BODY / 2);
        let last = last.unwrap_or_default();
        let mut left = MOST_BODY - length(CUT) - length(last);
        let fits = |c: &char| {
            let rest = left.checked_sub(size(*c));
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let first: String = body.chars().take_while(fits).collect();
        format!("{}{CUT}{last}", first.trim_end())
    }
}

/// The owner in an owner and name.
fn owner(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
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
        Request { branch: "hayward/fix it#1", fork: None, target: "main", title: "t", body: "b" };

    fn github() -> Forge {
        Forge::of("https://github.com/o/r").unwrap()
    }

    #[test]
    fn a_forge_is_read_from_every_kind_of_url() {
        for url in [
            "https://github.com/o/r.git",
            "https://me:secret@github.com/o/r",
            "git@github.com:o/r.git",
            "ssh://git@GitHub.com:22/o/r.git/",
            "ssh://git@ssh.github.com:443/o/r.git",
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
        let found = |kind: Kind, output: &str| kind.found(output, &github(), &REQUEST);
        assert_eq!(found(Kind::GitHub, "[{\"url\":\"u\"}]").as_deref(), Some("u"));
        assert_eq!(found(Kind::GitHub, "[]"), None);
        assert_eq!(found(Kind::GitLab, "[{\"web_url\":\"w\"}]").as_deref(), Some("w"));
        let two = r#"[{"url":"theirs","headRepositoryOwner":{"login":"other"}},
                      {"url":"mine","headRepositoryOwner":{"login":"Me"}}]"#;
        let fork = Request { fork: Some("me/r"), ..REQUEST };
        assert_eq!(Kind::GitHub.found(two, &github(), &fork).as_deref(), Some("mine"));
        assert_eq!(found(Kind::GitHub, two), None);
    }

    #[test]
    fn a_fork_is_named_as_each_program_wants_it() {
        let fork = Request { fork: Some("me/r"), ..REQUEST };
        let words = Kind::GitHub.open(&github(), &fork);
        assert!(words.arguments.windows(2).any(|two| two == ["--head", "me:hayward/fix it#1"]));
        assert!(words.arguments.windows(2).any(|two| two == ["--repo", "github.com/o/r"]));
        assert_eq!(words.input, "b");
        assert!(github().page(&fork).contains("main...me:hayward/"), "{}", github().page(&fork));
        let lab = Forge::of("git@gitlab.com:g/s/r.git").unwrap();
        let words = Kind::GitLab.open(&lab, &fork).arguments;
        assert!(words.windows(2).any(|two| two == ["--head", "gitlab.com/me/r"]), "{words:?}");
        assert!(lab.page(&fork).starts_with("https://gitlab.com/me/r/-/merge_requests/new?"));
    }

    #[test]
    fn a_long_text_is_cut_to_what_the_forge_takes_and_still_names_its_task() {
        for (kind, letter) in [(Kind::GitHub, "𝄞"), (Kind::GitLab, "é"), (Kind::GitHub, "a")] {
            let body = format!("{}\n\nHayward-Task: 7\n", letter.repeat(200_000));
            let cut = kind.bounded(&body);
            let length = match kind {
                Kind::GitHub => cut.encode_utf16().count(),
                Kind::GitLab => cut.len(),
            };
            assert!((MOST_BODY - 4..=MOST_BODY).contains(&length), "{length}");
            assert!(cut.ends_with("\n\nHayward-Task: 7") && cut.starts_with(letter));
            assert_eq!(kind.bounded(&cut), cut);
            assert!(kind.bounded(&letter.repeat(200_000)).ends_with(CUT));
        }
        assert_eq!(Kind::GitHub.bounded("short\n"), "short");
    }
}
