//! Points at which a test can kill this process or make a step fail.
//!
//! A point stands beside every durable write that a crash could cut in two. Without the cargo
//! feature `fault-points`, which no shipped build has, a point is nothing: no code and no text of
//! it is in the binary. With it, three variables of the environment rule:
//!
//! - `HAYWARD_FAULT=NAME[:N]` ends the process by SIGKILL when it passes the point the Nth time
//!   (the first, unless told).
//! - `HAYWARD_FAULT=NAME[:N]=fail` makes the point fail from the Nth passing on.
//! - `HAYWARD_FAULT=NAME[:N]=panic` makes the point panic, to see what is put right on the way out.
//! - `HAYWARD_FAULT_ONCE=FILE` is made before the point acts, and keeps it from acting when it is
//!   there already: a restarted process passes unharmed, and the test sees that it was hit.

#[cfg(feature = "fault-points")]
pub use armed::point;

/// Passes a point. Names are `room.operation.step`; a step is named for what is done by then.
///
/// # Errors
/// Only where a test asked for it.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "fault-points")]
mod armed {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::fs::OpenOptions;
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What a point does to its process.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        Kill,
        Fail,
        Panic,
    }

    /// What one process was asked to suffer. It alone counts the passings.
    #[derive(Debug)]
    struct Fault {
        name: String,
        nth: u64,
        act: Act,
        passed: AtomicU64,
    }

    /// Passes a point. Names are `room.operation.step`; a step is named for what is done by then.
    ///
    /// # Errors
    /// The failure that the test asked for.
    ///
    /// # Panics
    /// Where the test asked for that.
    #[expect(clippy::panic, reason = "a test asks for it, to see the terminal given back")]
    pub fn point(name: &str) -> io::Result<()> {
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        let fault = FAULT.get_or_init(|| parse(&std::env::var("HAYWARD_FAULT").ok()?));
        let Some(fault) = fault.as_ref().filter(|fault| fault.name == name) else { return Ok(()) };
        let passed = fault.passed.fetch_add(1, Ordering::SeqCst) + 1;
        match fault.act {
            Act::Fail if passed >= fault.nth => {
                claim_once();
                Err(io::Error::other(format!("a test made {name} fail")))
            }
            Act::Panic if passed == fault.nth && claim_once() => {
                std::panic::panic_any(format!("a test made {name} panic"))
            }
            Act::Kill if passed == fault.nth && claim_once() => {
                kill(Pid::this(), Signal::SIGKILL)?;
                // the signal comes at the latest when the kernel is left
                loop {
                    std::thread::park();
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether this is the first time for the marker; without a marker it always is.
    fn claim_once() -> bool {
        std::env::var_os("HAYWARD_FAULT_ONCE").is_none_or(|marker| {
            OpenOptions::new().write(true).create_new(true).open(marker).is_ok()
        })
    }

    fn parse(text: &str) -> Option<Fault> {
        let (rest, act) = match text.split_once('=') {
            None => (text, Act::Kill),
            Some((rest, "fail")) => (rest, Act::Fail),
            Some((rest, "panic")) => (rest, Act::Panic),
            Some(_) => return None,
        };
        let (name, nth) = match rest.split_once(':') {
            Some((name, nth)) => (name, nth.parse().ok()?),
            None => (rest, 1),
        };
        Some(Fault { name: name.to_owned(), nth, act, passed: AtomicU64::new(0) })
    }
}
