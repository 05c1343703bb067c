//! `hayward down`.

use super::context::{Context, homely};
use super::print::tone::Tone;
use super::print::words::count;
use crate::client::{Client, Finder, process, read};
use crate::exit::{End, Outcome};
use hayward_daemon::home::Running;
use hayward_daemon::process::ProcessId;
use hayward_shared::api::DaemonView;
use hayward_shared::fault::{Code, Fault};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A daemon lets go of its sockets and files in far less.
const STOP: Duration = Duration::from_secs(10);

/// How often it is looked for.
const POLL: Duration = Duration::from_millis(20);

/// How long the question after live agents may take: stopping does not depend on it.
const ASK: Duration = Duration::from_secs(2);

/// Stops the daemon of the state folder, and the relay within it.
pub(crate) async fn run(context: &Context) -> Outcome {
    let finder = context.finder()?;
    let Some(running) = finder.running()? else {
        if context.out.json() {
            context.out.value(&json!({ "stopped": false }))?;
        }
        let home = homely(finder.home.root());
        context.out.note(Tone::Plain, &format!("nothing runs on {home}"));
        return Ok(End::Done);
    };
    let agents = timeout(ASK, agents(&finder, &running)).await.ok().flatten();
    let pid = running.pid;
    let process = process(&running)
        .ok_or_else(|| Fault::new(Code::Failed, format!("{pid} is no process")))?;
    stop(process).await?;
    if context.out.json() {
        let answer = json!({ "stopped": true, "pid": pid, "agentsAlive": agents });
        context.out.value(&answer)?;
    }
    context.out.note(Tone::Plain, &farewell(agents));
    Ok(End::Done)
}

fn farewell(agents: Option<u32>) -> String {
    match agents {
        None => "stopped; agents that work live on until hayward up finds them again".to_owned(),
        Some(0) => "stopped".to_owned(),
        Some(n) => format!(
            "stopped; {} live{} on until hayward up finds {} again",
            count(n.into(), "agent"),
            if n == 1 { "s" } else { "" },
            if n == 1 { "it" } else { "them" },
        ),
    }
}

/// Asks the process to end, and waits until it has.
pub(crate) async fn stop(process: ProcessId) -> Result<(), Fault> {
    let pid = process.pid;
    let sent = process.signal(Signal::SIGTERM);
    sent.map_err(|error| Fault::new(Code::Failed, format!("cannot stop process {pid}: {error}")))?;
    let until = Instant::now() + STOP;
    while process.alive() {
        if Instant::now() >= until {
            let message = format!("process {pid} still runs {} s after SIGTERM", STOP.as_secs());
            let hint = format!("kill -9 {pid} ends it; agents and their output survive that");
            return Err(Fault::new(Code::Failed, message).with_hint(hint));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// How many agents the daemon has, when its relay answers.
async fn agents(finder: &Finder, running: &Running) -> Option<u32> {
    let client = Client::new(finder.place().ok()?).ok()?;
    let rows = client.all(&["api", "v1", "daemons"], &[], "daemons").await.ok()?;
    let mut views = rows.iter().filter_map(|row| read::<DaemonView>(row).ok());
    let own = views.find(|view| view.id.to_string() == running.daemon_id)?;
    Some(own.active_runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farewell_counts() {
        assert_eq!(farewell(Some(1)), "stopped; 1 agent lives on until hayward up finds it again");
        assert_eq!(
            farewell(Some(3)),
            "stopped; 3 agents live on until hayward up finds them again"
        );
        assert_eq!(farewell(Some(0)), "stopped");
    }
}
