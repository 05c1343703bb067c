//! What tokens cost, and what a report of usage adds to what was spent. Pure.

use hayward_shared::budget::Usd;
use hayward_shared::task::Usage;
use std::collections::BTreeMap;

/// Tokens that a price is told for.
const PER: i128 = 1_000_000;

/// The most that one report adds to any sum: an agent that tells nonsense a thousand times brings
/// none of them near its end.
pub(crate) const MOST: i64 = 1_000_000_000_000_000;

/// What a model's tokens cost, in US dollars for each million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Tokens read anew.
    pub input: Usd,
    /// Tokens written by the model.
    pub output: Usd,
    /// Tokens read from the cache.
    pub cache_read: Usd,
    /// Tokens written into the cache.
    pub cache_write: Usd,
}

impl Price {
    /// What all of this costs, in billionths of a dollar.
    fn of(&self, usage: &Usage) -> i64 {
        let part = |tokens: u64, price: Usd| i128::from(tokens) * i128::from(price.nanos());
        let sum = part(usage.input_tokens, self.input)
            .saturating_add(part(usage.output_tokens, self.output))
            .saturating_add(part(usage.cache_read_tokens, self.cache_read))
            .saturating_add(part(usage.cache_write_tokens, self.cache_write));
        i64::try_from(sum / PER).unwrap_or(i64::MAX)
    }
}

/// The prices of models, by their names or beginnings of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices(BTreeMap<String, Price>);

/// A price that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no price: write MODEL=INPUT,OUTPUT or MODEL=INPUT,OUTPUT,CACHE_READ,CACHE_WRITE, in US \
     dollars for a million tokens"
)]
pub struct NotAPrice(String);

impl Prices {
    /// Sets the price of a model, or of all whose names begin so.
    pub fn insert(&mut self, model: impl Into<String>, price: Price) {
        self.0.insert(model.into(), price);
    }

    /// Sets the price that `text` tells, as `claude-=3,15,0.3,3.75`. Where nothing is said of the
    /// cache, its tokens cost what those read anew cost.
    ///
    /// # Errors
    /// [`NotAPrice`]; nothing is set then.
    pub fn set(&mut self, text: &str) -> Result<(), NotAPrice> {
        let wrong = || NotAPrice(text.to_owned());
        let (model, told) = text.rsplit_once('=').ok_or_else(wrong)?;
        let told: Result<Vec<Usd>, _> = told.split(',').map(str::parse).collect();
        let price = match *told.map_err(|_| wrong())? {
            [input, output] => Price { input, output, cache_read: input, cache_write: input },
            [input, output, cache_read, cache_write] => {
                Price { input, output, cache_read, cache_write }
            }
            _ => return Err(wrong()),
        };
        if model.is_empty() {
            return Err(wrong());
        }
        self.insert(model, price);
        Ok(())
    }

    /// The price of a model: of the names that it begins with the longest counts.
    pub(crate) fn of(&self, model: &str) -> Option<Price> {
        let fits = self.0.iter().filter(|(name, _)| model.starts_with(name.as_str()));
        fits.max_by_key(|(name, _)| name.len()).map(|(_, price)| *price)
    }
}

/// What a run used and what that cost, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bill {
    /// As its agent last told it.
    pub(crate) usage: Usage,
    /// Billionths of a dollar.
    pub(crate) cost: i64,
    /// Tokens whose cost is not in `cost`.
    pub(crate) unpriced: i64,
}

/// What was spent since something was last counted. Negative where an agent takes back what it told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Tokens that count against a budget.
    pub(crate) tokens: i64,
    /// Billionths of a dollar.
    pub(crate) cost: i64,
    /// Tokens of which nobody knows what they cost.
    pub(crate) unpriced: i64,
    /// Milliseconds of running.
    pub(crate) ms: i64,
}

impl Delta {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            cost: self.cost.saturating_add(other.cost),
            unpriced: self.unpriced.saturating_add(other.unpriced),
            ms: self.ms.saturating_add(other.ms),
        }
    }
}

impl Bill {
    /// The bill of a run of which but its usage is known: it costs what its agent said, where it did,
    /// and else nobody knows what.
    pub(crate) fn unbilled(usage: Usage) -> Self {
        Self::default().after(usage, None)
    }

    /// The bill after the agent told `said`, all that its run used so far, where its model costs
    /// `price`. Where the price is not known, what the agent itself says of the cost counts.
    pub(crate) fn after(self, said: Usage, price: Option<Price>) -> Self {
        let told = |usage: &Usage| usage.cost_usd.and_then(Usd::from_dollars);
        match (price, told(&said)) {
            (Some(price), _) => {
                // only what is new: the model may have cost something else before
                let more = price.of(&said).saturating_sub(price.of(&self.usage));
                Self { usage: said, cost: self.cost.saturating_add(more).max(0), ..self }
            }
            (None, Some(all)) if told(&self.usage) != Some(all) => {
                let all = i64::try_from(all.nanos()).unwrap_or(i64::MAX);
                Self { usage: said, cost: self.cost.max(all), unpriced: 0 }
            }
            (None, _) => {
                let more = whole(&said).saturating_sub(whole(&self.usage));
                Self { usage: said, unpriced: self.unpriced.saturating_add(more).max(0), ..self }
            }
        }
    }

    /// What came to it since `before`.
    pub(crate) fn since(&self, before: &Self) -> Delta {
        let counted = |bill: &Self| i64::try_from(bill.usage.counted()).unwrap_or(i64::MAX);
        let more = |now: i64, then: i64| now.saturating_sub(then).clamp(-MOST, MOST);
        Delta {
            tokens: more(counted(self), counted(before)),
            cost: more(self.cost, before.cost),
            unpriced: more(self.unpriced, before.unpriced),
            ms: 0,
        }
    }

    /// The usage, with its cost as it is known here.
    pub(crate) fn told(&self) -> Usage {
        let unpriced_tokens = u64::try_from(self.unpriced).unwrap_or(0);
        let cost = Usd::from_nanos(u64::try_from(self.cost).unwrap_or(0)).dollars();
        // a cost of nothing, of which nothing is known, is no cost
        let is_known = self.cost > 0 || (unpriced_tokens == 0 && whole(&self.usage) > 0);
        Usage { cost_usd: is_known.then_some(cost), unpriced_tokens, ..self.usage }
    }
}

/// All tokens, those from the cache too.
fn whole(usage: &Usage) -> i64 {
    i64::try_from(usage.counted().saturating_add(usage.cache_read_tokens)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(input: u64, output: u64, cache_read: u64, cache_write: u64) -> Usage {
        Usage {
            input_tokens: input,
            output_tokens: output,
            cache_read_tokens: cache_read,
            cache_write_tokens: cache_write,
            ..Usage::default()
        }
    }

    fn prices(texts: &[&str]) -> Prices {
        let mut prices = Prices::default();
        texts.iter().for_each(|text| prices.set(text).unwrap());
        prices
    }

    #[test]
    fn the_longest_name_that_a_model_begins_with_counts() {
        let all = prices(&["claude-=3,15,0.3,3.75", "claude-opus=5,25", "a=b=1,2"]);
        assert_eq!(all.of("claude-sonnet-5").unwrap().cache_read.nanos(), 300_000_000);
        assert_eq!(all.of("claude-opus-4-1").unwrap().cache_write.nanos(), 5_000_000_000);
        assert_eq!(all.of("a=b-1").unwrap().output.nanos(), 2_000_000_000);
        assert_eq!((all.of("gpt-5"), Prices::default().of("x")), (None, None));
        for wrong in ["", "m", "=1,2", "m=1", "m=1,2,3", "m=1,2,3,4,5", "m=-1,2", "m=a,b"] {
            assert!(Prices::default().set(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_model_that_is_known_costs_what_the_table_says_and_not_what_its_agent_does() {
        let price = prices(&["m=3,15,0.3,3.75"]).of("m");
        let said = Usage { cost_usd: Some(9.0), ..usage(1_000, 100, 10_000, 400) };
        let bill = Bill::default().after(said, price);
        // 3000 + 1500 + 3000 + 1500 millionths
        assert_eq!((bill.cost, bill.unpriced), (9_000_000, 0));
        assert_eq!(bill.told().cost_usd, Some(0.009));
        assert_eq!(bill.since(&Bill::default()).tokens, 1_500, "the cache is read for nothing");
    }

    #[test]
    fn a_model_that_is_not_known_counts_its_tokens_and_its_cost_is_unknown_and_not_nothing() {
        let first = Bill::default().after(usage(100, 20, 50, 10), None);
        assert_eq!((first.cost, first.unpriced), (0, 180));
        assert_eq!((first.told().cost_usd, first.told().unpriced_tokens), (None, 180));
        // at the end of its turn the agent says what all of it cost
        let said = Usage { cost_usd: Some(0.5), ..usage(100, 20, 50, 10) };
        let second = first.after(said, None);
        assert_eq!((second.cost, second.unpriced), (500_000_000, 0));
        assert_eq!(second.since(&first).unpriced, -180);
        // and what comes after is not known again
        let third = second.after(Usage { cost_usd: Some(0.5), ..usage(200, 20, 50, 10) }, None);
        assert_eq!((third.cost, third.unpriced), (500_000_000, 100));
        assert_eq!(third.told().cost_usd, Some(0.5));
        assert_eq!(Bill::default().told(), Usage::default());
    }

    fn reports() -> impl Strategy<Value = Vec<(u64, u64, u64, u64)>> {
        prop::collection::vec((0u64..9_999, 0u64..9_999, 0u64..99_999, 0u64..9_999), 0..20)
    }

    proptest! {
        /// However often an agent tells what it used, and whatever it tells twice, the sum of what is
        /// added is what the last report alone would have been.
        #[test]
        fn what_is_told_often_is_counted_once(reports in reports(), known in any::<bool>()) {
            let price = prices(&["m=3,15,0.3,3.75"]).of("m").filter(|_| known);
            let (mut bill, mut sum, mut all) = (Bill::default(), Delta::default(), Usage::default());
            for (input, output, read, write) in reports {
                all = all.plus(usage(input, output, read, write));
                for _ in 0..2 {
                    let next = bill.after(all, price);
                    sum = sum.plus(next.since(&bill));
                    bill = next;
                }
            }
            prop_assert_eq!(sum, Bill::default().after(all, price).since(&Bill::default()));
            prop_assert_eq!(sum.tokens, i64::try_from(all.counted()).unwrap());
            prop_assert_eq!(sum.cost == 0 || known, true);
        }
    }
}
