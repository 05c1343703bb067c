//! An index in two files (`core.splitIndex`), which libgit2 does not read, put together in a folder
//! of ours: for looks at a worktree whose own index must stay as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::command::Git;
use super::repo::read;
use super::worktree::Record;

/// The extension of an index that names the other file, and the bytes of its length after that.
const LINK: (&[u8], usize) = (b"link", 4);

/// The bytes of a name of an object.
const NAME: usize = 20;

/// A copy of a worktree's index in one file, in a repository of its own that has nothing else. It
/// goes when it is dropped.
#[derive(Debug)]
pub(super) struct Joined {
    folder: tempfile::TempDir,
}

impl Joined {
    /// Of the worktree of ours at `path`; none where its index is in one file, or cannot be put
    /// together.
    pub(super) async fn of(path: &Path) -> Option<Self> {
        let record = Record::of(path)?;
        let index = record.index();
        let copied = read(move || copy(record.folder(), &index)).await.ok()?;
        let (folder, written) = copied.map_err(|error| untold(path, &error)).ok()??;
        let git = Git::on_repository(folder.path()).args(["update-index", "--no-split-index"]);
        git.run().await.map_err(|error| untold(path, &error)).ok()?;
        let joined = Self { folder };
        // git and libgit2 read those files anew that are as young as the index: it keeps its age
        let aged = File::open(joined.index()).and_then(|file| file.set_modified(written));
        aged.map_err(|error| untold(path, &error)).ok()?;
        Some(joined)
    }

    fn index(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    /// Has `repository`, opened at that worktree, look at the copy. Blocking.
    pub(super) fn lend(&self, repository: &git2::Repository) -> Result<(), git2::Error> {
        repository.set_index(&mut git2::Index::open(&self.index())?)
    }
}

fn untold(path: &Path, error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(path = %path.display(), error, "an index in parts could not be put together");
}

/// Copies both files of an index, and tells when it was written. Blocking.
fn copy(git_dir: &Path, index: &Path) -> io::Result<Option<(tempfile::TempDir, SystemTime)>> {
    let written = fs::metadata(index)?.modified()?;
    let bytes = fs::read(index)?;
    let Some(shared) = shared(git_dir, &bytes) else { return Ok(None) };
    let folder = tempfile::tempdir()?;
    let mut layout = git2::RepositoryInitOptions::new();
    layout.bare(true).external_template(false).no_reinit(true);
    git2::Repository::init_opts(folder.path(), &layout).map_err(io::Error::other)?;
    fs::copy(git_dir.join(&shared), folder.path().join(&shared))?;
    let copied = folder.path().join("index");
    fs::write(&copied, bytes)?;
    File::open(&copied)?.set_modified(written)?;
    Ok(Some((folder, written)))
}

/// The name of the file that holds the rest of an index, beside it.
fn shared(git_dir: &Path, index: &[u8]) -> Option<String> {
    let (mark, length) = LINK;
    let name = |at: usize| {
        let from = at + mark.len() + length;
        let id = git2::Oid::from_bytes(index.get(from..from + NAME)?).ok()?;
        let name = format!("sharedindex.{id}");
        git_dir.join(&name).is_file().then_some(name)
    };
    let marks = index.windows(mark.len()).enumerate().filter(|(_, part)| *part == mark);
    marks.map(|(at, _)| at).find_map(name)
}
