//! One process serves a SQLite file: it locks a file beside it, which the system lets go of when the
//! process ends, however it ends.

use super::StoreError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A relay that is about to end lets go within this; one that is waited for longer serves on.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a lock that another has is tried.
const AGAIN: Duration = Duration::from_millis(50);

/// The lock of a SQLite file.
#[derive(Debug)]
pub(super) struct Hold(Mutex<Option<File>>);

impl Hold {
    /// Takes the file at `database`, which is there, for this process.
    pub(super) async fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database).map_err(StoreError::File)?;
        let mut file = open(&path).map_err(StoreError::File)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(StoreError::File(source)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(AGAIN).await,
                Err(TryLockError::WouldBlock) => {
                    let file = database.to_owned();
                    return Err(StoreError::InUse { file, by: holder(&path) });
                }
            }
        }
        sign(&mut file).map_err(StoreError::File)?;
        Ok(Self(Mutex::new(Some(file))))
    }

    /// Lets go of it.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn beside(database: &Path) -> std::io::Result<PathBuf> {
    let mut name = fs::canonicalize(database)?.into_os_string();
    name.push(".lock");
    Ok(name.into())
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes down whose it is, for whoever finds it taken.
fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(path: &Path) -> String {
    let mut text = String::new();
    // it may be about to be written
    let read = File::open(path).and_then(|file| file.take(32).read_to_string(&mut text));
    match text.trim() {
        pid if read.is_ok() && !pid.is_empty() => format!("process {pid}"),
        _ => "another process".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_held_once_by_whatever_name_and_the_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("relay.db"), folder.path().join("other.db"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let held = Hold::take(&file).await.unwrap();
        let error = Hold::take(&link).await.unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        held.release();
        Hold::take(&link).await.unwrap();
    }
}
