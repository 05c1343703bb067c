//! Threads that run beside who starts them, from their first moment.
//!
//! Linux lets a thread begin on the processor of who starts it, and wakes one where it ran last or
//! where it is woken from, by the load of the last moments; of a virtual machine it takes an idle
//! processor that sleeps for one that is busy. So two threads may take turns on one processor beside
//! an idle one until the next tick moves one of them, four milliseconds later: as long as it takes to
//! write a hundred files.

use std::convert::Infallible;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// What a thread does first that is to run beside its starter.
pub(crate) struct Beside {
    seats: Option<Seats>,
    /// Nothing is ever sent: that it is dropped is the word.
    begins: SyncSender<Infallible>,
}

/// Who runs where while a thread is started.
#[derive(Clone, Copy)]
struct Seats {
    starter: CpuSet,
    others: CpuSet,
    /// Where both may run afterwards.
    all: CpuSet,
}

impl Beside {
    /// Leaves the starter, who waits for this, its processor. Both are free to be moved then, to the
    /// processors that were allowed at the start.
    pub(crate) fn begin(self) {
        if let Some(Seats { others, all, .. }) = self.seats {
            sit(&others);
            sit(&all);
        }
        drop(self.begins);
    }
}

impl Seats {
    /// None where there is one processor only, or the system does not tell.
    fn of_starter() -> Option<Self> {
        let here = sched_getcpu().ok()?;
        let all = sched_getaffinity(Pid::from_raw(0)).ok()?;
        let (mut starter, mut others) = (CpuSet::new(), all);
        starter.set(here).ok()?;
        others.unset(here).ok()?;
        let is_any = (0..CpuSet::count()).any(|one| others.is_set(one) == Ok(true));
        is_any.then_some(Self { starter, others, all })
    }
}

/// Where it is refused the thread runs where it would have without it.
fn sit(seats: &CpuSet) {
    sched_setaffinity(Pid::from_raw(0), seats).ok();
}

/// Starts a thread, which has to call [`Beside::begin`], and waits for that, unless it is refused, for
/// `longest` at the most: on a busy machine the thread's turn comes when it comes, and where the system
/// has no thread left it comes once another ends.
pub(crate) fn beside<T>(longest: Duration, start: impl FnOnce(Beside) -> T) -> T {
    let (begins, begun) = mpsc::sync_channel(0);
    let seats = Seats::of_starter();
    let started = start(Beside { seats, begins });
    // not before: a new thread would inherit it, and it may be another one that does the work
    if let Some(seats) = seats {
        sit(&seats.starter);
    }
    begun.recv_timeout(longest).ok();
    if let Some(seats) = seats {
        sit(&seats.all);
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SOON: Duration = Duration::from_millis(10);

    fn seats() -> CpuSet {
        sched_getaffinity(Pid::from_raw(0)).unwrap()
    }

    #[test]
    fn both_may_run_anywhere_once_they_run_beside_each_other() {
        let before = seats();
        let begun = beside(SOON, |beside| {
            thread::spawn(move || {
                let inherited = seats();
                beside.begin();
                (inherited, seats())
            })
        });
        assert!(seats() == before);
        assert!(begun.join().unwrap() == (before, before));
    }

    #[test]
    fn one_that_begins_late_or_never_is_not_waited_for() {
        let before = seats();
        beside(SOON, drop);
        let late = beside(SOON, |late| late);
        assert!(seats() == before);
        late.begin();
        assert!(seats() == before);
    }

    #[test]
    fn all_processors_but_the_starters_are_for_the_others() {
        let Some(Seats { starter, others, all }) = Seats::of_starter() else { return };
        let is_in = |set: &CpuSet, one| set.is_set(one).unwrap();
        let count = |set| (0..CpuSet::count()).filter(|one| is_in(set, *one)).count();
        assert!((0..CpuSet::count()).all(|one| !(is_in(&starter, one) && is_in(&others, one))));
        assert_eq!((count(&starter), count(&others) + 1), (1, count(&all)));
    }
}
