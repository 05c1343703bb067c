//! Budgets: how much a task and its parts may spend before a person is asked.

use crate::id::TaskId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Billionths of a dollar in one: a token costs thousands of them, so that sums lose nothing.
const NANOS: f64 = 1e9;

/// The most dollars that anybody may name: far more than anybody spends, and exact in a `f64`. Sums
/// of what was spent have no such bound.
const MOST_USD: f64 = 1e6;

/// US dollars, exact to a billionth, never negative. On the wire a number of dollars; one that is
/// greater than what this can hold (billions) is read as the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

impl Usd {
    /// So many billionths of a dollar.
    #[must_use]
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Its billionths of a dollar.
    #[must_use]
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// So many dollars, as somebody names them; none for what is no amount from 0 to a million.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        Self::of_sum(dollars).filter(|_| dollars <= MOST_USD)
    }

    /// So many dollars, as a sum tells them; none for what is no amount.
    fn of_sum(dollars: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is not negative, and such a cast ends at the greatest"
        )]
        (dollars.is_finite() && dollars >= 0.0).then(|| Self((dollars * NANOS).round() as u64))
    }

    /// Its dollars, as near as a `f64` comes.
    #[must_use]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS
    }
}

impl fmt::Display for Usd {
    /// `$1.25`; amounts below a dollar with as many digits as they need to be told apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 >= 1_000_000_000 || self.0 == 0 { 2 } else { 4 };
        write!(f, "${:.digits$}", self.dollars())
    }
}

impl std::str::FromStr for Usd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let dollars = text.strip_prefix('$').unwrap_or(text).parse().ok();
        dollars
            .and_then(Self::from_dollars)
            .ok_or_else(|| format!("'{text}' is no amount of US dollars: write 5 or 0.25"))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(from)?;
        Self::of_sum(dollars).ok_or_else(|| {
            serde::de::Error::custom(format!("{dollars} is no amount of US dollars"))
        })
    }
}

/// Reads dollars as somebody names them: for `deserialize_with`.
///
/// # Errors
/// What is no amount from 0 to a million is refused.
pub fn named<'de, D: Deserializer<'de>>(from: D) -> Result<Usd, D::Error> {
    let usd = Usd::deserialize(from)?;
    Some(usd).filter(|usd| usd.dollars() <= MOST_USD).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{usd} is more than the {MOST_USD} US dollars that may be"
        ))
    })
}

/// The same, where they may be absent: with `default`.
///
/// # Errors
/// As [`named`].
pub fn named_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Usd>, D::Error> {
    #[derive(Deserialize)]
    struct Named(#[serde(deserialize_with = "named")] Usd);
    Ok(Option::<Named>::deserialize(from)?.map(|Named(usd)| usd))
}

/// What a task and all its parts may spend together; what is absent is not bounded. When one of
/// them is spent, all of them pause and a person is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Tokens, as [`crate::task::Usage::counted`] counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// US dollars, by the relay's prices.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "named_or_none")]
    pub max_cost_usd: Option<Usd>,
    /// Seconds in which one of them ran. Two that run at once count twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
}

impl Budget {
    /// Whether nothing is bounded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The bound that would let nothing begin, by its name; none where each leaves something.
    #[must_use]
    pub fn nothing(&self) -> Option<&'static str> {
        let cost = self.max_cost_usd.map(Usd::nanos);
        [("maxTokens", self.max_tokens), ("maxCostUsd", cost), ("maxSeconds", self.max_seconds)]
            .into_iter()
            .find_map(|(name, most)| (most == Some(0)).then_some(name))
    }

    /// This budget with the bounds that `by` names in place of its own.
    #[must_use]
    pub fn raised(self, by: Self) -> Self {
        Self {
            max_tokens: by.max_tokens.or(self.max_tokens),
            max_cost_usd: by.max_cost_usd.or(self.max_cost_usd),
            max_seconds: by.max_seconds.or(self.max_seconds),
        }
    }

    /// The first bound that `spent` reaches; none while there is something left of each.
    #[must_use]
    pub fn reached(&self, spent: &Spent) -> Option<Reached> {
        let tokens = || {
            let limit = self.max_tokens.filter(|most| spent.tokens >= *most)?;
            Some(Reached::Tokens { spent: spent.tokens, limit })
        };
        let cost = || {
            let limit = self.max_cost_usd.filter(|most| spent.cost_usd >= *most)?;
            Some(Reached::Cost { spent: spent.cost_usd, limit })
        };
        let time = || {
            let seconds = spent.running_ms / 1_000;
            let limit = self.max_seconds.filter(|most| seconds >= *most)?;
            Some(Reached::Time { spent: seconds, limit })
        };
        tokens().or_else(cost).or_else(time)
    }
}

/// What a task and its parts spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spent {
    /// Tokens.
    pub tokens: u64,
    /// US dollars, of the tokens whose price is known.
    pub cost_usd: Usd,
    /// Tokens of which nobody knows what they cost.
    pub unpriced_tokens: u64,
    /// Milliseconds in which they ran.
    pub running_ms: u64,
}

/// A bound of a budget that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reached {
    /// The tokens.
    Tokens {
        /// So many were used.
        spent: u64,
        /// So many may be.
        limit: u64,
    },
    /// The money, in US dollars.
    Cost {
        /// So much was spent.
        spent: Usd,
        /// So much may be.
        limit: Usd,
    },
    /// The running time, in seconds.
    Time {
        /// It ran so long.
        spent: u64,
        /// It may run so long.
        limit: u64,
    },
}

impl Reached {
    /// The option of `hayward task resume` that raises this bound.
    #[must_use]
    pub fn option(&self) -> &'static str {
        match self {
            Self::Tokens { .. } => "--max-tokens",
            Self::Cost { .. } => "--max-cost",
            Self::Time { .. } => "--max-time",
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens { spent, limit } => write!(f, "{spent} of {limit} tokens"),
            Self::Cost { spent, limit } => write!(f, "{spent} of {limit}"),
            Self::Time { spent, limit } => write!(f, "{spent} s of {limit} s of running time"),
        }
    }
}

/// A budget that is used up, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetReached {
    /// The task whose budget it is: the one that waits, or one that it is a part of.
    pub of_task_id: TaskId,
    /// Which bound, and by how much.
    #[serde(flatten)]
    pub reached: Reached,
}

impl fmt::Display for BudgetReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (task, reached) = (self.of_task_id.short(), self.reached);
        write!(
            f,
            "the budget of task {task} is used up ({reached}): `hayward task resume {task} {} N` \
             goes on, `hayward task cancel {task}` ends it",
            reached.option()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_budget_is_read_by_its_names_and_no_amount_that_is_none() {
        let text = r#"{"maxTokens":1000,"maxCostUsd":0.25,"maxSeconds":60}"#;
        let budget: Budget = serde_json::from_str(text).unwrap();
        assert_eq!(budget.max_cost_usd, Usd::from_dollars(0.25));
        assert_eq!(serde_json::to_string(&budget).unwrap(), text);
        for wrong in [r#"{"maxTokens":-1}"#, r#"{"maxCostUsd":-1}"#, r#"{"maxCostUsd":1000001}"#] {
            assert!(serde_json::from_str::<Budget>(wrong).is_err(), "{wrong}");
        }
        let none = Budget { max_seconds: Some(0), ..budget };
        assert_eq!((none.nothing(), budget.nothing()), (Some("maxSeconds"), None));
    }

    #[test]
    fn a_reached_bound_says_by_how_much_and_what_helps() {
        let budget = Budget { max_cost_usd: Usd::from_dollars(1.0), ..Budget::default() };
        let spent = Spent { cost_usd: Usd::from_dollars(1.25).unwrap(), ..Spent::default() };
        let reached = budget.reached(&spent).unwrap();
        let text = serde_json::to_string(&reached).unwrap();
        assert_eq!(text, r#"{"kind":"cost","spent":1.25,"limit":1.0}"#);
        let told = BudgetReached { of_task_id: TaskId::fresh(), reached };
        let said = told.to_string();
        assert!(said.contains("$1.25 of $1.00") && said.contains("--max-cost"), "{said}");
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<BudgetReached>(&text).unwrap(), told);
    }

    #[test]
    fn what_was_spent_is_told_and_read_however_much_it_is() {
        let budget = Budget { max_cost_usd: Usd::from_dollars(1e6), ..Budget::default() };
        for nanos in [1_000_000_000_000_001, 5_000_000_000_000_000, i64::MAX as u64, u64::MAX] {
            let cost_usd = Usd::from_nanos(nanos);
            let spent = Spent { cost_usd, ..Spent::default() };
            let text = serde_json::to_string(&spent).unwrap();
            let read: Spent = serde_json::from_str(&text).unwrap();
            assert!((read.cost_usd.dollars() - cost_usd.dollars()).abs() < 0.01, "{text}");
            let reached = budget.reached(&spent).unwrap();
            let text = serde_json::to_string(&reached).unwrap();
            assert!(serde_json::from_str::<Reached>(&text).is_ok(), "{text}");
        }
        let beyond: Usd = serde_json::from_str("1e300").unwrap();
        assert_eq!(beyond, Usd::from_nanos(u64::MAX));
        for wrong in ["-0.01", "null", "\"1\""] {
            assert!(serde_json::from_str::<Usd>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_amount_of_money_is_read_exactly_or_not_at_all() {
        for (text, nanos) in [("5", 5_000_000_000), ("$0.25", 250_000_000), ("0.000001", 1_000)] {
            assert_eq!(text.parse(), Ok(Usd::from_nanos(nanos)), "{text}");
        }
        for wrong in ["", "-1", "NaN", "inf", "1e9", "5 EUR"] {
            assert!(wrong.parse::<Usd>().is_err(), "{wrong}");
        }
        let told = [0, 1_234_567, 12_345_000_000].map(|nanos| Usd::from_nanos(nanos).to_string());
        assert_eq!(told, ["$0.00", "$0.0012", "$12.35"]);
    }

    fn bound() -> impl Strategy<Value = Option<u64>> {
        prop::option::of(1u64..1_000)
    }

    proptest! {
        #[test]
        fn money_comes_back_from_the_wire_as_it_went(nanos in 0u64..1_000_000_000_000_000) {
            let text = serde_json::to_string(&Usd::from_nanos(nanos)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Usd>(&text).unwrap(), Usd::from_nanos(nanos));
        }

        /// A bound is reached when all of it is spent and not before, and spending more never undoes it.
        #[test]
        fn a_bound_is_reached_once_all_of_it_is_spent(
            (tokens, cost, seconds) in (bound(), bound(), bound()),
            (used, paid, ran, more) in (0u64..1_200, 0u64..1_200, 0u64..1_200_000, 0u64..500),
        ) {
            let budget = Budget {
                max_tokens: tokens,
                max_cost_usd: cost.map(Usd::from_nanos),
                max_seconds: seconds,
            };
            let spent = Spent {
                tokens: used,
                cost_usd: Usd::from_nanos(paid),
                unpriced_tokens: 0,
                running_ms: ran,
            };
            let over = |most: Option<u64>, spent: u64| most.is_some_and(|most| spent >= most);
            let is_over = over(tokens, used) || over(cost, paid) || over(seconds, ran / 1_000);
            prop_assert_eq!(budget.reached(&spent).is_some(), is_over);
            let later = Spent { tokens: used + more, running_ms: ran + more, ..spent };
            prop_assert!(!is_over || budget.reached(&later).is_some());
            let raised = budget.raised(Budget {
                max_tokens: tokens.map(|_| used + 1),
                max_cost_usd: cost.map(|_| Usd::from_nanos(paid + 1)),
                max_seconds: seconds.map(|_| ran / 1_000 + 1),
            });
            prop_assert_eq!(raised.reached(&spent), None);
        }
    }
}
