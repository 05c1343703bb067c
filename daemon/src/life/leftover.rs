//! What runs leave beside their worktrees: their folders with what agents printed, and the logs of
//! setup and teardown.

use crate::clock;
use crate::keeper::RunFolder;
use crate::session::{self, Found};
use crate::task::{Shop, chain};
use hayward_shared::id::RunId;
use hayward_shared::time::Timestamp;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What ended runs left. Owned by the room's loop.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// The bytes that each takes, which grow no more.
    sizes: HashMap<PathBuf, u64>,
}

impl Leftovers {
    /// Removes the folders and logs of runs that ended longer ago than `[terminal] retention`, and
    /// the oldest of the others where together they take more than `[terminal] quota_bytes`. What is
    /// not a run's, or the run's of another daemon, is left alone.
    pub(super) async fn clear(&mut self, shop: &Shop) {
        let before = clock::now().plus_millis(-super::millis(shop.config.terminal.retention));
        let (runs, logs) = (shop.home.runs(), shop.home.logs());
        let found = tokio::task::spawn_blocking(move || {
            let runs = entries(&runs).into_iter().filter_map(|path| Some((run_of(&path)?, path)));
            let logs =
                entries(&logs).into_iter().filter_map(|path| Some((run_of_log(&path)?, path)));
            runs.chain(logs).collect::<Vec<_>>()
        });
        let mut kept = Vec::new();
        for (run, path) in found.await.unwrap_or_default() {
            match shop.journal.ended_at(run).await {
                Ok(Some(at)) if at <= before => remove(&path).await,
                Ok(Some(at)) => kept.push((at, self.size(&path).await, path)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = chain(&error), "old run folders are left for later");
                    return;
                }
            }
        }
        let there: HashSet<&PathBuf> = kept.iter().map(|(_, _, path)| path).collect();
        self.sizes.retain(|known, _| there.contains(known));
        for path in beyond(kept, shop.config.terminal.quota_bytes) {
            remove(&path).await;
        }
    }

    async fn size(&mut self, path: &Path) -> u64 {
        if let Some(known) = self.sizes.get(path) {
            return *known;
        }
        let place = path.to_owned();
        let bytes = tokio::task::spawn_blocking(move || bytes(&place)).await.unwrap_or_default();
        self.sizes.insert(path.to_owned(), bytes);
        bytes
    }
}

/// Which of these, by their end and size, do not fit in `quota` bytes behind the younger ones. The
/// youngest always fits: its user has hardly seen it.
fn beyond(mut kept: Vec<(Timestamp, u64, PathBuf)>, quota: u64) -> Vec<PathBuf> {
    kept.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
    let mut sum = 0_u64;
    let fits = |bytes: u64| {
        sum = sum.saturating_add(bytes);
        sum <= quota
    };
    let fitting: Vec<bool> = kept.iter().map(|(_, bytes, _)| *bytes).map(fits).collect();
    let rest = kept.into_iter().zip(fitting).skip(1).filter(|(_, fits)| !fits);
    rest.map(|((_, _, path), _)| path).collect()
}

async fn remove(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if is_folder {
        let found = session::find(&RunFolder::new(path)).await;
        if !matches!(found, Found::Never | Found::Ended(_) | Found::Lost(_)) {
            return;
        }
    }
    let place = path.to_owned();
    let gone = tokio::task::spawn_blocking(move || match is_folder {
        true => fs::remove_dir_all(place),
        false => fs::remove_file(place),
    });
    if let Ok(Err(cause)) = gone.await {
        tracing::warn!(path = %path.display(), %cause, "what an old run left stays");
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The run of a folder: its id, perhaps with a count behind it.
fn run_of(path: &Path) -> Option<RunId> {
    let name = path.file_name()?.to_str()?;
    name.split('.').next()?.parse().ok()
}

/// The run of a log: `setup-<run>.log` or `teardown-<run>.log`.
fn run_of_log(path: &Path) -> Option<RunId> {
    let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let run = name.strip_prefix("setup-").or_else(|| name.strip_prefix("teardown-"))?;
    run.parse().ok()
}

/// The bytes that a folder takes on the disk; follows no link. Blocking.
pub(super) fn bytes(folder: &Path) -> u64 {
    /// What `st_blocks` counts in, whatever the file system.
    const BLOCK: u64 = 512;
    let Ok(found) = fs::symlink_metadata(folder) else { return 0 };
    let mut sum = found.blocks() * BLOCK;
    let mut open = if found.is_dir() { vec![folder.to_owned()] } else { Vec::new() };
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            sum += found.blocks() * BLOCK;
            if found.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_beyond_the_quota_and_the_youngest_never() {
        let row = |at: i64, bytes| (Timestamp::from_millis(at), bytes, at.to_string().into());
        let rows = vec![row(1, 10), row(4, 50), row(3, 30), row(2, 20)];
        let gone = |quota| beyond(rows.clone(), quota);
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(gone(110), paths(&[]));
        assert_eq!(gone(109), paths(&["1"]));
        assert_eq!(gone(80), paths(&["2", "1"]));
        assert_eq!(gone(0), paths(&["3", "2", "1"]));
    }

    #[test]
    fn only_what_is_a_runs_is_known_as_such() {
        let run = RunId::fresh();
        let path = |name: String| PathBuf::from("/x").join(name);
        assert_eq!(run_of(&path(run.to_string())), Some(run));
        assert_eq!(run_of(&path(format!("{run}.2"))), Some(run));
        assert_eq!(run_of(&path("notes".to_owned())), None);
        assert_eq!(run_of_log(&path(format!("setup-{run}.log"))), Some(run));
        assert_eq!(run_of_log(&path(format!("teardown-{run}.log"))), Some(run));
        assert_eq!(run_of_log(&path("daemon.log".to_owned())), None);
    }

    #[test]
    fn links_are_counted_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![7; 1 << 20]).unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/file"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let bytes = bytes(folder.path());
        assert!((100_000..500_000).contains(&bytes), "{bytes}");
    }
}
