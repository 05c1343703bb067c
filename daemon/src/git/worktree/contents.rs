//! What a commit holds, in the order of an index. Read in one pass over its trees, each once, but for
//! those that the user's index holds as well.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use git2::{ObjectType, Oid, Repository, Tree, TreeEntry};

use super::pristine::{EXECUTABLE, LINK, SUBMODULE};
use super::staged::Staged;

/// An ordinary file.
pub(super) const FILE: u32 = 0o100_644;

/// A folder, in a tree.
pub(super) const FOLDER: u32 = 0o040_000;

/// Folders within folders: more than this nobody works in, and each takes some stack to read.
pub(super) const MAX_DEPTH: usize = 128;

/// Files and folders of a commit, many times what any repository has: a few objects can name each
/// other without end, and all of them are held in memory here.
pub(in crate::git) const MAX_HELD: usize = 2_000_000;

/// A file, link or submodule of the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the top, parted by slashes.
    pub(super) path: Vec<u8>,
    /// Where in the path its own name begins.
    leaf: usize,
    /// One of [`FILE`], [`EXECUTABLE`], [`LINK`] and [`SUBMODULE`].
    pub(super) mode: u32,
    pub(super) id: Oid,
}

impl Entry {
    pub(super) fn is_file(&self) -> bool {
        matches!(self.mode, FILE | EXECUTABLE)
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The folder that it is in, with a slash at its end.
    pub(super) fn folder(&self) -> &OsStr {
        OsStr::from_bytes(self.path.get(..self.leaf).unwrap_or_default())
    }

    /// Its name in that folder.
    pub(super) fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.path.get(self.leaf..).unwrap_or_default())
    }
}

/// A folder of the commit, the top too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    /// Within the folder around it; nothing for the top.
    pub(super) name: Vec<u8>,
    pub(super) id: Oid,
    /// How many entries are in it and below it.
    pub(super) entries: usize,
    /// How many folders are in it, not counting those below them.
    pub(super) folders: usize,
}

/// All that a commit holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Ascending by their paths, none twice.
    pub(super) entries: Vec<Entry>,
    /// Each before those within it.
    pub(super) folders: Vec<Folder>,
}

impl Contents {
    /// None where git may read it otherwise, or refuse it: a mode of an old kind, a name that leads
    /// elsewhere or is there twice, an order that no git writes, more than [`MAX_HELD`].
    ///
    /// # Errors
    /// A tree that has to be read is missing or broken.
    pub(super) fn of(
        repository: &Repository,
        tree: &Tree<'_>,
        staged: Option<&Staged>,
    ) -> Result<Option<Self>, git2::Error> {
        Self::within(repository, tree, staged, MAX_HELD)
    }

    fn within(
        repository: &Repository,
        tree: &Tree<'_>,
        staged: Option<&Staged>,
        most: usize,
    ) -> Result<Option<Self>, git2::Error> {
        let contents = Self::default();
        let mut reading = Reading { repository, staged, most, path: Vec::new(), contents };
        let is_whole =
            reading.is_taken(tree.id()) || reading.folder(Vec::new(), tree, MAX_DEPTH)?;
        let entries = &reading.contents.entries;
        let is_ordered = entries.is_sorted_by(|one, next| one.path < next.path);
        Ok((is_whole && is_ordered).then_some(reading.contents))
    }
}

/// A reading under way.
struct Reading<'a> {
    repository: &'a Repository,
    staged: Option<&'a Staged>,
    most: usize,
    /// Leads to the folder that is being read.
    path: Vec<u8>,
    contents: Contents,
}

impl Reading<'_> {
    /// Takes what is in the tree `id`, at the path that is being read, from the user's index; false,
    /// and nothing is taken, where it is not the same there.
    fn is_taken(&mut self, id: Oid) -> bool {
        let Some(staged) = self.staged else { return false };
        let Some((lines, folders)) = staged.same(&self.path, id) else { return false };
        let contents = &mut self.contents;
        let taken = lines.len() + folders.len();
        if contents.entries.len() + contents.folders.len() + taken > self.most {
            return false;
        }
        contents.folders.extend(folders.cloned());
        contents.entries.extend(lines.iter().map(|line| Entry {
            path: staged.name(line).to_vec(),
            leaf: line.leaf,
            mode: line.mode,
            id: line.id,
        }));
        true
    }

    /// Reads what is in a folder; false where something in it is odd.
    fn folder(
        &mut self,
        name: Vec<u8>,
        tree: &Tree<'_>,
        depth: usize,
    ) -> Result<bool, git2::Error> {
        let (place, first) = (self.contents.folders.len(), self.contents.entries.len());
        self.contents.folders.push(Folder { name, id: tree.id(), entries: 0, folders: 0 });
        let mut folders = 0;
        let end = self.path.len();
        if depth == 0 || has_doubles(tree) {
            return Ok(false);
        }
        for entry in tree {
            let name = entry.name_bytes();
            let held = self.contents.entries.len() + self.contents.folders.len();
            if is_odd(name) || held > self.most {
                return Ok(false);
            }
            self.path.extend_from_slice(name);
            match u32::try_from(entry.filemode_raw()) {
                Ok(FOLDER) if entry.kind() == Some(ObjectType::Tree) => {
                    self.path.push(b'/');
                    folders += 1;
                    if !self.is_taken(entry.id()) {
                        let inner = self.repository.find_tree(entry.id())?;
                        if !self.folder(name.to_vec(), &inner, depth - 1)? {
                            return Ok(false);
                        }
                    }
                }
                // git says why it does not write such a link
                Ok(LINK) if is_odd_link(name) => return Ok(false),
                Ok(mode @ (FILE | EXECUTABLE | LINK | SUBMODULE)) => {
                    let (path, id) = (self.path.clone(), entry.id());
                    self.contents.entries.push(Entry { path, leaf: end, mode, id });
                }
                _ => return Ok(false),
            }
            self.path.truncate(end);
        }
        let entries = self.contents.entries.len() - first;
        if let Some(folder) = self.contents.folders.get_mut(place) {
            (folder.entries, folder.folders) = (entries, folders);
        }
        Ok(true)
    }
}

/// Whether a folder in it has the name of another child: git makes one of them, or refuses. Two files of
/// one name are found by the order of all entries, where a folder is not next to a file of its name.
fn has_doubles(tree: &Tree<'_>) -> bool {
    let is_folder = |entry: &TreeEntry<'_>| entry.filemode_raw().cast_unsigned() == FOLDER;
    let mut folders = HashSet::new();
    let named = |entry: TreeEntry<'_>| entry.name_bytes().to_vec();
    if !tree.iter().filter(is_folder).map(named).all(|name| folders.insert(name)) {
        return true;
    }
    let mut others = tree.iter().filter(|entry| !is_folder(entry));
    !folders.is_empty() && others.any(|entry| folders.contains(entry.name_bytes()))
}

/// Whether git may refuse a name on any system, or it leads out of its folder or into the
/// repository. A harmless one that is taken for such costs time alone.
pub(super) fn is_odd(name: &[u8]) -> bool {
    let first = name.iter().find(|byte| byte.is_ascii());
    matches!(name, b"" | b"." | b"..")
        || matches!(first, Some(b'.' | b'g' | b'G')) && matches!(&*stem(name), b".git" | b"git~1")
        || name.iter().any(|byte| matches!(byte, 0 | b'/' | b'\\'))
}

/// The same of a link: one that stands for the list of submodules is refused, also by a short name.
pub(super) fn is_odd_link(name: &[u8]) -> bool {
    &*stem(name) == b".gitmodules" || name.contains(&b'~')
}

/// What is left of a name where a file system passes over what it may: case, signs beyond ASCII,
/// dots and spaces at the end, and what follows a colon.
fn stem(name: &[u8]) -> Vec<u8> {
    let ascii = name.iter().take_while(|byte| **byte != b':').filter(|byte| byte.is_ascii());
    let mut stem: Vec<u8> = ascii.map(u8::to_ascii_lowercase).collect();
    while stem.pop_if(|last| matches!(last, b'.' | b' ')).is_some() {}
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_odd() {
        let odd: [&[u8]; 14] = [
            b"",
            b".",
            b"..",
            b".git",
            b".GIT",
            b"git~1",
            b".git.",
            b".git . ",
            b".git::$DATA",
            b".g\xe2\x80\x8cit",
            b"GIT~1 ",
            b"a/b",
            b"..\\b",
            b"a\0",
        ];
        for name in odd {
            assert!(is_odd(name), "{}", name.escape_ascii());
        }
        let plain: [&[u8]; 9] = [
            b".gitignore",
            b"...",
            b"git",
            b".github",
            b"\xff",
            "日本".as_bytes(),
            b"a:b",
            b"a b.",
            b"-",
        ];
        for name in plain {
            assert!(!is_odd(name) && !is_odd_link(name), "{}", name.escape_ascii());
        }
        for link in [&b".gitmodules"[..], b".GitModules . ", b"GITMOD~1", b".gitmodules:x"] {
            assert!(is_odd_link(link) && !is_odd(link), "{}", link.escape_ascii());
        }
    }

    #[test]
    fn what_git_may_read_otherwise_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(folder.path()).unwrap();
        let blob = repository.blob(b"text").unwrap();
        let tree = |raw: &[(&str, &str, Oid)]| {
            let each = raw.iter().flat_map(|(mode, name, id)| {
                [mode.as_bytes(), b" ", name.as_bytes(), b"\0", id.as_bytes()].concat()
            });
            let bytes: Vec<u8> = each.collect();
            repository.odb().unwrap().write(ObjectType::Tree, &bytes).unwrap()
        };
        let of = |id: Oid| Contents::of(&repository, &repository.find_tree(id).unwrap(), None);
        let inner = tree(&[("100644", "x", blob)]);
        let other = tree(&[("100644", "y", blob)]);
        let whole = of(tree(&[("100644", "a.b", blob), ("40000", "a", inner)])).unwrap().unwrap();
        let paths: Vec<&[u8]> = whole.entries.iter().map(|entry| &*entry.path).collect();
        assert_eq!(paths, [&b"a.b"[..], b"a/x"]);
        let counts = whole.folders.iter().map(|it| (&*it.name, it.entries, it.folders));
        assert_eq!(counts.collect::<Vec<_>>(), [(&b""[..], 2, 1), (b"a", 1, 0)]);
        for odd in [
            tree(&[("100664", "a", blob)]),
            tree(&[("100644", "b", blob), ("100644", "a", blob)]),
            tree(&[("40000", ".git", inner)]),
            (0..=MAX_DEPTH).fold(inner, |inner, _| tree(&[("40000", "f", inner)])),
            // git makes one folder of two, and its index would know two
            tree(&[("40000", "a", inner), ("40000", "a", other)]),
            tree(&[("160000", "a", blob), ("100644", "a.b", blob), ("40000", "a", inner)]),
            tree(&[("120000", ".gitmodules", blob)]),
        ] {
            assert_eq!(of(odd).unwrap(), None);
        }
        assert!(of(tree(&[("40000", "gone", blob)])).is_err());
        // a few objects may hold each other without end
        let bomb =
            (0..5).fold(inner, |inner, _| tree(&[("40000", "a", inner), ("40000", "b", inner)]));
        let bomb = repository.find_tree(bomb).unwrap();
        let all = Contents::within(&repository, &bomb, None, 95).unwrap().unwrap();
        assert_eq!((all.entries.len(), all.folders.len()), (32, 63));
        assert_eq!(Contents::within(&repository, &bomb, None, 93).unwrap(), None);
    }
}
