//! What makes an order a good one. Pure.

use super::fault::invalid;
use hayward_shared::address::holds_password;
use hayward_shared::budget::Budget;
use hayward_shared::fault::Fault;
use hayward_shared::path::{inside, is_url};
use hayward_shared::run::REQUEUE_LEAST;
use hayward_shared::task::{CompletionAction, Order};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

const MAX_PRIORITY: i32 = 1_000;
const MAX_ATTEMPTS: u32 = 20;
const MAX_NAME: usize = 200;
/// Bytes of a plan as JSON. A run's order carries the plan twice, once for plain peers, and a text
/// frame takes a mebibyte: so twice this and the rest of the order must stay below that.
const MAX_PLAN: usize = 200 * 1024;
/// Bytes of a whole order as JSON.
const MAX_ORDER: usize = 400 * 1024;
const MAX_LABELS: usize = 32;
/// Characters of a label's key or value.
const MAX_LABEL: usize = 200;
/// Characters of a name that is made from a plan.
const MADE_NAME: usize = 60;

/// Every field that an order may have.
const FIELDS: [&str; 23] = [
    "name",
    "plan",
    "command",
    "agent",
    "model",
    "priority",
    "parentTaskId",
    "labels",
    "repositoryUrl",
    "baseBranch",
    "baseCommit",
    "targetBranch",
    "completionAction",
    "mergeMode",
    "retryOf",
    "requeueAfter",
    "maxAttempts",
    "budget",
    "timeoutSeconds",
    "requireChanges",
    "requires",
    "wantedDaemonId",
    "continueFromTaskId",
];

/// Every bound that a budget may have.
const BOUNDS: [&str; 3] = ["maxTokens", "maxCostUsd", "maxSeconds"];

const LISTS: [&str; 1] = ["copyFiles"];

/// The order that a body asks for, checked and with its name filled in.
pub(super) fn read(body: Value) -> Result<Order, Fault> {
    let Value::Object(fields) = &body else { return Err(invalid("the body must be an object")) };
    let known = |name: &str| FIELDS.contains(&name) || LISTS.contains(&name);
    let odd: Vec<_> = fields.keys().filter(|name| !known(name)).map(String::as_str).collect();
    if !odd.is_empty() {
        return Err(invalid(format!("unknown fields: {}", odd.join(", "))));
    }
    if let Some(told) = fields.get("budget").filter(|told| !told.is_null()) {
        budget(told)?;
    }
    let order: Order = serde_json::from_value(body).map_err(|e| invalid(format!("order: {e}")))?;
    check(order)
}

fn check(mut order: Order) -> Result<Order, Fault> {
    if order.plan.trim().is_empty() {
        if order.command.is_empty() {
            return Err(invalid("plan: a plan or a command is needed"));
        }
        order.plan = order.command.join(" ");
    }
    if order.retry_of.is_some() {
        return Err(invalid("retryOf: is set by a retry alone"));
    }
    if order.completion_action != CompletionAction::None
        && order.repository_url.as_deref() == Some("")
    {
        return Err(invalid("repositoryUrl: is empty"));
    }
    if order.completion_action == CompletionAction::Merge
        && order.repository_url.as_deref().is_some_and(is_url)
        && order.target_branch.is_none()
    {
        let text = "targetBranch: a repository named by its URL has no branch of yours on the \
                    daemon to merge into; use completionAction pr or branch";
        return Err(invalid(text));
    }
    if order.repository_url.as_deref().is_some_and(holds_password) {
        let text = "repositoryUrl: holds a password, which would be stored with the task: leave it \
                    out, git's own credential helpers are asked for it";
        return Err(invalid(text));
    }
    if !(1..=MAX_ATTEMPTS).contains(&order.max_attempts) {
        return Err(invalid(format!("maxAttempts: from 1 to {MAX_ATTEMPTS}")));
    }
    if let Some(odd) = order.copy_files.iter().find(|path| leads_out(path)) {
        let text = format!("copyFiles: '{odd}' must be a path inside the repository, without '..'");
        return Err(invalid(text));
    }
    requeue_after(&order)?;
    order.budget = order.budget.filter(|budget| !budget.is_empty());
    if order.name.trim().is_empty() {
        order.name = made_name(&order.plan);
    }
    priority(order.priority)?;
    name(&order.name)?;
    plan(&order.plan)?;
    labels(&order.labels)?;
    pairs("requires", &order.requires)?;
    if encoded(&order) > MAX_ORDER {
        return Err(invalid("the order is over 400 KiB of JSON: put what is long into a file"));
    }
    Ok(order)
}

fn requeue_after(order: &Order) -> Result<(), Fault> {
    let Some(minutes) = order.requeue_after else { return Ok(()) };
    if minutes < REQUEUE_LEAST {
        let text = format!(
            "requeueAfter: {minutes} is too few: {REQUEUE_LEAST} minute at least, for the daemon \
             that is away must have ended its agent before another may begin"
        );
        return Err(invalid(text));
    }
    if order.wanted_daemon_id.is_some() {
        let text = "requeueAfter: the task names the one daemon that may run it (wantedDaemonId), \
                    so nobody could take it over: leave one of the two out";
        return Err(invalid(text));
    }
    Ok(())
}

/// The budget that a body names: of known bounds alone, each more than nothing.
pub(super) fn budget(told: &Value) -> Result<Budget, Fault> {
    let Value::Object(fields) = told else { return Err(invalid("budget: must be an object")) };
    if let Some(odd) = fields.keys().find(|name| !BOUNDS.contains(&name.as_str())) {
        return Err(invalid(format!("budget: {odd} is unknown, there is {}", BOUNDS.join(", "))));
    }
    let budget = Budget::deserialize(told).map_err(|e| invalid(format!("budget: {e}")))?;
    match budget.nothing() {
        Some(name) => Err(invalid(format!("budget: {name} must be more than nothing"))),
        None => Ok(budget),
    }
}

/// Whether a path is none below the repository. A NUL in it is the daemon's to refuse: the task is
/// kept, and ends.
fn leads_out(path: &str) -> bool {
    inside(&path.replace('\0', "?")).is_none()
}

/// Bytes that something takes on the wire.
fn encoded(what: &impl Serialize) -> usize {
    serde_json::to_vec(what).map_or(usize::MAX, |bytes| bytes.len())
}

pub(super) fn priority(priority: i32) -> Result<(), Fault> {
    let fits = (-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority);
    fits.then_some(())
        .ok_or_else(|| invalid(format!("priority: from -{MAX_PRIORITY} to {MAX_PRIORITY}")))
}

pub(super) fn name(name: &str) -> Result<(), Fault> {
    let fits = !name.trim().is_empty() && name.chars().count() <= MAX_NAME;
    fits.then_some(()).ok_or_else(|| invalid(format!("name: from 1 to {MAX_NAME} characters")))
}

pub(super) fn plan(plan: &str) -> Result<(), Fault> {
    let fits = !plan.trim().is_empty() && encoded(&plan) <= MAX_PLAN;
    fits.then_some(()).ok_or_else(|| invalid("plan: from 1 byte to 200 KiB of JSON"))
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<(), Fault> {
    pairs("labels", labels)
}

fn pairs(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Fault> {
    let short = |text: &str| text.chars().count() <= MAX_LABEL;
    let fits = labels.len() <= MAX_LABELS
        && labels.iter().all(|(key, value)| !key.is_empty() && short(key) && short(value));
    fits.then_some(()).ok_or_else(|| {
        invalid(format!("{field}: {MAX_LABELS} at the most, of {MAX_LABEL} characters each"))
    })
}

fn made_name(plan: &str) -> String {
    let line = plan.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("task");
    let name: String = line.chars().take(MADE_NAME).collect();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_password_in_an_address_is_refused_and_not_said_again() {
        let url = "https://me:hunter2@example.com/a.git";
        let fault = read(json!({ "plan": "x", "repositoryUrl": url })).unwrap_err();
        let said = serde_json::to_string(&fault).unwrap();
        assert!(said.contains("password") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn every_field_of_an_order_is_known_here() {
        let full = Order {
            command: vec!["x".into()],
            model: Some("m".into()),
            timeout_seconds: Some(1),
            require_changes: true,
            requires: [("os".into(), "linux".into())].into(),
            wanted_daemon_id: Some(hayward_shared::id::DaemonId::fresh()),
            continue_from_task_id: Some(hayward_shared::id::TaskId::fresh()),
            copy_files: vec!["f".into()],
            budget: Some(Budget { max_tokens: Some(1), ..Budget::default() }),
            max_attempts: 1,
            ..Order::default()
        };
        let value = serde_json::to_value(&full).unwrap();
        assert_eq!(value.as_object().unwrap().len(), FIELDS.len() + LISTS.len());
        assert_eq!(read(value).unwrap().plan, "x");
    }

    #[test]
    fn a_bad_order_is_refused_by_the_name_of_its_field() {
        let label: BTreeMap<_, _> = (0..33).map(|n| (n.to_string(), "v")).collect();
        let cases = [
            (json!({}), "plan"),
            (json!({"plan": "x", "colour": 1, "size": 2}), "colour, size"),
            (json!({"plan": "x", "priority": 1001}), "priority"),
            (json!({"plan": "x", "maxAttempts": 0}), "maxAttempts"),
            (json!({"plan": "x", "maxAttempts": 21}), "maxAttempts"),
            (json!({"plan": "x", "name": "n".repeat(201)}), "name"),
            (json!({"plan": "x".repeat(MAX_PLAN + 1), "name": "n"}), "plan"),
            (json!({"plan": "x", "labels": label}), "labels"),
            (json!({"plan": "x", "requires": label}), "requires"),
            (json!({"plan": "x", "completionAction": "explode"}), "explode"),
            (
                json!({"plan": "x", "completionAction": "merge", "repositoryUrl": "git@host:o/r"}),
                "targetBranch",
            ),
            (json!({"plan": "x", "requeueAfter": 0}), "1 minute at least"),
            (json!({"plan": "x", "requeueAfter": 0.5}), "order"),
            (json!({"plan": "x", "budget": {"maxTokens": 0}}), "maxTokens must be more"),
            (json!({"plan": "x", "budget": {"maxCost": 1}}), "maxCost"),
            (
                json!({"plan": "x", "requeueAfter": 5,
                    "wantedDaemonId": hayward_shared::id::DaemonId::fresh()}),
                "wantedDaemonId",
            ),
            (json!([]), "object"),
        ];
        for (body, part) in cases {
            let fault = read(body).unwrap_err();
            assert!(fault.message.contains(part), "{}", fault.message);
        }
    }

    #[test]
    fn a_name_is_made_from_the_first_line_of_the_plan() {
        let order = read(json!({"plan": format!("\n  {}\nmore", "é".repeat(80))})).unwrap();
        assert_eq!(order.name, "é".repeat(60));
        let order = read(json!({"command": ["make", "test"]})).unwrap();
        assert_eq!((order.name.as_str(), order.max_attempts), ("make test", 1));
    }
}
