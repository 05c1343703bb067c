//! What git writes, read from bytes. Pure; every record ends with NUL (`-z`), so no path is quoted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Git wrote something that this version does not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "git's {what} has a record that is not understood: {record:?}; report this with `git --version`"
)]
pub struct ParseError {
    /// Which output it was.
    pub what: &'static str,
    /// The beginning of the record, at most 120 characters.
    pub record: String,
}

impl ParseError {
    fn of(what: &'static str, record: &[u8]) -> Self {
        Self { what, record: String::from_utf8_lossy(record).chars().take(120).collect() }
    }
}

/// One worktree of `git worktree list --porcelain -z`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its folder; of a bare repository the repository itself.
    pub path: PathBuf,
    /// The commit that its HEAD names, none for a bare repository.
    pub head: Option<String>,
    /// The branch that it has checked out, without `refs/heads/`.
    pub branch: Option<String>,
    /// Why it is locked; empty when no reason was given.
    pub locked: Option<String>,
    /// Why git would prune it, for instance because its folder is gone.
    pub prunable: Option<String>,
}

/// Reads `git worktree list --porcelain -z`. Attributes of newer versions of git are skipped.
///
/// # Errors
/// [`ParseError`] when an attribute stands before the first `worktree` line.
pub fn worktrees(bytes: &[u8]) -> Result<Vec<Listed>, ParseError> {
    let mut all: Vec<Listed> = Vec::new();
    for line in records(bytes).filter(|line| !line.is_empty()) {
        let (key, value) = split(line, b' ').unwrap_or((line, b""));
        if key == b"worktree" {
            all.push(Listed { path: path(value), ..Listed::default() });
            continue;
        }
        let last = all.last_mut().ok_or_else(|| ParseError::of("worktree list", line))?;
        let value = text(value);
        match key {
            b"HEAD" => last.head = Some(value),
            b"branch" => {
                last.branch =
                    Some(value.strip_prefix("refs/heads/").map_or(value.clone(), str::to_owned));
            }
            b"locked" => last.locked = Some(value),
            b"prunable" => last.prunable = Some(value),
            _ => {}
        }
    }
    Ok(all)
}

/// One file of `git diff --numstat -z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The file; of a rename its new name.
    pub path: PathBuf,
    /// The former name of a renamed or copied file.
    pub from: Option<PathBuf>,
    /// Lines added and removed; none for a binary file.
    pub lines: Option<(u64, u64)>,
}

/// Reads `git diff --numstat -z`.
///
/// # Errors
/// [`ParseError`] when a record has no counts or a rename lacks a name.
pub fn numstat(bytes: &[u8]) -> Result<Vec<Counted>, ParseError> {
    let mut all = Vec::new();
    let mut records = records(bytes);
    while let Some(record) = records.next() {
        let bad = || ParseError::of("numstat", record);
        let (added, rest) = split(record, b'\t').ok_or_else(bad)?;
        let (removed, name) = split(rest, b'\t').ok_or_else(bad)?;
        let lines = match (added, removed) {
            (b"-", b"-") => None,
            _ => Some((number(added).ok_or_else(bad)?, number(removed).ok_or_else(bad)?)),
        };
        let (from, name) = if name.is_empty() {
            let from = records.next().ok_or_else(bad)?;
            (Some(path(from)), records.next().ok_or_else(bad)?)
        } else {
            (None, name)
        };
        all.push(Counted { path: path(name), from, lines });
    }
    Ok(all)
}

/// One file of `git diff --name-status -z` or `--raw -z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The letter: `A`dded, `M`odified, `D`eleted, `R`enamed, `C`opied, `T`ype changed, `U`nmerged.
    pub status: u8,
    /// The file; of a rename its new name.
    pub path: PathBuf,
    /// The former name of a renamed or copied file.
    pub from: Option<PathBuf>,
}

/// Reads `git diff --name-status -z` and `git diff --raw -z`: both end in letter and names.
///
/// # Errors
/// [`ParseError`] when a record lacks its letter or a name.
pub fn name_status(bytes: &[u8]) -> Result<Vec<Named>, ParseError> {
    let mut all = Vec::new();
    let mut records = records(bytes);
    while let Some(record) = records.next() {
        let bad = || ParseError::of("name-status", record);
        let letter = record.rsplit(|byte| *byte == b' ').next().unwrap_or(record);
        let status = *letter.first().filter(|byte| byte.is_ascii_uppercase()).ok_or_else(bad)?;
        let first = path(records.next().ok_or_else(bad)?);
        all.push(if matches!(status, b'R' | b'C') {
            Named { status, path: path(records.next().ok_or_else(bad)?), from: Some(first) }
        } else {
            Named { status, path: first, from: None }
        });
    }
    Ok(all)
}

/// One entry of `git status --porcelain=v2 -z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// A file that HEAD or the index knows.
    Tracked(Tracked),
    /// A file with an unresolved conflict.
    Unmerged(PathBuf),
    /// A file that git does not know; a name that ends in `/` is a repository of its own.
    Untracked(PathBuf),
    /// A file that git was told to ignore.
    Ignored(PathBuf),
}

/// A file that HEAD or the index knows, and what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The file.
    pub path: PathBuf,
    /// The former name, when renames are looked for.
    pub from: Option<PathBuf>,
    /// How the index differs from HEAD; `.` when it does not.
    pub staged: u8,
    /// How the work tree differs from the index; `.` when it does not.
    pub unstaged: u8,
    /// Its mode in HEAD, octal text; zeros when HEAD lacks it.
    pub head_mode: String,
    /// Its mode in the index, octal text; `160000` is a repository inside.
    pub index_mode: String,
    /// Its blob in HEAD; zeros when HEAD lacks it.
    pub head_blob: String,
}

/// Reads `git status --porcelain=v2 -z`. Header lines are skipped.
///
/// # Errors
/// [`ParseError`] when a record has an unknown kind or too few fields.
pub fn status(bytes: &[u8]) -> Result<Vec<Status>, ParseError> {
    let mut all = Vec::new();
    let mut records = records(bytes);
    while let Some(record) = records.next() {
        let bad = || ParseError::of("status", record);
        let (kind, rest) = split(record, b' ').ok_or_else(bad)?;
        match kind {
            b"#" => {}
            b"?" => all.push(Status::Untracked(path(rest))),
            b"!" => all.push(Status::Ignored(path(rest))),
            b"u" => {
                let name = rest.splitn(10, |byte| *byte == b' ').nth(9).ok_or_else(bad)?;
                all.push(Status::Unmerged(path(name)));
            }
            b"1" => all.push(Status::Tracked(tracked(rest, 8, None).ok_or_else(bad)?)),
            b"2" => {
                let from = path(records.next().ok_or_else(bad)?);
                all.push(Status::Tracked(tracked(rest, 9, Some(from)).ok_or_else(bad)?));
            }
            _ => return Err(bad()),
        }
    }
    Ok(all)
}

/// `XY sub mH mI mW hH hI [Xscore] path`, `count` fields in all.
fn tracked(rest: &[u8], count: usize, from: Option<PathBuf>) -> Option<Tracked> {
    let fields: Vec<&[u8]> = rest.splitn(count, |byte| *byte == b' ').collect();
    if fields.len() != count {
        return None;
    }
    let &[staged, unstaged] = fields[0] else { return None };
    Some(Tracked {
        path: path(fields[count - 1]),
        from,
        staged,
        unstaged,
        head_mode: text(fields[2]),
        index_mode: text(fields[3]),
        head_blob: text(fields[5]),
    })
}

/// The result of `git merge-tree --write-tree -z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The tree that the merge makes; with conflicts it holds their markers.
    pub tree: String,
    /// The stages of the files in conflict, in git's order.
    pub stages: Vec<Staged>,
    /// What git has to say, in its order.
    pub messages: Vec<Message>,
}

/// One stage of a file in conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The file.
    pub path: PathBuf,
    /// 1 the common ancestor, 2 ours, 3 theirs.
    pub stage: u8,
    /// Its mode, as in a tree.
    pub mode: u32,
    /// Its object.
    pub id: String,
}

/// Something that git says about a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The files that it is about.
    pub paths: Vec<PathBuf>,
    /// Its type, which stays the same over versions of git: `CONFLICT (contents)`.
    pub kind: String,
}

/// Reads `git merge-tree --write-tree -z`.
///
/// # Errors
/// [`ParseError`] when there is no tree, a stage lacks a part, or a message is cut off.
pub fn merge_tree(bytes: &[u8]) -> Result<Merged, ParseError> {
    let mut records = records(bytes);
    let mut merged = merged(&mut records)?;
    while let Some(count) = records.next() {
        let bad = || ParseError::of("merge-tree", count);
        let count = usize::try_from(number(count).ok_or_else(bad)?).map_err(|_| bad())?;
        let paths: Vec<_> = records.by_ref().take(count).map(path).collect();
        let kind = records.next().map(text).ok_or_else(bad)?;
        // the last record is the text for people, which differs between versions
        if paths.len() != count || records.next().is_none() {
            return Err(bad());
        }
        merged.messages.push(Message { paths, kind });
    }
    Ok(merged)
}

/// Reads `git merge-tree --write-tree --stdin -z --no-messages` of `count` merges.
///
/// # Errors
/// [`ParseError`] when one is missing, was given up, or is not understood.
pub fn merge_trees(bytes: &[u8], count: usize) -> Result<Vec<Merged>, ParseError> {
    let mut records = records(bytes);
    let mut all = Vec::new();
    for _ in 0..count {
        match records.next() {
            Some(b"0" | b"1") => all.push(merged(&mut records)?),
            other => return Err(ParseError::of("merge-tree", other.unwrap_or_default())),
        }
    }
    Ok(all)
}

/// One merge without its messages, up to the empty record behind its stages.
fn merged<'bytes>(records: &mut impl Iterator<Item = &'bytes [u8]>) -> Result<Merged, ParseError> {
    let tree = records.next().map(text).unwrap_or_default();
    if tree.len() < 40 || !tree.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ParseError::of("merge-tree", tree.as_bytes()));
    }
    let mut stages = Vec::new();
    for record in records.take_while(|record| !record.is_empty()) {
        stages.push(staged(record).ok_or_else(|| ParseError::of("merge-tree", record))?);
    }
    Ok(Merged { tree, stages, messages: Vec::new() })
}

/// `mode id stage TAB path`.
fn staged(record: &[u8]) -> Option<Staged> {
    let (info, name) = split(record, b'\t')?;
    let (mode, rest) = split(info, b' ')?;
    let (id, stage) = split(rest, b' ')?;
    let &[digit @ b'1'..=b'3'] = stage else { return None };
    let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
    Some(Staged { path: path(name), stage: digit - b'0', mode, id: text(id) })
}

/// The records of NUL-ended output; a last one without its NUL counts too.
fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let empty = bytes.is_empty();
    body.split(|byte| *byte == 0).skip(usize::from(empty))
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMMIT: &str = "ce05eb9bce3a867ae686e3a8d377d98c4d0be300";

    #[test]
    fn worktrees_as_git_2_47_writes_them() {
        let recorded = format!(
            "worktree /r\0HEAD {COMMIT}\0branch refs/heads/main\0\0\
             worktree /w a\0HEAD {COMMIT}\0detached\0locked why\0prunable gone\0\0\
             worktree /b\0bare\0\0"
        );
        let all = worktrees(recorded.as_bytes()).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].branch.as_deref(), Some("main"));
        assert_eq!(all[1].path, PathBuf::from("/w a"));
        assert_eq!(all[1].locked.as_deref(), Some("why"));
        assert_eq!(all[1].prunable.as_deref(), Some("gone"));
        assert_eq!((&all[2].head, &all[2].branch), (&None, &None));
    }

    #[test]
    fn counts_of_text_binary_and_renamed_files() {
        let all = numstat(b"1\t2\ta b\0-\t-\tpic\x000\t0\t\0old\0new\0").unwrap();
        assert_eq!(all[0].lines, Some((1, 2)));
        assert_eq!(all[1].lines, None);
        assert_eq!(all[2].from, Some(PathBuf::from("old")));
        assert_eq!(all[2].path, PathBuf::from("new"));
    }

    #[test]
    fn names_from_name_status_and_from_raw() {
        let all = name_status(b"M\0a\0R100\0old\0new\0").unwrap();
        assert_eq!((all[0].status, all[1].status), (b'M', b'R'));
        let raw = name_status(b":100644 100644 8a1218a 975fbec M\0a\0").unwrap();
        assert_eq!(raw, all[..1]);
    }

    #[test]
    fn status_of_every_kind() {
        let zero = "0".repeat(40);
        let recorded = format!(
            "# branch.oid {COMMIT}\x001 AM N... 000000 100644 100644 {zero} {COMMIT} new file\0\
             2 R. N... 100644 100644 100644 {COMMIT} {COMMIT} R100 to\0from\0\
             u UU N... 100644 100644 100644 100644 {COMMIT} {COMMIT} {COMMIT} both\0\
             ? nested/\0! target/\0"
        );
        let all = status(recorded.as_bytes()).unwrap();
        let Status::Tracked(first) = &all[0] else { panic!("{all:?}") };
        assert_eq!((first.staged, first.unstaged), (b'A', b'M'));
        assert_eq!((first.path.as_path(), first.head_blob.as_str()), ("new file".as_ref(), &*zero));
        let Status::Tracked(second) = &all[1] else { panic!("{all:?}") };
        assert_eq!(second.from, Some(PathBuf::from("from")));
        assert_eq!(all[2], Status::Unmerged("both".into()));
        assert_eq!(all[3], Status::Untracked("nested/".into()));
        assert_eq!(all[4], Status::Ignored("target/".into()));
    }

    #[test]
    fn merge_tree_clean_and_with_conflicts() {
        let clean = merge_tree(format!("{COMMIT}\0").as_bytes()).unwrap();
        assert!(clean.stages.is_empty() && clean.messages.is_empty());
        let recorded = format!(
            "{COMMIT}\0100644 {COMMIT} 1\tc\0100755 {COMMIT} 2\tc\0100644 {COMMIT} 3\tc\0\
             100644 {COMMIT} 1\td1\0100644 {COMMIT} 2\td1\0\0\
             1\0c\0Auto-merging\0Auto-merging c\n\0\
             1\0c\0CONFLICT (contents)\0CONFLICT (content): Merge conflict in c\n\0\
             2\0d1\0d2\0CONFLICT (rename/delete)\0\0"
        );
        let merged = merge_tree(recorded.as_bytes()).unwrap();
        let stages: Vec<_> =
            merged.stages.iter().map(|one| (one.path.to_str().unwrap(), one.stage)).collect();
        assert_eq!(stages, [("c", 1), ("c", 2), ("c", 3), ("d1", 1), ("d1", 2)]);
        assert_eq!((merged.stages[1].mode, merged.stages[1].id.as_str()), (0o100_755, COMMIT));
        let kinds: Vec<_> = merged.messages.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["Auto-merging", "CONFLICT (contents)", "CONFLICT (rename/delete)"]);
        assert_eq!(merged.messages[2].paths, [PathBuf::from("d1"), PathBuf::from("d2")]);
        for cut in ["1\0", "9\0c\0x\0", "1\0c\0x\0", "x\0c\0x\0y\0"] {
            let cut = format!("{COMMIT}\0\0{cut}");
            assert!(merge_tree(cut.as_bytes()).is_err(), "{cut:?}");
        }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1_u8..=255, 1..12)
    }

    #[test]
    fn several_merges_of_one_process() {
        let recorded = format!(
            "0\0{COMMIT}\x00100644 {COMMIT} 1\tf\x00100644 {COMMIT} 2\tf\x00100644 {COMMIT} 3\tf\0\0\
             1\0{COMMIT}\0\x000\0{COMMIT}\x00100644 {COMMIT} 3\tg\0\0"
        );
        let all = merge_trees(recorded.as_bytes(), 3).unwrap();
        let stages = |at: usize| -> Vec<_> {
            all[at].stages.iter().map(|one| (one.path.to_str().unwrap(), one.stage)).collect()
        };
        assert_eq!(stages(0), [("f", 1), ("f", 2), ("f", 3)]);
        assert_eq!(stages(1), []);
        assert_eq!(stages(2), [("g", 3)]);
        assert!(merge_trees(recorded.as_bytes(), 4).is_err());
        assert!(merge_trees(b"-1\0", 1).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(0_u8), Just(b' '), Just(b'\t'), Just(b'1'), Just(b'u'), any::<u8>()],
            0..200,
        )) {
            let records = bytes.split(|byte| *byte == 0).count();
            prop_assert!(worktrees(&bytes).map_or(0, |all| all.len()) <= records);
            prop_assert!(numstat(&bytes).map_or(0, |all| all.len()) <= records);
            prop_assert!(name_status(&bytes).map_or(0, |all| all.len()) <= records);
            prop_assert!(status(&bytes).map_or(0, |all| all.len()) <= records);
            let told = |bytes: &[u8]| {
                merge_tree(bytes).map_or(0, |one| one.stages.len() + one.messages.len())
            };
            prop_assert!(told(&bytes) <= records);
            prop_assert!(merge_trees(&bytes, 2).map_or(0, |all| all.len()) <= records);
            let behind_a_tree = [format!("{COMMIT}\0").as_bytes(), &bytes].concat();
            prop_assert!(told(&behind_a_tree) <= records + 1);
        }

        #[test]
        fn whatever_merge_tree_tells_is_read_back(
            stages in proptest::collection::vec((1_u8..=3, name()), 0..8),
            messages in proptest::collection::vec(
                (proptest::collection::vec(name(), 0..4), "[A-Z]{0,9} ?[(a-z/)]{0,9}"), 0..6,
            ),
        ) {
            let mut bytes = format!("{COMMIT}\0").into_bytes();
            for (stage, name) in &stages {
                bytes.extend_from_slice(format!("100644 {COMMIT} {stage}\t").as_bytes());
                bytes.extend_from_slice(&[name, &b"\0"[..]].concat());
            }
            bytes.push(0);
            for (paths, kind) in &messages {
                bytes.extend_from_slice(format!("{}\0", paths.len()).as_bytes());
                paths.iter().for_each(|path| bytes.extend_from_slice(&[path, &b"\0"[..]].concat()));
                bytes.extend_from_slice(format!("{kind}\0words\n\0").as_bytes());
            }
            let merged = merge_tree(&bytes).unwrap();
            let read: Vec<_> =
                merged.stages.iter().map(|one| (one.stage, one.path.as_path())).collect();
            let told: Vec<_> = stages.iter().map(|(stage, name)| (*stage, path(name))).collect();
            prop_assert_eq!(
                read, told.iter().map(|(stage, path)| (*stage, path.as_path())).collect::<Vec<_>>()
            );
            prop_assert_eq!(merged.messages.len(), messages.len());
            for (read, (paths, kind)) in merged.messages.iter().zip(&messages) {
                prop_assert_eq!(&read.kind, kind);
                prop_assert_eq!(read.paths.len(), paths.len());
            }
        }

        #[test]
        fn any_path_survives_status(name in proptest::collection::vec(1_u8..=255, 1..40)) {
            let mut bytes = b"? ".to_vec();
            bytes.extend_from_slice(&name);
            bytes.push(0);
            prop_assert_eq!(status(&bytes).unwrap(), [Status::Untracked(path(&name))]);
        }
    }
}
