//! What the end of an agent means: a closed set of reasons, decided from codes, never from prose.

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

/// Why an agent did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It exited, and said nothing more exact.
    AgentExit,
    /// A signal ended it.
    AgentSignal,
    /// Its program is not there.
    AgentNotFound,
    /// The provider wants fewer requests (429).
    ProviderRateLimited,
    /// The provider has too much to do (503, 529).
    ProviderOverloaded,
    /// The provider does not accept the credentials, or their account (401, 402, 403).
    ProviderAuth,
    /// The provider broke, could not be reached, or its answer was cut.
    ProviderNetwork,
    /// The conversation no longer fits the model: it cannot go on as it is.
    ContextOverflow,
    /// A bound on turns, money or attempts was met.
    IterationLimit,
    /// What it needed was not allowed.
    PermissionDenied,
    /// The model declined.
    Refused,
    /// The provider or the runtime finds the request itself wrong: asking again is no use.
    InvalidRequest,
}

impl Reason {
    /// What the HTTP status of a provider's refusal means; no status is a broken connection.
    #[must_use]
    pub fn of_status(status: Option<u16>) -> Self {
        match status {
            Some(429) => Self::ProviderRateLimited,
            Some(503 | 529) => Self::ProviderOverloaded,
            Some(401..=403) => Self::ProviderAuth,
            None | Some(408) => Self::ProviderNetwork,
            Some(400..=499) => Self::InvalidRequest,
            Some(_) => Self::ProviderNetwork,
        }
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
            assert_eq!(Reason::of_status(status), reason, "{status:?}");
        }
    }

    #[test]
    fn reasons_are_written_in_snake_case() {
        let text = serde_json::to_string(&Reason::ProviderRateLimited).unwrap();
        assert_eq!(text, "\"provider_rate_limited\"");
    }
}
