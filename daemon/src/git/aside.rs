//! Objects that nobody need keep: a store of our own that borrows a repository's objects.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A bare repository in a folder of ours, whose objects are its own and those of the repository
/// that it stands beside. What is written there never reaches the user's object store. The folder
/// goes with the last clone.
#[derive(Clone, Debug)]
pub struct Aside {
    folder: Arc<tempfile::TempDir>,
}

/// A store that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    /// Its folder or a file in it cannot be written.
    #[error("no store for snapshots could be made in {path}")]
    Write {
        /// The folder above.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Libgit2 could not lay it out.
    #[error("no store for snapshots could be laid out in {path}")]
    Lay {
        /// The folder above.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
}

impl Aside {
    /// Makes one in `room`, beside the repository whose common folder is `common`. Blocking.
    ///
    /// # Errors
    /// [`AsideError`]; nothing is left then.
    pub fn beside(common: &Path, room: &Path) -> Result<Self, AsideError> {
        let write = |source| AsideError::Write { path: room.to_owned(), source };
        std::fs::create_dir_all(room).map_err(write)?;
        let folder = tempfile::Builder::new().prefix("aside-").tempdir_in(room).map_err(write)?;
        let mut layout = git2::RepositoryInitOptions::new();
        layout.bare(true).external_template(false).no_reinit(true);
        git2::Repository::init_opts(folder.path(), &layout)
            .map_err(|source| AsideError::Lay { path: room.to_owned(), source })?;
        let mut line = common.join("objects").into_os_string();
        line.push("\n");
        let alternates = folder.path().join("objects/info/alternates");
        std::fs::write(alternates, line.as_encoded_bytes()).map_err(write)?;
        Ok(Self { folder: Arc::new(folder) })
    }

    /// The repository's folder, for commands.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Has `repository` write its objects here and read both.
    pub(super) fn lend(&self, repository: &git2::Repository) -> Result<(), git2::Error> {
        repository.set_odb(&git2::Repository::open_bare(self.path())?.odb()?)
    }
}
