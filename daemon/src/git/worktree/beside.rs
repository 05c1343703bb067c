//! Threads that run beside who starts them, from their first moment.
//!
//! Linux lets a thread begin on the processor of who starts it, and wakes one where it ran last or where it is
//! woken from, by the load of the last moments; of a virtual machine it takes an idle processor that sleeps
//! for one that is busy. So two threads may take turns on one processor beside an idle one until the next
//! tick moves one of them, four milliseconds later: as long as it takes to write a hundred files.

use std::convert::Infallible;
use std::sync::mpsc::{self, SyncSender};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// What a thread does first that is to run beside its starter.
pub(super) struct Beside {
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
    /// Leaves the starter, who waits for this, its processor. Both are free to be moved then.
    pub(super) fn begin(self) {
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

/// Starts a thread, which has to call [`Beside::begin`], and waits for that; or for its end, where it is
/// never started.
pub(super) fn beside<T>(start: impl FnOnce(Beside) -> T) -> T {
    let (begins, begun) = mpsc::sync_channel(0);
    let seats = Seats::of_starter();
    let started = start(Beside { seats, begins });
    // not before: a new thread would inherit it, and it may be another one that does the work
    if let Some(seats) = seats {
        sit(&seats.starter);
    }
    begun.recv().ok();
    if let Some(seats) = seats {
        sit(&seats.all);
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn seats() -> CpuSet {
        sched_getaffinity(Pid::from_raw(0)).unwrap()
    }

    #[test]
    fn both_may_run_anywhere_once_they_run_beside_each_other() {
        let before = seats();
        let begun = beside(|beside| {
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
    fn one_that_is_never_started_is_not_waited_for() {
        let before = seats();
        beside(drop);
        assert!(seats() == before);
    }
}
