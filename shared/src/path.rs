//! Paths that people and agents name.

use std::path::{Component, Path, PathBuf};

/// A named path as one below a folder; none when it is absolute or empty, climbs out, enters a
/// `.git`, or holds a NUL. Says nothing of links that lie on the way.
#[must_use]
pub fn inside(named: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in Path::new(named).components() {
        match part {
            Component::Normal(name) if !name.eq_ignore_ascii_case(".git") => clean.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!clean.as_os_str().is_empty() && !named.contains('\0')).then_some(clean)
}

/// Whether the text names a repository of another machine, or by a `file://` URL.
#[must_use]
pub fn is_url(text: &str) -> bool {
    let scp = text.split_once(':').is_some_and(|(host, _)| {
        !host.is_empty() && !host.contains('/') && !host.starts_with(['.', '~'])
    });
    text.contains("://") || scp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_below_is_taken() {
        for good in ["a", "./a/b", ".env", "a b/c", "..a", "x.git/y"] {
            assert!(inside(good).is_some(), "{good}");
        }
        for bad in ["", ".", "/a", "..", "a/../..", "a/../b", ".git/config", "a/.GIT/x", "a\0b"] {
            assert_eq!(inside(bad), None, "{bad}");
        }
        assert_eq!(inside("./a//b/"), Some(PathBuf::from("a/b")));
    }

    #[test]
    fn urls_are_told_from_folders() {
        for url in ["https://h/x.git", "ssh://g@h/x", "git@h:o/r.git", "file:///srv/r", "h:r"] {
            assert!(is_url(url), "{url}");
        }
        for folder in ["/src/a", "./a:b", "~/x", "a/b:c", ""] {
            assert!(!is_url(folder), "{folder}");
        }
    }
}
