//! What is known of the files of a new worktree, entered into the index that libgit2 wrote for it.
//!
//! The library writes an index only after it was told of each file, and would then read the commit
//! once more for the ids of its trees. It writes the same bytes before there is any file, but for
//! what is known of these; so that is done while they are written, and the rest is filled in here.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use sha1::{Digest, Sha1};

use super::Record;

/// The signature, the version and the number of entries, of four bytes each.
const HEAD: usize = 12;

/// What stands before the name of an entry: ten numbers, an id and the flags.
const BEFORE_NAME: usize = 62;

/// Entries end at a multiple of this, after one to eight zeros.
const STEP: usize = 8;

/// The sum that ends an index.
const SUM: usize = 20;

/// Two times, the device and the inode begin an entry.
const BEFORE_MODE: usize = 24;

/// Owner, group and size follow its mode.
const AFTER_MODE: std::ops::Range<usize> = 28..40;

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Which entry of the index it is, from zero.
    nth: usize,
    first: [u32; 6],
    last: [u32; 3],
}

impl Known {
    /// What `found` tells of the file of the entry `nth`.
    #[expect(clippy::cast_possible_truncation, reason = "an index keeps the low 32 bits")]
    #[expect(clippy::cast_sign_loss, reason = "an index keeps the low 32 bits")]
    pub(super) fn of(nth: usize, found: &Metadata) -> Self {
        let (changed, modified) = (found.ctime() as u32, found.mtime() as u32);
        let (changed_ns, modified_ns) = (found.ctime_nsec() as u32, found.mtime_nsec() as u32);
        let (device, inode) = (found.dev() as u32, found.ino() as u32);
        let first = [changed, changed_ns, modified, modified_ns, device, inode];
        Self { nth, first, last: [found.uid(), found.gid(), found.size() as u32] }
    }

    /// None where the entry is too short to be one.
    fn enter(&self, entry: &mut [u8]) -> Option<()> {
        put(&self.first, entry.get_mut(..BEFORE_MODE)?);
        put(&self.last, entry.get_mut(AFTER_MODE)?);
        Some(())
    }
}

fn put(numbers: &[u32], to: &mut [u8]) {
    for (to, number) in to.chunks_exact_mut(4).zip(numbers) {
        to.copy_from_slice(&number.to_be_bytes());
    }
}

/// Enters into the index of a worktree what is known of its files; of those that are not named
/// nothing is known afterwards either. Blocking.
///
/// # Errors
/// It cannot be read or written, or is not as libgit2 writes one; it is as before then.
pub(super) fn enter(record: &Record, mut known: Vec<Known>) -> io::Result<()> {
    let mut index = fs::read(record.index())?;
    known.sort_unstable_by_key(|known| known.nth);
    fill(&mut index, &known).ok_or_else(|| io::Error::other("an index of an unknown kind"))?;
    record.replace_index(&index)
}

/// None where it does not have these entries. `known` is in the order of the entries.
fn fill(index: &mut [u8], known: &[Known]) -> Option<()> {
    let end = index.len().checked_sub(SUM)?;
    let (body, sum) = index.split_at_mut(end);
    let entries = match body.first_chunk::<HEAD>()? {
        [b'D', b'I', b'R', b'C', 0, 0, 0, 2, count @ ..] => u32::from_be_bytes(*count) as usize,
        _ => return None,
    };
    let mut wanted = known.iter().peekable();
    let mut at = HEAD;
    for nth in 0..entries {
        let entry = body.get_mut(at..)?;
        let name = entry.get(BEFORE_NAME..)?;
        let length = BEFORE_NAME + memchr::memchr(0, name)?;
        if let Some(known) = wanted.next_if(|known| known.nth == nth) {
            known.enter(entry)?;
        }
        at += (length / STEP + 1) * STEP;
    }
    if wanted.peek().is_some() || at > body.len() {
        return None;
    }
    sum.copy_from_slice(&Sha1::digest(body));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use git2::{Index, IndexEntry, IndexTime, Oid, Repository};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    const MODES: [u32; 3] = [0o100_644, 0o100_755, 0o120_000];

    /// The bytes of an index of a commit with files of these names, that knows nothing of them.
    fn index_of(folder: &Path, names: &BTreeSet<String>) -> Vec<u8> {
        let repository = Repository::init_bare(folder.join("bare")).unwrap();
        let mut index = Index::new().unwrap();
        for (nth, name) in names.iter().enumerate() {
            let blob = repository.blob(name.as_bytes()).unwrap();
            index.add(&entry(name, MODES[nth % MODES.len()], blob)).unwrap();
        }
        let tree = repository.find_tree(index.write_tree_to(&repository).unwrap()).unwrap();
        let mut index = Index::open(&folder.join("index")).unwrap();
        index.read_tree(&tree).unwrap();
        index.write().unwrap();
        fs::read(folder.join("index")).unwrap()
    }

    fn entry(name: &str, mode: u32, id: Oid) -> IndexEntry {
        IndexEntry {
            ctime: IndexTime::new(0, 0),
            mtime: IndexTime::new(0, 0),
            dev: 0,
            ino: 0,
            mode,
            uid: 0,
            gid: 0,
            file_size: 0,
            id,
            flags: 0,
            flags_extended: 0,
            path: name.as_bytes().to_vec(),
        }
    }

    /// No two of its numbers are alike, nor are any of two entries.
    fn known(nth: usize) -> Known {
        let number = |of: usize| u32::try_from(nth * 9 + of + 1).unwrap();
        let last = [number(6), number(7), number(8)];
        Known { nth, first: std::array::from_fn(number), last }
    }

    /// What libgit2 reads of an entry, in the order of an index.
    fn told(entry: &IndexEntry) -> [u32; 9] {
        let seconds = |time: IndexTime| u32::try_from(time.seconds()).unwrap();
        let (changed, modified) = (entry.ctime, entry.mtime);
        [
            seconds(changed),
            changed.nanoseconds(),
            seconds(modified),
            modified.nanoseconds(),
            entry.dev,
            entry.ino,
            entry.uid,
            entry.gid,
            entry.file_size,
        ]
    }

    /// Fills an index of these names, and holds it against what libgit2 reads and wrote.
    fn check(names: &BTreeSet<String>, is_known: impl Fn(usize) -> bool) {
        let folder = tempfile::tempdir().unwrap();
        let before = index_of(folder.path(), names);
        let mut after = before.clone();
        let named: Vec<Known> = (0..names.len()).filter(|nth| is_known(*nth)).map(known).collect();
        fill(&mut after, &named).unwrap();
        let path = folder.path().join("index");
        let unknown: Vec<_> = Index::open(&path).unwrap().iter().collect();
        fs::write(&path, &after).unwrap();
        for (nth, (old, new)) in unknown.iter().zip(Index::open(&path).unwrap().iter()).enumerate()
        {
            assert_eq!((&old.path, old.id, old.mode), (&new.path, new.id, new.mode));
            let Known { first, last, .. } = known(nth);
            let all = [&first[..], &last[..]].concat();
            let expected = if is_known(nth) { all } else { vec![0; 9] };
            assert_eq!(told(&new)[..], expected);
        }
        // flags, padding and the ids of the trees are as they were
        let nothing: Vec<Known> =
            named.iter().map(|known| Known { first: [0; 6], last: [0; 3], ..*known }).collect();
        fill(&mut after, &nothing).unwrap();
        assert!(after == before && before.windows(4).any(|four| four == b"TREE"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_entered_is_what_libgit2_reads(
            names in prop::collection::btree_set("[a-z]{1,9}(/[a-z]{0,6}x)?", 1..40),
            skipped in any::<u64>(),
        ) {
            // a name that is a folder of another is none of a file
            let is_folder = |name: &str| {
                names.iter().any(|one| one.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
            };
            let names = names.iter().filter(|name| !is_folder(name)).cloned().collect();
            check(&names, |nth| skipped >> (nth % 64) & 1 == 0);
        }
    }

    #[test]
    fn names_of_any_length_end_where_libgit2_ends_them() {
        let long = [4_094, 4_095, 4_096, 5_000];
        check(&(1..=17).chain(long).map(|length| "n".repeat(length)).collect(), |_| true);
    }

    #[test]
    fn what_is_no_such_index_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let whole = index_of(folder.path(), &["a".to_owned(), "b".to_owned()].into());
        assert!(fill(&mut whole.clone(), &[known(2)]).is_none(), "it has no third entry");
        for cut in [0, 11, 31, 60, 90] {
            assert!(fill(&mut whole[..cut].to_vec(), &[known(0)]).is_none());
        }
        let mut newer = whole;
        newer[7] = 4;
        assert!(fill(&mut newer, &[known(0)]).is_none());
    }
}
