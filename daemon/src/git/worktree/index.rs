//! The index of a new worktree, made in memory: nobody meets one that does not know its files yet.
//!
//! The bytes are those that libgit2 writes for the same commit, but for what is known of the files.
//! The library would have to be told of each, and would read the trees of the commit once more for
//! their ids.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use sha1::{Digest, Sha1};

use super::contents::{Contents, Entry, Folder};

/// What stands before the name of an entry: ten numbers, an id and the flags.
pub(super) const BEFORE_NAME: usize = 62;

/// Entries end at a multiple of this, after one to eight zeros.
pub(super) const STEP: usize = 8;

/// The flags of an entry tell the length of its name up to here.
const LONGEST_TOLD: u16 = 0xfff;

/// What an index tells of a file besides its mode and id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Two times, the device and the inode, which stand before the mode.
    first: [u32; 6],
    /// Owner, group and size, which stand after it.
    last: [u32; 3],
}

impl Known {
    /// What `found` tells of a file.
    #[expect(clippy::cast_possible_truncation, reason = "an index keeps the low 32 bits")]
    #[expect(clippy::cast_sign_loss, reason = "an index keeps the low 32 bits")]
    pub(super) fn of(found: &Metadata) -> Self {
        let (changed, modified) = (found.ctime() as u32, found.mtime() as u32);
        let (changed_ns, modified_ns) = (found.ctime_nsec() as u32, found.mtime_nsec() as u32);
        let (device, inode) = (found.dev() as u32, found.ino() as u32);
        let first = [changed, changed_ns, modified, modified_ns, device, inode];
        Self { first, last: [found.uid(), found.gid(), found.size() as u32] }
    }

    /// What stands in an entry, and its mode: its ten numbers in their order.
    pub(super) fn told([a, b, c, d, e, f, mode, g, h, i]: [u32; 10]) -> (Self, u32) {
        (Self { first: [a, b, c, d, e, f], last: [g, h, i] }, mode)
    }

    /// What libgit2 read of an entry.
    pub(super) fn entered(entry: &git2::IndexEntry) -> Self {
        let seconds = |time: git2::IndexTime| time.seconds().cast_unsigned();
        let (changed, modified) = (entry.ctime, entry.mtime);
        let times =
            [seconds(changed), changed.nanoseconds(), seconds(modified), modified.nanoseconds()];
        let [a, b, c, d] = times;
        let first = [a, b, c, d, entry.dev, entry.ino];
        Self { first, last: [entry.uid, entry.gid, entry.file_size] }
    }

    /// When the file was modified, in whole seconds since 1970.
    pub(super) fn modified(&self) -> u32 {
        self.first[2]
    }

    /// The bytes of the file, their low 32 bits.
    pub(super) fn size(&self) -> u32 {
        self.last[2]
    }

    /// Whether `found` is the same file, unchanged, as git tells it: the device may differ after a
    /// start of the system, and who owns it says nothing of what is in it.
    pub(super) fn is_of(&self, found: &Metadata) -> bool {
        let (Self { first: [a, b, c, d, _, e], last: [.., f] }, now) = (self, Self::of(found));
        let Self { first: [g, h, i, j, _, k], last: [.., l] } = now;
        [*a, *b, *c, *d, *e, *f] == [g, h, i, j, k, l]
    }
}

/// The index of a worktree with these contents. `known` has one for each entry, in their order; of
/// one that is missing nothing is known.
///
/// None where there are more entries than an index can count.
pub(super) fn index(contents: &Contents, known: &[Known]) -> Option<Vec<u8>> {
    let count = u32::try_from(contents.entries.len()).ok()?;
    let names: usize = contents.entries.iter().map(|entry| entry.path.len()).sum();
    let mut bytes = Vec::with_capacity(names + contents.entries.len() * (BEFORE_NAME + STEP));
    bytes.extend_from_slice(b"DIRC");
    put(&[2, count], &mut bytes);
    let known = known.iter().copied().chain(std::iter::repeat(Known::default()));
    for (entry, known) in contents.entries.iter().zip(known) {
        put_entry(entry, known, &mut bytes);
    }
    let mut trees = Vec::new();
    for folder in &contents.folders {
        put_folder(folder, &mut trees);
    }
    bytes.extend_from_slice(b"TREE");
    put(&[u32::try_from(trees.len()).ok()?], &mut bytes);
    bytes.append(&mut trees);
    let sum = Sha1::digest(&bytes);
    bytes.extend_from_slice(&sum);
    Some(bytes)
}

fn put_entry(entry: &Entry, known: Known, bytes: &mut Vec<u8>) {
    let (Known { first: [a, b, c, d, e, f], last: [g, h, i] }, mode) = (known, entry.mode);
    let numbers = [a, b, c, d, e, f, mode, g, h, i].map(u32::to_be_bytes);
    bytes.extend_from_slice(numbers.as_flattened());
    bytes.extend_from_slice(entry.id.as_bytes());
    let length = u16::try_from(entry.path.len()).unwrap_or(LONGEST_TOLD).min(LONGEST_TOLD);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&entry.path);
    let zeros = STEP - (BEFORE_NAME + entry.path.len()) % STEP;
    bytes.extend_from_slice(&[0; STEP][..zeros]);
}

fn put_folder(folder: &Folder, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&folder.name);
    bytes.extend_from_slice(format!("\0{} {}\n", folder.entries, folder.folders).as_bytes());
    bytes.extend_from_slice(folder.id.as_bytes());
}

fn put(numbers: &[u32], bytes: &mut Vec<u8>) {
    bytes.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use git2::{Index, IndexEntry, IndexTime, Oid, Repository};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::fs;

    const MODES: [u32; 4] = [0o100_644, 0o100_755, 0o120_000, 0o160_000];

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
        Known { first: std::array::from_fn(number), last: [number(6), number(7), number(8)] }
    }

    /// Holds the index of a commit with these names against what libgit2 writes, and reads.
    fn check(names: &BTreeSet<String>) {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(folder.path().join("bare")).unwrap();
        let mut staged = Index::new().unwrap();
        for (nth, name) in names.iter().enumerate() {
            let blob = repository.blob(name.as_bytes()).unwrap();
            staged.add(&entry(name, MODES[nth % MODES.len()], blob)).unwrap();
        }
        let tree = repository.find_tree(staged.write_tree_to(&repository).unwrap()).unwrap();
        let path = folder.path().join("index");
        let mut theirs = Index::open(&path).unwrap();
        theirs.read_tree(&tree).unwrap();
        theirs.write().unwrap();

        let contents = Contents::of(&repository, &tree, None).unwrap().unwrap();
        assert!(index(&contents, &[]).unwrap() == fs::read(&path).unwrap());
        let all: Vec<Known> = (0..names.len()).map(known).collect();
        fs::write(&path, index(&contents, &all).unwrap()).unwrap();
        let ours = Index::open(&path).unwrap();
        assert_eq!(ours.len(), names.len());
        for ((entry, theirs), ours) in contents.entries.iter().zip(theirs.iter()).zip(ours.iter()) {
            assert_eq!((&ours.path, ours.id, ours.mode), (&theirs.path, theirs.id, theirs.mode));
            assert_eq!((&ours.path, ours.id, ours.mode), (&entry.path, entry.id, entry.mode));
        }
        assert_eq!(ours.iter().map(|entry| Known::entered(&entry)).collect::<Vec<_>>(), all);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_made_is_what_libgit2_writes_and_reads(
            names in prop::collection::btree_set("[a-z]{1,9}(/[a-z]{0,6}[.x]?y){0,3}", 0..40),
        ) {
            // a name that is a folder of another is none of a file
            let is_folder = |name: &str| {
                names.iter().any(|one| one.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
            };
            check(&names.iter().filter(|name| !is_folder(name)).cloned().collect());
        }
    }

    #[test]
    fn names_of_any_length_end_where_libgit2_ends_them() {
        let long = [4_094, 4_095, 4_096, 5_000];
        check(&(1..=17).chain(long).map(|length| "n".repeat(length)).collect());
    }
}
