//! The programs that a configuration names under names of its own choice, each made harmless.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::configured::{Unreadable, each};

/// What is set for a command, by key.
pub(super) type Disarmed = BTreeMap<OsString, &'static str>;

/// Every program that any configuration which a git in `folder` may read names for filters, merges
/// and credentials, with what disarms it. Blocking.
///
/// # Errors
/// [`Unreadable`] where it cannot be told: no git may run there.
pub(super) fn named_programs(folder: &Path) -> Result<Disarmed, Unreadable> {
    let mut disarmed = Disarmed::new();
    each(folder, |key, _| disarm(key, &mut disarmed))?;
    Ok(disarmed)
}

fn disarm(key: &[u8], disarmed: &mut Disarmed) {
    let (Some(first), Some(last)) =
        (key.iter().position(|byte| *byte == b'.'), key.iter().rposition(|byte| *byte == b'.'))
    else {
        return;
    };
    let (section, setting) = (&key[..first], &key[last + 1..]);
    // names need not be UTF-8
    let whole = || OsStr::from_bytes(key).to_owned();
    match (section, setting) {
        (b"filter", _) if first < last => {
            for (setting, value) in
                [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")]
            {
                let mut key = OsStr::from_bytes(&key[..=last]).to_owned();
                key.push(setting);
                disarmed.insert(key, value);
            }
        }
        // an empty driver would take our side silently: `false` reports a conflict instead
        (b"merge", b"driver") if first < last => {
            disarmed.insert(whole(), "false");
        }
        (b"credential", b"helper") => {
            disarmed.insert(whole(), "");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f43_every_named_program_is_disarmed() {
        let mut disarmed = Disarmed::new();
        let odd = b"merge.\xff.driver";
        let keys: [&[u8]; 6] =
            [b"filter.a.b=c.clean", odd, b"merge.tool", b"core.bare", b"x", b"credential.helper"];
        for key in keys {
            disarm(key, &mut disarmed);
        }
        let keys: Vec<_> = disarmed.keys().map(|key| key.as_bytes()).collect();
        let wanted: [&[u8]; 6] = [
            b"credential.helper",
            b"filter.a.b=c.clean",
            b"filter.a.b=c.process",
            b"filter.a.b=c.required",
            b"filter.a.b=c.smudge",
            odd,
        ];
        assert_eq!(keys, wanted);
    }
}
