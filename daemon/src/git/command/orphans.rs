//! Gits that outlived whoever started them. A killed daemon leaves its git to go on: one that has only
//! just begun would write files into a checkout after the next daemon has looked there.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::process::{self, ProcessId, Row};

/// By this variable a git, and all that it starts, names the process that started it.
pub(super) const STARTER: &str = "HAYWARD_GIT_OF";

/// How long the next daemon waits for them. What takes longer is a fetch or a large checkout: those
/// hold locks, which are waited for where they matter.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks: a look through the process table costs about 1 ms.
const LOOK: Duration = Duration::from_millis(20);

/// This process, as its gits name it.
pub(super) fn starter() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let start = ProcessId::of(me).ok().flatten().map_or(0, |me| me.start);
        format!("{me}:{start}")
    })
}

/// Waits until every git of a program that is no more has ended, ten seconds at most. For a daemon that
/// starts, before it looks at any repository.
pub async fn orphans_ended() {
    let begun = Instant::now();
    loop {
        let left = orphans();
        if left.is_empty() {
            return;
        }
        if begun.elapsed() > PATIENCE {
            tracing::warn!(?left, "a git of a daemon that is no more still runs");
            return;
        }
        sleep(LOOK).await;
    }
}

fn orphans() -> Vec<ProcessId> {
    let all = process::naming(STARTER).unwrap_or_else(|cause| {
        tracing::warn!(%cause, "the process table cannot be read");
        Vec::new()
    });
    let orphans = all.iter().filter(|(row, starter)| is_command(row) && is_gone(starter));
    orphans.map(|(row, _)| row.id).collect()
}

/// Whether it is a git as it was started here, at the head of a group in its starter's session. What a git
/// leaves as a service (an agent of signing keys, a kept connection) has a session or a group of others,
/// and stays for as long as it likes. What a hook puts at the head of a group, as `timeout` does, passes for
/// a git; what is left of a git that died first does not.
fn is_command(row: &Row) -> bool {
    row.group == row.id.pid && row.session != row.id.pid
}

fn is_gone(starter: &str) -> bool {
    let named = starter.split_once(':').and_then(|(pid, start)| {
        Some(ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()? })
    });
    named.is_some_and(|starter| !starter.alive())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    /// A shell that says its number and sleeps, started as a git is.
    fn started(shell: &str, starter: &str) -> (Child, ProcessId) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", shell]).env(STARTER, starter).process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        (child, ProcessId::of(said.trim().parse().unwrap()).unwrap().unwrap())
    }

    #[test]
    fn a_git_of_who_is_gone_is_waited_for_and_no_service_that_it_left() {
        const SLEEP: &str = "echo $$; exec sleep 60";
        let gone = format!("{}:0", std::process::id());
        let (mut orphan, id) = started(SLEEP, &gone);
        let (mut own, own_id) = started(SLEEP, starter());
        // as a leader of its group it starts another process for that
        let (mut left, service) = started(&format!("setsid sh -c '{SLEEP}'; exit"), &gone);
        let (mut held, helper) = started(&format!("sh -c '{SLEEP}' & wait"), &gone);
        let found = orphans();
        assert!(found.contains(&id));
        assert!(![own_id, service, helper].iter().any(|other| found.contains(other)));
        for (child, id) in
            [(&mut orphan, id), (&mut own, own_id), (&mut left, service), (&mut held, helper)]
        {
            id.signal(Signal::SIGKILL).unwrap();
            child.wait().unwrap();
        }
    }
}
