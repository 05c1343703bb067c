//! The files of a new worktree written in this process, where git would write them as they are
//! stored and the user's checkout holds most of them: no program is started, and a copy costs less
//! than unpacking, and next to nothing on a disk that shares the blocks of copies.
//!
//! The checkout is only read. A file is copied when the user's index vouches for it as git itself
//! trusts it: same inode, size and times after it was read, and older than the index.
//! All others come out of the object store.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use git2::{Odb, Repository};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::contents::Entry;
use super::index::{Known, index};
use super::plain::is_plain;
use super::pristine::{EXECUTABLE, LINK, SUBMODULE, is_of};
use super::source::{Opened, Source};
use super::{BEGINS, Record};
use crate::beside::beside;
use crate::fault;

/// How much older than its worktree a file is said to be. Git looks at whole seconds, and would read
/// each file again that is as young as its index.
const AGE: Duration = Duration::from_secs(2);

/// How many files of one folder a thread takes at a time: enough that it opens few folders, and two
/// seldom wait for each other in one.
const RUN: usize = 64;

/// The least that it takes at a time, near the end: opening its folder costs a fraction of writing it.
const LEAST_RUN: usize = 4;

/// Files up to here are copied through memory: for the few pages of one the kernel takes longer when
/// it is asked to copy by itself.
const SMALL: usize = 128 << 10;

/// The largest object that is unpacked here, in memory; for a larger one all is left to git, which
/// streams it.
pub(super) const MAX_UNPACKED: usize = 64 << 20;

/// Fills the empty worktree at `path` by so many threads, and writes its index. False where git has
/// to, and then the worktree is empty as before. Of the threads beside the first one, one takes the spare
/// repository, and the others open one. Blocking.
///
/// # Errors
/// It was not full by `until`, or could not be emptied again: it is of no use then.
pub(super) fn seed(
    path: &Path,
    Opened { source, repository }: &Opened,
    spare: Option<Repository>,
    threads: usize,
    until: Instant,
) -> io::Result<bool> {
    let plan = match Plan::of(path, source, repository) {
        Ok(Some(plan)) => plan,
        Ok(None) => return Ok(false),
        Err(cause) => {
            tracing::debug!(%cause, "the files are left to git");
            return Ok(false);
        }
    };
    let Err(cause) = plan.carry_out(repository, spare, threads, until) else { return Ok(true) };
    if cause.kind() == io::ErrorKind::TimedOut {
        return Err(cause);
    }
    tracing::debug!(%cause, "what was written is taken back, and left to git");
    plan.take_back()?;
    Ok(false)
}

/// What is to be written where.
struct Plan<'a> {
    path: &'a Path,
    record: Record,
    source: &'a Source,
    modified: SystemTime,
}

/// A file to be written.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// Which entry it is.
    nth: usize,
    entry: &'a Entry,
    /// The same of the user's checkout, where its index vouches for it.
    vouched: Option<Known>,
}

impl<'a> Plan<'a> {
    /// None where git has to write the files.
    fn of(
        path: &'a Path,
        source: &'a Source,
        repository: &Repository,
    ) -> Result<Option<Self>, git2::Error> {
        let Some(record) = Record::of(path) else { return Ok(None) };
        let made = fs::symlink_metadata(path.join(".git")).and_then(|made| made.modified());
        let (true, Ok(made)) = (is_plain(path, repository)?, made) else { return Ok(None) };
        Ok(Some(Self { path, record, source, modified: made.checked_sub(AGE).unwrap_or(made) }))
    }

    fn carry_out(
        &self,
        repository: &Repository,
        spare: Option<Repository>,
        threads: usize,
        until: Instant,
    ) -> io::Result<()> {
        let contents = &self.source.contents;
        let mut known = vec![Known::default(); contents.entries.len()];
        let mut enter = |nth: usize, found: Known| known.get_mut(nth).map(|known| *known = found);
        for (nth, found) in self.write_files(repository, spare, threads, until)? {
            enter(nth, found);
        }
        for entry in &contents.entries {
            match entry.mode {
                SUBMODULE => fs::create_dir_all(self.path.join(entry.path()))?,
                LINK => fs::create_dir_all(self.path.join(entry.folder()))?,
                _ => {}
            }
        }
        // after them, so that nothing is written through a link
        for (nth, link) in contents.entries.iter().enumerate() {
            if link.mode == LINK {
                let target = repository.find_blob(link.id).map_err(io::Error::other)?;
                let place = self.path.join(link.path());
                symlink(OsStr::from_bytes(target.content()), &place)?;
                enter(nth, Known::of(&fs::symlink_metadata(&place)?));
            }
        }
        fault::point("worktree.create.written")?;
        let index = index(contents, &known);
        self.record.replace_index(&index.ok_or(io::ErrorKind::FileTooLarge)?)
    }

    fn write_files(
        &self,
        repository: &Repository,
        spare: Option<Repository>,
        threads: usize,
        until: Instant,
    ) -> io::Result<Vec<(usize, Known)>> {
        let Source { contents, vouched, .. } = self.source;
        let entries = contents.entries.iter().zip(vouched).enumerate();
        let files: Vec<Wanted<'_>> = entries
            .filter(|(_, (entry, _))| entry.is_file())
            .map(|(nth, (entry, vouched))| Wanted { nth, entry, vouched: *vouched })
            .collect();
        let runs = runs(&files, threads);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let work = |repository: &Repository| {
                let made = self.write_runs(repository, &runs, &next, until);
                if made.is_err() {
                    // nobody need go on
                    next.store(runs.len(), Ordering::Relaxed);
                }
                made
            };
            let mut spare = spare.into_iter();
            let others: Vec<_> = (1..threads.min(runs.len()))
                .map_while(|_| {
                    let opened = spare.next();
                    let work = move || match opened {
                        Some(opened) => work(&opened),
                        // what one that cannot open it leaves undone, the others do
                        None => Repository::open(&self.source.common)
                            .map_or(Ok(Vec::new()), |opened| work(&opened)),
                    };
                    // the system may refuse one more
                    beside(BEGINS, |beside| {
                        let work = move || {
                            beside.begin();
                            work()
                        };
                        thread::Builder::new().spawn_scoped(scope, work).ok()
                    })
                })
                .collect();
            let mut made = work(repository)?;
            for other in others {
                made.extend(other.join().map_err(|_| io::Error::other("a writer broke"))??);
            }
            Ok(made)
        })
    }

    /// Writes one run of files after the other until none is left.
    fn write_runs(
        &self,
        repository: &Repository,
        runs: &[&[Wanted<'_>]],
        next: &AtomicUsize,
        until: Instant,
    ) -> io::Result<Vec<(usize, Known)>> {
        let objects = repository.odb().map_err(io::Error::other)?;
        let to = OwnedFd::from(File::open(self.path)?);
        // whatever of the checkout cannot be read is unpacked
        let from = File::open(&self.source.checkout).ok().map(OwnedFd::from);
        let (mut made, mut buffer) = (Vec::new(), vec![0; SMALL]);
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(first) = run.first() else { continue };
            if Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk was too slow"));
            }
            let folder = Path::new(first.entry.folder());
            let (from, to) =
                (from.as_ref().and_then(|top| inside(top, folder).ok()), made_inside(&to, folder)?);
            for wanted in *run {
                let known = self.write_file(*wanted, &objects, from.as_ref(), &to, &mut buffer)?;
                made.push((wanted.nth, known));
            }
        }
        Ok(made)
    }

    fn write_file(
        &self,
        Wanted { entry, vouched, .. }: Wanted<'_>,
        objects: &Odb<'_>,
        from: Option<&OwnedFd>,
        to: &OwnedFd,
        buffer: &mut [u8],
    ) -> io::Result<Known> {
        let (size, kind) = objects.read_header(entry.id).map_err(io::Error::other)?;
        if kind != git2::ObjectType::Blob {
            return Err(io::Error::other("what should be a file is none"));
        }
        let mode = if entry.mode == EXECUTABLE { 0o777 } else { 0o666 };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let name = entry.name();
        let mut file = File::from(openat(to, name, flags, Mode::from_bits_truncate(mode))?);
        let is_copied = match (from, vouched) {
            // of another size it was written by rules that no longer hold
            (Some(from), Some(vouched)) if vouched.size() as usize == size => {
                copy((entry.mode, vouched), from, name, &mut file, buffer)?
            }
            _ => false,
        };
        if !is_copied {
            if size > MAX_UNPACKED {
                return Err(io::Error::from(io::ErrorKind::FileTooLarge));
            }
            file.write_all(objects.read(entry.id).map_err(io::Error::other)?.data())?;
        }
        file.set_modified(self.modified)?;
        Ok(Known::of(&file.metadata()?))
    }

    /// Empties the worktree again.
    fn take_back(&self) -> io::Result<()> {
        for child in fs::read_dir(self.path)? {
            let child = child?;
            if child.file_name() == ".git" {
                continue;
            }
            match child.file_type()?.is_dir() {
                true => fs::remove_dir_all(child.path())?,
                false => fs::remove_file(child.path())?,
            }
        }
        match fs::remove_file(self.record.index()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => Ok(()),
        }
    }
}

/// The files as the threads take them: each run in one folder, and shorter towards the end, so that none
/// has much left to do when another is done.
fn runs<'a, 'e>(mut left: &'a [Wanted<'e>], threads: usize) -> Vec<&'a [Wanted<'e>]> {
    let mut runs = Vec::new();
    while let Some(first) = left.first() {
        let most = (left.len() / (2 * threads.max(1))).clamp(LEAST_RUN, RUN);
        let is_beside = |other: &&Wanted<'_>| other.entry.folder() == first.entry.folder();
        let (run, rest) = left.split_at(left.iter().take(most).take_while(is_beside).count());
        runs.push(run);
        left = rest;
    }
    runs
}

/// Copies a file of the checkout; false, and nothing is written, when it is not what the index says.
/// Of a large one the kernel shares the blocks instead, on a disk that can.
fn copy(
    (mode, vouched): (u32, Known),
    from: &OwnedFd,
    name: &OsStr,
    to: &mut File,
    buffer: &mut [u8],
) -> io::Result<bool> {
    // a pipe that came in its place is not waited for
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(source) = openat(from, name, flags, Mode::empty()) else { return Ok(false) };
    let source = File::from(source);
    let is_it = || source.metadata().is_ok_and(|found| is_of(mode, &vouched, &found));
    if let Some(buffer) = buffer.get_mut(..vouched.size() as usize) {
        if !is_read(&source, buffer, is_it) {
            return Ok(false);
        }
        return to.write_all(buffer).map(|()| true);
    }
    if !is_it() {
        return Ok(false);
    }
    let size = u64::from(vouched.size());
    let copied = io::copy(&mut (&source).take(size), to);
    if copied.is_ok_and(|copied| copied == size) && is_it() {
        return Ok(true);
    }
    to.set_len(0)?;
    to.rewind()?;
    Ok(false)
}

/// Reads it, and only then looks whether it is what was to be read: a time that was changed never
/// goes back, so one look says that nothing was written before, either.
fn is_read(source: &File, buffer: &mut [u8], is_it: impl FnOnce() -> bool) -> bool {
    source.read_exact_at(buffer, 0).is_ok() && is_it()
}

/// Opens a folder inside another without going through a link.
fn inside(top: &OwnedFd, folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = top.try_clone()?;
    for part in folder {
        at = openat(at.as_fd(), part, flags, Mode::empty())?;
    }
    Ok(at)
}

/// The same of a folder that is made where it is not there yet.
fn made_inside(top: &OwnedFd, folder: &Path) -> io::Result<OwnedFd> {
    let mut at = match inside(top, folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => top.try_clone()?,
        found => return found,
    };
    for part in folder {
        let part = Path::new(part);
        at = match inside(&at, part) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&at, part, Mode::from_bits_truncate(0o777)) {
                    // another thread was sooner
                    Ok(()) | Err(Errno::EEXIST) => inside(&at, part)?,
                    Err(cause) => return Err(cause.into()),
                }
            }
            found => found?,
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::super::super::repo::CommitId;
    use super::super::Hold;
    use super::*;

    #[test]
    fn a_file_is_looked_at_once_it_was_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"old").unwrap();
        let (mut buffer, mut other) = ([0; 3], file.try_clone().unwrap());
        let look = || {
            other.rewind().unwrap();
            other.write_all(b"new").unwrap();
            true
        };
        assert!(is_read(&file, &mut buffer, look));
        assert_eq!(buffer, *b"old");
        assert!(!is_read(&file, &mut buffer, || false));
        assert!(!is_read(&file, &mut [0; 4], || true), "it is shorter");
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let user = git2::Repository::init(folder.path().join("user")).unwrap();
        let root = user.workdir().unwrap();
        fs::write(root.join("file"), "text").unwrap();
        let mut index = user.index().unwrap();
        index.add_path(Path::new("file")).unwrap();
        index.write().unwrap();
        // the index is younger than the file, as after any while
        let file = File::open(root.join("file")).unwrap();
        let past = file.metadata().unwrap().modified().unwrap() - 2 * AGE;
        file.set_modified(past).unwrap();
        index.add_path(Path::new("file")).unwrap();
        index.write().unwrap();
        let tree = user.find_tree(index.write_tree().unwrap()).unwrap();
        let by = git2::Signature::now("T", "t@localhost").unwrap();
        let commit = user.commit(Some("HEAD"), &by, &by, "one", &tree, &[]).unwrap();
        let commit = CommitId::from(commit);
        let path = folder.path().join("new");
        let now = hayward_shared::time::Timestamp::from_millis(0);
        Record::enter(user.path(), &path, (&commit, None), &Hold::Making, now).unwrap();

        let source = Source::read(user.path(), &commit).unwrap().unwrap();
        let refused = seed(&path, &source, None, 1, Instant::now() - AGE).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        assert!(!path.join("file").exists());
        assert!(seed(&path, &source, None, 1, Instant::now() + Duration::from_secs(60)).unwrap());
        assert_eq!(fs::read(path.join("file")).unwrap(), b"text");
    }
}
