//! Identities. Every id is a UUIDv7, so ids sort by age; the first hex digits are the clock.
//!
//! People see the last eight hex digits ([`TaskId::short`]): ids made in one second share their
//! beginning, never their end. Wherever a person types an id, a [`Fragment`] of it serves.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id, stamped with the present time.
            #[must_use]
            pub fn fresh() -> Self {
                Self(Uuid::now_v7())
            }

            /// The last eight hex digits: how people see it.
            #[must_use]
            pub fn short(&self) -> String {
                short(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Reads a whole UUID; a `prefix-` of lower-case letters before it is accepted.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text).map(Self)
            }
        }
    )+};
}

ids! {
    /// The durable unit of work that a user or an agent asked for.
    TaskId,
    /// One attempt of a task on one daemon.
    RunId,
    /// The daemon of one machine, as the relay knows it.
    DaemonId,
    /// The stable identity of a machine, kept in its state folder.
    MachineId,
    /// The tenancy boundary.
    WorkspaceId,
    /// A person.
    UserId,
    /// A credential (not its secret).
    TokenId,
    /// One event of a stream.
    EventId,
    /// One request and its reply.
    RequestId,
    /// One entry of a merge queue.
    EntryId,
    /// One piece of background work of a daemon.
    JobId,
    /// One viewer's subscription to the output of a run.
    WatchId,
    /// One relay's process, for as long as it runs.
    RelayId,
}

impl RelayId {
    /// When it was made, by the clock of whoever made it; none of an id that holds no clock.
    #[must_use]
    pub fn made_at(&self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let ms = seconds.saturating_mul(1000).saturating_add(u64::from(nanos) / 1_000_000);
        Some(Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
    }
}

fn short(id: &Uuid) -> String {
    let hex = id.simple().to_string();
    hex[hex.len() - 8..].to_owned()
}

fn parse(text: &str) -> Result<Uuid, uuid::Error> {
    let bare = match text.split_once('-') {
        Some((word, rest))
            if !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_lowercase())
                && rest.len() >= 32 =>
        {
            rest
        }
        _ => text,
    };
    Uuid::parse_str(bare)
}

/// The fewest characters of an id that name it: fewer would match by accident.
pub const MIN_FRAGMENT: usize = 4;

/// What a person typed for an id: a unique prefix or suffix of [`MIN_FRAGMENT`] or more hex digits.
///
/// Dashes are ignored, case too. Whether it is unique is for the reader of the store to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment(String);

/// The text cannot be a part of an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no id: give {MIN_FRAGMENT} or more hex digits of its beginning or end")]
pub struct BadFragment(pub String);

impl Fragment {
    /// The id itself, when all of it was given.
    #[must_use]
    pub fn whole(&self) -> Option<Uuid> {
        (self.0.len() == 32).then(|| Uuid::parse_str(&self.0).ok()).flatten()
    }

    /// Whether `id` begins or ends with this fragment.
    #[must_use]
    pub fn matches(&self, id: &Uuid) -> bool {
        let hex = id.simple().to_string();
        hex.starts_with(&self.0) || hex.ends_with(&self.0)
    }
}

impl FromStr for Fragment {
    type Err = BadFragment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = parse(text) {
            return Ok(Self(id.simple().to_string()));
        }
        let hex: String =
            text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
        let fits =
            (MIN_FRAGMENT..=32).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then_some(Self(hex)).ok_or_else(|| BadFragment(text.to_owned()))
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_tells_by_its_id_since_when_it_runs() {
        let id: RelayId = "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap();
        assert_eq!(id.made_at(), Some(Timestamp::from_millis(0x0193_9d3a_7c00)));
        assert_eq!(RelayId(Uuid::nil()).made_at(), None);
    }

    #[test]
    fn f14_ids_of_one_moment_differ_in_their_short_form() {
        let shorts: std::collections::HashSet<_> =
            (0..200).map(|_| TaskId::fresh().short()).collect();
        // 32 random bits each: that two are alike is rare, and that three are is not to be seen
        assert!(shorts.len() >= 199, "{}", shorts.len());
    }

    #[test]
    fn a_fragment_matches_either_end_and_no_less_than_four_digits() {
        let id: TaskId = "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap();
        for text in ["01939d3a", "deadbeef", "DEADBEEF", "0193-9d3a", "beef", &id.to_string()] {
            assert!(text.parse::<Fragment>().unwrap().matches(&id.0), "{text}");
        }
        assert!(!"9d3a7c00".parse::<Fragment>().unwrap().matches(&id.0));
        for text in ["", "eef", "xyzw", "../../etc", "0123456789abcdef0123456789abcdef0"] {
            assert!(text.parse::<Fragment>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefixed_id_is_read() {
        let id: TaskId = "job-01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap();
        assert_eq!(id.short(), "deadbeef");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"01939d3a-7c00-7000-8000-0000deadbeef\"");
    }
}
