//! What must not slip into a commit: names and contents that look like secrets. Pure; the rules
//! are the tables below.

use std::collections::BTreeSet;

/// How a rule meets a file's name (its last part, lower case).
enum Name {
    Is(&'static str),
    Begins(&'static str),
    Ends(&'static str),
    Both(&'static str, &'static str),
}

/// Names of files that hold secrets by custom.
const NAMES: [Name; 22] = [
    Name::Is(".env"),
    Name::Begins(".env."),
    Name::Ends(".pem"),
    Name::Ends(".key"),
    Name::Ends(".p12"),
    Name::Ends(".pfx"),
    Name::Ends(".jks"),
    Name::Ends(".keystore"),
    Name::Ends(".ppk"),
    Name::Ends(".kdbx"),
    Name::Is("id_rsa"),
    Name::Is("id_dsa"),
    Name::Is("id_ecdsa"),
    Name::Is("id_ed25519"),
    Name::Is(".npmrc"),
    Name::Is(".pypirc"),
    Name::Is(".netrc"),
    Name::Is(".git-credentials"),
    Name::Is(".htpasswd"),
    Name::Is("credentials.json"),
    Name::Is("client_secret.json"),
    Name::Both("service-account", ".json"),
];

/// Endings that mark a file as a form to fill in.
const FORMS: [&str; 4] = [".example", ".sample", ".template", ".dist"];

/// Letters that a token is made of.
#[derive(Clone, Copy)]
enum Letters {
    /// `A-Z0-9`
    Upper,
    /// `A-Za-z0-9`
    Alphanumeric,
    /// `A-Za-z0-9_-`
    Wide,
}

/// A token: a beginning that its issuer chose, then at least `least` letters.
struct Shape {
    what: &'static str,
    begins: &'static [u8],
    letters: Letters,
    least: usize,
    /// Whether it must mix cases and digits, since words can begin like it.
    mixed: bool,
}

const fn shape(what: &'static str, begins: &'static [u8], letters: Letters, least: usize) -> Shape {
    Shape { what, begins, letters, least, mixed: false }
}

/// Token shapes as their issuers document them; the more special one first.
const SHAPES: [Shape; 22] = [
    shape("AWS access key", b"AKIA", Letters::Upper, 16),
    shape("AWS session key", b"ASIA", Letters::Upper, 16),
    shape("GitHub token", b"ghp_", Letters::Alphanumeric, 30),
    shape("GitHub token", b"gho_", Letters::Alphanumeric, 30),
    shape("GitHub token", b"ghu_", Letters::Alphanumeric, 30),
    shape("GitHub token", b"ghs_", Letters::Alphanumeric, 30),
    shape("GitHub token", b"ghr_", Letters::Alphanumeric, 30),
    shape("GitHub token", b"github_pat_", Letters::Wide, 22),
    shape("Anthropic key", b"sk-ant-", Letters::Wide, 20),
    Shape { what: "API key", begins: b"sk-", letters: Letters::Wide, least: 20, mixed: true },
    shape("Slack token", b"xoxa-", Letters::Wide, 10),
    shape("Slack token", b"xoxb-", Letters::Wide, 10),
    shape("Slack token", b"xoxp-", Letters::Wide, 10),
    shape("Slack token", b"xoxr-", Letters::Wide, 10),
    shape("Slack token", b"xoxs-", Letters::Wide, 10),
    shape("GitLab token", b"glpat-", Letters::Wide, 20),
    shape("Google API key", b"AIza", Letters::Wide, 35),
    shape("Stripe key", b"sk_live_", Letters::Alphanumeric, 20),
    shape("Stripe key", b"rk_live_", Letters::Alphanumeric, 20),
    shape("npm token", b"npm_", Letters::Alphanumeric, 36),
    shape("PyPI token", b"pypi-", Letters::Wide, 50),
    shape("Hugging Face token", b"hf_", Letters::Alphanumeric, 30),
];

const PEM_BEGIN: &[u8] = b"-----BEGIN ";
const PEM_END: &[u8] = b"PRIVATE KEY";

/// The longest label before `PRIVATE KEY` that a PEM header has (`ENCRYPTED `, `OPENSSH `).
const PEM_LABEL: usize = 24;

/// A token of fewer different letters is a placeholder such as `sk-xxxxxxxx…`.
const LEAST_DIFFERENT: usize = 5;

/// How far git looks for a zero byte to call a file binary.
const BINARY_WINDOW: usize = 8000;

/// One secret found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found<'text> {
    /// What it is, for people.
    pub what: &'static str,
    /// The secret itself. Compare it, never show it.
    pub secret: &'text [u8],
}

/// Whether the name of a file (its last part) says that it holds a secret.
#[must_use]
pub fn name_is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    if FORMS.iter().any(|form| name.ends_with(form)) {
        return false;
    }
    NAMES.iter().any(|rule| match rule {
        Name::Is(whole) => name == *whole,
        Name::Begins(start) => name.starts_with(start),
        Name::Ends(end) => name.ends_with(end),
        Name::Both(start, end) => name.starts_with(start) && name.ends_with(end),
    })
}

/// The secrets in a text, each once; none in what git calls binary.
#[must_use]
pub fn in_text(text: &[u8]) -> BTreeSet<Found<'_>> {
    let mut all = BTreeSet::new();
    if text[..text.len().min(BINARY_WINDOW)].contains(&0) {
        return all;
    }
    let mut at = 0;
    while at < text.len() {
        let fresh = at == 0 || !text[at - 1].is_ascii_alphanumeric();
        match fresh.then(|| secret_at(&text[at..])).flatten() {
            Some(found) => {
                at += found.secret.len().max(1);
                all.insert(found);
            }
            None => at += 1,
        }
    }
    all
}

fn secret_at(text: &[u8]) -> Option<Found<'_>> {
    match text.first()? {
        b'-' => private_key(text),
        b'A' | b'g' | b's' | b'x' | b'r' | b'n' | b'p' | b'h' => {
            SHAPES.iter().find_map(|shape| shape.at(text))
        }
        _ => None,
    }
}

impl Shape {
    fn at<'text>(&self, text: &'text [u8]) -> Option<Found<'text>> {
        let rest = text.strip_prefix(self.begins)?;
        let length = rest.iter().take_while(|byte| self.letters.contain(**byte)).count();
        let body = &rest[..length];
        let different = body.iter().collect::<BTreeSet<_>>().len();
        let has = |class: fn(&u8) -> bool| body.iter().any(class);
        let mixed = !self.mixed
            || (has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase))
                && has(u8::is_ascii_lowercase);
        (length >= self.least && different >= LEAST_DIFFERENT && mixed)
            .then(|| Found { what: self.what, secret: &text[..self.begins.len() + length] })
    }
}

impl Letters {
    fn contain(self, byte: u8) -> bool {
        match self {
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Alphanumeric => byte.is_ascii_alphanumeric(),
            Self::Wide => byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-',
        }
    }
}

/// A PEM header with the first line of the key, so that another key is another secret.
fn private_key(text: &[u8]) -> Option<Found<'_>> {
    let label = text.strip_prefix(PEM_BEGIN)?;
    let label = &label[..label.len().min(PEM_LABEL)];
    let ends = label.windows(PEM_END.len()).position(|window| window == PEM_END)?;
    let header = PEM_BEGIN.len() + ends + PEM_END.len();
    let reach = text.len().min(header + 80);
    Some(Found { what: "private key", secret: &text[..reach] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<&'static str> {
        in_text(text.as_bytes()).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn f48_names() {
        for name in [".env", ".ENV", ".env.local", "tls.pem", "id_rsa", "service-account-7.json"] {
            assert!(name_is_secret(name), "{name}");
        }
        for name in [".env.example", "environment", "key.rs", "id_rsa.pub", ".env.local.sample"] {
            assert!(!name_is_secret(name), "{name}");
        }
    }

    #[test]
    fn f48_shapes() {
        assert_eq!(found("key = \"AKIAIOSFODNN7EXAMPLE\""), ["AWS access key"]);
        assert_eq!(found(&format!("x=ghp_{}", "aB3dE6gH9j".repeat(4))), ["GitHub token"]);
        assert_eq!(found("sk-ant-api03-aB3dE6gH9jK2mN5pQ8"), ["Anthropic key"]);
        assert_eq!(found("sk-proj-aB3dE6gH9jK2mN5pQ8"), ["API key"]);
        assert_eq!(found("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"), ["private key"]);
        assert_eq!(found("a\n-----BEGIN PRIVATE KEY-----\nMII"), ["private key"]);
    }

    #[test]
    fn f48_what_only_looks_so() {
        for text in [
            "sk-folding-cube-of-the-loading-page",
            "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN CERTIFICATE-----",
            "TASKIAIOSFODNN7EXAMPLE",
            "ghp_short",
        ] {
            assert!(found(text).is_empty(), "{text}");
        }
        assert!(in_text(b"\0AKIAIOSFODNN7EXAMPLE").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_found_is_in_it(
            text in "[ -~\n]{0,80}(AKIA|ghp_|sk-|-----BEGIN |PRIVATE KEY)[ -~]{0,60}",
        ) {
            for found in in_text(text.as_bytes()) {
                prop_assert!(text.as_bytes().windows(found.secret.len()).any(|w| w == found.secret));
            }
        }
    }
}
