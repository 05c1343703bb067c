//! Reading one of the agent's streams into its ring: one thread each, which does nothing else, so
//! that no client and no input ever keeps output waiting. The ring has text made by another one.

use crate::terminal::ring::RingWriter;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// How much one read may bring: the most that a pipe holds.
const READ: usize = 64 << 10;
/// The thread calls nothing deep.
const STACK: usize = 128 << 10;

/// How far one stream was read; written by its thread, read by the keeper's loop.
struct Progress {
    end: AtomicU64,
    /// The loop wants to be woken once by the next byte.
    armed: AtomicBool,
    done: AtomicBool,
    stop: AtomicBool,
}

/// One stream being read. Owned by the keeper's loop.
pub(super) struct Output {
    progress: Arc<Progress>,
    /// Closing it wakes the thread out of its wait.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    /// Reads `source` into `ring` from now on; a byte goes to `wake` at its end, and at its next
    /// progress when asked for.
    pub(super) fn start(source: OwnedFd, ring: RingWriter, wake: UnixStream) -> io::Result<Self> {
        set_nonblocking(&source)?;
        let (stop, stopped) = UnixStream::pair()?;
        let progress = Arc::new(Progress {
            end: AtomicU64::new(ring.end()),
            armed: AtomicBool::new(false),
            done: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let reader = Reader { source, ring, wake, stopped, progress: Arc::clone(&progress) };
        let thread = thread::Builder::new().stack_size(STACK).spawn(move || reader.run())?;
        Ok(Self { progress, stop: Some(stop), thread: Some(thread) })
    }

    /// Behind the last byte that was read and kept.
    pub(super) fn end(&self) -> u64 {
        self.progress.end.load(Ordering::Acquire)
    }

    /// Whether the stream was read to its end.
    pub(super) fn drained(&self) -> bool {
        self.progress.done.load(Ordering::Acquire)
    }

    /// Asks to be woken by the next byte. What came before this call wakes nobody: look at the
    /// end after it.
    pub(super) fn arm(&self) {
        self.progress.armed.store(true, Ordering::SeqCst);
    }

    /// Stops reading, drained or not; when this returns, nothing is written any more.
    pub(super) fn stop(&mut self) {
        self.progress.stop.store(true, Ordering::Release);
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread that reads the agent's output broke off");
        }
    }
}

struct Reader {
    source: OwnedFd,
    ring: RingWriter,
    wake: UnixStream,
    stopped: UnixStream,
    progress: Arc<Progress>,
}

impl Reader {
    fn run(mut self) {
        let mut buffer = vec![0; READ];
        let mut refused = false;
        while !self.progress.stop.load(Ordering::Acquire) {
            match nix::unistd::read(&self.source, &mut buffer) {
                Ok(len) if len > 0 => {
                    let kept = self.ring.append(&buffer[..len]);
                    if let (Err(fault), false) = (&kept, refused) {
                        eprintln!("output is lost, the disk refuses it: {fault}");
                    }
                    refused = kept.is_err();
                    self.progress.end.store(self.ring.end(), Ordering::SeqCst);
                    if self.progress.armed.swap(false, Ordering::SeqCst) {
                        self.wake();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(),
                // a terminal whose other end is closed says EIO
                Ok(_) | Err(_) => {
                    self.ring.settle();
                    self.progress.done.store(true, Ordering::Release);
                    self.wake();
                    return;
                }
            }
        }
    }

    fn wait(&self) {
        let mut fds = [
            PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(fault) => eprintln!("waiting for output failed: {fault}"),
        }
    }

    /// A full wake channel wakes as well as one more byte would.
    fn wake(&mut self) {
        if let Err(fault) = self.wake.write(&[1])
            && fault.kind() != io::ErrorKind::WouldBlock
        {
            eprintln!("the keeper's loop cannot be woken: {fault}");
        }
    }
}

/// Makes reads and writes return instead of waiting.
pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
