//! The one place of the relay that reads the wall clock.

use hayward_shared::time::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// The present moment. A clock set before 1970 reads as 1970.
#[must_use]
pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time enters")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
