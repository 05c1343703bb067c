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
}
