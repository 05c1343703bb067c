//! What is known of the files of a new worktree, entered into the index that libgit2 wrote for it.
//!
//! The library writes an index only after it was told of each file, and would then read the commit
//! once more for the ids of its trees. It writes the same bytes before there is any file, but for
//! what is known of these; so that is done while they are written, and the rest is filled in here.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha1::{Digest, Sha1};

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

/// Enters into the index at `path` what is known of its files; of those that are not named nothing
/// is known afterwards either. Blocking.
///
/// # Errors
/// It cannot be read or written, or is not as libgit2 writes one.
pub(super) fn enter(path: &Path, mut known: Vec<Known>) -> io::Result<()> {
    let mut index = fs::read(path)?;
    known.sort_unstable_by_key(|known| known.nth);
    fill(&mut index, &known).ok_or_else(|| io::Error::other("an index of an unknown kind"))?;
    fs::write(path, index)
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
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A commit's tree with files of these names, as an index that knows nothing of them.
    fn index_of(folder: &Path, names: &BTreeSet<String>) -> git2::Index {
        let repository = git2::Repository::init_bare(folder.join("bare")).unwrap();
        let blob = repository.blob(b"text").unwrap();
        let mut index = git2::Index::new().unwrap();
        for name in names {
            index.add(&entry(name, blob)).unwrap();
        }
        let tree = repository.find_tree(index.write_tree_to(&repository).unwrap()).unwrap();
        let mut index = git2::Index::open(&folder.join("index")).unwrap();
        index.read_tree(&tree).unwrap();
        index.write().unwrap();
        index
    }

    fn entry(name: &str, id: git2::Oid) -> git2::IndexEntry {
        git2::IndexEntry {
            ctime: git2::IndexTime::new(0, 0),
            mtime: git2::IndexTime::new(0, 0),
            dev: 0,
            ino: 0,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            file_size: 0,
            id,
            flags: 0,
            flags_extended: 0,
            path: name.as_bytes().to_vec(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_entered_is_what_libgit2_reads(
            names in prop::collection::btree_set("[a-z]{1,9}(/[a-z]{0,6}x)?", 1..40),
            skipped in any::<u64>(),
        ) {
            // a name that is a folder of another is none of a file
            let names: BTreeSet<String> = names
                .iter()
                .filter(|name| !names.iter().any(|one| one.starts_with(&format!("{name}/"))))
                .cloned()
                .collect();
            let folder = tempfile::tempdir().unwrap();
            let before: Vec<_> = index_of(folder.path(), &names).iter().collect();
            let found = fs::metadata(folder.path()).unwrap();
            let is_known = |nth: usize| skipped >> (nth % 64) & 1 == 0;
            let known = (0..before.len()).rev().filter(|nth| is_known(*nth));
            let path = folder.path().join("index");
            enter(&path, known.map(|nth| Known::of(nth, &found)).collect()).unwrap();

            let after = git2::Index::open(&path).unwrap();
            for (nth, (old, new)) in before.iter().zip(after.iter()).enumerate() {
                prop_assert_eq!((&old.path, old.id, old.mode), (&new.path, new.id, new.mode));
                let told = (i64::from(new.mtime.seconds()), u64::from(new.ino), new.uid);
                let expected = match is_known(nth) {
                    true => (found.mtime(), found.ino() & 0xffff_ffff, found.uid()),
                    false => (0, 0, 0),
                };
                prop_assert_eq!(told, expected);
            }
            prop_assert_eq!(after.len(), before.len());
        }
    }

    #[test]
    fn what_is_no_such_index_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(index_of(folder.path(), &["a".to_owned(), "b".to_owned()].into()));
        let path = folder.path().join("index");
        let found = fs::metadata(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        enter(&path, vec![Known::of(2, &found)]).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), whole, "it has no third entry");
        for cut in [0, 11, 31, 60, 90] {
            fs::write(&path, &whole[..cut]).unwrap();
            enter(&path, vec![Known::of(0, &found)]).unwrap_err();
            assert_eq!(fs::read(&path).unwrap(), whole[..cut]);
        }
        let mut newer = whole.clone();
        newer[7] = 4;
        fs::write(&path, &newer).unwrap();
        enter(&path, vec![Known::of(0, &found)]).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), newer);
    }
}
