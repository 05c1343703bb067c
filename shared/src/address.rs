//! Addresses of repositories that people and programs name.

/// Whether the address holds a password: it would be stored with the task, and shown with it.
#[must_use]
pub fn holds_password(address: &str) -> bool {
    let authority =
        address.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let who = authority.and_then(|authority| authority.rsplit_once('@'));
    // an escaped colon is one to git
    who.is_some_and(|(who, _)| who.contains(':') || who.to_ascii_lowercase().contains("%3a"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_found_and_nothing_else_is_taken_for_one() {
        for bad in [
            "https://me:secret@example.com/a.git",
            "https://:secret@example.com/a",
            "ssh://git:secret@example.com:22/a",
            "https://me%3Asecret@example.com/a",
            "HTTP://me:se@cret@example.com",
        ] {
            assert!(holds_password(bad), "{bad}");
        }
        for good in [
            "https://example.com/a.git",
            "https://example.com:8080/a.git",
            "https://me@example.com/a",
            "git@example.com:a/b.git",
            "ssh://git@example.com:22/a",
            "/home/me/a:b@c",
            "file:///a:b/c@d",
            "https://example.com/a:b/b@c",
        ] {
            assert!(!holds_password(good), "{good}");
        }
    }
}
