//! The options that bound what a task and its parts may spend.

use super::print::words::seconds;
use hayward_shared::budget::{Budget, Usd};

/// What a task and all its parts may spend; then they pause, and you are asked.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct BudgetArgs {
    /// Pause it and its parts once they used so many tokens; those read from the cache do not count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: Option<u64>,

    /// Pause them once they cost so many US dollars, by the prices in the relay's configuration
    #[arg(long, value_name = "USD", value_parser = money)]
    max_cost: Option<Usd>,

    /// Pause them once they ran so long, waiting not counted: 90, 15m, 2h
    #[arg(long, value_name = "D", value_parser = seconds)]
    max_time: Option<u64>,
}

impl BudgetArgs {
    /// The budget; none where nothing is bounded.
    pub(crate) fn read(self) -> Option<Budget> {
        let budget = Budget {
            max_tokens: self.max_tokens,
            max_cost_usd: self.max_cost,
            max_seconds: self.max_time,
        };
        (!budget.is_empty()).then_some(budget)
    }
}

fn money(text: &str) -> Result<Usd, String> {
    let usd: Usd = text.parse()?;
    match usd.nanos() {
        0 => Err("it must be more than nothing".to_owned()),
        _ => Ok(usd),
    }
}
