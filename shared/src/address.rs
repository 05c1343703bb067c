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

/// The address without the login that it holds: without the name too, which may be a token, but
/// over ssh, where nobody gets in without it.
#[must_use]
pub fn without_login(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((who, host)) = authority.rsplit_once('@') else { return address.to_owned() };
    let name = who.split(':').next().unwrap_or_default();
    match scheme.to_ascii_lowercase().contains("ssh") && !name.is_empty() {
        true => format!("{scheme}://{name}@{host}{path}"),
        false => format!("{scheme}://{host}{path}"),
    }
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

    #[test]
    fn an_address_keeps_its_way_and_loses_its_login() {
        for (address, plain) in [
            ("https://x-access-token:secret@example.com/a.git", "https://example.com/a.git"),
            ("https://token@example.com:8080/a@b", "https://example.com:8080/a@b"),
            ("ssh://git:secret@example.com:22/a", "ssh://git@example.com:22/a"),
            ("ssh://git@example.com/a", "ssh://git@example.com/a"),
            ("git@example.com:a/b.git", "git@example.com:a/b.git"),
            ("/home/me/a@b", "/home/me/a@b"),
        ] {
            assert_eq!(without_login(address), plain);
        }
    }
}
