//! What is looked at, what is done there, and what is seen.

use bytes::Bytes;
use hayward_shared::fault::Fault;
use hayward_shared::id::TaskId;
use hayward_shared::protocol::output::Shape;

/// Whose terminal is shown, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The task.
    pub(crate) task: TaskId,
    /// How large the viewer is: rows and columns.
    pub(crate) size: (u16, u16),
    /// Only look.
    pub(crate) read_only: bool,
    /// Own the size from the beginning, whoever owned it before.
    pub(crate) take: bool,
}

/// What a viewer does.
#[derive(Debug)]
pub(crate) enum Say {
    /// Types; answered by [`Seen::Typed`] or [`Seen::Refused`] with this number.
    Type(u64, Vec<u8>),
    /// Has another size: rows and columns.
    Resize(u16, u16),
}

/// What a viewer sees, in order.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The terminal is this large, and empty.
    Screen(Shape),
    /// Print this to it.
    Print(Bytes),
    /// The terminal is this large from here on.
    Resized(Shape),
    /// What was typed under this number has arrived.
    Typed(u64),
    /// What was typed under this number, or else a wish about the size, has not.
    Refused(Option<u64>, Fault),
    /// The connection broke; another is being tried.
    Lost(Fault),
    /// The connection broke; another is being tried, and what is shown and typed goes on meanwhile. Told
    /// once, until a screen comes or [`Seen::Lost`], where it goes on no more.
    Apart(Fault),
    /// The connection stands, and goes another way than the last.
    Moved(&'static str),
    /// The session has ended.
    End,
}
