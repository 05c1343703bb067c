//! Where the files of a new worktree come from: the commit, and the user's checkout as far as it holds
//! the same ones. Reading it needs no worktree, so it is done while that is begun.

use std::iter::Peekable;
use std::path::{Path, PathBuf};

use git2::Repository;

use super::super::repo::CommitId;
use super::contents::{Contents, Entry};
use super::index::Known;
use super::plain::{has_rules, is_plain};
use super::pristine::LINK;
use super::seed::MAX_UNPACKED;
use super::staged::{Line, Staged};

/// One file in so many must be there to copy: objects are unpacked no quicker here than by git's own
/// workers, so a few of them are worth no process, and most of them are.
const WORTHWHILE: usize = 2;

/// Links and files of attributes are read whole up to here; no system takes a longer link, and nobody
/// wrote such a file.
const MOST_READ: usize = 1 << 20;

/// What a worktree of a commit is filled from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) common: PathBuf,
    pub(super) contents: Contents,
    /// The top of the user's checkout.
    pub(super) checkout: PathBuf,
    /// What the user's index vouches for of each entry of the contents, in their order.
    pub(super) vouched: Vec<Option<Known>>,
}

/// A source, and its repository, opened: that takes as long as writing several files.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) repository: Repository,
}

impl Source {
    /// Reads the commit and the user's index. None where git has to write the files: settings or the
    /// commit say that they are not written as they are stored, or too few can be copied. Blocking.
    ///
    /// # Errors
    /// The repository or the commit cannot be read.
    pub(super) fn read(common: &Path, commit: &CommitId) -> Result<Option<Opened>, git2::Error> {
        let repository = Repository::open(common)?;
        // settings of the worktree's own are looked at once it is there
        if repository.is_bare() || !is_plain(common, &repository)? {
            return Ok(None);
        }
        let tree = repository.find_commit(commit.oid()?)?.tree()?;
        // most rules are at the top, and all else is read for nothing then
        if let Some(rules) = tree.get_name(".gitattributes")
            && rules.kind() == Some(git2::ObjectType::Blob)
            && !is_plain_text(&repository, rules.id())?
        {
            return Ok(None);
        }
        let Some(Checkout { root, staged }) = Checkout::of(&repository) else { return Ok(None) };
        let contents = match Contents::of(&repository, &tree, Some(&staged))? {
            Some(contents) if is_as_stored(&repository, &contents)? => contents,
            _ => return Ok(None),
        };
        let mut lines = staged.lines().iter().peekable();
        let vouched: Vec<_> = contents
            .entries
            .iter()
            .map(|entry| next_same(&mut lines, &staged, entry).and_then(|it| staged.vouched(it)))
            .collect();
        let files = contents.entries.iter().filter(|entry| entry.is_file()).count();
        let is_worth_it = vouched.iter().flatten().count() * WORTHWHILE >= files;
        if !is_worth_it || !can_unpack(&repository, &contents, &vouched)? {
            return Ok(None);
        }
        let source = Self { common: common.to_owned(), contents, checkout: root, vouched };
        drop(tree);
        Ok(Some(Opened { source, repository }))
    }
}

/// Whether the commit says nothing of its files that has git write them otherwise.
fn is_as_stored(repository: &Repository, contents: &Contents) -> Result<bool, git2::Error> {
    let objects = repository.odb()?;
    for entry in &contents.entries {
        let plain = if ends_with(&entry.path, b".gitattributes") {
            is_plain_text(repository, entry.id)?
        } else {
            entry.mode != LINK || objects.read_header(entry.id)?.0 <= MOST_READ
        };
        if !plain {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file of attributes can be read, and names no conversion.
fn is_plain_text(repository: &Repository, id: git2::Oid) -> Result<bool, git2::Error> {
    let fits = repository.odb()?.read_header(id)?.0 <= MOST_READ;
    Ok(fits && !has_rules(repository.find_blob(id)?.content()))
}

/// Whether every file that cannot be copied is small enough to be unpacked here: found when its turn
/// comes, all before it would have been written for nothing.
fn can_unpack(
    repository: &Repository,
    contents: &Contents,
    vouched: &[Option<Known>],
) -> Result<bool, git2::Error> {
    let objects = repository.odb()?;
    for (entry, vouched) in contents.entries.iter().zip(vouched) {
        if entry.is_file() && vouched.is_none() && objects.read_header(entry.id)?.0 > MAX_UNPACKED {
            return Ok(false);
        }
    }
    Ok(true)
}

fn ends_with(name: &[u8], end: &[u8]) -> bool {
    let tail = name.len().checked_sub(end.len()).and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// The user's checkout.
struct Checkout {
    root: PathBuf,
    staged: Staged,
}

impl Checkout {
    /// None where there is none, or its index is not one that is read here. One that is elsewhere than
    /// its repository is not used: whoever can write the configuration could name any folder.
    fn of(repository: &Repository) -> Option<Self> {
        let root = repository.workdir()?.canonicalize().ok()?;
        if repository.path().canonicalize().ok()? != root.join(".git") {
            return None;
        }
        Some(Self { root, staged: Staged::read(&repository.path().join("index"))? })
    }
}

/// The line of `all` that is the very same file as `wanted`; those before it are passed over.
fn next_same<'a>(
    all: &mut Peekable<impl Iterator<Item = &'a Line>>,
    staged: &Staged,
    wanted: &Entry,
) -> Option<&'a Line> {
    while all.next_if(|one| *staged.name(one) < *wanted.path).is_some() {}
    all.next_if(|one| {
        (one.id, one.mode) == (wanted.id, wanted.mode) && *staged.name(one) == *wanted.path
    })
}
