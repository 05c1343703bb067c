//! A tree with some entries set or taken out: only the folders on their way are written anew.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The mode of a folder.
pub(super) const FOLDER: i32 = 0o040_000;

/// An entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: git2::Oid,
    pub(super) mode: i32,
}

impl Entry {
    pub(super) fn of(entry: &git2::TreeEntry<'_>) -> Self {
        Self { id: entry.id(), mode: entry.filemode() }
    }

    pub(super) fn is_folder(self) -> bool {
        self.mode == FOLDER
    }
}

/// What becomes of the entries of a folder.
#[derive(Debug, Default)]
struct Node {
    /// The entry itself: set, or taken out.
    leaf: Option<Option<Entry>>,
    below: BTreeMap<Vec<u8>, Node>,
}

/// Writes `tree` with each path set to its entry, or without it. A folder left empty goes.
pub(super) fn graft<'path>(
    repository: &git2::Repository,
    tree: &git2::Tree<'_>,
    changes: impl Iterator<Item = (&'path Path, Option<Entry>)>,
) -> Result<git2::Oid, git2::Error> {
    let mut root = Node::default();
    for (path, entry) in changes {
        let mut node = &mut root;
        for part in path.components() {
            node = node.below.entry(part.as_os_str().as_bytes().to_owned()).or_default();
        }
        node.leaf = Some(entry);
    }
    match write(repository, Some(tree), &root)? {
        Some(id) => Ok(id),
        None => repository.treebuilder(None)?.write(),
    }
}

fn write(
    repository: &git2::Repository,
    tree: Option<&git2::Tree<'_>>,
    node: &Node,
) -> Result<Option<git2::Oid>, git2::Error> {
    let mut builder = repository.treebuilder(tree)?;
    for (name, child) in &node.below {
        let there = builder.get(name.as_slice())?.map(|entry| Entry::of(&entry));
        let mut entry = child.leaf.unwrap_or(there);
        if !child.below.is_empty() {
            let folder = there.filter(|entry| entry.is_folder());
            let folder = folder.map(|entry| repository.find_tree(entry.id)).transpose()?;
            let written = write(repository, folder.as_ref(), child)?;
            entry = written
                .map(|id| Entry { id, mode: FOLDER })
                .or_else(|| entry.filter(|entry| !entry.is_folder()));
        }
        match (entry, there) {
            (Some(entry), _) => drop(builder.insert(name.as_slice(), entry.id, entry.mode)?),
            (None, Some(_)) => builder.remove(name.as_slice())?,
            (None, None) => {}
        }
    }
    if builder.is_empty() { Ok(None) } else { builder.write().map(Some) }
}
