//! The client of a relay: where it is, its HTTP interface and its WebSocket; and of this machine's
//! daemon, which serves the same of its own runs.

mod direct;
mod finder;
mod follower;
mod http;
mod lines;
mod output;
mod reach;
mod reading;
mod socket;
mod tasks;
mod view;
mod viewer;
mod waiting;
mod ways;

pub(crate) use finder::{Finder, Place, alive, process, shown};
pub(crate) use follower::{Followed, Follower};
pub(crate) use http::{Client, Doc, Query, array, read};
pub(crate) use lines::Lines;
pub(crate) use output::{Sink, Watch};
pub(crate) use reach::{Reach, near};
pub(crate) use tasks::{Filter, Verb};
pub(crate) use view::{Say, Seen, View};
pub(crate) use viewer::Viewer;

use hayward_shared::fault::Code;
use std::time::Duration;

/// The pause before connection attempt `failures + 1`: from a quarter of a second, so that the
/// restart of a daemon is hardly seen, to 5 s.
fn pause(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(250);
    const MOST: Duration = Duration::from_secs(5);
    FIRST.saturating_mul(1 << failures.min(10)).min(MOST)
}

/// Whether a fault may pass when the relay is back.
pub(crate) fn may_pass(code: &Code) -> bool {
    matches!(code, Code::Unavailable | Code::DaemonOffline | Code::Internal | Code::RateLimited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        assert_eq!(pause(0), Duration::from_millis(250));
        assert_eq!(pause(1), Duration::from_millis(500));
        assert_eq!(pause(99), Duration::from_secs(5));
    }
}
