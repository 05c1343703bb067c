//! Starts the daemon in the background and waits until it serves.

use super::context::Context;
use super::log::LogArgs;
use super::print::tone::Tone;
use crate::client::{Client, Place, alive};
use crate::exit::OrFault;
use hayward_daemon::home::{Home, Running};
use hayward_shared::fault::{Code, Fault};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A daemon that does not serve by then has a problem that its log tells.
const READY: Duration = Duration::from_secs(15);

/// How often it is looked for: a start takes a few hundred milliseconds.
const POLL: Duration = Duration::from_millis(10);

/// When our daemon ended at once because another was quicker, that one is ready by then.
const OTHER: Duration = Duration::from_secs(3);

/// How long one question whether the relay is healthy may take.
const HEALTH: Duration = Duration::from_secs(2);

/// How much of the log's end is read, and how many lines of it are shown.
const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 10;

/// The daemon of this state folder: the one that runs, else a new one in the background. It is
/// told the relay and the token of the context.
pub(crate) async fn start(
    home: &Home,
    how: (Option<SocketAddr>, Option<LogArgs>),
    context: &Context,
) -> Result<Running, Fault> {
    if let Some(running) = alive(home)? {
        return Ok(running);
    }
    home.furnish().or_fault(Code::Failed)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(home.log());
    let mut log = log.map_err(|error| {
        Fault::new(Code::Failed, format!("cannot write {}: {error}", home.log().display()))
    })?;
    // an error can only mean an odd file; then all of it counts as new
    let before = log.seek(SeekFrom::End(0)).unwrap_or(0);
    let mut child = spawn(home, how, context, log)?;
    match ready(home, &mut child).await {
        Ok(running) => Ok(running),
        Err(fault) => Err(explain(fault, home, before, context)),
    }
}

fn spawn(
    home: &Home,
    (listen, logs): (Option<SocketAddr>, Option<LogArgs>),
    context: &Context,
    log: File,
) -> Result<Child, Fault> {
    let cannot =
        |error: std::io::Error| Fault::new(Code::Failed, format!("cannot start hayward: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.arg("--home").arg(home.root()).args(["up", "--own-session"]);
    if let Some(listen) = listen {
        command.arg("--listen").arg(listen.to_string());
    }
    if let Some(logs) = logs {
        command.arg("--log-format").arg(logs.log_format.to_string());
    }
    // what the environment says was read already, and counts only where it is told on
    command.env_remove("HAYWARD_HOME").env_remove("HAYWARD_RELAY").env_remove("HAYWARD_TOKEN");
    if let Some(relay) = context.relay() {
        command.arg("--relay").arg(relay);
    }
    if let Some(token) = context.token() {
        // others on the machine could read it on a command line
        command.env("HAYWARD_TOKEN", token);
    }
    if context.is_verbose() {
        command.arg("--verbose");
    }
    // its folder must not keep the user's from being unmounted or removed
    command.current_dir(home.root());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(cannot)
}

/// Waits until a daemon has told of itself and its relay answers.
async fn ready(home: &Home, child: &mut Child) -> Result<Running, Fault> {
    let begun = Instant::now();
    let mut until = begun + READY;
    let mut ended = None;
    loop {
        let running = alive(home)?;
        if let Some(running) = &running
            && !running.daemon_id.is_empty()
            && is_healthy(running).await
        {
            return Ok(running.clone());
        }
        if ended.is_none() {
            ended = child.try_wait().or_fault(Code::Failed)?;
            if ended.is_some() {
                until = until.min(Instant::now() + OTHER);
            }
        }
        if Instant::now() >= until {
            return Err(match (running, ended) {
                (Some(running), _) => {
                    let Running { pid, relay, .. } = running;
                    let message =
                        format!("the daemon runs (pid {pid}), but not its relay at {relay}");
                    Fault::new(Code::Unavailable, message)
                }
                (None, Some(status)) => {
                    Fault::new(Code::Failed, format!("the daemon ended at once ({status})"))
                }
                (None, None) => {
                    let message = format!("the daemon is not ready after {} s", READY.as_secs());
                    Fault::new(Code::Failed, message)
                }
            });
        }
        sleep(POLL).await;
    }
}

/// Whether the relay of this daemon answers.
async fn is_healthy(running: &Running) -> bool {
    let Ok(url) = running.relay.parse() else { return false };
    let Ok(client) = Client::new(Place { url, token: String::new() }) else { return false };
    matches!(timeout(HEALTH, client.get(&["health"], &[])).await, Ok(Ok(_)))
}

/// Shows the end of the log, and puts its last line into the fault.
fn explain(fault: Fault, home: &Home, before: u64, context: &Context) -> Fault {
    let path = home.log();
    let lines = tail(&path, before).unwrap_or_default();
    for line in &lines {
        context.out.say(Tone::Dim, &super::print::escape::line(line));
    }
    let log = format!("its log is {}", path.display());
    let (why, hint) = reason(&lines);
    let message = match why {
        Some(why) => format!("{}: {why}", fault.message),
        None => fault.message,
    };
    let hint = hint.map_or_else(|| log.clone(), |hint| format!("{hint}; {log}"));
    Fault::new(fault.code, message).with_hint(hint)
}

/// Why it ended and what to do, as these lines of its log tell.
fn reason(lines: &[String]) -> (Option<&str>, Option<&str>) {
    let told = |begin| lines.iter().rev().find_map(|line| line.strip_prefix(begin));
    (told("error: ").or_else(|| lines.last().map(String::as_str)), told("hint: "))
}

/// The last lines that were written after `before`.
fn tail(path: &std::path::Path, before: u64) -> std::io::Result<Vec<String>> {
    let mut log = File::open(path)?;
    let end = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(before.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut text = Vec::new();
    log.take(TAIL_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines.iter().skip(first).map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_error_that_it_told_last_or_its_last_words() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let told = lines("error: old\nWARN slow\nerror: no disk\nhint: make room");
        assert_eq!(reason(&told), (Some("no disk"), Some("make room")));
        assert_eq!(reason(&lines("killed")), (Some("killed"), None));
        assert_eq!(reason(&[]), (None, None));
    }

    #[test]
    fn the_tail_is_what_this_start_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let new: String = (0..20).map(|n| format!("line {n}\n\n")).collect();
        std::fs::write(&path, format!("old\n{new}")).unwrap();
        let lines = tail(&path, 4).unwrap();
        assert_eq!((lines.len(), lines[0].as_str()), (TAIL_LINES, "line 10"));
        std::fs::write(&path, "old\nnew").unwrap();
        assert_eq!(tail(&path, 4).unwrap(), ["new"]);
    }
}
