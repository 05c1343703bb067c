//! What the keeper's loop waits on: signals, clients and those who want to be one, output, and the
//! moment at which the session must be over.

use super::client::Client;
use super::fence::Watch;
use super::streams::Held;
use super::{KeeperFault, signal_set, while_doing};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

/// The signals that the loop reads instead of being struck by.
pub(super) fn watched_signals() -> SigSet {
    signal_set(&[Signal::SIGCHLD, Signal::SIGTERM])
}

/// Where signals and new clients come in. Owned by the keeper's loop.
pub(super) struct Doors {
    listener: UnixListener,
    signals: SignalFd,
    fence: Option<Watch>,
    next_client: u64,
}

/// What came.
pub(super) struct Ready {
    /// Somebody wants to be a client.
    pub(super) knocks: bool,
    pub(super) signals: bool,
    pub(super) output: bool,
    /// It is time to look whether the session must be over.
    pub(super) fence: bool,
    /// Those who sent something, or are gone.
    pub(super) clients: Vec<u64>,
}

/// What signals say.
#[derive(Default)]
pub(super) struct Signals {
    /// A process of the tree ended.
    pub(super) child: bool,
    /// The session is to end.
    pub(super) end: bool,
}

impl Doors {
    /// Opens them. The signals must be blocked.
    pub(super) fn open(listener: UnixListener, fence: Option<Watch>) -> Result<Self, KeeperFault> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&watched_signals(), flags)
            .map_err(while_doing("watch signals"))?;
        Ok(Self { listener, signals, fence, next_client: 0 })
    }

    /// Waits for whatever comes first, and no longer than `most`.
    pub(super) fn wait(
        &self,
        streams: &Held,
        clients: &[Client],
        most: PollTimeout,
    ) -> Result<Ready, KeeperFault> {
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(streams.sources().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let sources = fds.len();
        fds.extend(self.fence.iter().map(|fence| PollFd::new(fence.fd(), PollFlags::POLLIN)));
        let fixed = fds.len();
        for client in clients {
            let wants = if client.is_behind() {
                PollFlags::POLLIN | PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            fds.push(PollFd::new(client.fd(), wants));
        }
        match poll(&mut fds, most) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(fault) => return Err(while_doing("wait")(fault)),
        }
        let ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        let clients = clients.iter().zip(&fds[fixed..]);
        Ok(Ready {
            knocks: ready(&fds[0]),
            signals: ready(&fds[1]),
            output: fds[2..sources].iter().any(ready),
            fence: fds[sources..fixed].iter().any(ready),
            clients: clients.filter(|(_, fd)| ready(fd)).map(|(client, _)| client.id).collect(),
        })
    }

    /// Whether the session must be over by now.
    pub(super) fn time_is_over(&self) -> bool {
        self.fence.as_ref().is_some_and(Watch::is_over)
    }

    /// Reads the signals that came.
    pub(super) fn signals(&mut self) -> Signals {
        let mut told = Signals::default();
        loop {
            match self.signals.read_signal() {
                Ok(Some(info)) if info.ssi_signo == Signal::SIGTERM as u32 => told.end = true,
                Ok(Some(_)) => told.child = true,
                Ok(None) => return told,
                Err(fault) => {
                    eprintln!("signals cannot be read: {fault}");
                    return told;
                }
            }
        }
    }

    /// The next one who wants to be a client; without `room` all are turned away.
    pub(super) fn client(&mut self, room: bool) -> Option<Client> {
        while let Ok((stream, _)) = self.listener.accept() {
            if !room {
                eprintln!("a client was turned away: too many are connected");
                continue;
            }
            self.next_client += 1;
            match Client::new(self.next_client, stream) {
                Ok(client) => return Some(client),
                Err(fault) => eprintln!("a client could not be taken: {fault}"),
            }
        }
        None
    }
}
