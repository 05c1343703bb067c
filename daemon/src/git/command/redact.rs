//! Addresses as people may see them.

/// The address without what may be a credential: what stands between `://` and `@`, and whatever
/// follows a `?` or `#`.
#[must_use]
pub fn redacted(arg: &str) -> String {
    let Some((scheme, rest)) = arg.split_once("://") else { return arg.to_owned() };
    let plain = rest.find(['?', '#']).map_or(rest, |at| &rest[..at]);
    let more = if plain.len() < rest.len() { "?***" } else { "" };
    let authority = plain.split('/').next().unwrap_or(plain);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://***{}{more}", &plain[at..]),
        None => format!("{scheme}://{plain}{more}"),
    }
}

/// What a program said, in one line, each address in it as [`redacted`] shows it.
#[must_use]
pub fn redacted_words(text: &str) -> String {
    text.split_whitespace().map(redacted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_addresses_are_blotted_out() {
        assert_eq!(redacted("https://me:token@host/a@b"), "https://***@host/a@b");
        assert_eq!(redacted("https://host/a@b"), "https://host/a@b");
        assert_eq!(redacted("https://host/r?private_token=x"), "https://host/r?***");
        assert_eq!(redacted("plain"), "plain");
        assert_eq!(redacted_words("at\n https://t@h/r: no"), "at https://***@h/r: no");
    }
}
