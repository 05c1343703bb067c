//! Snapshots and overlap of worktrees, judged by what git itself says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkout;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkout::{command, git, init, said, write};
use hayward_daemon::git::aside::Aside;
use hayward_daemon::git::diff::Side;
use hayward_daemon::git::snapshot::{Again, Snapshot};
use hayward_daemon::git::staging::Why;
use hayward_daemon::git::{CommitId, Repositories, Repository};
use hayward_shared::git::Severity;
use tempfile::TempDir;

/// Random histories that the oracle is asked about.
const HISTORIES: u64 = 220;

struct Scratch {
    folder: TempDir,
    repository: Repository,
    aside: Aside,
}

impl Scratch {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = folder.path().join("user");
        init(&user);
        write(&user.join("a.txt"), &numbered(40));
        write(&user.join("src/b.txt"), &numbered(40));
        write(&user.join(".gitignore"), "ignored/\n");
        git(&user, &["add", "."]);
        git(&user, &["commit", "-q", "-m", "first"]);
        let repository = Repositories::default().open(&user).await.unwrap();
        let aside = Aside::beside(repository.common_dir(), &folder.path().join("room")).unwrap();
        Self { folder, repository, aside }
    }

    fn user(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("user")
    }

    /// A worktree at `main`, and its base.
    fn worktree(&self, name: &str) -> (PathBuf, CommitId) {
        let path = self.user().with_file_name(name);
        git(&self.user(), &["worktree", "add", "-q", "--detach", path.to_str().unwrap(), "main"]);
        let base = git(&path, &["rev-parse", "HEAD"]).parse().unwrap();
        (path, base)
    }

    async fn snapshot(&self, path: &Path, base: &CommitId) -> Arc<Snapshot> {
        let taken = self.repository.snapshot_aside(path, base, &self.aside, None).await;
        Arc::new(taken.unwrap())
    }

    /// The work in the worktree as `git add --all` would have it, through an index of our own.
    fn whole_tree(&self, path: &Path) -> String {
        let index = self.user().with_file_name("index-of-the-oracle");
        let real = git(path, &["rev-parse", "--absolute-git-dir"]);
        let own = Path::new(&real).join("index");
        fs::copy(&own, &index).unwrap();
        // as old as the one it is of: git reads a file again that changed when its index was written
        let written = fs::metadata(&own).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&index).unwrap().set_modified(written).unwrap();
        let on = |args: &[&str]| {
            let mut command = command(path, args);
            command.env("GIT_INDEX_FILE", &index);
            said(command)
        };
        on(&["add", "--all"]);
        on(&["write-tree"])
    }
}

fn numbered(count: usize) -> String {
    (1..=count).map(|line| format!("line {line}\n")).collect()
}

/// Every file of the tree with its content's hash, and what could betray a write.
fn holdings(place: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = BTreeMap::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                folders.push(path);
            } else if found.is_file() {
                // an object that is there already is marked as fresh, as every git does
                let object = path.components().any(|part| part.as_os_str() == "objects");
                let stamp = if object { 0 } else { found.mtime_nsec() as u64 ^ found.ino() };
                all.insert(path.clone(), (stamp, fs::read(&path).unwrap()));
            }
        }
    }
    all
}

#[tokio::test]
async fn f16_a_snapshot_holds_all_work_and_writes_nothing_of_the_users() {
    let scratch = Scratch::new().await;
    let (path, base) = scratch.worktree("one");
    write(&path.join("a.txt"), &numbered(40).replace("line 7\n", "seven\n"));
    git(&path, &["commit", "-qam", "committed"]);
    write(&path.join("a.txt"), &numbered(40).replace("line 9\n", "nine\n"));
    write(&path.join("new/deep/file.txt"), "new\n");
    write(&path.join("ignored/x"), "x\n");
    write(&path.join(".env"), "TOKEN=1\n");
    symlink("a.txt", path.join("link")).unwrap();
    fs::remove_file(path.join("src/b.txt")).unwrap();
    fs::set_permissions(path.join(".gitignore"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = (holdings(&scratch.user()), holdings(&path));

    let seen = scratch.snapshot(&path, &base).await;

    for (before, place) in [(&before.0, scratch.user()), (&before.1, path.clone())] {
        let after = holdings(&place);
        let written = after.iter().find(|(path, held)| before.get(*path) != Some(held));
        assert_eq!(written.map(|(path, _)| path), None, "was written");
        assert_eq!(before.len(), after.len());
    }
    assert_eq!(seen.withheld.len(), 1);
    assert_eq!(seen.withheld[0].why, Why::SecretName);
    let files: Vec<_> = seen.files.iter().map(|file| file.path.to_str().unwrap()).collect();
    assert_eq!(files, [".gitignore", "a.txt", "link", "new/deep/file.txt", "src/b.txt"]);
    fs::remove_file(path.join(".env")).unwrap();
    let stored = scratch.repository.snapshot(&path, &base).await.unwrap();
    let whole = scratch.whole_tree(&path);
    assert_eq!(git(&path, &["diff", "--raw", &stored.tree, &whole]), "");
    // the same work has the same id; in the repository's own store it can be shown by any git
    assert_eq!((&stored.commit, &stored.tree), (&seen.commit, &seen.tree));
    assert_eq!(git(&path, &["show", &format!("{}:new/deep/file.txt", stored.commit)]), "new");
    assert_eq!(git(&path, &["rev-parse", &format!("{}^", stored.commit)]), stored.head.as_str());
}

#[tokio::test]
async fn f16_an_index_in_parts_is_read_and_stays_as_it_is() {
    let scratch = Scratch::new().await;
    let (path, base) = scratch.worktree("split");
    git(&path, &["config", "core.splitIndex", "true"]);
    write(&path.join("a.txt"), &numbered(41));
    write(&path.join("staged.txt"), "staged\n");
    git(&path, &["add", "."]);
    git(&path, &["update-index", "--split-index"]);
    write(&path.join("src/b.txt"), "short\n");
    git(&path, &["add", "src/b.txt"]);
    // as long as what was staged, within the same moment
    write(&path.join("src/b.txt"), "other\n");
    write(&path.join("new.txt"), "new\n");
    let real = PathBuf::from(git(&path, &["rev-parse", "--absolute-git-dir"]));
    assert!(is_in_parts(&real));
    let before = (holdings(&path), holdings(&real));
    let snapshot = scratch.snapshot(&path, &base).await;
    let diff = scratch.repository.diff(&base, Side::Worktree(path.clone()), 1 << 20).await.unwrap();
    assert_eq!((holdings(&path), holdings(&real)), before);
    let names: Vec<_> = snapshot.files.iter().map(|file| file.path.to_str().unwrap()).collect();
    assert_eq!(names, ["a.txt", "new.txt", "src/b.txt", "staged.txt"]);
    let shown: BTreeSet<_> = diff.files.iter().map(|file| file.path.to_str().unwrap()).collect();
    assert_eq!(shown, names.iter().copied().collect());
    assert!(diff.patch.contains("+other") && !diff.patch.contains("+short"), "{}", diff.patch);
    assert_eq!(snapshot.tree, scratch.whole_tree(&path));
}

/// Whether the index names another file that holds a part of it.
fn is_in_parts(git_dir: &Path) -> bool {
    let parts = fs::read_dir(git_dir).unwrap().flatten();
    parts.into_iter().any(|part| part.file_name().to_string_lossy().starts_with("sharedindex."))
}

#[tokio::test]
async fn a_folder_that_became_a_file_and_a_file_that_became_a_folder_are_seen() {
    let scratch = Scratch::new().await;
    let (path, base) = scratch.worktree("one");
    fs::remove_dir_all(path.join("src")).unwrap();
    write(&path.join("src"), "now a file\n");
    fs::remove_file(path.join("a.txt")).unwrap();
    write(&path.join("a.txt/inside"), "now a folder\n");
    let seen = scratch.snapshot(&path, &base).await;
    assert_eq!(seen.tree, scratch.whole_tree(&path));
    let all = [path.join("a.txt"), path.join("src"), path.join(".gitignore")];
    fs::remove_dir_all(&all[0]).unwrap();
    fs::remove_file(&all[1]).unwrap();
    fs::remove_file(&all[2]).unwrap();
    let seen = scratch.snapshot(&path, &base).await;
    assert_eq!(seen.tree, scratch.whole_tree(&path), "an empty tree");
}

/// A small generator whose every number follows from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }
}

/// One random change of a worktree; answers the paths that it touched.
fn change(dice: &mut Dice, place: &Path) -> Vec<PathBuf> {
    let names = ["a.txt", "src/b.txt", "c.txt", "src/d/e.txt", "bin.dat"];
    let name = names[dice.roll(names.len())];
    let file = place.join(name);
    let touched = vec![PathBuf::from(name)];
    match (dice.roll(12), fs::read_to_string(&file)) {
        (0, Ok(_)) => fs::remove_file(&file).unwrap(),
        (1, Ok(_)) => {
            let mode = if dice.roll(2) == 0 { 0o755 } else { 0o644 };
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        (2, _) => write(&place.join("bin.dat"), &format!("\0{}", dice.roll(9))),
        (3, Ok(text)) => write(&file, &text.replace('\n', "\r\n")),
        (4, Ok(text)) => write(&file, text.trim_end()),
        (_, Ok(text)) if !text.contains('\0') => {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            let at = dice.roll(lines.len() + 1);
            match dice.roll(3) {
                0 => lines.insert(at, format!("put in {}", dice.roll(50))),
                1 if at < lines.len() => drop(lines.remove(at)),
                _ if at < lines.len() => lines[at] = format!("changed {}", dice.roll(50)),
                _ => {}
            }
            write(&file, &(lines.join("\n") + "\n"));
        }
        _ => write(&file, &numbered(dice.roll(12) + 1)),
    }
    if name == "bin.dat" || fs::symlink_metadata(place.join("bin.dat")).is_ok() {
        return vec![PathBuf::from(name), PathBuf::from("bin.dat")];
    }
    touched
}

/// Every stretch of `git diff` between two trees: file to (old start, old count), or none where
/// git shows no lines; and the letter.
fn hunks(place: &Path, before: &str, after: &str) -> BTreeMap<String, (char, Vec<(i64, i64)>)> {
    let mut all = BTreeMap::new();
    for line in git(place, &["diff", "--no-renames", "--name-status", before, after]).lines() {
        let (letter, name) = line.split_once('\t').unwrap();
        all.insert(name.to_owned(), (letter.chars().next().unwrap(), Vec::new()));
    }
    let mut name = "";
    let patch = git(place, &["diff", "--no-renames", "-U0", before, after]);
    for line in patch.lines() {
        if let Some(names) = line.strip_prefix("diff --git a/") {
            name = names.split(" b/").next().unwrap();
        } else if let Some(stretch) = line.strip_prefix("@@ -") {
            let old = stretch.split(' ').next().unwrap();
            let (start, count) = old.split_once(',').unwrap_or((old, "1"));
            let stretches = &mut all.get_mut(name).unwrap().1;
            stretches.push((start.parse().unwrap(), count.parse().unwrap()));
        }
    }
    all
}

/// Which file was renamed to which.
fn renames(place: &Path, before: &str, after: &str) -> BTreeMap<String, String> {
    let told =
        git(place, &["diff", "-M", "-l0", "--diff-filter=R", "--name-status", before, after]);
    let names = told.lines().filter_map(|line| line.split_once('\t')?.1.split_once('\t'));
    names.map(|(old, new)| (old.to_owned(), new.to_owned())).collect()
}

/// How near, by walking along the lines: a stretch is the half lines that it covers.
fn near(one: (i64, i64), two: (i64, i64)) -> Severity {
    // line n is the half line 2n, the place behind it 2n + 1
    let halves = |(start, count): (i64, i64)| match count {
        0 => vec![2 * start + 1],
        count => (start..start + count).map(|line| 2 * line).collect(),
    };
    let (ours, theirs) = (halves(one), halves(two));
    let mut gravest = Severity::DifferentArea;
    for a in &ours {
        for b in &theirs {
            let place = a % 2 != 0 || b % 2 != 0;
            let (low, high) = (a.min(b), a.max(b));
            let between = (low + 1..*high).filter(|half| half % 2 == 0).count();
            gravest = gravest.max(match () {
                () if a == b || (place && high - low == 1) => Severity::SameLine,
                () if between <= 5 => Severity::AdjacentLine,
                () => Severity::DifferentArea,
            });
        }
    }
    gravest
}

#[tokio::test]
async fn verdicts_equal_those_of_git_diff_and_git_merge_tree_on_random_histories() {
    let scratch = Scratch::new().await;
    let user = scratch.user();
    let (one, _) = scratch.worktree("one");
    let (two, _) = scratch.worktree("two");
    let mut found: BTreeMap<(Severity, bool), usize> = BTreeMap::new();
    for seed in 0..HISTORIES {
        let mut dice = Dice(seed);
        let first = git(&user, &["rev-parse", "main~0"]);
        let mut bases = vec![first];
        if dice.roll(3) == 0 {
            for _ in 0..dice.roll(4) {
                change(&mut dice, &user);
            }
            git(&user, &["add", "--all"]);
            git(&user, &["commit", "-qm", "main goes on", "--allow-empty"]);
            bases.push(git(&user, &["rev-parse", "main"]));
        }
        let mut seen = Vec::new();
        for place in [&one, &two] {
            let base = &bases[dice.roll(bases.len())];
            git(place, &["checkout", "-q", "--detach", "--force", base]);
            git(place, &["clean", "-qfdx"]);
            let base: CommitId = base.parse().unwrap();
            let mut former = scratch.snapshot(place, &base).await;
            let mut touched = Vec::new();
            for _ in 0..dice.roll(6) {
                touched.extend(change(&mut dice, place));
                if dice.roll(4) == 0 {
                    git(place, &["add", "--all"]);
                    git(place, &["commit", "-qm", "work", "--allow-empty"]);
                }
                if dice.roll(2) == 0 {
                    let again = Again { former, touched: std::mem::take(&mut touched) };
                    let taken = scratch.repository.snapshot_aside(
                        place,
                        &base,
                        &scratch.aside,
                        Some(again),
                    );
                    former = Arc::new(taken.await.unwrap());
                }
            }
            let again = Some(Again { former, touched });
            let taken =
                scratch.repository.snapshot_aside(place, &base, &scratch.aside, again).await;
            let taken = Arc::new(taken.unwrap());
            assert_eq!(taken.tree, scratch.whole_tree(place), "seed {seed}: the tree of {place:?}");
            assert_eq!(*scratch.snapshot(place, &base).await, *taken, "seed {seed}: taken again");
            seen.push(taken);
        }
        let pair = (seen[0].clone(), seen[1].clone());
        let ours = scratch.repository.overlap(&scratch.aside, vec![pair]).await.unwrap().remove(0);
        let ours: BTreeMap<_, _> = ours
            .into_iter()
            .map(|clash| {
                (clash.path.to_str().unwrap().to_owned(), (clash.severity, clash.conflict))
            })
            .collect();
        let theirs = oracle(&scratch, &seen, (&one, &two));
        assert_eq!(ours, theirs, "seed {seed}");
        for verdict in ours.into_values() {
            *found.entry(verdict).or_default() += 1;
        }
    }
    let grave: BTreeSet<_> = found.keys().map(|(severity, _)| *severity).collect();
    assert_eq!(grave.len(), 3, "every severity was met: {found:?}");
    assert!(found.keys().any(|(_, conflict)| *conflict), "{found:?}");
}

fn oracle(
    scratch: &Scratch,
    seen: &[Arc<Snapshot>],
    (one, two): (&Path, &Path),
) -> BTreeMap<String, (Severity, bool)> {
    let user = scratch.user();
    let commit = |place: &Path| {
        let tree = scratch.whole_tree(place);
        git(place, &["commit-tree", &tree, "-p", "HEAD", "-m", &place.display().to_string()])
    };
    let (ours, theirs) = (commit(one), commit(two));
    let base = git(&user, &["merge-base", &ours, &theirs]);
    let merged = command(
        &user,
        &["merge-tree", "--write-tree", "--name-only", "--no-messages", &ours, &theirs],
    )
    .output()
    .unwrap();
    let merged = String::from_utf8(merged.stdout).unwrap();
    let conflicts: BTreeSet<_> = merged.lines().skip(1).collect();
    let own =
        [hunks(&user, seen[0].base.as_str(), &ours), hunks(&user, seen[1].base.as_str(), &theirs)];
    let (left, right) = (hunks(&user, &base, &ours), hunks(&user, &base, &theirs));
    let moved = [renames(&user, &base, &ours), renames(&user, &base, &theirs)];
    let mut all = BTreeMap::new();
    for (name, (letter, stretches)) in &left {
        let Some((other, others)) = right.get(name) else { continue };
        if own.iter().any(|own| !own.contains_key(name)) {
            continue;
        }
        let severity = match (letter, other) {
            ('A', 'A') => Severity::SameLine,
            ('D', other) if *other != 'D' => Severity::SameLine,
            (letter, 'D') if *letter != 'D' => Severity::SameLine,
            _ => stretches
                .iter()
                .flat_map(|one| others.iter().map(|two| near(*one, *two)))
                .max()
                .unwrap_or(Severity::DifferentArea),
        };
        let mut names = moved.iter().filter_map(|own| own.get(name)).chain([name]);
        all.insert(name.clone(), (severity, names.any(|name| conflicts.contains(name.as_str()))));
    }
    all
}

#[test]
fn the_oracle_walks_along_lines() {
    assert_eq!(near((3, 1), (3, 1)), Severity::SameLine);
    assert_eq!(near((3, 0), (3, 1)), Severity::SameLine);
    assert_eq!(near((3, 0), (4, 1)), Severity::SameLine);
    assert_eq!(near((3, 1), (9, 1)), Severity::AdjacentLine);
    assert_eq!(near((3, 1), (10, 1)), Severity::DifferentArea);
}
