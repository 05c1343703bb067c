//! How a command ends, and the exit code that says so.
//!
//! Exit codes are documented: 0 done, 1 failed, 2 usage, 3 not found, 4 illegal state, 5 refused,
//! 6 unreachable, 7 the awaited task did not complete, 130 interrupted.

use hayward_shared::fault::{Code, Fault};
use std::error::Error;

/// How a command that raised no fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What was asked for is done.
    Done,
    /// The answer was printed, and it is a bad one.
    Unsuccessful,
    /// The answer was printed, and it waits for a conflict to be settled.
    Conflicting,
    /// The answer was printed, and it says that relay or daemon cannot be reached.
    Unreachable,
    /// An awaited task ended otherwise than completed, or did not end in time.
    NotCompleted,
    /// The user pressed Ctrl-C.
    Interrupted,
}

/// What became of a command.
pub(crate) type Outcome = Result<End, Fault>;

/// The one place where an outcome becomes an exit code.
pub(crate) fn code(outcome: &Outcome) -> u8 {
    match outcome {
        Ok(End::Done) => 0,
        Ok(End::Unsuccessful) => 1,
        Ok(End::Conflicting) => 4,
        Ok(End::Unreachable) => 6,
        Ok(End::NotCompleted) => 7,
        Ok(End::Interrupted) => 130,
        Err(fault) => fault.code.exit(),
    }
}

/// The code of the fault that says that nobody reads our output any more. It is not printed.
pub(crate) const OUTPUT_CLOSED: &str = "output_closed";

/// Whether whoever read our output has gone, as in `hayward task ls | head -1`.
pub(crate) fn is_closed(fault: &Fault) -> bool {
    fault.code == Code::Other(OUTPUT_CLOSED.to_owned())
}

/// An error and all its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// Turns the errors of operations into faults.
pub(crate) trait OrFault<T> {
    /// The value, or a fault of this kind that tells the error with its causes.
    fn or_fault(self, code: Code) -> Result<T, Fault>;
}

impl<T, E: Error> OrFault<T> for Result<T, E> {
    fn or_fault(self, code: Code) -> Result<T, Fault> {
        self.map_err(|error| Fault::new(code, chain(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_contract() {
        let ends = [
            (Ok(End::Done), 0),
            (Ok(End::Unsuccessful), 1),
            (Ok(End::Unreachable), 6),
            (Ok(End::Conflicting), 4),
            (Ok(End::NotCompleted), 7),
            (Ok(End::Interrupted), 130),
            (Err(Code::Failed), 1),
            (Err(Code::Usage), 2),
            (Err(Code::Invalid), 2),
            (Err(Code::NotFound), 3),
            (Err(Code::IllegalTransition), 4),
            (Err(Code::VersionConflict), 4),
            (Err(Code::Ambiguous), 4),
            (Err(Code::Unauthorized), 5),
            (Err(Code::Forbidden), 5),
            (Err(Code::Refused), 5),
            (Err(Code::Unavailable), 6),
            (Err(Code::DaemonOffline), 6),
        ];
        for (end, expected) in ends {
            let outcome = end.map_err(|kind: Code| Fault::new(kind, "x"));
            assert_eq!(code(&outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open a")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk\ngone"));
        assert_eq!(chain(&error), "cannot open a: disk gone");
    }
}
