//! Ports of their own for runs, so that the servers of one never meet those of another.

use hayward_shared::id::RunId;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Ports that a run has: a web server, its API, a database and their debuggers, with room.
pub const COUNT: u16 = 20;

/// Below are the ports of well-known servers and of most developers' own.
const FIRST: u16 = 20_000;

/// From here on Linux hands out ports by itself (`ip_local_port_range`).
const END: u16 = 32_760;

/// Ranges that there are.
const RANGES: u16 = (END - FIRST) / COUNT;

/// Which run has which ports. It alone hands them out; a range is free again once its run ended.
#[derive(Debug, Default)]
pub struct Ports {
    held: Mutex<BTreeMap<RunId, u16>>,
}

impl Ports {
    /// The first port of a range of 20 that no other run has and nobody listens on; none
    /// when there is none. The same run gets the same range again.
    pub fn reserve(&self, run: RunId) -> Option<u16> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = held.get(&run) {
            return Some(*first);
        }
        // daemons of one machine do not know each other: each begins elsewhere
        let start = u16::from_be_bytes([run.0.as_bytes()[14], run.0.as_bytes()[15]]) % RANGES;
        let first = (0..RANGES)
            .map(|step| FIRST + (start + step) % RANGES * COUNT)
            .find(|first| !held.values().any(|other| other == first) && is_free(*first))?;
        held.insert(run, first);
        Some(first)
    }

    /// A run that is taken up again keeps its range.
    pub fn restore(&self, run: RunId, first: u16) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(run, first);
    }

    /// The run has ended.
    pub fn release(&self, run: RunId) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
    }
}

fn is_free(first: u16) -> bool {
    (first..first + COUNT).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn f60_fifty_runs_have_disjoint_ports_and_give_them_back() {
        let ports = Ports::default();
        let runs: Vec<_> = (0..50).map(|_| RunId::fresh()).collect();
        let firsts: BTreeSet<_> = runs.iter().filter_map(|run| ports.reserve(*run)).collect();
        assert_eq!(firsts.len(), 50);
        assert!(
            firsts
                .iter()
                .all(|first| (first - FIRST).is_multiple_of(COUNT) && first + COUNT <= END)
        );
        assert_eq!(ports.reserve(runs[0]), ports.reserve(runs[0]));
        let again = ports.reserve(runs[0]).unwrap();
        runs.iter().for_each(|run| ports.release(*run));
        assert_eq!(ports.reserve(runs[0]), Some(again));
    }

    #[test]
    fn f60_a_range_with_a_listener_in_it_is_passed_over() {
        let (ports, run) = (Ports::default(), RunId::fresh());
        let first = ports.reserve(run).unwrap();
        ports.release(run);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 7)).unwrap();
        assert_ne!(ports.reserve(run), Some(first));
        drop(listener);
    }
}
