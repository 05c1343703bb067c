//! `hayward task events`.

use super::EventsArgs;
use super::show::clock;
use super::wait::is_end;
use crate::cli::context::Context;
use crate::cli::print::escape::line;
use crate::cli::print::tone::Tone;
use crate::cli::print::width::cut;
use crate::client::{Client, Followed, Follower, read};
use crate::exit::{End, Outcome};
use hayward_shared::event::{Channel, Envelope, Kind, task_stream};
use hayward_shared::fault::Fault;
use hayward_shared::id::TaskId;
use serde_json::Value;

/// Columns of what is said of one event: more is for `--json`.
const MOST: usize = 200;

/// Prints events, one a line.
pub(super) async fn run(args: EventsArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let task = client.task(&args.id.task()?).await?.body;
    // what has ended is all stored
    if args.follow && !task.status.is_final() {
        follow(task.id, args.since, context).await?;
    } else {
        stored(&client, task.id, args.since, context).await?;
    }
    Ok(End::Done)
}

/// Prints the stored events, page by page.
async fn stored(
    client: &Client,
    id: TaskId,
    mut since: Option<u64>,
    context: &Context,
) -> Result<(), Fault> {
    loop {
        let page = client.events(id, since).await?;
        let Some(last) = page.last().and_then(|event| event.get("seq")).and_then(Value::as_u64)
        else {
            return Ok(());
        };
        for event in &page {
            print(event, context)?;
        }
        since = Some(last);
    }
}

async fn follow(id: TaskId, since: Option<u64>, context: &Context) -> Result<(), Fault> {
    let mut follower = Follower::start(context.finder()?, [(task_stream(id), since)].into());
    loop {
        match follower.next().await? {
            Followed::Event(event) => {
                print(&serde_json::json!(event), context)?;
                if is_end(&event) {
                    return Ok(());
                }
            }
            Followed::Lost(fault) => {
                context.out.note(Tone::Warn, &format!("{fault}; trying again"));
            }
            Followed::Back => context.out.note(Tone::Dim, "the relay is back"),
        }
    }
}

fn print(event: &Value, context: &Context) -> Result<(), Fault> {
    if context.out.json() {
        return context.out.bytes(format!("{event}\n").as_bytes());
    }
    let event: Envelope = read(event)?;
    context.out.line(tone(&event), &describe(&event))
}

fn tone(event: &Envelope) -> Tone {
    match (&event.kind, event.channel) {
        (_, Some(Channel::Error)) => Tone::Bad,
        (Kind::TaskStatusChanged | Kind::TaskCreated, _) => Tone::Strong,
        (Kind::SessionOutput | Kind::UsageReported, _) => Tone::Dim,
        _ => Tone::Plain,
    }
}

/// One line on an event: number, time of day in UTC, kind, and what it says.
fn describe(event: &Envelope) -> String {
    let said = said(&event.payload, &event.kind);
    let time = clock(&event.at.to_string());
    let kind = line(event.kind.name());
    format!("{:>5}  {time}  {kind:<19} {}", event.seq, cut(&said, MOST)).trim_end().to_owned()
}

fn said(payload: &Value, kind: &Kind) -> String {
    let word = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default();
    let said = match kind {
        Kind::TaskStatusChanged => {
            let reason = payload.get("reason").and_then(Value::as_str);
            let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
            let message = word("message");
            format!("{} → {}{reason} {message}", word("oldStatus"), word("newStatus"))
        }
        Kind::TaskMessage if payload.get("undelivered").is_some() => {
            format!("not told ({}): {}", word("undelivered"), word("text"))
        }
        Kind::SessionOutput | Kind::AgentNotice | Kind::TaskMessage => word("text").to_owned(),
        Kind::TaskProgress => word("summary").to_owned(),
        Kind::ToolStarted => format!("{} {}", word("toolName"), word("title")),
        Kind::ToolFinished => {
            let took = payload.get("latencyMs").and_then(Value::as_u64);
            let took = took.map_or(String::new(), |ms| format!(" in {ms} ms"));
            format!("{} {}{took}", word("toolName"), word("outcome"))
        }
        _ => pairs(payload),
    };
    line(&said)
}

/// The fields of a payload as `name=value`; those that say nothing are left out.
fn pairs(payload: &Value) -> String {
    let Some(fields) = payload.as_object() else { return String::new() };
    let pair = |(name, value): (&String, &Value)| match value {
        Value::Null => None,
        Value::String(text) => Some(format!("{name}={text}")),
        other => Some(format!("{name}={other}")),
    };
    fields.iter().filter_map(pair).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use serde_json::json;

    #[test]
    fn an_event_is_one_readable_line() {
        let cases = [
            (
                Kind::TaskStatusChanged,
                json!({ "oldStatus": "running", "newStatus": "failed", "reason": "agent_exit", "message": "exit code 3" }),
                "    0  00:00:01.000  task.status_changed running → failed (agent_exit) exit code 3",
            ),
            (
                Kind::ToolFinished,
                json!({ "toolName": "Bash", "outcome": "ok", "latencyMs": 12 }),
                "    0  00:00:01.000  tool.finished       Bash ok in 12 ms",
            ),
            (
                Kind::TaskMessage,
                json!({ "text": "mend it", "undelivered": "the task is failed" }),
                "    0  00:00:01.000  task.message        not told (the task is failed): mend it",
            ),
            (
                Kind::RunStarted,
                json!({ "pid": 7, "agent": null }),
                "    0  00:00:01.000  run.started         pid=7",
            ),
        ];
        for (kind, payload, expected) in cases {
            assert_eq!(describe(&sample::told(kind, payload)), expected);
        }
    }

    #[test]
    fn f49_no_escape_of_an_agent_passes() {
        for kind in [Kind::SessionOutput, Kind::RunStarted, Kind::Other("x\x1b[2Jy".into())] {
            let event = sample::told(kind, json!({ "text": "a\x1b]52;c;eA==\x07\nb\u{9b}2J" }));
            let text = describe(&event);
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
