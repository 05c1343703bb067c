//! Whether git would write the files of a commit as they are stored: no line ends changed, nothing
//! filtered, left out or replaced. Where that is not sure, it is no.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::configured::{each, installed};

/// Whether nothing outside the commit has git write files of the worktree at `path` otherwise than
/// they are stored. What the commit itself says is told by [`has_rules`]. Blocking.
///
/// # Errors
/// The configuration or the refs cannot be read.
pub(super) fn is_plain(path: &Path, repository: &git2::Repository) -> Result<bool, git2::Error> {
    let mut plain = true;
    let read = each(path, |key, value| plain &= is_harmless(key, value));
    read.map_err(|cause| git2::Error::from_str(&cause.to_string()))?;
    plain &= !places(repository).iter().any(|place| may_convert(place));
    // libgit2 does not know of replaced objects
    Ok(plain && repository.references_glob("refs/replace/*")?.next().is_none())
}

/// Whether a file of attributes, which need not be there, may name a conversion.
fn may_convert(place: &Path) -> bool {
    let Ok(found) = fs::metadata(place) else { return false };
    // a pipe would be waited for
    !found.is_file() || found.len() > MAX_READ || !fs::read(place).is_ok_and(|it| !has_rules(&it))
}

/// More than this no file of attributes has that somebody wrote.
const MAX_READ: u64 = 1 << 20;

/// Whether attributes name a conversion. A word that only looks like one costs time alone.
pub(super) fn has_rules(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_lowercase();
    ["filter", "ident", "encoding", "crlf"].iter().any(|word| text.contains(word))
}

/// Whether a setting leaves files as they are stored.
fn is_harmless(key: &[u8], value: &[u8]) -> bool {
    let value = String::from_utf8_lossy(value).to_lowercase();
    let is_off = ["false", "no", "off", "0"].contains(&&*value);
    match key.to_ascii_lowercase().as_slice() {
        b"core.autocrlf" => is_off || value == "input",
        b"core.eol" => value != "crlf",
        b"core.sparsecheckout" => is_off,
        // links would be written as files
        b"core.symlinks" => ["true", "yes", "on", "1"].contains(&&*value),
        // where these lead is git's business
        b"core.attributesfile" | b"attr.tree" => false,
        // rules that no commit holds may use it in the checkout, also to store other bytes than lie
        // there; what LFS writes is never as long
        key if key.starts_with(b"filter.") && !key.starts_with(b"filter.lfs.") => {
            ![".clean", ".smudge", ".process"].iter().any(|end| key.ends_with(end.as_bytes()))
        }
        _ => true,
    }
}

/// The files of attributes that are in no commit.
fn places(repository: &git2::Repository) -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let settings = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    let mut places: Vec<PathBuf> =
        settings.map(|it| it.join("git/attributes")).into_iter().collect();
    places.push(repository.commondir().join("info/attributes"));
    places.extend(installed().iter().map(|root| root.join("etc/gitattributes")));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_may_change_files_is_seen() {
        for (key, value) in [
            ("core.autocrlf", "true"),
            ("core.autocrlf", ""),
            ("core.eol", "CRLF"),
            ("core.sparseCheckout", "1"),
            ("core.symlinks", "false"),
            ("core.attributesFile", "~/a"),
            ("attr.tree", "HEAD"),
            ("filter.Redact.smudge", "sed s/key/xxx/"),
            ("filter.redact.process", "redact"),
            ("filter.redact.clean", "sed s/key/xxx/"),
        ] {
            assert!(!is_harmless(key.as_bytes(), value.as_bytes()), "{key} {value}");
        }
        for (key, value) in [
            ("core.autocrlf", "input"),
            ("core.autocrlf", "False"),
            ("core.eol", "native"),
            ("core.sparsecheckout", "false"),
            ("core.symlinks", "true"),
            ("core.fileMode", "false"),
        ] {
            assert!(is_harmless(key.as_bytes(), value.as_bytes()), "{key} {value}");
        }
    }

    #[test]
    fn rules_that_convert_are_told_from_those_that_do_not() {
        for text in ["* text=auto eol=CRLF", "a filter=lfs", "[attr]x ident", "*.y x crlf"] {
            assert!(has_rules(text.as_bytes()), "{text}");
        }
        assert!(has_rules(b"a working-tree-encoding=UTF-16"));
        assert!(!has_rules(b"* text=auto\n*.sh text eol=lf\n*.png binary -diff\n"));
    }
}
