//! `hayward status`.

use super::context::Context;
use super::print::escape::line;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::{Tone, of_status};
use super::worktree;
use crate::client::{Client, Doc, Filter, array, near, read, shown};
use crate::exit::{End, Outcome};
use hayward_shared::api::{DaemonView, RelayView};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::{STATUSES, Status, Task};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// What the daemon of this machine says of its link is no part of the picture that is waited for long.
const TOLD_IN: Duration = Duration::from_secs(2);

/// What was learnt of the relay.
#[derive(Default)]
struct Picture {
    url: Option<String>,
    version: Option<String>,
    /// What it says of its bus: whether that is there, and why not.
    bus: (Option<String>, Option<String>),
    daemons: Vec<Value>,
    /// The relays of its database; none of one that is too old to tell.
    relays: Option<Vec<Value>>,
    counts: Vec<(Status, usize)>,
    /// How the pools stand, when more is to be said.
    pools: Option<Vec<Value>>,
    /// Why it could not be reached.
    away: Option<Fault>,
    /// What is counted is what ran on this machine, by its daemon's word.
    is_near: bool,
    /// Why the link of this machine's daemon is refused.
    refused: Option<Fault>,
}

impl Picture {
    fn count(&mut self, tasks: &[Doc<Task>]) {
        let count = |status: Status| tasks.iter().filter(|task| task.body.status == status).count();
        self.counts = STATUSES.iter().map(|status| (*status, count(*status))).collect();
    }
}

/// Shows the relay, its daemons and how many tasks there are.
pub(crate) async fn run(context: &Context) -> Outcome {
    let picture = look(context).await?;
    if context.out.json() {
        context.out.value(&value(&picture))?;
    } else {
        show(&picture, context)?;
    }
    match picture.away {
        Some(fault) if context.out.json() => {
            context.out.note(Tone::Warn, &fault.message);
            Ok(End::Unreachable)
        }
        Some(fault) => Err(fault),
        None => Ok(End::Done),
    }
}

/// A relay that is away is an answer too; that it refuses us is a fault.
async fn look(context: &Context) -> Result<Picture, Fault> {
    let mut picture = Picture::default();
    match fill(&mut picture, context).await {
        Err(fault) if fault.code == Code::Unavailable => {
            let daemon = async |daemon: Client| daemon.tasks(&Filter::default()).await;
            if let Ok(tasks) = near(&context.finder()?, &fault, daemon).await {
                picture.count(&tasks);
                picture.is_near = true;
            }
            picture.away = Some(fault);
        }
        Err(fault) => return Err(fault),
        Ok(()) => {}
    }
    picture.refused = refused(context).await;
    Ok(picture)
}

/// Why the link of this machine's daemon is refused; none where it is not, or no daemon tells.
async fn refused(context: &Context) -> Option<Fault> {
    let nobody = Fault::new(Code::Unavailable, "no daemon runs here");
    let ask = async |daemon: Client| daemon.get(&["api", "v1", "link"], &[]).await;
    let finder = context.finder().ok()?;
    let link = timeout(TOLD_IN, near(&finder, &nobody, ask)).await.ok()?.ok()?;
    serde_json::from_value(link.get("error")?.clone()).ok()
}

async fn fill(picture: &mut Picture, context: &Context) -> Result<(), Fault> {
    let finder = context.finder()?;
    picture.url = Some(shown(&finder.relay()?).to_owned());
    let client = Client::new(finder.place()?)?;
    let health = client.get(&["health"], &[]).await?;
    let told = |name: &str| health.get(name).and_then(Value::as_str).map(str::to_owned);
    picture.version = told("version");
    picture.bus = (told("bus"), told("busFault"));
    picture.daemons = client.all(&["api", "v1", "daemons"], &[], "daemons").await?;
    picture.relays = relays(&client).await;
    let tasks = client.tasks(&Filter::default()).await?;
    picture.count(&tasks);
    if context.is_verbose() {
        let mut worktrees = client.get(&["api", "v1", "worktrees"], &[]).await?;
        picture.pools = Some(array(&mut worktrees, "pool"));
    }
    Ok(())
}

/// The relays that share a database. What is not told, or not in time, is left out.
async fn relays(client: &Client) -> Option<Vec<Value>> {
    let mut told = timeout(TOLD_IN, client.get(&["api", "v1", "relays"], &[])).await.ok()?.ok()?;
    Some(array(&mut told, "relays"))
}

fn value(picture: &Picture) -> Value {
    let counts: Map<_, _> =
        picture.counts.iter().map(|(status, n)| (status.name().to_owned(), json!(n))).collect();
    let mut value = json!({
        "relay": {
            "url": picture.url,
            "reachable": picture.away.is_none(),
            "version": picture.version,
        },
        "daemons": picture.daemons,
        "tasks": counts,
    });
    let (bus, fault) = &picture.bus;
    for (name, told) in [("bus", bus), ("busFault", fault)] {
        if let Some(told) = told {
            value["relay"][name] = json!(told);
        }
    }
    if let Some(fault) = &picture.refused {
        value["link"] = json!({ "state": "refused", "error": fault });
    }
    if let Some(relays) = &picture.relays {
        value["relays"] = json!(relays);
    }
    if let Some(pools) = &picture.pools {
        value["pool"] = json!(pools);
    }
    value
}

fn show(picture: &Picture, context: &Context) -> Result<(), Fault> {
    let url = picture.url.as_deref().unwrap_or("none");
    let state = match (&picture.away, &picture.version) {
        (Some(_), _) => "unreachable".to_owned(),
        (None, version) => format!("version {}", version.as_deref().unwrap_or("unknown")),
    };
    context.out.line(Tone::Strong, &format!("relay {url}, {state}"))?;
    if let Some(text) = without_bus(&picture.bus) {
        context.out.line(Tone::Bad, &text)?;
        let hint =
            "hint: `hayward relay doctor` on the relay's machine, with its options, tells more";
        context.out.line(Tone::Plain, hint)?;
    }
    if let Some(Fault { message, hint, .. }) = &picture.refused {
        let text = format!("this machine's daemon is not linked: {}", line(message));
        context.out.line(Tone::Bad, &text)?;
        if let Some(hint) = hint {
            context.out.line(Tone::Plain, &format!("hint: {}", line(hint)))?;
        }
    }
    if picture.is_near {
        context
            .out
            .line(Tone::Warn, "this machine's daemon runs; what ran on this machine alone:")?;
        return counts(picture, context);
    }
    if picture.away.is_some() {
        return Ok(());
    }
    together(picture.relays.as_deref().unwrap_or_default(), context)?;
    let mut table = Table::new(&[
        fixed("DAEMON"),
        flexible("HOST"),
        fixed("STATE"),
        fixed("RUNS"),
        flexible("AGENTS"),
    ]);
    for view in picture.daemons.iter().map(read::<DaemonView>) {
        let view = view?;
        let (state, tone) =
            if view.online { ("online", Tone::Good) } else { ("offline", Tone::Warn) };
        let agents: Vec<_> = view.runtimes.iter().filter(|r| r.healthy).map(|r| &*r.name).collect();
        table.toned([
            (view.id.short(), Tone::Plain),
            (view.hostname, Tone::Plain),
            (state.to_owned(), tone),
            (format!("{}/{}", view.active_runs, view.capacity), Tone::Plain),
            (agents.join(" "), Tone::Plain),
        ]);
    }
    context.out.table(&table)?;
    counts(picture, context)?;
    worktree::pools(picture.pools.as_deref().unwrap_or_default(), context)
}

/// That the relay does not reach the others, and why.
fn without_bus((bus, fault): &(Option<String>, Option<String>)) -> Option<String> {
    if bus.as_deref() != Some("away") {
        return None;
    }
    let why = match fault.as_deref() {
        Some("refused") => ", it refuses the relay's credentials",
        Some("certificate") => ", one of the two does not take the other's certificate",
        _ => "",
    };
    Some(format!("the bus of the relay is away{why}: daemons of other relays cannot be reached"))
}

/// The relays of a database, where there are several.
fn together(relays: &[Value], context: &Context) -> Result<(), Fault> {
    if relays.len() < 2 {
        return Ok(());
    }
    let mut table = Table::new(&[
        fixed("RELAY"),
        flexible("ADDRESS"),
        fixed("STATE"),
        fixed("LINKS"),
        fixed("SINCE"),
        fixed("VERSION"),
    ]);
    for view in relays.iter().map(read::<RelayView>) {
        let view = view?;
        let (state, tone) = match (view.answers, view.online) {
            (true, _) => ("answers", Tone::Good),
            (false, true) => ("online", Tone::Good),
            (false, false) => ("gone", Tone::Warn),
        };
        let place = match (view.url, view.host) {
            (Some(url), _) => url,
            (None, Some(host)) => format!("{} on {host}", view.address),
            (None, None) => view.address,
        };
        table.toned([
            (view.id.short(), Tone::Plain),
            (place, Tone::Plain),
            (state.to_owned(), tone),
            (view.links.to_string(), Tone::Plain),
            (view.since.to_string(), Tone::Plain),
            (view.version, Tone::Plain),
        ]);
    }
    context.out.table(&table)
}

fn counts(picture: &Picture, context: &Context) -> Result<(), Fault> {
    let mut told = false;
    for (status, number) in picture.counts.iter().filter(|(_, number)| *number > 0) {
        context.out.line(of_status(*status), &format!("{number:>6} {status}"))?;
        told = true;
    }
    if !told {
        context.out.line(Tone::Dim, "no tasks yet")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_has_the_shape_of_the_contract() {
        let picture = Picture {
            url: Some("http://127.0.0.1:1".into()),
            version: Some("0.1.0".into()),
            counts: vec![(Status::Queued, 0), (Status::Running, 2)],
            ..Picture::default()
        };
        let expected = json!({
            "relay": { "url": "http://127.0.0.1:1", "reachable": true, "version": "0.1.0" },
            "daemons": [],
            "tasks": { "queued": 0, "running": 2 },
        });
        assert_eq!(value(&picture), expected);
        let bus = (Some("away".to_owned()), Some("refused".to_owned()));
        assert!(without_bus(&bus).unwrap().contains("credentials"));
        assert_eq!(without_bus(&(Some("up".to_owned()), None)), None);
        let told = value(&Picture { bus, ..Picture::default() });
        assert_eq!(
            (&told["relay"]["bus"], &told["relay"]["busFault"]),
            (&json!("away"), &json!("refused"))
        );
        let away = Picture { away: Some(Fault::new(Code::Unavailable, "x")), ..Picture::default() };
        assert_eq!(
            value(&away)["relay"],
            json!({ "url": null, "reachable": false, "version": null })
        );
    }
}
