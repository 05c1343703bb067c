//! Gits that outlived whoever started them. A killed daemon leaves its git to go on: one that has only
//! just begun would write files into a checkout after the next daemon has looked there.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::process::{self, ProcessId};

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
    let is_orphan = |starter: &str| {
        let (pid, start) = starter.split_once(':')?;
        let starter = ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()? };
        Some(!starter.alive())
    };
    let orphans = all.into_iter().filter(|(_, starter)| is_orphan(starter) == Some(true));
    orphans.map(|(id, _)| id).collect()
}
