//! A tree of folders looked through by several threads, and what a tree looks like in a number.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// More readers than this wait for each other in the kernel.
const MAX_READERS: usize = 4;

/// What a folder brought: the folders in it, by their paths from the top, and a tally. None ends
/// the walk.
pub(super) type Seen<T> = Option<(Vec<PathBuf>, T)>;

/// Looks through a tree, beginning with the empty path, in no order. The answer is the sum of all
/// tallies; none when a look ended the walk.
///
/// # Errors
/// The first that a look met.
pub(super) fn walk<T: AddAssign + Default + Send>(
    look: impl Fn(&Path) -> io::Result<Seen<T>> + Sync,
) -> io::Result<Option<T>> {
    let start = State { folders: vec![PathBuf::new()], at_work: 0, sum: Ok(Some(T::default())) };
    let (state, grown) = (Mutex::new(start), Condvar::new());
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS);
    std::thread::scope(|scope| {
        for _ in 1..readers {
            scope.spawn(|| read(&state, &grown, &look));
        }
        read(&state, &grown, &look);
    });
    state.into_inner().unwrap_or_else(PoisonError::into_inner).sum
}

/// Folders still to be looked at, and what was seen so far.
struct State<T> {
    folders: Vec<PathBuf>,
    at_work: usize,
    sum: io::Result<Option<T>>,
}

/// Looks at one folder after the other until none is left or somebody ended the walk.
fn read<T: AddAssign>(
    state: &Mutex<State<T>>,
    grown: &Condvar,
    look: &impl Fn(&Path) -> io::Result<Seen<T>>,
) {
    let mut held = state.lock().unwrap_or_else(PoisonError::into_inner);
    while matches!(held.sum, Ok(Some(_))) {
        let Some(folder) = held.folders.pop() else {
            if held.at_work == 0 {
                return;
            }
            held = grown.wait(held).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        held.at_work += 1;
        drop(held);
        let seen = look(&folder);
        held = state.lock().unwrap_or_else(PoisonError::into_inner);
        held.at_work -= 1;
        match (seen, &mut held.sum) {
            (Ok(Some((folders, tally))), Ok(Some(sum))) => {
                *sum += tally;
                held.folders.extend(folders);
            }
            (Ok(None), Ok(Some(_))) => held.sum = Ok(None),
            (Err(cause), Ok(_)) => held.sum = Err(cause),
            _ => {}
        }
        grown.notify_all();
    }
}

/// A sum that may run over: the order of what is summed does not matter.
#[derive(Default)]
struct Sum(u64);

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// What the tree at `root` looks like, in a number: the names of all that is in it, and of each
/// file which one it is and when it last changed in any way, a time that nobody can set. What
/// `passes_over` takes by its path from the top is left out. The same as long as nobody touches the
/// tree, wherever it is moved; of another build of this program perhaps another.
///
/// # Errors
/// A folder or file cannot be read.
pub(in crate::git) fn likeness(
    root: &Path,
    passes_over: impl Fn(&Path) -> bool + Sync,
) -> io::Result<u64> {
    let sum = walk(|folder| {
        let (mut folders, mut sum) = (Vec::new(), Sum::default());
        for child in fs::read_dir(root.join(folder))? {
            let child = child?;
            let relative = folder.join(child.file_name());
            if passes_over(&relative) {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            relative.as_os_str().hash(&mut hasher);
            if child.file_type()?.is_dir() {
                folders.push(relative);
            } else {
                let found = child.metadata()?;
                (found.ino(), found.size(), found.mode()).hash(&mut hasher);
                (found.ctime(), found.ctime_nsec()).hash(&mut hasher);
            }
            sum += Sum(hasher.finish());
        }
        Ok(Some((folders, sum)))
    })?;
    Ok(sum.unwrap_or_default().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn likeness(root: &Path) -> io::Result<u64> {
        super::likeness(root, |path| path == Path::new(".git"))
    }

    #[test]
    fn whatever_is_done_to_a_tree_changes_its_likeness_and_moving_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("first");
        fs::create_dir_all(first.join("a/b")).unwrap();
        for n in 0..100 {
            fs::write(first.join(format!("a/b/{n}")), "x").unwrap();
        }
        let mut last = likeness(&first).unwrap();
        let top = folder.path().join("moved");
        fs::rename(&first, &top).unwrap();
        assert_eq!(likeness(&top).unwrap(), last);
        let steps: [fn(&Path) -> io::Result<()>; 6] = [
            |top| fs::write(top.join("a/b/7"), "yy"),
            |top| fs::create_dir(top.join("a/empty")),
            |top| fs::rename(top.join("a/b/8"), top.join("a/empty/8")),
            |top| symlink("7", top.join("a/b/link")),
            |top| fs::set_permissions(top.join("a/b/9"), fs::Permissions::from_mode(0o600)),
            |top| fs::remove_file(top.join("a/b/10")),
        ];
        for step in steps {
            step(&top).unwrap();
            let now = likeness(&top).unwrap();
            assert_ne!(now, last);
            last = now;
        }
        fs::create_dir(top.join(".git")).unwrap();
        assert_eq!(likeness(&top).unwrap(), last);
    }

    #[test]
    fn a_walk_ends_with_the_first_error_or_refusal() {
        let wide = |folder: &Path| -> Vec<PathBuf> {
            let children = if folder.components().count() > 2 { 0 } else { 9 };
            (0..children).map(|n: u8| folder.join(n.to_string())).collect()
        };
        let all = walk(|folder| Ok(Some((wide(folder), Sum(1))))).unwrap();
        assert_eq!(all.map(|sum| sum.0), Some(1 + 9 + 81 + 729));
        let refused = walk(|folder| Ok((!folder.ends_with("5")).then(|| (wide(folder), Sum(1)))));
        assert!(refused.unwrap().is_none());
        let broken = walk::<Sum>(|_| Err(io::Error::other("x")));
        assert!(broken.is_err());
    }
}
