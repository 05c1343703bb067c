//! Files of a new worktree taken from the user's checkout where it holds the very ones: a copy costs
//! less than unpacking them, and next to nothing on a disk that shares the blocks of copies. Git
//! then writes the rest, and finds these as it would have written them.
//!
//! The checkout is only read. A file is taken when the user's index vouches for it, as git itself
//! trusts it: same inode, size and times before and after it was read, and not so young that the
//! index cannot know.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::configured::each;
use super::super::hidden::is_hidden;
use super::super::repo::CommitId;
use super::Record;
use super::pristine::{EXECUTABLE, TICK_NS, is_of, nanoseconds, time};

/// An ordinary file, in an index.
const FILE: u32 = 0o100_644;

/// How much older than its index git must take these files for: it looks at whole seconds, and
/// would otherwise read each file again.
const SETTLED: Duration = Duration::from_secs(2);

/// Fills the empty worktree at `path` with what the user's checkout has of `commit`, by so many
/// threads, and writes its index; how many files those are. None where there is nothing to take.
/// Blocking. Whatever fails leaves the worktree empty again.
///
/// # Errors
/// The disk failed, or the worktree could not be emptied: it is of no use then.
pub(super) fn seed(path: &Path, commit: &CommitId, threads: usize) -> io::Result<Option<usize>> {
    let found = match find(path, commit) {
        Ok(Some(found)) if !found.wanted.is_empty() => found,
        Ok(_) => return Ok(None),
        Err(cause) => {
            tracing::debug!(%cause, "nothing is taken from the checkout");
            return Ok(None);
        }
    };
    let Some(record) = Record::of(path) else { return Ok(None) };
    match found.hand_over(path, &record, threads) {
        Ok(count) => Ok(Some(count)),
        Err(cause) => {
            tracing::debug!(%cause, "what was taken from the checkout is given back");
            empty(path, &record)?;
            Ok(None)
        }
    }
}

/// What the checkout may give.
struct Found {
    checkout: PathBuf,
    wanted: Vec<git2::IndexEntry>,
}

fn find(path: &Path, commit: &CommitId) -> Result<Option<Found>, git2::Error> {
    let ours = git2::Repository::open(path)?;
    let repository = git2::Repository::open(ours.commondir())?;
    let Some(checkout) = repository.workdir().map(Path::to_owned) else { return Ok(None) };
    if ours.config()?.get_bool("core.sparseCheckout").unwrap_or(false) || converts(path)? {
        return Ok(None);
    }
    let place = repository.path().join("index");
    let Ok(written) = fs::symlink_metadata(&place) else { return Ok(None) };
    let written = nanoseconds(written.mtime(), written.mtime_nsec());
    let index = git2::Index::open(&place)?;
    let mut tree = git2::Index::new()?;
    tree.read_tree(&repository.find_commit(commit.oid()?)?.tree()?)?;
    let objects = repository.odb()?;
    let mut has = index.iter().peekable();
    let mut wanted = Vec::new();
    for entry in tree.iter() {
        if entry.path.ends_with(b".gitattributes")
            && rules(repository.find_blob(entry.id)?.content())
        {
            return Ok(None);
        }
        while has.next_if(|one| one.path < entry.path).is_some() {}
        let same =
            has.next_if(|one| (&one.path, one.id, one.mode) == (&entry.path, entry.id, entry.mode));
        // of another size it was written by rules that no longer hold
        if let Some(one) = same.filter(|one| is_sure(one, written))
            && objects.read_header(one.id)?.0 == one.file_size as usize
        {
            wanted.push(one);
        }
    }
    Ok(Some(Found { checkout, wanted }))
}

/// Whether files may be written otherwise than they are stored, by the configuration or by rules
/// that are in no commit.
fn converts(path: &Path) -> Result<bool, git2::Error> {
    let mut places: Vec<PathBuf> =
        ["/etc/gitattributes", "/usr/local/etc/gitattributes"].map(PathBuf::from).into();
    let mut told = false;
    let all = each(path, |key, value| {
        let value = String::from_utf8_lossy(value).to_lowercase();
        match key.to_ascii_lowercase().as_slice() {
            b"core.autocrlf" => told |= !["false", "no", "off", "0", "input"].contains(&&*value),
            b"core.eol" => told |= value == "crlf",
            // where that leads is git's business
            b"core.attributesfile" => told = true,
            _ => {}
        }
    });
    all.map_err(|cause| git2::Error::from_str(&cause.to_string()))?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let settings = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let settings = settings.or_else(|| home.map(|home| home.join(".config")));
    places.extend(settings.map(|folder| folder.join("git/attributes")));
    places.push(git2::Repository::open(path)?.commondir().join("info/attributes"));
    Ok(told || places.iter().any(|place| fs::read(place).is_ok_and(|text| rules(&text))))
}

/// Whether attributes name a conversion. A word that only looks like one costs time alone.
fn rules(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    ["filter", "ident", "encoding", "crlf"].iter().any(|word| text.contains(word))
}

/// Whether the index can vouch for the file, which is a plain one.
fn is_sure(entry: &git2::IndexEntry, written: i128) -> bool {
    matches!(entry.mode, FILE | EXECUTABLE)
        && entry.flags & STAGE == 0
        && !is_hidden(entry)
        && time(entry.mtime) + TICK_NS < written
}

/// The bits of an entry's flags that say which side of a conflict it is.
const STAGE: u16 = 0x3000;

impl Found {
    fn hand_over(self, path: &Path, record: &Record, threads: usize) -> io::Result<usize> {
        let Self { checkout, wanted } = self;
        let name = |entry: &git2::IndexEntry| Path::new(OsStr::from_bytes(&entry.path)).to_owned();
        let folders: BTreeSet<PathBuf> =
            wanted.iter().filter_map(|entry| name(entry).parent().map(Path::to_owned)).collect();
        for folder in folders {
            fs::create_dir_all(path.join(folder))?;
        }
        let share = wanted.len().div_ceil(threads.max(1));
        let taken: Vec<git2::IndexEntry> = std::thread::scope(|scope| {
            let works: Vec<_> = wanted
                .chunks(share)
                .map(|share| {
                    let (from, to) = (&checkout, path);
                    scope.spawn(move || -> io::Result<Vec<git2::IndexEntry>> {
                        let all = share.iter().map(|entry| {
                            let name = Path::new(OsStr::from_bytes(&entry.path));
                            take(entry, &from.join(name), &to.join(name))
                        });
                        Ok(all.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
                    })
                })
                .collect();
            let mut taken = Vec::with_capacity(wanted.len());
            for work in works {
                let part = work.join().map_err(|_| io::Error::other("a copying thread broke"))?;
                taken.extend(part?);
            }
            Ok::<_, io::Error>(taken)
        })?;
        let mut index = git2::Index::open(&record.index()).map_err(io::Error::other)?;
        for entry in &taken {
            index.add(entry).map_err(io::Error::other)?;
        }
        index.write().map_err(io::Error::other)?;
        let written = File::options().write(true).open(record.index())?;
        let now = written.metadata()?.modified()?;
        written.set_modified(now.checked_add(SETTLED).unwrap_or(now))?;
        Ok(taken.len())
    }
}

/// Copies one file; none when it is not what the index says. On a disk that can, the kernel shares
/// its blocks instead.
fn take(entry: &git2::IndexEntry, from: &Path, to: &Path) -> io::Result<Option<git2::IndexEntry>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let Ok(mut source) = OpenOptions::new().read(true).custom_flags(flags).open(from) else {
        return Ok(None);
    };
    if !is_of(entry, &source.metadata()?) {
        return Ok(None);
    }
    let mode = if entry.mode == EXECUTABLE { 0o777 } else { 0o666 };
    let mut target = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut source, &mut target)?;
    let made = target.metadata()?;
    if !is_of(entry, &source.metadata()?) || made.size() != u64::from(entry.file_size) {
        fs::remove_file(to)?;
        return Ok(None);
    }
    Ok(Some(vouched(entry, &made)))
}

/// The entry for the copy.
#[expect(clippy::cast_possible_truncation, reason = "the index keeps the low 32 bits")]
#[expect(clippy::cast_sign_loss, reason = "the index keeps the low 32 bits")]
fn vouched(entry: &git2::IndexEntry, made: &Metadata) -> git2::IndexEntry {
    let time = |seconds: i64, rest: i64| git2::IndexTime::new(seconds as i32, rest as u32);
    git2::IndexEntry {
        ctime: time(made.ctime(), made.ctime_nsec()),
        mtime: time(made.mtime(), made.mtime_nsec()),
        dev: made.dev() as u32,
        ino: made.ino() as u32,
        mode: entry.mode,
        uid: made.uid(),
        gid: made.gid(),
        file_size: made.size() as u32,
        id: entry.id,
        flags: entry.flags,
        flags_extended: 0,
        path: entry.path.clone(),
    }
}

fn empty(path: &Path, record: &Record) -> io::Result<()> {
    for child in fs::read_dir(path)? {
        let child = child?;
        if child.file_name() == ".git" {
            continue;
        }
        match child.file_type()?.is_dir() {
            true => fs::remove_dir_all(child.path())?,
            false => fs::remove_file(child.path())?,
        }
    }
    match fs::remove_file(record.index()) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}
