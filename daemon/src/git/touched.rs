//! Which files differ between two trees, and in which lines.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hayward_shared::git::Lines;

use super::graft::Entry;

/// A larger file's lines are not compared: nobody writes such a file by hand.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Beyond so many files that came or went, nobody asks which of them is which.
const MOST_MOVED: usize = 200;

/// The most stretches of one file; beyond them it counts as changed from the first to the last.
const MAX_HUNKS: usize = 1_000;

/// Lines that became other lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// As they were.
    pub old: Lines,
    /// As they are.
    pub new: Lines,
}

/// A file that differs. A renamed one is gone at its old place, which names the other, and new
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TouchedFile {
    /// The file, from the tree's top.
    pub path: PathBuf,
    pub(super) before: Option<Entry>,
    pub(super) after: Option<Entry>,
    /// Where it differs, in order; none when that cannot be told: binary, too large, a link, a
    /// submodule, or a new mode alone.
    pub hunks: Option<Vec<Hunk>>,
    /// Where it went, as git counts renames: a file that came and is alike enough.
    pub renamed_to: Option<PathBuf>,
}

impl TouchedFile {
    /// Whether it was not there before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// Whether it is there no more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.after.is_none()
    }
}

/// The files that differ, by path. What `known` says of the same pair of contents is taken over.
pub(super) fn between(
    repository: &git2::Repository,
    before: &git2::Tree<'_>,
    after: &git2::Tree<'_>,
    known: &[TouchedFile],
) -> Result<Vec<TouchedFile>, git2::Error> {
    let mut changes = Vec::new();
    for change in below(Path::new(""), Some(before), Some(after)) {
        walk(repository, change, &mut changes)?;
    }
    changes.sort_unstable_by(|one, two| one.0.cmp(&two.0));
    let mut all = Vec::with_capacity(changes.len());
    for (path, before, after) in changes {
        let same = known
            .binary_search_by(|file| file.path.cmp(&path))
            .map(|at| &known[at])
            .ok()
            .filter(|file| (file.before, file.after) == (before, after));
        let hunks = match same {
            Some(file) => file.hunks.clone(),
            None => hunks(repository, before, after)?,
        };
        all.push(TouchedFile { path, before, after, hunks, renamed_to: None });
    }
    for (old, new) in renames(repository, before, after, &all)? {
        if let Ok(at) = all.binary_search_by(|file| file.path.cmp(&old)) {
            all[at].renamed_to = Some(new);
        }
    }
    Ok(all)
}

/// Which files went where. Only those that came or went are read.
fn renames(
    repository: &git2::Repository,
    before: &git2::Tree<'_>,
    after: &git2::Tree<'_>,
    files: &[TouchedFile],
) -> Result<Vec<(PathBuf, PathBuf)>, git2::Error> {
    let moved: Vec<_> = files.iter().filter(|file| file.is_new() || file.is_gone()).collect();
    let may_be = moved.iter().any(|file| file.is_new()) && moved.iter().any(|file| file.is_gone());
    if !may_be || moved.len() > MOST_MOVED {
        return Ok(Vec::new());
    }
    let mut options = git2::DiffOptions::new();
    options.disable_pathspec_match(true);
    for file in moved {
        options.pathspec(&file.path);
    }
    let mut diff = repository.diff_tree_to_tree(Some(before), Some(after), Some(&mut options))?;
    diff.find_similar(Some(git2::DiffFindOptions::new().renames(true)))?;
    let renamed = diff.deltas().filter(|delta| delta.status() == git2::Delta::Renamed);
    let path = |file: git2::DiffFile<'_>| file.path().map(Path::to_owned);
    Ok(renamed.filter_map(|one| Some((path(one.old_file())?, path(one.new_file())?))).collect())
}

/// A file and what each of two trees has of it.
pub(super) type Change = (PathBuf, Option<Entry>, Option<Entry>);

/// Whether all that is there of it is a folder.
pub(super) fn is_folder((_, one, two): &Change) -> bool {
    one.iter().chain(two).all(|entry| entry.is_folder())
}

/// Gathers the files of a change, those below it where it is a folder, in no order. Trees that are
/// the same are not read: on 20,000 files libgit2's own comparison, which walks both whole, takes
/// longer than the merge.
pub(super) fn walk(
    repository: &git2::Repository,
    change: Change,
    changes: &mut Vec<Change>,
) -> Result<(), git2::Error> {
    if !is_folder(&change) {
        changes.push(change);
        return Ok(());
    }
    for entry in entries(repository, &change)? {
        walk(repository, entry, changes)?;
    }
    Ok(())
}

/// What differs right below a folder.
pub(super) fn entries(
    repository: &git2::Repository,
    (folder, before, after): &Change,
) -> Result<Vec<Change>, git2::Error> {
    let tree = |side: &Option<Entry>| side.map(|e| repository.find_tree(e.id)).transpose();
    let (before, after) = (tree(before)?, tree(after)?);
    Ok(below(folder, before.as_ref(), after.as_ref()))
}

/// What differs right below two trees of one folder.
pub(super) fn below(
    folder: &Path,
    before: Option<&git2::Tree<'_>>,
    after: Option<&git2::Tree<'_>>,
) -> Vec<Change> {
    let placed = |(name, one, two): Difference| (folder.join(OsStr::from_bytes(&name)), one, two);
    differing_entries(before, after).into_iter().map(placed).collect()
}

/// An entry of a folder and what each of two trees has of it.
pub(super) type Difference = (Vec<u8>, Option<Entry>, Option<Entry>);

/// The entries of two folders that differ, in git's order. A file that became a folder is two: one
/// that is gone and one that is new.
pub(super) fn differing_entries(
    before: Option<&git2::Tree<'_>>,
    after: Option<&git2::Tree<'_>>,
) -> Vec<Difference> {
    let mut befores = before.into_iter().flat_map(git2::Tree::iter).peekable();
    let mut afters = after.into_iter().flat_map(git2::Tree::iter).peekable();
    let mut all = Vec::new();
    loop {
        let order = match (befores.peek(), afters.peek()) {
            (Some(one), Some(two)) => one.cmp(two),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return all,
        };
        let one = if order.is_le() { befores.next() } else { None };
        let two = if order.is_ge() { afters.next() } else { None };
        let of = |entry: &Option<git2::TreeEntry<'_>>| entry.as_ref().map(Entry::of);
        let (before, after) = (of(&one), of(&two));
        if before != after
            && let Some(entry) = one.or(two)
        {
            all.push((entry.name_bytes().to_owned(), before, after));
        }
    }
}

fn hunks(
    repository: &git2::Repository,
    before: Option<Entry>,
    after: Option<Entry>,
) -> Result<Option<Vec<Hunk>>, git2::Error> {
    let text = |entry: Option<Entry>| {
        let plain = entry.filter(|entry| entry.mode & 0o170_000 == 0o100_000);
        plain
            .and_then(|entry| repository.find_blob(entry.id).ok())
            .filter(|blob| blob.size() <= MAX_TEXT && !blob.is_binary())
    };
    let (one, two) = (text(before), text(after));
    if (before.is_some() && one.is_none()) || (after.is_some() && two.is_none()) {
        return Ok(None);
    }
    let all = match (&one, &two) {
        (Some(one), Some(two)) => {
            if one.id() == two.id() {
                return Ok(None);
            }
            differing(one, two)?
        }
        (one, two) => vec![Hunk {
            old: whole(one.as_ref().map_or(&[], git2::Blob::content)),
            new: whole(two.as_ref().map_or(&[], git2::Blob::content)),
        }],
    };
    Ok((!all.is_empty()).then_some(all))
}

fn differing(one: &git2::Blob<'_>, two: &git2::Blob<'_>) -> Result<Vec<Hunk>, git2::Error> {
    let mut options = git2::DiffOptions::new();
    options.context_lines(0).interhunk_lines(0).indent_heuristic(true);
    let patch = git2::Patch::from_blobs(one, None, two, None, Some(&mut options))?;
    let mut all = Vec::new();
    for at in 0..patch.num_hunks() {
        let (hunk, _) = patch.hunk(at)?;
        all.push(Hunk {
            old: lines(hunk.old_start(), hunk.old_lines()),
            new: lines(hunk.new_start(), hunk.new_lines()),
        });
    }
    if all.len() > MAX_HUNKS
        && let (Some(first), Some(last)) = (all.first(), all.last())
    {
        let span = |from: Lines, to: Lines| Lines { start: from.start, end: to.end };
        all = vec![Hunk { old: span(first.old, last.old), new: span(first.new, last.new) }];
    }
    Ok(all)
}

/// As a diff counts: of no lines, `start` is the line before the place.
fn lines(start: u32, count: u32) -> Lines {
    let start = if count == 0 { start.saturating_add(1) } else { start };
    Lines { start, end: start.saturating_add(count).saturating_sub(1) }
}

fn whole(text: &[u8]) -> Lines {
    let ends = text.iter().filter(|byte| **byte == b'\n').count();
    let count = ends + usize::from(text.last().is_some_and(|byte| *byte != b'\n'));
    Lines { start: 1, end: u32::try_from(count).unwrap_or(u32::MAX) }
}
