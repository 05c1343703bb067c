//! The files of a new worktree written in this process, where git would write them as they are
//! stored and the user's checkout holds most of them: no program is started, and a copy costs less
//! than unpacking, and next to nothing on a disk that shares the blocks of copies.
//!
//! The checkout is only read. A file is copied when the user's index vouches for it as git itself
//! trusts it: same inode, size and times after it was read, and older than the index.
//! All others come out of the object store.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::iter::Peekable;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use git2::{Index, IndexEntry, Odb};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::super::hidden::is_hidden;
use super::super::repo::CommitId;
use super::Record;
use super::known::{self, Known};
use super::plain::{has_rules, is_plain};
use super::pristine::{EXECUTABLE, INTENT_TO_ADD, LINK, SUBMODULE, is_of};
use crate::fault;

/// An ordinary file, in an index.
const FILE: u32 = 0o100_644;

/// The bits of an entry's flags that say which side of a conflict it is.
const STAGE: u16 = 0x3000;

/// How much older than its worktree a file is said to be. Git looks at whole seconds, and would read
/// each file again that is as young as its index.
const AGE: Duration = Duration::from_secs(2);

/// How many files of one folder a thread takes at a time: enough that it opens few folders.
const RUN: usize = 64;

/// Files up to here are copied through memory: for the few pages of one the kernel takes longer when
/// it is asked to copy by itself.
const SMALL: usize = 128 << 10;

/// One file in so many must be there to copy: objects are unpacked no quicker here than by git's own
/// workers, so a few of them are worth no process, and most of them are.
const WORTHWHILE: usize = 2;

/// The largest object that is unpacked here, in memory; for a larger one all is left to git, which
/// streams it.
const MAX_UNPACKED: usize = 64 << 20;

/// Links and files of attributes are read whole up to here; no system takes a longer link, and nobody
/// wrote such a file.
const MOST_READ: usize = 1 << 20;

/// Fills the empty worktree at `path` with the files of `commit`, by so many threads, and writes its
/// index. False where git has to, and then the worktree is empty as before. Blocking.
///
/// # Errors
/// It was not full by `until`, or could not be emptied again: it is of no use then.
pub(super) fn seed(
    path: &Path,
    commit: &CommitId,
    threads: usize,
    until: Instant,
) -> io::Result<bool> {
    let (plan, mut index) = match Plan::of(path, commit) {
        Ok(Some(both)) => both,
        Ok(None) => return Ok(false),
        Err(cause) => {
            tracing::debug!(%cause, "the files are left to git");
            return Ok(false);
        }
    };
    let Err(cause) = plan.carry_out(&mut index, threads, until) else { return Ok(true) };
    if cause.kind() == io::ErrorKind::TimedOut {
        return Err(cause);
    }
    tracing::debug!(%cause, "what was written is taken back, and left to git");
    plan.take_back()?;
    Ok(false)
}

/// What is to be written where, and who may be read from.
struct Plan {
    path: PathBuf,
    record: Record,
    common: PathBuf,
    checkout: Option<PathBuf>,
    files: Vec<Wanted>,
    links: Vec<(usize, IndexEntry)>,
    submodules: Vec<IndexEntry>,
    modified: SystemTime,
}

/// A file of the commit.
struct Wanted {
    /// Which entry of the index it is.
    nth: usize,
    entry: IndexEntry,
    /// The same of the user's checkout, where its index vouches for it.
    vouched: Option<IndexEntry>,
}

impl Plan {
    /// With the index of the commit, which knows nothing of the files yet. None where git has to write
    /// them.
    fn of(path: &Path, commit: &CommitId) -> Result<Option<(Self, Index)>, git2::Error> {
        let common = git2::Repository::open(path)?.commondir().to_owned();
        let repository = git2::Repository::open(&common)?;
        let Some(record) = Record::of(path) else { return Ok(None) };
        let made = fs::symlink_metadata(path.join(".git")).and_then(|made| made.modified());
        let (true, Ok(made)) = (is_plain(path, &repository)?, made) else { return Ok(None) };
        let tree = repository.find_commit(commit.oid()?)?.tree()?;
        let (checkout, index) = std::thread::scope(|scope| {
            let checkout = scope.spawn(|| Checkout::of(&common));
            let mut index = Index::open(&record.index())?;
            index.read_tree(&tree)?;
            // without what the checkout vouches for, all is left to git
            Ok::<_, git2::Error>((checkout.join().ok().flatten(), index))
        })?;
        let (checkout, vouched) = checkout.map(|it| (it.root, it.vouched)).unzip();
        let mut vouched = vouched.unwrap_or_default().into_iter().peekable();
        let mut plan = Self {
            path: path.to_owned(),
            record,
            common,
            checkout,
            files: Vec::new(),
            links: Vec::new(),
            submodules: Vec::new(),
            modified: made.checked_sub(AGE).unwrap_or(made),
        };
        let objects = repository.odb()?;
        for (nth, entry) in index.iter().enumerate() {
            let rules = ends_with(&entry.path, b".gitattributes");
            if (rules || entry.mode == LINK) && objects.read_header(entry.id)?.0 > MOST_READ {
                return Ok(None);
            }
            if rules && has_rules(repository.find_blob(entry.id)?.content()) {
                return Ok(None);
            }
            // git says why it does not write such a link
            if entry.mode == LINK && entry.path.eq_ignore_ascii_case(b".gitmodules") {
                return Ok(None);
            }
            match entry.mode {
                FILE | EXECUTABLE => {
                    let vouched = next_same(&mut vouched, &entry);
                    plan.files.push(Wanted { nth, entry, vouched });
                }
                LINK => plan.links.push((nth, entry)),
                SUBMODULE => plan.submodules.push(entry),
                // of an old kind, that git reads as one of these
                _ => return Ok(None),
            }
        }
        let copied = plan.files.iter().filter(|wanted| wanted.vouched.is_some()).count();
        Ok((copied * WORTHWHILE >= plan.files.len()).then_some((plan, index)))
    }

    fn carry_out(&self, index: &mut Index, threads: usize, until: Instant) -> io::Result<()> {
        let files = self.files.iter().map(|wanted| &wanted.entry);
        let links = self.links.iter().map(|(_, link)| link);
        let mut folders: Vec<&Path> = files.chain(links).map(parent).collect();
        folders.dedup();
        for folder in folders.into_iter().chain(self.submodules.iter().map(name)) {
            fs::create_dir_all(self.path.join(folder))?;
        }
        let mut known = self.write_files(index, threads, until)?;
        // after them, so that nothing is written through a link
        let repository = git2::Repository::open(&self.common).map_err(io::Error::other)?;
        for (nth, link) in &self.links {
            let target = repository.find_blob(link.id).map_err(io::Error::other)?;
            let place = self.path.join(name(link));
            symlink(OsStr::from_bytes(target.content()), &place)?;
            known.push(Known::of(*nth, &fs::symlink_metadata(&place)?));
        }
        fault::point("worktree.create.written")?;
        known::enter(&self.record, known)
    }

    /// The index is written by this thread, while the others begin with the files.
    fn write_files(
        &self,
        index: &mut Index,
        threads: usize,
        until: Instant,
    ) -> io::Result<Vec<Known>> {
        let runs: Vec<&[Wanted]> = self
            .files
            .chunk_by(|one, next| parent(&one.entry) == parent(&next.entry))
            .flat_map(|folder| folder.chunks(RUN))
            .collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || {
                let made = self.write_runs(&runs, &next, until);
                if made.is_err() {
                    // nobody need go on
                    next.store(runs.len(), Ordering::Relaxed);
                }
                made
            };
            let others: Vec<_> = (1..threads.min(runs.len())).map(|_| scope.spawn(work)).collect();
            let written = index.write().map_err(io::Error::other);
            if written.is_err() {
                next.store(runs.len(), Ordering::Relaxed);
            }
            let mut made = work()?;
            for other in others {
                made.extend(other.join().map_err(|_| io::Error::other("a writer broke"))??);
            }
            written.map(|()| made)
        })
    }

    /// Writes one run of files after the other until none is left.
    fn write_runs(
        &self,
        runs: &[&[Wanted]],
        next: &AtomicUsize,
        until: Instant,
    ) -> io::Result<Vec<Known>> {
        let repository = git2::Repository::open(&self.common).map_err(io::Error::other)?;
        let objects = repository.odb().map_err(io::Error::other)?;
        let to = OwnedFd::from(File::open(&self.path)?);
        // whatever of the checkout cannot be read is unpacked
        let from = self.checkout.as_ref().and_then(|top| File::open(top).ok()).map(OwnedFd::from);
        let (mut made, mut buffer) = (Vec::new(), vec![0; SMALL]);
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(first) = run.first() else { continue };
            if Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk was too slow"));
            }
            let folder = parent(&first.entry);
            let (from, to) =
                (from.as_ref().and_then(|top| inside(top, folder).ok()), inside(&to, folder)?);
            for wanted in *run {
                made.push(self.write_file(wanted, &objects, from.as_ref(), &to, &mut buffer)?);
            }
        }
        Ok(made)
    }

    fn write_file(
        &self,
        Wanted { nth, entry, vouched }: &Wanted,
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
        let name = name(entry).file_name().unwrap_or_default();
        let mut file = File::from(openat(to, name, flags, Mode::from_bits_truncate(mode))?);
        let is_copied = match (from, vouched) {
            // of another size it was written by rules that no longer hold
            (Some(from), Some(vouched)) if vouched.file_size as usize == size => {
                copy(vouched, from, name, &mut file, buffer)?
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
        Ok(Known::of(*nth, &file.metadata()?))
    }

    /// Empties the worktree again.
    fn take_back(&self) -> io::Result<()> {
        for child in fs::read_dir(&self.path)? {
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
        let repository = git2::Repository::open(common).ok()?;
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
    wanted: &IndexEntry,
) -> Option<IndexEntry> {
    while all.next_if(|one| one.path < wanted.path).is_some() {}
    all.next_if(|one| (&one.path, one.id, one.mode) == (&wanted.path, wanted.id, wanted.mode))
}

/// Copies a file of the checkout; false, and nothing is written, when it is not what the index says.
/// Of a large one the kernel shares the blocks instead, on a disk that can.
fn copy(
    entry: &IndexEntry,
    from: &OwnedFd,
    name: &OsStr,
    to: &mut File,
    buffer: &mut [u8],
) -> io::Result<bool> {
    // a pipe that came in its place is not waited for
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(source) = openat(from, name, flags, Mode::empty()) else { return Ok(false) };
    let source = File::from(source);
    let is_it = || source.metadata().is_ok_and(|found| is_of(entry, &found));
    if let Some(buffer) = buffer.get_mut(..entry.file_size as usize) {
        if !is_read(&source, buffer, is_it) {
            return Ok(false);
        }
        return to.write_all(buffer).map(|()| true);
    }
    if !is_it() {
        return Ok(false);
    }
    let size = u64::from(entry.file_size);
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

fn ends_with(name: &[u8], end: &[u8]) -> bool {
    let tail = name.len().checked_sub(end.len()).and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

fn name(entry: &IndexEntry) -> &Path {
    Path::new(OsStr::from_bytes(&entry.path))
}

fn parent(entry: &IndexEntry) -> &Path {
    name(entry).parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
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
        Record::enter(user.path(), &path, &commit, &Hold::Making, now).unwrap();

        let refused = seed(&path, &commit, 1, Instant::now() - AGE).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        assert!(!path.join("file").exists());
        assert!(seed(&path, &commit, 1, Instant::now() + Duration::from_secs(60)).unwrap());
        assert_eq!(fs::read(path.join("file")).unwrap(), b"text");
    }
}
