//! What a run of Claude Code used: exact at the end of each turn, a lower bound before.

use super::super::event::Usage;
use super::wire::{Outcome, Tokens};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Message ids kept to see a repetition. One message comes as several lines, a sub-agent's lines
/// between them; more than this many speak at once never.
const REMEMBERED: usize = 32;

/// Adds up usage.
///
/// The lines of the model carry the figures of a message's beginning, so they only fill in until
/// the turn's `result` tells the true ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Of the turns that ended.
    ended: Usage,
    /// Of the messages seen since.
    open: Usage,
    messages: VecDeque<String>,
    /// The session's price so far, as the last `result` told it; none in a resumed session
    /// before the first.
    session_cost: Option<f64>,
}

impl Tally {
    /// Nothing used yet. Of a resumed session the earlier price is not known.
    pub(super) fn new(resumed: bool) -> Self {
        Self { session_cost: (!resumed).then_some(0.0), ..Self::default() }
    }

    /// A line of the message `id`; `None` when it changes nothing.
    pub(super) fn said(&mut self, id: &str, tokens: &Tokens) -> Option<Usage> {
        if self.messages.iter().any(|known| known == id) {
            return None;
        }
        if self.messages.len() == REMEMBERED {
            self.messages.pop_front();
        }
        self.messages.push_back(id.to_owned());
        let used = of(tokens);
        if used == Usage::default() {
            return None;
        }
        add(&mut self.open, &used);
        Some(self.total())
    }

    /// A turn ended.
    pub(super) fn ended(&mut self, outcome: &Outcome) -> Usage {
        let turn = match &outcome.model_usage_since_last_result {
            Some(models) => models.values().fold(Usage::default(), |mut sum, model| {
                let used = Usage {
                    input: model.input_tokens,
                    output: model.output_tokens,
                    cache_read: model.cache_read_input_tokens,
                    cache_write: model.cache_creation_input_tokens,
                    cost_usd: model.cost_usd,
                };
                add(&mut sum, &used);
                sum
            }),
            None => self.turn_of_older_runtime(outcome),
        };
        self.session_cost = outcome.total_cost_usd.or(self.session_cost);
        self.open = Usage::default();
        add(&mut self.ended, &turn);
        self.ended
    }

    /// Older runtimes tell the turn's tokens and the session's price.
    fn turn_of_older_runtime(&self, outcome: &Outcome) -> Usage {
        let mut turn = outcome.usage.as_ref().map(of).unwrap_or_default();
        turn.cost_usd = match (outcome.total_cost_usd, self.session_cost) {
            (Some(now), Some(before)) => Some((now - before).max(0.0)),
            _ => None,
        };
        turn
    }

    fn total(&self) -> Usage {
        let mut total = self.ended;
        add(&mut total, &self.open);
        total
    }
}

fn of(tokens: &Tokens) -> Usage {
    Usage {
        input: tokens.input_tokens.unwrap_or(0),
        output: tokens.output_tokens.unwrap_or(0),
        cache_read: tokens.cache_read_input_tokens.unwrap_or(0),
        cache_write: tokens.cache_creation_input_tokens.unwrap_or(0),
        cost_usd: None,
    }
}

fn add(sum: &mut Usage, more: &Usage) {
    sum.input = sum.input.saturating_add(more.input);
    sum.output = sum.output.saturating_add(more.output);
    sum.cache_read = sum.cache_read.saturating_add(more.cache_read);
    sum.cache_write = sum.cache_write.saturating_add(more.cache_write);
    if let Some(cost) = more.cost_usd {
        sum.cost_usd = Some(sum.cost_usd.unwrap_or(0.0) + cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(json: serde_json::Value) -> Outcome {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_older_runtime_is_counted_by_turn_and_its_price_by_difference() {
        let result = |cost: f64| {
            outcome(serde_json::json!({
                "subtype": "success", "total_cost_usd": cost,
                "usage": {"input_tokens": 100, "output_tokens": 20},
            }))
        };
        let mut fresh = Tally::new(false);
        fresh.ended(&result(0.5));
        let used = fresh.ended(&result(0.75));
        assert_eq!((used.input, used.output, used.cost_usd), (200, 40, Some(0.75)));

        let mut resumed = Tally::new(true);
        assert_eq!(resumed.ended(&result(9.0)).cost_usd, None);
        assert_eq!(resumed.ended(&result(9.25)).cost_usd, Some(0.25));
    }

    #[test]
    fn a_message_of_many_lines_counts_once() {
        let tokens = Tokens { input_tokens: Some(7), ..Tokens::default() };
        let mut tally = Tally::new(false);
        assert_eq!(tally.said("a", &tokens).unwrap().input, 7);
        assert_eq!(tally.said("a", &tokens), None);
        assert_eq!(tally.said("b", &tokens).unwrap().input, 14);
    }
}
