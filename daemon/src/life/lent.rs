//! Repositories of tasks' own that a crash left behind: nobody knows them any more.

use crate::git::lend::lent;
use crate::journal::JournalError;
use crate::task::{RunState, Shop, chain, folder_name, order_of};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Gives up those that no run needs, after what they hold alone was brought home. Call it at the
/// start, when cut-off removals are finished.
pub(super) async fn clear(shop: &Shop) {
    let folder = shop.home.lent();
    // listed first: whoever made one of these is in the journal by now
    let found = tokio::task::spawn_blocking(move || lent(&folder)).await.unwrap_or_default();
    let needed = match needed(shop).await {
        Ok(needed) => needed,
        Err(error) => {
            tracing::warn!(error = chain(&error), "lent repositories are left for later");
            return;
        }
    };
    for (lent, home) in found.into_iter().filter(|(lent, _)| !needed.contains(lent)) {
        let name = lent.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let gone = match shop.repositories.open(&home).await {
            Ok(repository) => repository.call_in(&lent, &name).await.map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match gone {
            Ok(()) => tracing::info!(lent = %lent.display(), "a lent repository was given up"),
            Err(error) => tracing::warn!(lent = %lent.display(), error, "a lent repository stays"),
        }
    }
}

/// Those of worktrees that stand, and of runs that live.
async fn needed(shop: &Shop) -> Result<BTreeSet<PathBuf>, JournalError> {
    let live = shop.journal.live_runs::<RunState>().await?;
    let name = |run: &crate::journal::RunRow<RunState>| folder_name(&order_of(&run.spawn), run.key);
    let made = live.iter().map(|run| shop.home.lent().join(format!("{}.git", name(run))));
    let mut all: BTreeSet<_> = made.collect();
    let standing = shop.journal.standing::<RunState>().await?;
    all.extend(standing.into_iter().filter_map(|one| Some(one.run.state.place?.repository)));
    Ok(all)
}
