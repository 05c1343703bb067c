//! What the last `result` of Claude Code and its exit mean together.

use super::super::ending::{Ending, Exit, reason_of_status};
use super::super::event::{SUMMARY_BYTES, clip};
use super::wire::{Outcome, Standing};
use hayward_shared::task::Reason;
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The status by which a shell, or `env` in a script's first line, says "no such program".
const NOT_FOUND: i32 = 127;

/// The last `result`, as far as the ending needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// `None` when the turn went well.
    pub(super) failure: Option<Reason>,
    /// What it said.
    pub(super) text: String,
}

/// Whether the turn was stopped from outside.
pub(super) fn aborted(outcome: &Outcome) -> bool {
    match outcome.terminal_reason.as_deref() {
        Some(reason) => matches!(reason, "aborted_streaming" | "aborted_tools"),
        None => outcome.subtype == "error_during_execution",
    }
}

/// Judges the end of a turn by its codes. `started` is false before the session first began, where
/// a failure means that what we asked for (a session to resume) does not exist.
pub(super) fn judge(outcome: &Outcome, started: bool) -> Verdict {
    let refused = outcome.stop_reason.as_deref() == Some("refusal");
    let failure = if refused {
        Some(Reason::Refused)
    } else if outcome.is_error || outcome.subtype != "success" {
        Some(cause(outcome, started))
    } else {
        None
    };
    let said = outcome.result.as_deref().map_or_else(|| outcome.errors.join("; "), str::to_owned);
    Verdict { failure, text: clip(&said, SUMMARY_BYTES) }
}

/// When a quota that is used up comes back; none where the subscription still answers.
pub(super) fn reset(standing: &Standing) -> Option<Timestamp> {
    let rejected = standing.status.as_deref() == Some("rejected");
    let seconds = standing.resets_at.filter(|at| rejected && at.is_finite())?;
    Some(Timestamp::from_millis((seconds * 1_000.0) as i64))
}

/// The same, where the turn failed because a quota was used up that comes back after `at`.
pub(super) fn of_quota(verdict: Verdict, resets_at: Option<Timestamp>, at: Timestamp) -> Verdict {
    let refused = matches!(verdict.failure, Some(Reason::ProviderRateLimited | Reason::AgentExit));
    match resets_at.is_some_and(|reset| reset > at) && refused {
        true => Verdict { failure: Some(Reason::Quota), ..verdict },
        false => verdict,
    }
}

fn cause(outcome: &Outcome, started: bool) -> Reason {
    match outcome.terminal_reason.as_deref() {
        Some("prompt_too_long" | "blocking_limit" | "rapid_refill_breaker") => {
            return Reason::ContextOverflow;
        }
        Some("max_turns" | "budget_exhausted" | "structured_output_retry_exhausted") => {
            return Reason::IterationLimit;
        }
        Some("image_error") => return Reason::InvalidRequest,
        Some("api_error" | "model_error") => return reason_of_status(outcome.api_error_status),
        _ => {}
    }
    match outcome.subtype.as_str() {
        "error_max_turns" | "error_max_budget_usd" | "error_max_structured_output_retries" => {
            Reason::IterationLimit
        }
        _ if aborted(outcome) && !outcome.permission_denials.is_empty() => Reason::PermissionDenied,
        _ if outcome.api_error_status.is_some() => reason_of_status(outcome.api_error_status),
        _ if !started => Reason::InvalidRequest,
        _ => Reason::AgentExit,
    }
}

/// What the end of the process means after the last verdict; `open` while a turn had not ended.
pub(super) fn conclude(last: Option<&Verdict>, open: bool, started: bool, exit: &Exit) -> Ending {
    if matches!(exit, Exit::Signal(_) | Exit::NotStarted(_)) {
        return Ending::of_exit(exit);
    }
    let failed = |reason, message: &str| Ending::Failed { reason, message: message.to_owned() };
    match (last, exit) {
        (Some(Verdict { failure: Some(reason), text }), _) if !open => failed(*reason, text),
        (Some(Verdict { failure: None, .. }), Exit::Code(0)) if !open => Ending::Finished,
        (None, Exit::Code(NOT_FOUND)) if !started => {
            failed(Reason::AgentNotFound, "the agent's program, or its interpreter, is not there")
        }
        (_, Exit::Code(0)) => failed(Reason::AgentExit, "the agent ended before its turn did"),
        _ => Ending::of_exit(exit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failures_are_told_apart_by_codes_alone() {
        let table = [
            (json!({"subtype": "success", "is_error": false}), None),
            (
                json!({"subtype": "success", "is_error": false, "stop_reason": "refusal"}),
                Some(Reason::Refused),
            ),
            (
                json!({"subtype": "error_max_budget_usd", "is_error": true}),
                Some(Reason::IterationLimit),
            ),
            (
                json!({"subtype": "success", "is_error": true, "terminal_reason": "api_error",
                    "api_error_status": 402}),
                Some(Reason::ProviderAuth),
            ),
            (
                json!({"subtype": "error_during_execution", "is_error": true,
                    "terminal_reason": "aborted_tools", "permission_denials": [{}]}),
                Some(Reason::PermissionDenied),
            ),
            (
                json!({"subtype": "success", "is_error": true, "terminal_reason": "brand_new",
                    "result": "429 prompt is too long"}),
                Some(Reason::AgentExit),
            ),
        ];
        for (outcome, expected) in table {
            let read: Outcome = serde_json::from_value(outcome.clone()).unwrap();
            assert_eq!(judge(&read, true).failure, expected, "{outcome}");
        }
    }

    #[test]
    fn f58_a_quota_is_known_by_its_reset_and_by_no_words() {
        let at = Timestamp::from_millis;
        let standing = |status: &str, resets_at: Option<f64>| Standing {
            status: Some(status.to_owned()),
            resets_at,
        };
        let known = reset(&standing("rejected", Some(1_700_000_000.5)));
        assert_eq!(known, Some(at(1_700_000_000_500)));
        for other in [
            standing("allowed_warning", Some(1_700_000_000.0)),
            standing("rejected", None),
            standing("rejected", Some(f64::NAN)),
        ] {
            assert_eq!(reset(&other), None, "{other:?}");
        }
        let judged =
            |failure, now| of_quota(Verdict { failure, text: "x".into() }, known, at(now)).failure;
        let limited = Some(Reason::ProviderRateLimited);
        assert_eq!(judged(limited, 1_600_000_000_000), Some(Reason::Quota));
        assert_eq!(judged(limited, 1_800_000_000_000), limited);
        assert_eq!(judged(None, 1_600_000_000_000), None);
        let refused = Some(Reason::ProviderAuth);
        assert_eq!(judged(refused, 1_600_000_000_000), refused);
    }

    #[test]
    fn f57_an_exit_of_0_without_a_result_is_no_success() {
        let good = Verdict { failure: None, text: "done".into() };
        let exit = Exit::Code(0);
        assert_eq!(conclude(Some(&good), false, true, &exit), Ending::Finished);
        for (last, open) in [(None, false), (None, true), (Some(&good), true)] {
            let Ending::Failed { reason, .. } = conclude(last, open, true, &exit) else {
                panic!("not finished");
            };
            assert_eq!(reason, Reason::AgentExit);
        }
        let Ending::Failed { reason, .. } = conclude(None, false, false, &Exit::Code(127)) else {
            panic!("not finished");
        };
        assert_eq!(reason, Reason::AgentNotFound);
    }
}
