//! What the end of an agent means: a closed set of reasons, decided from codes, never from prose.

use hayward_shared::task::Reason;
use serde::{Deserialize, Serialize};

/// How the agent's process ended, as its keeper saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It could not be started, for this reason.
    NotStarted(String),
}

/// What a finished process means for its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Ending {
    /// The agent says that it is done.
    Finished,
    /// It is not done.
    Failed {
        /// Decides what happens next.
        reason: Reason,
        /// For people; at most [`super::event::SUMMARY_BYTES`].
        message: String,
    },
}

/// What the HTTP status of a provider's refusal means; no status is a broken connection.
#[must_use]
pub fn reason_of_status(status: Option<u16>) -> Reason {
    match status {
        Some(429) => Reason::ProviderRateLimited,
        Some(503 | 529) => Reason::ProviderOverloaded,
        Some(401..=403) => Reason::ProviderAuth,
        None | Some(408) => Reason::ProviderNetwork,
        Some(400..=499) => Reason::InvalidRequest,
        Some(_) => Reason::ProviderNetwork,
    }
}

impl Ending {
    /// What the process status alone says, where nothing better is known.
    #[must_use]
    pub fn of_exit(exit: &Exit) -> Self {
        let (reason, message) = match exit {
            Exit::Code(0) => return Self::Finished,
            Exit::Code(code) => (Reason::AgentExit, format!("exited with status {code}")),
            Exit::Signal(signal) => (Reason::AgentSignal, format!("ended by signal {signal}")),
            Exit::NotStarted(why) => {
                (Reason::AgentNotFound, format!("could not be started: {why}"))
            }
        };
        Self::Failed { reason, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_providers_are_sorted_by_number() {
        let table = [
            (None, Reason::ProviderNetwork),
            (Some(400), Reason::InvalidRequest),
            (Some(401), Reason::ProviderAuth),
            (Some(403), Reason::ProviderAuth),
            (Some(404), Reason::InvalidRequest),
            (Some(408), Reason::ProviderNetwork),
            (Some(413), Reason::InvalidRequest),
            (Some(429), Reason::ProviderRateLimited),
            (Some(500), Reason::ProviderNetwork),
            (Some(502), Reason::ProviderNetwork),
            (Some(503), Reason::ProviderOverloaded),
            (Some(529), Reason::ProviderOverloaded),
        ];
        for (status, reason) in table {
            assert_eq!(reason_of_status(status), reason, "{status:?}");
        }
    }
}
