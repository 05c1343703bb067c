//! How the machine stands: its load, its disk, and the repositories for which a worktree is ready.
//! The relay hears of it with each beat, and nothing is claimed while the disk is nearly full.

use crate::git::Repositories;
use crate::git::remote::url_of;
use crate::kept::Kept;
use hayward_shared::api::{MOST_WARM, Vitals};
use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// A disk fills no faster than this is noticed: at a hundred megabytes a second half a gigabyte.
const EVERY: Duration = Duration::from_secs(5);

/// Loads are told in steps of so many hundredths, so that an idle machine has nothing new to say.
const LOAD_STEP: u32 = 10;

/// Measures at once, and then again and again until the second part is dropped. `root` is the state
/// folder, below `floor` free bytes on its disk nothing new is begun.
pub fn watch(
    root: PathBuf,
    floor: u64,
    repositories: Repositories,
) -> (watch::Receiver<Vitals>, Kept) {
    let (say, said) = watch::channel(measured(&root, floor, Vec::new()));
    let task = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        // a disk that was slow to answer is not asked the sooner for it
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !say.is_closed() {
            ticks.tick().await;
            let (root, repositories) = (root.clone(), repositories.clone());
            let now = move || measured(&root, floor, warm(&repositories));
            match tokio::task::spawn_blocking(now).await {
                Ok(now) => drop(say.send_if_modified(|told| {
                    let changed = *told != now;
                    *told = now;
                    changed
                })),
                Err(error) => tracing::warn!(%error, "the machine could not be measured"),
            }
        }
    });
    (said, Kept::of(task))
}

fn measured(root: &Path, floor: u64, warm: Vec<String>) -> Vitals {
    Vitals {
        load_percent: load(),
        free_bytes: statvfs(root).ok().map(|disk| {
            let free = disk.blocks_available() * disk.fragment_size();
            told(free, floor)
        }),
        floor_bytes: Some(floor),
        warm,
    }
}

/// Free bytes as they are told: exactly near the floor, roughly far from it, so that a machine whose
/// disk is busy has nothing new to say.
fn told(free: u64, floor: u64) -> u64 {
    let step = (free >> 4).next_power_of_two();
    if free / 2 < floor { free } else { free - free % step }
}

/// Hundredths of a processor's time that are wanted for each processor; none where nobody tells.
fn load() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let processors = std::thread::available_parallelism().ok()?.get();
    parse_load(&text, processors)
}

fn parse_load(text: &str, processors: usize) -> Option<u32> {
    let (whole, part) = text.split_whitespace().next()?.split_once('.')?;
    let hundredths = whole.parse::<u32>().ok()?.checked_mul(100)?;
    let hundredths = hundredths.checked_add(part.get(..2)?.parse().ok()?)?;
    let each = hundredths / u32::try_from(processors.max(1)).ok()?;
    Some(each - each % LOAD_STEP)
}

/// The repositories for which a worktree stands ready, as tasks name them.
fn warm(repositories: &Repositories) -> Vec<String> {
    let pools = repositories.pool().report().repositories;
    let ready = pools.into_iter().filter(|pool| pool.ready > 0);
    ready.filter_map(|pool| named(&pool.repository)).take(MOST_WARM).collect()
}

/// What tasks call a repository by: the folder that holds its `.git`, or the URL it was cloned from.
fn named(common: &Path) -> Option<String> {
    if common.file_name().is_some_and(|name| name == ".git") {
        return common.parent().map(|folder| folder.to_string_lossy().into_owned());
    }
    url_of(common).or_else(|| Some(common.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_told_for_each_processor_and_in_steps() {
        assert_eq!(parse_load("1.55 0.90 0.75 2/345 6789\n", 2), Some(70));
        assert_eq!(parse_load("12.00 1 1 1/1 1", 1), Some(1_200));
        for odd in ["", "x", "1", "1.x 2", "-1.00 0"] {
            assert_eq!(parse_load(odd, 2), None, "{odd}");
        }
    }

    #[test]
    fn free_bytes_are_exact_near_the_floor_and_never_told_below_it_when_they_are_not() {
        assert_eq!(told(299, 200), 299);
        assert_eq!(told(199, 200), 199);
        for floor in [0, 1, 1_000, 1 << 30] {
            for free in [floor, floor + 1, 2 * floor, 2 * floor + 1, 3 * floor + 7, 1 << 45] {
                let told = told(free, floor);
                assert!(told <= free && told >= floor.min(free), "{free} of {floor}: {told}");
                assert!(told >= free / 2, "{free}: {told}");
            }
        }
    }

    #[tokio::test]
    async fn a_machine_is_measured_before_anything_is_claimed() {
        let folder = tempfile::tempdir().unwrap();
        let (said, _kept) = watch(folder.path().to_owned(), u64::MAX, Repositories::default());
        assert!(said.borrow().is_short(), "{said:?}");
        let (said, _kept) = watch(folder.path().to_owned(), 0, Repositories::default());
        assert!(!said.borrow().is_short() && said.borrow().free_bytes.is_some());
    }
}
