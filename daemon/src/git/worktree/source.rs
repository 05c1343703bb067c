//! Where the files of a new worktree come from: the commit, and the user's checkout as far as it holds
//! the same ones. Reading it needs no worktree, so it is done while the branch is chosen and what is to
//! be made is noted.

use std::fs::{self, Metadata};
use std::iter::Peekable;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use git2::{Index, IndexEntry, Repository};

use super::super::hidden::is_hidden;
use super::super::repo::CommitId;
use super::contents::{Contents, Entry, FILE};
use super::plain::{has_rules, is_plain};
use super::pristine::{EXECUTABLE, INTENT_TO_ADD, LINK};
use super::seed::MAX_UNPACKED;

/// The bits of an entry's flags that say which side of a conflict it is.
const STAGE: u16 = 0x3000;

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
    pub(super) vouched: Vec<Option<IndexEntry>>,
}

impl Source {
    /// Reads the commit and the user's index. None where git has to write the files: settings or the
    /// commit say that they are not written as they are stored, or too few can be copied. Blocking.
    ///
    /// # Errors
    /// The repository or the commit cannot be read.
    pub(super) fn read(common: &Path, commit: &CommitId) -> Result<Option<Self>, git2::Error> {
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
        std::thread::scope(|scope| {
            let checkout = scope.spawn(|| Checkout::of(common));
            let contents = match Contents::of(&repository, &tree)? {
                Some(contents) if is_as_stored(&repository, &contents)? => contents,
                _ => return Ok(None),
            };
            let Some(checkout) = checkout.join().ok().flatten() else { return Ok(None) };
            let mut vouched = checkout.vouched.into_iter().peekable();
            let vouched: Vec<_> =
                contents.entries.iter().map(|entry| next_same(&mut vouched, entry)).collect();
            let files = contents.entries.iter().filter(|entry| entry.is_file()).count();
            let is_worth_it = vouched.iter().flatten().count() * WORTHWHILE >= files;
            if !is_worth_it || !can_unpack(&repository, &contents, &vouched)? {
                return Ok(None);
            }
            let common = common.to_owned();
            Ok(Some(Self { common, contents, checkout: checkout.root, vouched }))
        })
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
    vouched: &[Option<IndexEntry>],
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
    /// The plain files that its index vouches for, in the order of their names.
    vouched: Vec<IndexEntry>,
}

impl Checkout {
    /// None where there is none, or its index is of a kind that libgit2 does not read. One that is
    /// elsewhere than its repository is not used: whoever can write the configuration could name any
    /// folder.
    fn of(common: &Path) -> Option<Self> {
        let repository = Repository::open(common).ok()?;
        let root = repository.workdir()?.canonicalize().ok()?;
        if repository.path().canonicalize().ok()? != root.join(".git") {
            return None;
        }
        let place = repository.path().join("index");
        // looked at before it is read: one that is written meanwhile is younger than assumed
        let found = fs::symlink_metadata(&place).ok().filter(Metadata::is_file)?;
        let index = Index::open(&place).ok()?;
        let written = found.mtime().min(found.ctime());
        let vouched = index.iter().filter(|entry| is_sure(entry, written)).collect();
        Some(Self { root, vouched })
    }
}

/// Whether an index of that age, in whole seconds since 1970, can vouch for the file, as git sees it:
/// a file as young as its index may have changed after it was looked at.
fn is_sure(entry: &IndexEntry, written: i64) -> bool {
    matches!(entry.mode, FILE | EXECUTABLE)
        && entry.flags & STAGE == 0
        && entry.flags_extended & INTENT_TO_ADD == 0
        && !is_hidden(entry)
        && i64::from(entry.mtime.seconds()) < written
}

/// The entry of `all` that is the very same file as `wanted`; those before it are passed over.
fn next_same(
    all: &mut Peekable<impl Iterator<Item = IndexEntry>>,
    wanted: &Entry,
) -> Option<IndexEntry> {
    while all.next_if(|one| one.path < wanted.path).is_some() {}
    all.next_if(|one| (&one.path, one.id, one.mode) == (&wanted.path, wanted.id, wanted.mode))
}
