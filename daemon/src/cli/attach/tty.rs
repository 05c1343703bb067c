//! The user's terminal while it is lent to an agent's screen: raw, on its second screen; and given
//! back as it was, however that ends.

use crate::exit::OrFault;
use hayward_daemon::terminal::screen::{MAX_SIDE, Size};
use hayward_shared::fault::{Code, Fault};
use rustix::termios::{
    OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, Once, PoisonError};
use tokio::io::Interest;
use tokio::net::unix::pipe;

/// The second screen, empty.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[m\x1b[2J\x1b[H";

/// Everything that was changed, back; then the first screen.
const LEAVE: &[u8] = b"\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?2004l\
    \x1b[?1l\x1b>\x1b[0 q\x1b[?25h\x1b[m\x1b[?1049l";

/// How much of what is typed is read at once: a terminal holds no more.
const READ: usize = 4096;

/// What a terminal is taken for that does not know its size.
const USUAL: (u16, u16) = (24, 80);

/// How the terminal was before; there while it is lent.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The lent terminal; dropping it gives it back. There is one in a process.
pub(super) struct Tty(());

impl Tty {
    /// Takes the terminal. A panic gives it back before it is told.
    pub(super) fn enter() -> Result<Self, Fault> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                told(panic);
            }));
        });
        let before = tcgetattr(io::stdin()).or_fault(Code::Failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        // a read takes what is there and never waits, whatever became of what woke it
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let tty = Self(());
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).or_fault(Code::Failed)?;
        tty.write(ENTER)?;
        Ok(tty)
    }

    /// Writes to it, at once; refused once it was given back.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        if BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Err(Fault::new(Code::Internal, "a part of attach broke, and the rest ends"));
        }
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).or_fault(Code::Failed)
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let mut out = io::stdout().lock();
        // a terminal that is gone needs nothing back
        drop(out.write_all(LEAVE).and_then(|()| out.flush()));
        // what was typed for the agent and not read yet is no command for the user's shell
        tcsetattr(io::stdin(), OptionalActions::Flush, &before).ok();
    }
}

/// Whether both ends of this process are a terminal.
pub(super) fn is_terminal() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}

/// How large the terminal is.
pub(super) fn size() -> Option<Size> {
    let told = tcgetwinsize(io::stdout()).ok().map(|size| (size.ws_row, size.ws_col));
    let (rows, cols) = told.filter(|(rows, cols)| *rows > 0 && *cols > 0).unwrap_or(USUAL);
    Size::new(rows.min(MAX_SIDE), cols.min(MAX_SIDE))
}

/// The keyboard of a lent terminal. It is read by whoever sends the keys: a thread of its own would
/// have to be woken for each.
pub(super) struct Keyboard(pipe::Receiver);

impl Keyboard {
    /// Listens to it. The terminal must be lent: only then a read of it never waits.
    pub(super) fn open() -> Result<Self, Fault> {
        let same = io::stdin().as_fd().try_clone_to_owned();
        same.and_then(pipe::Receiver::from_owned_fd_unchecked).map(Self).or_fault(Code::Failed)
    }

    /// The next keys; none once the terminal is gone. May be dropped while it waits: nothing is
    /// lost.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; READ];
        loop {
            let ready = self.0.ready(Interest::READABLE).await.ok()?;
            let read = self.0.try_io(|| match rustix::io::read(&self.0, &mut buffer)? {
                // nothing is there
                0 if !ready.is_read_closed() => Err(ErrorKind::WouldBlock.into()),
                len => Ok(len),
            });
            match read {
                Err(fault)
                    if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Ok(0) | Err(_) => return None,
                Ok(len) => {
                    if len < READ {
                        // that was all, and what comes next is told anew: no look is needed. Nobody
                        // looks between reading and this, as commands run on one thread
                        drop(self.0.try_io(|| Err::<(), _>(ErrorKind::WouldBlock.into())));
                    }
                    buffer.truncate(len);
                    return Some(buffer);
                }
            }
        }
    }
}
