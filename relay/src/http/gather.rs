//! One question to all daemons of a workspace that are online, their answers put together.

use super::fault::Refusal;
use super::params::Id;
use crate::core::Core;
use crate::store::daemons::{self, Profile};
use futures_util::future::join_all;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, WorkspaceId};
use hayward_shared::protocol::ToDaemon;
use serde_json::{Value, json};
use uuid::Uuid;

/// Daemons read at once.
const PAGE: u32 = 200;

/// What the daemons of a workspace say.
pub(super) struct Gathered {
    /// The answers, in the order of the daemons' ids.
    pub(super) answers: Vec<Said>,
    /// Those that did not answer, and why.
    pub(super) silent: Vec<Value>,
}

/// What one daemon says.
pub(super) struct Said {
    pub(super) daemon: DaemonId,
    pub(super) hostname: String,
    answer: Value,
}

impl Said {
    /// Takes a part out of the answer; null when it has no such part.
    pub(super) fn take(&mut self, name: &str) -> Value {
        self.answer.get_mut(name).map(Value::take).unwrap_or_default()
    }

    /// Takes a list out of the answer.
    pub(super) fn rows(&mut self, name: &str) -> Vec<Value> {
        listed(self.take(name))
    }

    /// Takes a list out of the answer, each row of it with its daemon.
    pub(super) fn own_rows(&mut self, name: &str) -> impl Iterator<Item = Value> + use<> {
        of_daemon(self.daemon, self.take(name))
    }
}

fn listed(part: Value) -> Vec<Value> {
    match part {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

/// The rows of a list out of a daemon's answer, each with the daemon.
pub(super) fn of_daemon(daemon: DaemonId, part: Value) -> impl Iterator<Item = Value> {
    listed(part).into_iter().map(move |mut row| {
        row["daemonId"] = json!(daemon);
        row
    })
}

impl Gathered {
    /// The one row of a list that the id names, with its daemon.
    pub(super) fn find(
        &mut self,
        list: &str,
        what: &str,
        id: &Id,
    ) -> Result<(DaemonId, Uuid, Value), Fault> {
        let read = |row: &Value| serde_json::from_value(row.get("id")?.clone()).ok();
        let mut found = Vec::new();
        for said in &mut self.answers {
            let rows = said.own_rows(list).filter_map(|row| Some((read(&row)?, row)));
            let named = rows.filter(|(one, _)| id.fragment.matches(one));
            found.extend(named.map(|(one, row)| (said.daemon, one, row)));
        }
        if found.is_empty() && !self.silent.is_empty() {
            let text = format!("no {what} {}, but not every daemon answered", id.typed);
            return Err(Fault::new(Code::DaemonOffline, text));
        }
        let ids: Vec<Uuid> = found.iter().map(|(_, one, _)| *one).collect();
        id.only(what, &ids)?;
        found.pop().ok_or_else(|| Fault::not_found(what, &id.typed))
    }

    /// Asks all at once; each has the time of a reply.
    pub(super) async fn of(
        core: &Core,
        workspace: WorkspaceId,
        question: &ToDaemon,
    ) -> Result<Self, Refusal> {
        Self::of_able(core, workspace, question, |_| Ok(())).await
    }

    /// Asks all that are able to answer; the others are not asked, and are told with the fault.
    pub(super) async fn of_able(
        core: &Core,
        workspace: WorkspaceId,
        question: &ToDaemon,
        able: impl Fn(&Profile) -> Result<(), Fault>,
    ) -> Result<Self, Refusal> {
        let asked = online(core, workspace).await?.into_iter().map(|(id, profile)| {
            let able = able(&profile);
            async move {
                let answer = match able {
                    Ok(()) => core.registry.ask(id, question.clone(), core.timing.reply).await,
                    Err(fault) => Err(fault),
                };
                (id, profile.hostname, answer)
            }
        });
        let mut all = Self { answers: Vec::new(), silent: Vec::new() };
        for (daemon, hostname, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => all.answers.push(Said { daemon, hostname, answer }),
                Err(fault) => all.silent.push(json!({
                    "daemonId": daemon, "hostname": hostname, "reason": fault.message,
                })),
            }
        }
        Ok(all)
    }

    /// Whether one of the daemons had more to say than an answer holds.
    pub(super) fn truncated(&self) -> bool {
        self.answers.iter().any(|said| said.answer.get("truncated") == Some(&Value::Bool(true)))
    }
}

/// The daemons of a workspace that are online, with what they said of themselves.
async fn online(core: &Core, workspace: WorkspaceId) -> Result<Vec<(DaemonId, Profile)>, Refusal> {
    let mut all = described(core, workspace).await?;
    let online = core.registry.online_in(workspace).await?;
    all.retain(|(id, _)| online.contains(id));
    Ok(all)
}

/// The daemons of a workspace, with their hosts' names.
pub(super) async fn known(
    core: &Core,
    workspace: WorkspaceId,
) -> Result<Vec<(DaemonId, String)>, Refusal> {
    let all = described(core, workspace).await?;
    Ok(all.into_iter().map(|(id, profile)| (id, profile.hostname)).collect())
}

/// The daemons of a workspace, with what they said of themselves.
async fn described(
    core: &Core,
    workspace: WorkspaceId,
) -> Result<Vec<(DaemonId, Profile)>, Refusal> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let mut reader = core.store.read().await?;
        let rows = daemons::page(&mut reader, workspace, after, PAGE).await?;
        let full = rows.len() >= PAGE as usize;
        after = rows.last().map(|daemon| daemon.id.0.simple().to_string());
        found.extend(rows.into_iter().map(|daemon| (daemon.id, daemon.profile)));
        if !full {
            return Ok(found);
        }
    }
}
