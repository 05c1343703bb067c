//! The moment at which a session must be over, whoever lives to see it.
//!
//! The relay may hand a task over to another daemon when it has not heard this one for long. By then
//! the agent here must have ended, and the daemon may be dead: so the keeper, which lives as long as
//! the agent, watches the moment itself. The daemon moves it on with each beat that the relay
//! acknowledged, by writing it into the run folder; the keeper reads it there when it is due.

use super::folder::{Kept, RunFolder};
use crate::{clock, process};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// When a session must be over. Written by the daemon, before the keeper starts and again for each
/// beat that counts; a lost last write after a loss of power does no harm, for no session survives
/// that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// The boot that the moment belongs to.
    pub boot: String,
    /// The moment, in milliseconds since that boot, sleep included.
    pub at_ms: u64,
}

impl Kept for Fence {
    const NAME: &'static str = "fence.json";
}

impl Fence {
    /// `after_ms` milliseconds after `sent_ms`, a moment of this boot.
    ///
    /// # Errors
    /// The boot has no name.
    pub fn after(sent_ms: u64, after_ms: u64) -> io::Result<Self> {
        Ok(Self { boot: process::boot()?, at_ms: sent_ms.saturating_add(after_ms) })
    }

    /// Whether the moment has come. That of another boot has.
    #[must_use]
    pub fn is_past(&self) -> bool {
        self.left(process::boot().ok().as_deref(), clock::since_boot()) == 0
    }

    /// Milliseconds until then at `now` of `boot`; none when that is not known or another one.
    fn left(&self, boot: Option<&str>, now: u64) -> u64 {
        if boot == Some(self.boot.as_str()) { self.at_ms.saturating_sub(now) } else { 0 }
    }
}

/// A keeper's watch over the moment, on a clock that runs while the machine sleeps.
#[derive(Debug)]
pub(super) struct Watch {
    folder: RunFolder,
    timer: TimerFd,
}

impl Watch {
    /// Watches the moment that is written in `folder`.
    pub(super) fn begin(folder: &RunFolder) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        let watch = Self { folder: folder.clone(), timer };
        watch.look()?;
        Ok(watch)
    }

    /// Whether the moment has come, as it is written now; if not, the timer is set for it. What
    /// cannot be read or watched has come: nobody could tell that it has not.
    pub(super) fn is_over(&self) -> bool {
        self.look().unwrap_or_else(|fault| {
            eprintln!("when the session must be over cannot be told: {fault}");
            true
        })
    }

    fn look(&self) -> io::Result<bool> {
        let fence = self.folder.read::<Fence>()?.ok_or(io::ErrorKind::NotFound)?;
        let left = fence.left(Some(&process::boot()?), clock::since_boot());
        if left == 0 {
            // it has been seen: the timer does not wake anyone again
            self.timer.unset()?;
            return Ok(true);
        }
        let due = Expiration::OneShot(TimeSpec::from(Duration::from_millis(left)));
        self.timer.set(due, TimerSetTimeFlags::empty())?;
        Ok(false)
    }

    /// Becomes readable when it is time to look.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_watch_follows_what_is_written_and_takes_what_is_not_for_over() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(home.path());
        assert!(Watch::begin(&folder).is_err(), "nothing says when");
        folder.note(&Fence::after(clock::since_boot(), 60_000).unwrap()).unwrap();
        let watch = Watch::begin(&folder).unwrap();
        assert!(!watch.is_over());
        folder.note(&Fence::after(clock::since_boot(), 0).unwrap()).unwrap();
        assert!(watch.is_over());
        folder.note(&Fence { boot: "another".into(), at_ms: u64::MAX }).unwrap();
        assert!(watch.is_over());
        std::fs::remove_file(home.path().join(Fence::NAME)).unwrap();
        assert!(watch.is_over());
    }

    proptest! {
        #[test]
        fn a_moment_comes_once_and_stays(at_ms in any::<u64>(), now in any::<u64>(), later: u64) {
            let fence = Fence { boot: "b".into(), at_ms };
            let left = fence.left(Some("b"), now);
            prop_assert_eq!(left == 0, now >= at_ms);
            prop_assert!(fence.left(Some("b"), now.saturating_add(later)) <= left);
            prop_assert_eq!(fence.left(Some("c"), now), 0);
            prop_assert_eq!(fence.left(None, now), 0);
        }
    }
}
