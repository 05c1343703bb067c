//! The background work of tasks: which kinds there are, and how the work of a run asks for it.

use super::deliver::tools;
use super::prepare::chain;
use super::shop::Shop;
use crate::complete::{self, Phase, Record};
use crate::git::Repository;
use crate::git::command::redacted;
use crate::git::remote::RemoteError;
use crate::job::{Kind, Order};
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{CompletionAction, Reason};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

const COMPLETION: &str = "completion";
const FETCH: &str = "fetch";

/// More at once would only wait for the same disks and remotes.
const AT_ONCE: usize = 4;

/// Tries of what needs a remote: with the waits between them some four seconds, in which a
/// connection that was cut comes back. A person who watches waits no longer than that.
const TRIES: u32 = 4;

/// All kinds of background work that this daemon knows.
pub fn kinds(shop: &Arc<Shop>) -> Vec<Kind> {
    let (home, away) = (shop.clone(), shop.clone());
    let completion = Kind {
        name: COMPLETION,
        at_once: AT_ONCE,
        max_attempts: TRIES,
        attempt: Arc::new(move |work, progress| {
            let shop = home.clone();
            Box::pin(async move {
                let order: complete::Order = read(work)?;
                let told = |phase: &Phase| {
                    let (at, doing) = standing(phase);
                    progress.is_at(at, doing);
                };
                let record = shop.completions.complete(order, &tools(&shop).await, told).await?;
                Ok(record.told())
            })
        }),
    };
    let fetch = Kind {
        name: FETCH,
        at_once: AT_ONCE,
        max_attempts: TRIES,
        attempt: Arc::new(move |work, progress| {
            let shop = away.clone();
            Box::pin(async move {
                let url: String = read(work)?;
                progress.is_at(5, "fetching");
                shop.clones.fetch(&url).await.map_err(|error| not_fetched(&error))?;
                Ok(format!("fetched {}", redacted(&url)))
            })
        }),
    };
    vec![completion, fetch]
}

/// How far a completion is, in hundredths, and what it does.
fn standing(phase: &Phase) -> (u8, &'static str) {
    match phase {
        Phase::Begun => (10, "looking at what is to be brought home"),
        Phase::Landing { .. } => (50, "moving the target"),
        Phase::Pushing { .. } => (40, "pushing"),
        Phase::Pushed { .. } => (70, "opening a pull request"),
        _ => (95, "writing down what came of it"),
    }
}

/// Brings a branch home. A merge or a pull request is a job, tried again where trouble may pass.
pub(super) async fn bring_home(
    shop: &Shop,
    key: RunKey,
    wanted: complete::Order,
) -> Result<Record, Failure> {
    let what = match wanted.action {
        CompletionAction::Merge => format!("merge {} into {}", wanted.branch, wanted.target),
        CompletionAction::Pr => format!("open a pull request of {}", wanted.branch),
        CompletionAction::Branch | CompletionAction::None => {
            return shop.completions.complete(wanted, &tools(shop).await, |_| {}).await;
        }
    };
    let task = wanted.task;
    let order = Order {
        kind: COMPLETION,
        subject: task.to_string(),
        name: what,
        run: Some(key),
        work: serde_json::to_value(wanted).map_err(|error| broken(&error))?,
    };
    shop.jobs.done(order).await?;
    let record = shop.completions.of(task).await.map_err(|error| broken(&error))?;
    record.ok_or_else(|| Failure::new(Reason::Internal, "what was completed was not written down"))
}

/// The clone of a repository elsewhere, made or brought up to date just now.
pub(super) async fn fetched(shop: &Shop, key: RunKey, url: &str) -> Result<Repository, Failure> {
    let order = Order {
        kind: FETCH,
        subject: format!("{url} for {}", key.run_id),
        name: format!("fetch {}", redacted(url)),
        run: Some(key),
        work: Value::from(url),
    };
    shop.jobs.done(order).await?;
    let opened = shop.clones.open(url, &shop.repositories).await;
    opened.map_err(|error| not_fetched(&error))
}

fn not_fetched(error: &RemoteError) -> Failure {
    let reason = match error.may_pass() {
        true => Reason::RemoteUnreachable,
        false => Reason::RepositoryUnavailable,
    };
    Failure::new(reason, chain(error))
}

fn read<T: DeserializeOwned>(work: Value) -> Result<T, Failure> {
    serde_json::from_value(work).map_err(|error| broken(&error))
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Reason::Internal, chain(error))
}
