//! After a restart of the daemon: every run folder, and what became of its session.

use super::{Found, find};
use crate::keeper::RunFolder;
use futures_util::StreamExt;
use hayward_shared::id::RunId;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How many keepers are asked at once: those that hang must not hold up the others.
const AT_ONCE: usize = 32;

/// One run and what became of it.
#[derive(Debug)]
pub struct Adopted {
    /// The run, by its folder's name.
    pub run: RunId,
    /// Its folder.
    pub folder: RunFolder,
    /// What became of it.
    pub found: Found,
}

/// Finds the sessions of all run folders in `runs`, which need not be there. Must be called by one
/// daemon only, before it starts any session. In no order; what is no run's folder is passed over.
///
/// # Errors
/// The folder of the runs cannot be listed.
pub async fn adopt(runs: &Path) -> io::Result<Vec<Adopted>> {
    let asking = futures_util::stream::iter(run_folders(runs)?)
        .map(|(run, path)| async move {
            let folder = RunFolder::new(path);
            let found = find(&folder).await;
            Adopted { run, folder, found }
        })
        .buffer_unordered(AT_ONCE);
    Ok(asking.collect().await)
}

fn run_folders(runs: &Path) -> io::Result<Vec<(RunId, PathBuf)>> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let run = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(run) = run.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            found.push((run, entry.path()));
        }
    }
    Ok(found)
}
