//! Overlap: which live worktrees of this daemon change the same lines, kept current while their
//! agents work.
//!
//! Live is a worktree whose run is under way; what has ended is a branch, and a merge preview tells
//! of it. The room watches within a budget and polls beyond it, takes a snapshot of what was
//! touched alone, and compares only the pairs that this concerns.

mod index;
mod look;
mod note;
mod room;
mod tell;
mod watcher;

pub use index::Announcement;
pub use note::Sibling;
pub use tell::{sibling_notice, teller};
pub use watcher::Watches;

use crate::git::Repositories;
use crate::kept::Kept;
use crate::task::LivePlace;
use hayward_shared::git::Verdict;
use hayward_shared::id::TaskId;
use room::Room;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

/// Questions and announcements that wait. Full means wait: none is dropped.
const QUEUE: usize = 32;

/// Watches when the machine does not say how many there may be: the kernel's default of old.
const FEWEST_WATCHES: usize = 2_048;

/// The most watches: 20 worktrees of 3,000 folders each, about 60 MiB of kernel memory.
const MOST_WATCHES: usize = 60_000;

/// The most files that one answer names: a text frame takes a mebibyte.
const MOST_VERDICTS: usize = 1_000;

/// How the room works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where its stores lie; what is left there of a former daemon is removed.
    pub folder: PathBuf,
    /// The most folders watched at once.
    pub watches: usize,
    /// How often what is not watched is looked at, at the most.
    pub poll: Duration,
}

impl Settings {
    /// A quarter of the watches that this user may have, and a look every other second at what is
    /// not watched.
    #[must_use]
    pub fn of_machine(folder: PathBuf) -> Self {
        let allowed = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
        let allowed = allowed.ok().and_then(|text| text.trim().parse::<usize>().ok());
        let watches = allowed
            .map_or(FEWEST_WATCHES, |allowed| allowed / 4)
            .clamp(FEWEST_WATCHES, MOST_WATCHES);
        Self { folder, watches, poll: Duration::from_secs(2) }
    }
}

/// How live worktrees overlap at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The files, the gravest first.
    pub verdicts: Vec<Verdict>,
    /// How many worktrees are live.
    pub live: usize,
    /// How many of them were looked at and stand as they are now, as far as is known.
    pub looked_at: usize,
    /// How the watches stand.
    pub watched: Watches,
    /// The tasks whose worktrees are polled.
    pub polled: Vec<TaskId>,
}

impl Report {
    /// As `readOverlap` is answered; `truncated` when there are more files than one answer names.
    #[must_use]
    pub fn on_the_wire(&self) -> Value {
        let verdicts: Vec<_> = self.verdicts.iter().take(MOST_VERDICTS).collect();
        json!({
            "overlap": verdicts,
            "truncated": self.verdicts.len() > MOST_VERDICTS,
            "live": self.live,
            "lookedAt": self.looked_at,
            "watches": {
                "count": self.watched.count,
                "budget": self.watched.budget,
                "whyPolled": self.watched.why_polled,
            },
            "polled": self.polled,
        })
    }
}

struct Ask {
    task: Option<TaskId>,
    reply: oneshot::Sender<Report>,
}

/// The handle of the room.
#[derive(Clone, Debug)]
pub struct Overlap {
    asks: mpsc::Sender<Ask>,
}

impl Overlap {
    /// How things stand, of all live tasks or of one; none when the daemon is shutting down.
    pub async fn report(&self, task: Option<TaskId>) -> Option<Report> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask { task, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// Opens the room over the worktrees of `places`. What is new about a pair comes out of the
/// answer's last part; while nobody takes it, it waits. Dropping the second part closes the room.
pub fn open(
    settings: Settings,
    repositories: Repositories,
    places: watch::Receiver<BTreeMap<TaskId, LivePlace>>,
) -> (Overlap, Kept, mpsc::Receiver<Announcement>) {
    let former = settings.folder.clone();
    let own = former.join(Uuid::now_v7().to_string());
    let settings = Settings { folder: own.clone(), ..settings };
    tokio::task::spawn_blocking(move || sweep(&former, &own));
    let (asks, asked) = mpsc::channel(QUEUE);
    let (out, announcements) = mpsc::channel(QUEUE);
    let room = Room::new(settings, repositories, out);
    let kept = Kept::of(tokio::spawn(room.run(places, asked)));
    (Overlap { asks }, kept, announcements)
}

/// Removes what a killed daemon left, all but `own`. Blocking.
fn sweep(folder: &Path, own: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path != own
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(%error, folder = %path.display(), "what a former daemon left stays");
        }
    }
}
