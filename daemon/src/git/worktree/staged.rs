//! The index of the user's checkout, with the trees that its files make.
//!
//! Read in one pass, and without an allocation for each file: of a large repository libgit2 takes a
//! tenth of the time in which a worktree is made to read its index, and the trees of a commit that are
//! the very same. The id of each folder is worked out as git would, so whoever finds that of a tree here
//! need not read the tree: it holds what the index does, whatever else the index says.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use git2::Oid;
use nix::fcntl::OFlag;
use sha1::{Digest, Sha1};

use super::contents::{FILE, FOLDER, Folder, MAX_DEPTH, MAX_HELD, is_odd, is_odd_link};
use super::index::{BEFORE_NAME, Known, STEP};
use super::pristine::{EXECUTABLE, INTENT_TO_ADD, LINK, SKIP_WORKTREE, SUBMODULE};

/// The bytes of an id, and of the sum at the end of an index.
const ID: usize = 20;

/// The bits of an entry's flags that say which side of a conflict it is.
const STAGE: u16 = 0x3000;

/// The bit of the flags that has git take a file for unchanged.
const ASSUMED: u16 = 0x8000;

/// The bit of the flags that more of them follow.
const MORE: u16 = 0x4000;

/// The largest index that is read: of as many files as are held at all, each with a long name. The names
/// that an index tells by what differs from the one before take no more, either.
const MAX_BYTES: usize = 512 << 20;

/// A file, link or submodule in the index.
#[derive(Debug)]
pub(super) struct Line {
    name: Range<usize>,
    /// Where in the name the part after its folder begins.
    pub(super) leaf: usize,
    pub(super) mode: u32,
    pub(super) id: Oid,
    /// What git saw of the file when it last looked.
    pub(super) known: Known,
    /// Whether the entry is what its commit would have there, and git looks at the file.
    is_plain: bool,
}

/// A folder of the index.
#[derive(Debug)]
struct Place {
    folder: Folder,
    /// How long its path is, with the slash at the end: so much of the name of its first line, or
    /// nothing for the top.
    path: usize,
    /// Whether [`Folder::id`] is that of all in it: no conflict and nothing that git may read
    /// otherwise is in it or below it.
    is_sound: bool,
    first: usize,
    /// How many folders are below it, at any depth: they are those that follow it.
    below: usize,
}

/// The index of the user's checkout.
#[derive(Debug)]
pub(super) struct Staged {
    names: Vec<u8>,
    /// Ascending by their names.
    lines: Vec<Line>,
    /// Ascending by their paths, so that each stands before those below it.
    places: Vec<Place>,
    /// Since when the index stands, in whole seconds since 1970.
    written: i64,
}

impl Staged {
    /// Reads the index at `place`. None where there is none, it is broken, or of a kind that only git
    /// reads: in parts, sparse, of a version to come, or with more than a commit may hold here.
    pub(super) fn read(place: &Path) -> Option<Self> {
        // a pipe that came in its place is not waited for
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits()).open(place).ok()?;
        // looked at before it is read: one that is written meanwhile is younger than assumed
        let found = file.metadata().ok().filter(|found| found.is_file())?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let mut staged = Self::parse(&bytes)?;
        staged.written = found.mtime().min(found.ctime());
        Some(staged)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(ID)?)?;
        // git may be told to write none
        if sum != [0; ID] && *sum != *Sha1::digest(body) {
            return None;
        }
        let mut cursor = Cursor { bytes: body, at: 0 };
        if cursor.take(4)? != b"DIRC" {
            return None;
        }
        let (version, count) = (cursor.number()?, cursor.number()? as usize);
        if !(2..=4).contains(&version) || count > MAX_HELD {
            return None;
        }
        // of a count that is a lie no room is made
        let mut making = Making::new(count.min(body.len() / BEFORE_NAME))?;
        for _ in 0..count {
            making.line(&mut cursor, version)?;
        }
        while cursor.at < body.len() {
            let kind = cursor.take(4)?;
            let size = cursor.number()? as usize;
            cursor.take(size)?;
            // git too goes on only past what begins with a capital
            if !kind.first()?.is_ascii_uppercase() {
                return None;
            }
        }
        making.finish()
    }

    /// The name of a line, from the top.
    pub(super) fn name(&self, line: &Line) -> &[u8] {
        self.names.get(line.name.clone()).unwrap_or_default()
    }

    /// What is in the folder with that path (which ends with a slash, or is empty for the top), when
    /// it is all that the tree `id` holds: its lines, and the folder with those below it, each before
    /// those within it.
    pub(super) fn same(
        &self,
        path: &[u8],
        id: Oid,
    ) -> Option<(&[Line], impl ExactSizeIterator<Item = &Folder>)> {
        let nth = self.places.binary_search_by(|place| self.path(place).cmp(path)).ok()?;
        let place = self.places.get(nth)?;
        let folders = self.places.get(nth..=nth + place.below)?;
        let lines = self.lines.get(place.first..place.first + place.folder.entries)?;
        let is_same = place.is_sound && place.folder.id == id;
        is_same.then(|| (lines, folders.iter().map(|place| &place.folder)))
    }

    /// All of them, ascending by their names.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The path of a folder, with a slash at its end.
    fn path(&self, place: &Place) -> &[u8] {
        let first = self.lines.get(place.first).map_or(&[][..], |line| self.name(line));
        first.get(..place.path).unwrap_or_default()
    }

    /// The line of a name.
    fn find(&self, name: &[u8]) -> Option<&Line> {
        let nth = self.lines.binary_search_by(|line| self.name(line).cmp(name)).ok()?;
        self.lines.get(nth)
    }

    /// What is known of a file that the index vouches for, as git sees it: one as young as its index
    /// may have changed after it was looked at.
    pub(super) fn vouched(&self, line: &Line) -> Option<Known> {
        let is_file = matches!(line.mode, FILE | EXECUTABLE);
        let is_old = i64::from(line.known.modified()) < self.written;
        (line.is_plain && is_file && is_old).then_some(line.known)
    }
}

/// Bytes that are read from the front.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// What is left before the next zero, which is passed.
    fn text(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let text = rest.get(..rest.iter().position(|byte| *byte == 0)?)?;
        self.at += text.len() + 1;
        Some(text)
    }

    /// A number of any size, seven bits a byte, the first ones first, none written in two ways.
    fn long(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        loop {
            let byte = *self.take(1)?.first()?;
            value = value.checked_shl(7)?.checked_add(usize::from(byte & 0x7f))?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            value = value.checked_add(1).filter(|value| *value < MAX_HELD * 64)?;
        }
    }
}

/// A folder of which not all was seen yet.
struct Open {
    /// Its number among the places.
    nth: usize,
    /// How long the path of the folder around it is.
    around: usize,
    /// Its tree, as far as it is known.
    tree: Vec<u8>,
    is_sound: bool,
}

/// An index that is being read.
struct Making {
    staged: Staged,
    /// From the top to the one that is being read.
    open: Vec<Open>,
    /// The path of that one, with a slash at its end.
    path: Vec<u8>,
}

impl Making {
    /// One with the top open, and room for so many lines.
    fn new(count: usize) -> Option<Self> {
        let staged = Staged {
            names: Vec::new(),
            lines: Vec::with_capacity(count),
            places: Vec::new(),
            written: 0,
        };
        let mut making = Self { staged, open: Vec::new(), path: Vec::new() };
        making.enter(b"")?;
        Some(making)
    }

    /// Reads the next line, and what it says of the folders that it is in.
    fn line(&mut self, cursor: &mut Cursor<'_>, version: u32) -> Option<()> {
        let begin = cursor.at;
        let mut numbers = [0; 10];
        for number in &mut numbers {
            *number = cursor.number()?;
        }
        let (known, mode) = Known::told(numbers);
        let id = Oid::from_bytes(cursor.take(ID)?).ok()?;
        let flags = cursor.short()?;
        let more = if flags & MORE != 0 { cursor.short()? } else { 0 };
        if more & !(INTENT_TO_ADD | SKIP_WORKTREE) != 0 || flags & MORE != 0 && version == 2 {
            return None;
        }
        let start = self.staged.names.len();
        let before = self.staged.lines.last().map_or(0..0, |line| line.name.clone());
        if version == 4 {
            let kept = before.len().checked_sub(cursor.long()?)?;
            self.staged.names.extend_from_within(before.start..before.start + kept);
            self.staged.names.extend_from_slice(cursor.text()?);
        } else {
            let name = cursor.text()?;
            self.staged.names.extend_from_slice(name);
            let length =
                (BEFORE_NAME + usize::from(flags & MORE != 0) * 2 + name.len()) / STEP * STEP;
            cursor.at = begin + length + STEP;
        }
        let name = start..self.staged.names.len();
        if name.end > MAX_BYTES {
            return None;
        }
        let order = self.staged.names.get(before)?.cmp(self.staged.names.get(name.clone())?);
        let is_staged = flags & STAGE != 0;
        // the sides of a conflict have one name
        if order.is_gt() || order.is_eq() && !is_staged {
            return None;
        }
        let is_plain = !is_staged && more & (INTENT_TO_ADD | SKIP_WORKTREE) == 0;
        let leaf = self.within(&name)?;
        let line = Line { name, leaf, mode, id, known, is_plain: is_plain && flags & ASSUMED == 0 };
        let is_there = !is_staged && more & INTENT_TO_ADD == 0;
        self.note(&line, is_there)?;
        self.staged.lines.push(line);
        Some(())
    }

    /// Leaves and enters folders until the one is open that the name is in; tells where in the name
    /// that folder ends.
    fn within(&mut self, name: &Range<usize>) -> Option<usize> {
        let name = self.staged.names.get(name.clone())?;
        let end = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let folder = name.get(..end)?;
        if folder == self.path {
            return Some(end);
        }
        let folder = folder.to_vec();
        while !folder.starts_with(&self.path) {
            self.leave()?;
        }
        loop {
            let at = self.path.len();
            let rest = folder.get(at..)?;
            let Some(slash) = rest.iter().position(|byte| *byte == b'/') else { return Some(end) };
            if self.open.len() >= MAX_DEPTH {
                return None;
            }
            let own = rest.get(..slash)?;
            // a file of the same name is no part of any commit
            let is_double = self.staged.find(folder.get(..at + slash)?).is_some();
            self.open.last_mut()?.is_sound &= !is_double && !is_odd(own);
            self.enter(own)?;
        }
    }

    fn enter(&mut self, own: &[u8]) -> Option<()> {
        if self.staged.places.len() + self.staged.lines.len() > MAX_HELD {
            return None;
        }
        let (nth, around) = (self.staged.places.len(), self.path.len());
        if nth > 0 {
            self.path.extend_from_slice(own);
            self.path.push(b'/');
        }
        let folder = Folder { name: own.to_vec(), id: Oid::ZERO_SHA1, entries: 0, folders: 0 };
        let (path, first) = (self.path.len(), self.staged.lines.len());
        self.staged.places.push(Place { folder, path, is_sound: false, first, below: 0 });
        self.open.push(Open { nth, around, tree: Vec::new(), is_sound: true });
        Some(())
    }

    /// Puts a line into the tree of the folder that is open.
    fn note(&mut self, line: &Line, is_there: bool) -> Option<()> {
        let name = self.staged.names.get(line.name.clone())?.get(line.leaf..)?;
        let is_known = matches!(line.mode, FILE | EXECUTABLE | LINK | SUBMODULE);
        let is_harmless = !is_odd(name) && (line.mode != LINK || !is_odd_link(name));
        let open = self.open.last_mut()?;
        open.is_sound &= is_there && is_known && is_harmless;
        put(&mut open.tree, line.mode, name, line.id);
        Some(())
    }

    /// Works out what the folder that is open is, and goes back to the one around it.
    fn leave(&mut self) -> Option<()> {
        let Open { nth, around, tree, is_sound } = self.open.pop()?;
        self.path.truncate(around);
        let (lines, places) = (self.staged.lines.len(), self.staged.places.len());
        let place = self.staged.places.get_mut(nth)?;
        let mut sum = Sha1::new();
        sum.update(format!("tree {}\0", tree.len()));
        sum.update(&tree);
        let id = Oid::from_bytes(&sum.finalize()).ok()?;
        (place.is_sound, place.below) = (is_sound, places - nth - 1);
        (place.folder.id, place.folder.entries) = (id, lines - place.first);
        if let Some(around) = self.open.last_mut() {
            around.is_sound &= is_sound;
            put(&mut around.tree, FOLDER, &place.folder.name, id);
            self.staged.places.get_mut(around.nth)?.folder.folders += 1;
        }
        Some(())
    }

    fn finish(mut self) -> Option<Staged> {
        while !self.open.is_empty() {
            self.leave()?;
        }
        Some(self.staged)
    }
}

/// Adds a child to a tree, in git's way. Of other kinds than these there are none in a sound one.
fn put(tree: &mut Vec<u8>, mode: u32, name: &[u8], id: Oid) {
    let mode: &[u8] = match mode {
        FOLDER => b"40000 ",
        EXECUTABLE => b"100755 ",
        LINK => b"120000 ",
        SUBMODULE => b"160000 ",
        _ => b"100644 ",
    };
    for part in [mode, name, b"\0", id.as_bytes()] {
        tree.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::super::contents::Contents;
    use super::*;
    use git2::{Index, IndexEntry, IndexTime, Repository, Tree};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const MODES: [u32; 4] = [FILE, EXECUTABLE, LINK, SUBMODULE];

    fn entry(nth: u32, name: &str, id: Oid) -> IndexEntry {
        let seconds = i32::try_from(nth).unwrap();
        IndexEntry {
            ctime: IndexTime::new(seconds + 1, nth + 2),
            mtime: IndexTime::new(seconds + 3, nth + 4),
            dev: nth + 5,
            ino: nth + 6,
            mode: MODES[nth as usize % MODES.len()],
            uid: nth + 7,
            gid: nth + 8,
            file_size: nth + 9,
            id,
            flags: 0,
            flags_extended: 0,
            path: name.as_bytes().to_vec(),
        }
    }

    struct Scene {
        _folder: tempfile::TempDir,
        repository: Repository,
        index: Index,
        place: std::path::PathBuf,
    }

    /// A repository and an index with these names.
    fn scene<'a>(names: impl Iterator<Item = &'a str>, version: u32) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(folder.path().join("bare")).unwrap();
        let place = folder.path().join("index");
        let mut index = Index::open(&place).unwrap();
        index.set_version(version).unwrap();
        for (nth, name) in (0..).zip(names) {
            let blob = repository.blob(name.as_bytes()).unwrap();
            index.add(&entry(nth, name, blob)).unwrap();
        }
        index.write().unwrap();
        Scene { _folder: folder, repository, index, place }
    }

    /// Holds every folder of a tree against what was read of the index.
    fn compare(repository: &Repository, staged: &Staged, path: &str, tree: &Tree<'_>) {
        let (lines, folders) = staged.same(path.as_bytes(), tree.id()).unwrap();
        let theirs = Contents::of(repository, tree, None).unwrap().unwrap();
        let folders: Vec<_> = folders.collect();
        // a folder is told by its own name, and the top of what is read has none
        assert_eq!(folders.len(), theirs.folders.len());
        for (one, other) in folders.iter().zip(&theirs.folders).skip(1) {
            assert_eq!(*one, other);
        }
        let names: Vec<_> =
            theirs.entries.iter().map(|it| [path.as_bytes(), &it.path].concat()).collect();
        assert_eq!(lines.iter().map(|line| staged.name(line)).collect::<Vec<_>>(), names);
        for child in tree {
            if let Some(inner) = child.to_object(repository).unwrap().as_tree() {
                compare(repository, staged, &format!("{path}{}/", child.name().unwrap()), inner);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_read_is_what_libgit2_reads_and_the_trees_that_it_writes(
            names in prop::collection::btree_set("[a-z]{1,9}(/[a-z]{0,6}[.x]?y){0,3}", 0..40),
            version in prop::sample::select(vec![2, 4]),
        ) {
            let is_folder = |name: &str| {
                names.iter().any(|one| one.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
            };
            let names: BTreeSet<&str> =
                names.iter().map(String::as_str).filter(|name| !is_folder(name)).collect();
            let mut scene = scene(names.iter().copied(), version);
            let tree = scene.index.write_tree_to(&scene.repository).unwrap();
            let tree = scene.repository.find_tree(tree).unwrap();
            let staged = Staged::read(&scene.place).unwrap();
            compare(&scene.repository, &staged, "", &tree);
            let theirs: Vec<IndexEntry> = scene.index.iter().collect();
            assert_eq!(staged.lines().len(), theirs.len());
            for (line, entry) in staged.lines().iter().zip(&theirs) {
                assert_eq!((staged.name(line), line.mode, line.id), (&*entry.path, entry.mode, entry.id));
                assert_eq!(line.known, Known::entered(entry));
            }
            // nothing is taken that another path or another tree holds
            let other = scene.repository.treebuilder(None).unwrap().write().unwrap();
            assert_eq!(staged.same(b"", other).is_some(), names.is_empty());
            assert!(staged.same(b"no/such/", tree.id()).is_none());
        }
    }

    #[test]
    fn names_of_any_length_end_where_they_end() {
        let names: Vec<String> =
            (1..=17).chain([4_094, 4_095, 4_096]).map(|it| "n".repeat(it)).collect();
        for version in [2, 4] {
            let scene = scene(names.iter().map(String::as_str), version);
            let staged = Staged::read(&scene.place).unwrap();
            let read = staged.lines().iter().map(|line| staged.name(line).len());
            assert_eq!(read.collect::<Vec<_>>(), names.iter().map(String::len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_folder_with_a_conflict_or_an_odd_name_is_no_tree() {
        let mut scene = scene(["a/b", "a/c", "d/e", "f"].into_iter(), 2);
        let id = scene.index.get(0).unwrap().id;
        let tree = scene.index.write_tree_to(&scene.repository).unwrap();
        let inner = scene.repository.find_tree(tree).unwrap().get_name("d").unwrap().id();
        let same = |scene: &mut Scene| {
            scene.index.write().unwrap();
            let staged = Staged::read(&scene.place).unwrap();
            (staged.same(b"", tree).is_some(), staged.same(b"d/", inner).is_some())
        };
        assert_eq!(same(&mut scene), (true, true));
        // another side of a conflict, and one that was only announced
        scene.index.add(&IndexEntry { flags: 0x2000, ..entry(0, "a/b2", id) }).unwrap();
        assert_eq!(same(&mut scene), (false, true));
        let staged = Staged::read(&scene.place).unwrap();
        assert!(staged.places.iter().any(|place| !place.is_sound));
        scene.index.remove(Path::new("a/b2"), 2).unwrap();
        let entry = IndexEntry { flags_extended: INTENT_TO_ADD, ..entry(0, "a/b2", id) };
        scene.index.add(&entry).unwrap();
        assert_eq!(same(&mut scene), (false, true));
        let staged = Staged::read(&scene.place).unwrap();
        assert!(staged.vouched(staged.find(b"a/b2").unwrap()).is_none());
    }

    #[test]
    fn a_broken_index_is_not_read() {
        let scene = scene(["a/b", "c"].into_iter(), 2);
        let whole = std::fs::read(&scene.place).unwrap();
        let sealed = |mut body: Vec<u8>| {
            let sum = Sha1::digest(&body);
            body.extend_from_slice(&sum);
            body
        };
        let body = |bytes: &[u8]| bytes[..bytes.len() - ID].to_vec();
        assert!(Staged::parse(&whole).is_some());
        assert!(Staged::parse(&sealed(body(&whole))).is_some());
        let unsummed = [body(&whole), vec![0; ID]].concat();
        assert!(Staged::parse(&unsummed).is_some(), "git may be told to write no sum");
        for end in 0..whole.len() {
            assert!(Staged::parse(&whole[..end]).is_none());
            let cut = sealed(whole[..end.min(whole.len() - ID)].to_vec());
            // no entry is read short, whatever the sum says; the extensions may end early
            assert!(Staged::parse(&cut).is_none_or(|staged| staged.lines().len() == 2));
        }
        for at in 0..whole.len() - ID {
            let mut bent = body(&whole);
            bent[at] ^= 0x55;
            let parsed = Staged::parse(&sealed(bent));
            assert!(parsed.is_none_or(|staged| staged.lines().len() <= 2), "byte {at}");
        }
        // parts in another file, and folders that stand for what is in them
        for kind in [b"link", b"sdir"] {
            let mut more = body(&whole);
            more.extend_from_slice(kind);
            more.extend_from_slice(&[0; 4]);
            assert!(Staged::parse(&sealed(more)).is_none());
        }
    }
}
