//! Random histories, the same for the same seed: edits, renames, deletes, modes, links, binary
//! files, CRLF, files that become folders, criss-cross merges.

use super::ground::command;
use hayward_daemon::git::CommitId;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

/// Two commits to be merged.
pub struct History {
    pub seed: u64,
    pub ours: CommitId,
    pub theirs: CommitId,
}

/// Numbers that follow from a seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }
}

type Tree = BTreeMap<String, (&'static str, Vec<u8>)>;

fn text(dice: &mut Dice) -> Vec<u8> {
    let lines = 6 + dice.below(20);
    let words: Vec<String> =
        (0..lines).map(|line| format!("line {line} of {}\n", dice.below(1000))).collect();
    words.concat().into_bytes()
}

fn begin(dice: &mut Dice) -> Tree {
    let mut tree = Tree::new();
    for file in 0..5 + dice.below(6) {
        let folder = ["", "src/", "src/deep/", "docs/"][dice.below(4)];
        tree.insert(format!("{folder}file{file}"), ("100644", text(dice)));
    }
    tree.insert("picture".into(), ("100644", vec![0, 1, 2, 3, 0, 255]));
    tree
}

fn edit(content: &mut Vec<u8>, dice: &mut Dice) {
    let shown = String::from_utf8_lossy(content).into_owned();
    let mut lines: Vec<String> = shown.split_inclusive('\n').map(str::to_owned).collect();
    for _ in 0..1 + dice.below(3) {
        let at = dice.below(lines.len().max(1)).min(lines.len());
        let new = format!("changed {}\n", dice.below(4));
        match dice.below(3) {
            0 if at < lines.len() => lines[at] = new,
            1 if at < lines.len() => drop(lines.remove(at)),
            _ => lines.insert(at, new),
        }
    }
    *content = lines.concat().into_bytes();
}

/// Changes a tree in a few places.
fn change(tree: &mut Tree, dice: &mut Dice) {
    for _ in 0..1 + dice.below(4) {
        let names: Vec<String> = tree.keys().cloned().collect();
        let Some(name) = names.get(dice.below(names.len().max(1))).cloned() else { return };
        match dice.below(13) {
            12 => rename_folder(tree, dice),
            0..=3 => {
                let (mode, content) = tree.get_mut(&name).unwrap();
                if *mode != "120000" && !content.contains(&0) {
                    edit(content, dice);
                }
            }
            4 => drop(tree.remove(&name)),
            5 | 6 => {
                let mut moved = tree.remove(&name).unwrap();
                if dice.below(2) == 0 && moved.0 != "120000" && !moved.1.contains(&0) {
                    edit(&mut moved.1, dice);
                }
                let folder = ["", "src/", "moved/"][dice.below(3)];
                put(tree, format!("{folder}renamed{}", dice.below(5)), moved);
            }
            7 => {
                let mode = &mut tree.get_mut(&name).unwrap().0;
                *mode = match *mode {
                    "100644" => "100755",
                    "100755" => "100644",
                    other => other,
                };
            }
            8 => {
                let added = (["100644", "100755"][dice.below(2)], text(dice));
                put(tree, format!("added{}", dice.below(3)), added);
            }
            9 => {
                let byte = u8::try_from(dice.below(4)).unwrap();
                put(tree, "picture".into(), ("100644", vec![0, byte, 2, 3, 0, 255]));
            }
            10 => {
                let (mode, content) = tree.get_mut(&name).unwrap();
                if *mode != "120000" && !content.contains(&b'\r') && !content.contains(&0) {
                    let crlf = String::from_utf8_lossy(content).replace('\n', "\r\n");
                    *content = crlf.into_bytes();
                }
            }
            _ => match dice.below(2) {
                0 => {
                    tree.remove(&name);
                    put(tree, format!("{name}/inner"), ("100644", text(dice)));
                }
                _ => put(tree, name, ("120000", b"picture".to_vec())),
            },
        }
    }
}

fn rename_folder(tree: &mut Tree, dice: &mut Dice) {
    let from = ["src/", "src/deep/", "docs/", "moved/"][dice.below(4)];
    let to = ["lib/", "docs/", "docs/new/", "moved/"][dice.below(4)];
    let names: Vec<String> =
        tree.keys().filter(|name| name.starts_with(from) && from != to).cloned().collect();
    for name in names {
        let file = tree.remove(&name).unwrap();
        put(tree, name.replacen(from, to, 1), file);
    }
}

/// Puts a file where no file is its folder and it is no folder.
fn put(tree: &mut Tree, name: String, file: (&'static str, Vec<u8>)) {
    let inside = format!("{name}/");
    tree.retain(|other, _| !other.starts_with(&inside) && !name.starts_with(&format!("{other}/")));
    tree.insert(name, file);
}

/// A stream for `git fast-import`.
struct Stream {
    bytes: Vec<u8>,
    marks: usize,
}

impl Stream {
    fn commit(&mut self, tree: &Tree, parents: &[usize]) -> usize {
        self.marks += 1;
        let mark = self.marks;
        let mut head = String::new();
        let at = 1_700_000_000 + mark;
        write!(head, "commit refs/heads/h{mark}\nmark :{mark}\n").unwrap();
        writeln!(head, "committer A <a@example.org> {at} +0000\ndata 2\nc").unwrap();
        for (place, parent) in parents.iter().enumerate() {
            writeln!(head, "{} :{parent}", if place == 0 { "from" } else { "merge" }).unwrap();
        }
        head.push_str("deleteall\n");
        self.bytes.extend_from_slice(head.as_bytes());
        for (name, (mode, content)) in tree {
            let line = format!("M {mode} inline {name}\ndata {}\n", content.len());
            self.bytes.extend_from_slice(line.as_bytes());
            self.bytes.extend_from_slice(content);
            self.bytes.push(b'\n');
        }
        mark
    }
}

/// Histories in a repository, of these seeds.
pub fn import(repository: &Path, seeds: impl Iterator<Item = u64>) -> Vec<History> {
    let mut stream = Stream { bytes: Vec::new(), marks: 0 };
    let mut ends = Vec::new();
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let base = begin(&mut dice);
        let root = stream.commit(&base, &[]);
        let (mut ours, mut theirs) = (base.clone(), base);
        let (mut one, mut two) = (root, root);
        if dice.below(4) == 0 {
            change(&mut ours, &mut dice);
            change(&mut theirs, &mut dice);
            let left = stream.commit(&ours, &[root]);
            let right = stream.commit(&theirs, &[root]);
            // each took the other's side in its own way
            one = stream.commit(&ours, &[left, right]);
            two = stream.commit(&theirs, &[right, left]);
        }
        for _ in 0..1 + dice.below(2) {
            change(&mut ours, &mut dice);
            one = stream.commit(&ours, &[one]);
        }
        for _ in 0..1 + dice.below(2) {
            change(&mut theirs, &mut dice);
            two = stream.commit(&theirs, &[two]);
        }
        ends.push((seed, one, two));
    }
    let marks = repository.join("../marks");
    let mut child = command(repository)
        .args(["fast-import", "--quiet", "--force"])
        .arg(format!("--export-marks={}", marks.display()))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&stream.bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let told = fs::read_to_string(marks).unwrap();
    let ids: BTreeMap<usize, CommitId> = told
        .lines()
        .map(|line| {
            let (mark, id) = line.split_once(' ').unwrap();
            (mark[1..].parse().unwrap(), id.parse().unwrap())
        })
        .collect();
    let history =
        |(seed, one, two)| History { seed, ours: ids[&one].clone(), theirs: ids[&two].clone() };
    ends.into_iter().map(history).collect()
}
