//! What the command line shows: results on stdout, everything for people on stderr.

pub(crate) mod escape;
mod live;
pub(crate) mod table;
pub(crate) mod tone;
pub(crate) mod width;
pub(crate) mod words;

pub(crate) use live::Live;

use crate::exit::{OUTPUT_CLOSED, chain};
use hayward_shared::fault::{Code, Fault, FaultBody};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;
use table::Table;
use tone::{Tone, painted};

/// What the user asked of the output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    /// Values for programs instead of text for people.
    pub(crate) json: bool,
    /// Only errors on stderr.
    pub(crate) quiet: bool,
    /// More on stderr.
    pub(crate) verbose: bool,
    /// No colours, whatever the terminal can do.
    pub(crate) no_color: bool,
}

/// How often it is looked whether anyone reads the output still: soon enough not to be waited for.
const LOOK: Duration = Duration::from_millis(100);

/// The two streams, and how to write on them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    wishes: Wishes,
    out_is_terminal: bool,
    err_is_terminal: bool,
}

impl Output {
    /// Looks at the streams of this process.
    pub(crate) fn new(wishes: Wishes) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            wishes,
            out_is_terminal: io::stdout().is_terminal() && !dumb,
            err_is_terminal: io::stderr().is_terminal() && !dumb,
        }
    }

    /// Whether results are for programs.
    pub(crate) fn json(&self) -> bool {
        self.wishes.json
    }

    /// Whether more than usual is to be told.
    pub(crate) fn verbose(&self) -> bool {
        self.wishes.verbose && !self.wishes.quiet
    }

    /// Whether colours of others may pass: only the user's word forbids them.
    pub(crate) fn may_colour(&self) -> bool {
        !self.wishes.no_color
    }

    fn out_colours(&self) -> bool {
        self.out_is_terminal && !self.wishes.no_color
    }

    fn err_colours(&self) -> bool {
        self.err_is_terminal && !self.wishes.no_color
    }

    /// Prints the one value of a command for programs.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Fault> {
        let text = if self.out_is_terminal {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        let text = text.map_err(|error| Fault::new(Code::Internal, chain(&error)))?;
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Prints a result for people.
    pub(crate) fn line(&self, tone: Tone, text: &str) -> Result<(), Fault> {
        self.bytes(format!("{}\n", painted(tone, text, self.out_colours())).as_bytes())
    }

    /// Prints a table of results.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Fault> {
        let most = self.out_is_terminal.then(|| columns(&io::stdout())).flatten();
        self.bytes(table.render(most, self.out_colours()).as_bytes())
    }

    /// Writes bytes to stdout, at once.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => closed(),
            _ => Fault::new(Code::Failed, format!("cannot write the output: {error}")),
        })
    }

    /// Waits until whoever reads stdout has gone, as in `hayward search x | head`: otherwise that is
    /// told only when something is written.
    pub(crate) async fn until_closed(&self) {
        let mut look = tokio::time::interval(LOOK);
        while !self.is_closed() {
            look.tick().await;
        }
    }

    fn is_closed(&self) -> bool {
        let out = io::stdout();
        let mut looked = [PollFd::new(out.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
        poll(&mut looked, PollTimeout::ZERO).is_ok()
            && looked[0].revents().is_some_and(|told| told.intersects(gone))
    }

    /// Tells people something, unless they want it quiet.
    pub(crate) fn note(&self, tone: Tone, text: &str) {
        if !self.wishes.quiet {
            self.say(tone, text);
        }
    }

    /// Tells people something that they must know, even where they want it quiet.
    pub(crate) fn say(&self, tone: Tone, text: &str) {
        // nothing is left to tell it to when stderr is gone
        drop(writeln!(io::stderr(), "{}", painted(tone, text, self.err_colours())));
    }

    /// Tells of a fault: for programs on stdout, for people on stderr.
    pub(crate) fn fault(&self, fault: &Fault) {
        if self.wishes.json {
            let body = FaultBody { error: fault.clone() };
            // the fault itself decides the exit code
            drop(self.value(&body));
        }
        let head = painted(Tone::Bad, "error:", self.err_colours());
        drop(writeln!(io::stderr(), "{head} {}", escape::line(&fault.message)));
        if let Some(hint) = &fault.hint {
            let head = painted(Tone::Strong, "hint:", self.err_colours());
            drop(writeln!(io::stderr(), "{head} {}", escape::line(hint)));
        }
    }

    /// The line at the end of stderr that changes while something runs.
    pub(crate) fn live(&self) -> Live {
        Live::new(self.err_is_terminal && !self.wishes.quiet, self.err_colours())
    }
}

/// Nobody reads the output any more.
pub(crate) fn closed() -> Fault {
    Fault::new(Code::Other(OUTPUT_CLOSED.to_owned()), "nobody reads the output")
}

/// Columns of the terminal behind a stream.
fn columns(stream: &impl rustix::fd::AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
