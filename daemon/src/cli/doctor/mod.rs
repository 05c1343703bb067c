//! `hayward daemon doctor`: what on this machine keeps work from going well, and what to do about it.
//!
//! Facts are gathered first, here; what they mean is decided by pure functions in `judge`. Nothing is
//! changed, and nothing is started but programs that are asked for their version.

mod judge;

use super::agent;
use super::context::Context;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::Tone;
use crate::client::{Client, Place, near, shown};
use crate::exit::{End, Outcome, chain};
use hayward_daemon::git::command::Git;
use hayward_shared::fault::{Code, Fault};
pub(super) use judge::{Base, Tables};
use judge::{Folder, Limits, Near, Remote};
use nix::sys::statvfs::statvfs;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// A daemon, a relay or a git that has not answered by then is told as one that does not: a look at
/// a machine that is ill must end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How good a finding is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Work goes on, but something is lost by it.
    Warning,
    /// Work fails by it.
    Failed,
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, message: message.into(), hint: None }
    }

    fn warning(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { check, verdict: Verdict::Warning, message: message.into(), hint }
    }

    fn failed(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, ..Self::warning(check, message, hint) }
    }
}

/// Looks at this machine; exits 1 when something fails.
pub(super) async fn daemon(context: &Context) -> Outcome {
    let home = context.home()?;
    let mut findings = match context.config() {
        Ok(_) => Vec::new(),
        Err(fault) => vec![Finding::failed("configuration", fault.message, "mend config.toml")],
    };
    let config = context.config().unwrap_or_default();
    findings.push(judge::git(&git_version(home.root()).await));
    findings.push(judge::folder(&folder(home.root()), config.daemon.min_free_bytes));
    findings.extend(judge::limits(&limits()));
    let (daemon, relay, agents) =
        tokio::join!(near_by(context), remote(context), agent::look(&config));
    findings.extend(judge::daemon(&daemon?, env!("CARGO_PKG_VERSION")));
    findings.push(judge::relay(&relay));
    let silent = agents.silent.as_ref().map(|silent| chain(silent));
    findings.push(judge::login_shell(silent.as_deref()));
    findings.push(judge::agents(agents.able()));
    tell(&findings, context)
}

/// Tells what a look at a relay's database and bus found; exits 1 when something fails.
pub(super) fn relay(base: &Base, context: &Context) -> Outcome {
    let mut findings = judge::base(base);
    if let Some(free) = base.disk.as_deref().and_then(|folder| self::folder(folder).free) {
        findings.push(judge::disk(free));
    }
    tell(&findings, context)
}

/// The version of the relay that answers at an address of this machine, if one does.
pub(super) async fn answers_at(listen: SocketAddr) -> Option<String> {
    let url = format!("http://{listen}").parse().ok()?;
    let client = Client::new(Place { url, token: String::new() }).ok()?;
    let health = timeout(PATIENCE, client.get(&["health"], &[])).await.ok()?.ok()?;
    Some(health.get("version").and_then(Value::as_str).unwrap_or("unknown").to_owned())
}

fn tell(findings: &[Finding], context: &Context) -> Outcome {
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    if context.out.json() {
        context.out.value(&json!({ "verdict": worst, "findings": findings }))?;
    } else {
        let mut table = Table::new(&[fixed("CHECK"), fixed("VERDICT"), flexible("FOUND")]);
        for finding in findings {
            let (word, tone) = match finding.verdict {
                Verdict::Ok => ("ok", Tone::Good),
                Verdict::Warning => ("warning", Tone::Warn),
                Verdict::Failed => ("failed", Tone::Bad),
            };
            table.toned([
                (finding.check.to_owned(), Tone::Plain),
                (word.to_owned(), tone),
                (finding.message.clone(), Tone::Plain),
            ]);
        }
        context.out.table(&table)?;
        for finding in findings {
            if let Some(hint) = &finding.hint {
                context.out.note(Tone::Warn, &format!("{}: {hint}", finding.check));
            }
        }
    }
    Ok(if worst == Verdict::Failed { End::Unsuccessful } else { End::Done })
}

/// What `git --version` prints, or why it prints nothing.
async fn git_version(folder: &Path) -> Result<String, String> {
    let asked = Git::in_worktree(folder).arg("--version").timeout(PATIENCE).run().await;
    let output = asked.map_err(|error| chain(&error))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn folder(root: &Path) -> Folder {
    let disk = statvfs(root).ok();
    Folder {
        path: root.display().to_string(),
        free: disk.map(|disk| disk.blocks_available() * disk.fragment_size()),
        // a file system that counts none tells zero of both
        free_files: disk.filter(|disk| disk.files() > 0).map(|disk| disk.files_available()),
    }
}

fn limits() -> Limits {
    let number = |name: &str| {
        let text = std::fs::read_to_string(Path::new("/proc/sys/fs/inotify").join(name)).ok()?;
        text.trim().parse().ok()
    };
    Limits {
        open_files: getrlimit(Resource::Nofile).current,
        watches: number("max_user_watches"),
        watchers: number("max_user_instances"),
    }
}

/// The daemon of this state folder, and what it says of its link.
async fn near_by(context: &Context) -> Result<Option<Near>, Fault> {
    let finder = context.finder()?;
    let Some(running) = finder.running()? else { return Ok(None) };
    let nobody = Fault::new(Code::Unavailable, "it does not answer");
    let ask = async |daemon: Client| daemon.get(&["api", "v1", "link"], &[]).await;
    let link = match timeout(PATIENCE, near(&finder, &nobody, ask)).await {
        Ok(link) => link,
        Err(_) => Err(nobody),
    };
    Ok(Some(Near { pid: running.pid, version: running.version, link }))
}

/// The relay that commands of this state folder talk to.
async fn remote(context: &Context) -> Remote {
    let place = match context.finder().and_then(|finder| finder.place()) {
        Ok(place) => place,
        Err(fault) => return Remote { url: None, answer: Err(fault) },
    };
    let url = Some(shown(&place.url).to_owned());
    let asked = async {
        let client = Client::new(place)?;
        let health = client.get(&["health"], &[]).await?;
        client.get(&["api", "v1", "daemons"], &[("limit", "1".to_owned())]).await?;
        Ok(health.get("version").and_then(Value::as_str).unwrap_or("unknown").to_owned())
    };
    let late = || {
        let text = format!("it did not answer within {} s", PATIENCE.as_secs());
        Fault::new(Code::Unavailable, text)
    };
    Remote { url, answer: timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late())) }
}
