//! What a commit holds, in the order of an index. Read in one pass over its trees, each once.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use git2::{ObjectType, Oid, Repository, Tree};

use super::pristine::{EXECUTABLE, LINK, SUBMODULE};

/// An ordinary file.
pub(super) const FILE: u32 = 0o100_644;

/// A folder, in a tree.
const FOLDER: u32 = 0o040_000;

/// Folders within folders: more than this nobody works in, and each takes some stack to read.
const MAX_DEPTH: usize = 128;

/// A file, link or submodule of the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the top, parted by slashes.
    pub(super) path: Vec<u8>,
    /// One of [`FILE`], [`EXECUTABLE`], [`LINK`] and [`SUBMODULE`].
    pub(super) mode: u32,
    pub(super) id: Oid,
}

impl Entry {
    pub(super) fn is_file(&self) -> bool {
        matches!(self.mode, FILE | EXECUTABLE)
    }

    pub(super) fn name(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The folder that it is in.
    pub(super) fn parent(&self) -> &Path {
        self.name().parent().unwrap_or(Path::new(""))
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
    /// elsewhere, an order that no git writes, folders without end.
    ///
    /// # Errors
    /// A tree is missing or broken.
    pub(super) fn of(
        repository: &Repository,
        tree: &Tree<'_>,
    ) -> Result<Option<Self>, git2::Error> {
        let mut contents = Self::default();
        let whole = contents.read(repository, Vec::new(), tree, &mut Vec::new(), MAX_DEPTH)?;
        let ordered = contents.entries.is_sorted_by(|one, next| one.path < next.path);
        Ok((whole && ordered).then_some(contents))
    }

    /// Reads what is in a folder, which ends `path`; false where something in it is odd.
    fn read(
        &mut self,
        repository: &Repository,
        name: Vec<u8>,
        tree: &Tree<'_>,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<bool, git2::Error> {
        let (place, first) = (self.folders.len(), self.entries.len());
        self.folders.push(Folder { name, id: tree.id(), entries: 0, folders: 0 });
        let mut folders = 0;
        let end = path.len();
        for entry in tree {
            let name = entry.name_bytes();
            if depth == 0 || is_odd(name) {
                return Ok(false);
            }
            path.extend_from_slice(name);
            match u32::try_from(entry.filemode_raw()) {
                Ok(FOLDER) if entry.kind() == Some(ObjectType::Tree) => {
                    path.push(b'/');
                    folders += 1;
                    let inner = repository.find_tree(entry.id())?;
                    if !self.read(repository, name.to_vec(), &inner, path, depth - 1)? {
                        return Ok(false);
                    }
                }
                Ok(mode @ (FILE | EXECUTABLE | LINK | SUBMODULE)) => {
                    self.entries.push(Entry { path: path.clone(), mode, id: entry.id() });
                }
                _ => return Ok(false),
            }
            path.truncate(end);
        }
        let entries = self.entries.len() - first;
        if let Some(folder) = self.folders.get_mut(place) {
            (folder.entries, folder.folders) = (entries, folders);
        }
        Ok(true)
    }
}

/// Whether git may refuse a name on any system, or it leads out of its folder or into the
/// repository. A harmless one that is taken for such costs time alone.
fn is_odd(name: &[u8]) -> bool {
    // signs that a file system may pass over are none of a name's
    let seen: Vec<u8> =
        name.iter().filter(|byte| byte.is_ascii()).map(u8::to_ascii_lowercase).collect();
    let stem = seen.split(|byte| *byte == b':').next().unwrap_or_default();
    let dots = stem.iter().rev().take_while(|byte| matches!(byte, b'.' | b' ')).count();
    let stem = &stem[..stem.len() - dots];
    matches!(name, b"" | b"." | b"..")
        || matches!(stem, b".git" | b"git~1")
        || name.iter().any(|byte| matches!(byte, 0 | b'/' | b'\\'))
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
            assert!(!is_odd(name), "{}", name.escape_ascii());
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
        let of = |id: Oid| Contents::of(&repository, &repository.find_tree(id).unwrap());
        let inner = tree(&[("100644", "x", blob)]);
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
        ] {
            assert_eq!(of(odd).unwrap(), None);
        }
        assert!(of(tree(&[("40000", "gone", blob)])).is_err());
    }
}
