//! A line between a daemon and its relay that can be cut.

use crate::must;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A TCP line to a fixed place. While it is cut, whoever dials is hung up at once.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    cut: bool,
    ended: bool,
    /// Both ends of each live connection.
    ends: Vec<TcpStream>,
    /// When the last connection that was let through began.
    dialled: Option<Instant>,
}

impl Cable {
    /// A whole line to `target`, which is `HOST:PORT`.
    #[must_use]
    pub fn to(target: &str) -> Self {
        Self::to_any(&[target])
    }

    /// A whole line to one of several targets, in turn: to the next one where one hangs up.
    #[must_use]
    pub fn to_any(targets: &[&str]) -> Self {
        let listener = must("listen", TcpListener::bind("127.0.0.1:0"));
        let address = must("know the address", listener.local_addr());
        let state = Arc::new(Mutex::new(State::default()));
        let targets: Vec<String> = targets.iter().map(|&target| target.to_owned()).collect();
        let shared = state.clone();
        thread::spawn(move || serve(&listener, &shared, &targets));
        Self { address, state }
    }

    /// Where to dial.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Hangs up all connections, and every one to come.
    pub fn cut(&self) {
        let mut state = locked(&self.state);
        state.cut = true;
        hang_up(&mut state);
    }

    /// Hangs up all connections; new ones pass.
    pub fn jolt(&self) {
        hang_up(&mut locked(&self.state));
    }

    /// Lets new connections pass again.
    pub fn mend(&self) {
        let mut state = locked(&self.state);
        state.cut = false;
        state.dialled = None;
    }

    /// When the last connection since the mending began.
    #[must_use]
    pub fn dialled(&self) -> Option<Instant> {
        locked(&self.state).dialled
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        state.ended = true;
        hang_up(&mut state);
        drop(state);
        // wakes the listener, which sees that it is over
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

fn locked(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hang_up(state: &mut State) {
    for end in state.ends.drain(..) {
        // the other side may have hung up first
        drop(end.shutdown(Shutdown::Both));
    }
}

fn serve(listener: &TcpListener, state: &Arc<Mutex<State>>, targets: &[String]) {
    for (nth, near) in listener.incoming().flatten().enumerate() {
        let mut now = locked(state);
        if now.ended {
            return;
        }
        if now.cut {
            continue;
        }
        let mut in_turn = (0..targets.len()).map(|next| &targets[(nth + next) % targets.len()]);
        let Some(far) = in_turn.find_map(|target| TcpStream::connect(target).ok()) else {
            continue;
        };
        now.dialled = Some(Instant::now());
        for end in [&near, &far] {
            now.ends.extend(end.try_clone());
        }
        drop(now);
        for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
            if let (Ok(from), Ok(to)) = (from, to) {
                thread::spawn(move || carry(from, to));
            }
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut part = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut part) {
        if count == 0 || to.write_all(&part[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
