//! Colours with a meaning.

use hayward_shared::task::Status;

/// What a text is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Neither good nor bad.
    Plain,
    /// Of less weight.
    Dim,
    /// Of more weight.
    Strong,
    /// Good news.
    Good,
    /// To be looked at.
    Warn,
    /// Bad news.
    Bad,
}

/// The text in the colour of its tone, when colours are on.
pub(crate) fn painted(tone: Tone, text: &str, colours: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        _ if !colours => return text.to_owned(),
        Tone::Dim => 2,
        Tone::Strong => 1,
        Tone::Good => 32,
        Tone::Warn => 33,
        Tone::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The tone of a status.
pub(crate) fn of_status(status: Status) -> Tone {
    match status {
        Status::Completed => Tone::Good,
        Status::Failed | Status::TimedOut => Tone::Bad,
        Status::Waiting | Status::Paused | Status::Deferred => Tone::Warn,
        Status::Running | Status::Dispatched => Tone::Strong,
        Status::Pending | Status::Queued | Status::Cancelled | Status::Skipped => Tone::Dim,
    }
}
