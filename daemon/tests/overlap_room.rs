//! The room of overlap over real worktrees: what is written is known soon, whatever the trees hold.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hayward_daemon::git::Repositories;
use hayward_daemon::kept::Kept;
use hayward_daemon::overlap::{self, Announcement, Overlap, Report, Settings};
use hayward_daemon::task::{LivePlace, Place};
use hayward_shared::git::{Severity, TaskRename, Verdict};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::run::RunKey;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// How long a test waits for anything.
const LONG: Duration = Duration::from_secs(120);

struct House {
    folder: TempDir,
    places: watch::Sender<BTreeMap<TaskId, LivePlace>>,
    overlap: Overlap,
    announcements: mpsc::Receiver<Announcement>,
    _kept: Kept,
}

impl House {
    fn new(watches: usize, poll: Duration) -> Self {
        // 100,000 folders are made and removed in memory where that is to be had
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let user = folder.path().join("user");
        fs::create_dir(&user).unwrap();
        git(&user, &["init", "-q", "-b", "main"]);
        git(&user, &["config", "user.name", "User"]);
        git(&user, &["config", "user.email", "user@example.org"]);
        write(&user.join("src/a.txt"), &numbered());
        write(&user.join(".gitignore"), "node_modules/\n");
        git(&user, &["add", "."]);
        git(&user, &["commit", "-q", "-m", "first"]);
        let places = watch::Sender::new(BTreeMap::new());
        let settings = Settings { folder: folder.path().join("overlap"), watches, poll };
        let (overlap, kept, announcements) =
            overlap::open(settings, Repositories::default(), places.subscribe());
        Self { folder, places, overlap, announcements, _kept: kept }
    }

    fn user(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("user")
    }

    fn worktree(&self, name: &str) -> PathBuf {
        let path = self.user().with_file_name(name);
        git(&self.user(), &["worktree", "add", "-q", "-b", name, path.to_str().unwrap(), "main"]);
        path
    }

    fn live(&self, path: &Path) -> TaskId {
        let task = TaskId::fresh();
        let key = RunKey { task_id: task, run_id: RunId::fresh(), lease_epoch: 1 };
        let place = Place {
            path: path.to_owned(),
            repository: self.user().join(".git"),
            base_commit: git(path, &["rev-parse", "main"]),
            branch: None,
            lent_from: None,
            first_port: None,
            pushes_to: None,
            notes: Vec::new(),
        };
        let live = LivePlace { key, name: "task".into(), place };
        self.places.send_modify(|all| drop(all.insert(task, live)));
        task
    }

    fn ends(&self, task: TaskId) {
        self.places.send_modify(|all| drop(all.remove(&task)));
    }

    async fn report(&self) -> Report {
        self.overlap.report(None).await.unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&[Verdict]) -> bool) -> Vec<Verdict> {
        let begun = Instant::now();
        loop {
            let verdicts = self.report().await.verdicts;
            if holds(&verdicts) {
                return verdicts;
            }
            assert!(begun.elapsed() < LONG, "{what}: {verdicts:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all live worktrees were looked at.
    async fn settled(&self, worktrees: usize) {
        let begun = Instant::now();
        loop {
            let report = self.report().await;
            if report.looked_at == worktrees {
                return;
            }
            assert!(begun.elapsed() < LONG, "{report:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn git(place: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(args).current_dir(place);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} in {place:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn numbered() -> String {
    (1..=40).map(|line| format!("line {line}\n")).collect()
}

fn with_line(line: usize, text: &str) -> String {
    numbered().replace(&format!("line {line}\n"), &format!("{text}\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_agents_write_is_known_and_forgotten_as_it_comes_and_goes() {
    let mut house = House::new(1_000, Duration::from_secs(60));
    let (one, two) = (house.worktree("one"), house.worktree("two"));
    let mut tasks = [house.live(&one), house.live(&two)];
    house.settled(2).await;
    write(&one.join("src/a.txt"), &with_line(7, "mine"));
    write(&two.join("src/a.txt"), &with_line(7, "theirs"));
    let verdicts = house.until("the same line", |all| all.len() == 1).await;
    assert_eq!((verdicts[0].severity, verdicts[0].conflict), (Severity::SameLine, true));
    assert_eq!(verdicts[0].file_path, "src/a.txt");
    let ended = tasks[1];
    tasks.sort();
    assert_eq!(verdicts[0].tasks, tasks);
    assert!(verdicts[0].ranges.iter().all(|one| one.lines[0].start == 7));
    let said = house.announcements.recv().await.unwrap();
    assert!(said.note && said.clashes[0].conflict, "{said:?}");

    write(&two.join("src/a.txt"), &with_line(20, "far away"));
    house
        .until("far apart", |all| all.iter().all(|one| one.severity == Severity::DifferentArea))
        .await;
    write(&two.join("src/a.txt"), &numbered());
    house.until("taken back", <[_]>::is_empty).await;
    // a folder that is made after the watches were set, and committed work
    write(&one.join("new/deep/file.txt"), "one\n");
    git(&one, &["add", "."]);
    git(&one, &["commit", "-qm", "work"]);
    write(&two.join("new/deep/file.txt"), "two\n");
    let new = |all: &[Verdict]| all.iter().any(|one| one.file_path == "new/deep/file.txt");
    house.until("both made a file", new).await;
    git(&one, &["reset", "-q", "--hard", "main"]);
    house.until("reset", <[_]>::is_empty).await;
    write(&one.join("new/deep/file.txt"), "one\n");
    house.until("made anew in a folder made anew", new).await;
    house.ends(ended);
    house.until("one ended", <[_]>::is_empty).await;
    let (mut last_is_clear, quiet) = (false, Duration::from_secs(4));
    loop {
        let patience = if last_is_clear { quiet } else { LONG };
        let said = tokio::time::timeout(patience, house.announcements.recv()).await;
        let Ok(Some(said)) = said else { break };
        last_is_clear = said.clashes.is_empty();
    }
    assert!(last_is_clear, "the last word is that they are clear");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f55_an_ignored_tree_of_100_000_folders_takes_no_watches() {
    let house = House::new(60_000, Duration::from_secs(60));
    let (one, two) = (house.worktree("one"), house.worktree("two"));
    for package in 0..100 {
        for part in 0..1_000 {
            fs::create_dir_all(one.join(format!("node_modules/{package}/{part}"))).unwrap();
        }
    }
    house.live(&one);
    house.live(&two);
    house.settled(2).await;
    let report = house.report().await;
    assert!(report.watched.count < 1_000 && report.watched.count > 3, "{report:#?}");
    assert!(report.polled.is_empty() && report.watched.why_polled.is_none());
    write(&one.join("src/a.txt"), &with_line(7, "mine"));
    write(&two.join("src/a.txt"), &with_line(8, "theirs"));
    let verdicts = house.until("adjacent lines", |all| all.len() == 1).await;
    assert_eq!(verdicts[0].severity, Severity::AdjacentLine);
    // and a tree of that kind that is made while it is watched
    for part in 0..1_000 {
        fs::create_dir_all(two.join(format!("node_modules/x/{part}"))).unwrap();
    }
    write(&two.join("src/a.txt"), &numbered());
    house.until("taken back", <[_]>::is_empty).await;
    assert!(house.report().await.watched.count < 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f55_without_watches_worktrees_are_polled_and_it_is_said() {
    let house = House::new(6, Duration::from_millis(50));
    let (one, two) = (house.worktree("one"), house.worktree("two"));
    for part in 0..10 {
        write(&two.join(format!("many/{part}/file")), "x\n");
    }
    house.live(&one);
    house.settled(1).await;
    house.live(&two);
    house.settled(2).await;
    let report = house.report().await;
    assert_eq!(report.polled.len(), 1, "{report:#?}");
    assert!(report.watched.count <= 6 && report.watched.why_polled.is_some(), "{report:#?}");
    write(&two.join("src/a.txt"), &with_line(7, "theirs"));
    write(&one.join("src/a.txt"), &with_line(7, "mine"));
    house.until("the polled one is seen", |all| all.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f55_a_polled_worktree_that_fits_again_is_watched_anew() {
    let house = House::new(16, Duration::from_millis(50));
    let (one, two) = (house.worktree("one"), house.worktree("two"));
    for place in [&one, &two] {
        for part in 0..6 {
            write(&place.join(format!("many/{part}/file")), "x\n");
        }
    }
    let first = house.live(&one);
    house.settled(1).await;
    let second = house.live(&two);
    house.settled(2).await;
    assert_eq!(house.report().await.polled, [second]);
    house.ends(first);
    let begun = Instant::now();
    while !house.report().await.polled.is_empty() {
        assert!(begun.elapsed() < LONG, "{:#?}", house.report().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = house.report().await;
    assert!((9..=16).contains(&report.watched.count), "{report:#?}");
    // what it does now is seen through its watches, beside another that fits
    let three = house.worktree("three");
    let third = house.live(&three);
    house.settled(2).await;
    assert!(house.report().await.polled.is_empty(), "{:#?}", house.report().await);
    write(&two.join("src/a.txt"), &with_line(7, "theirs"));
    write(&three.join("src/a.txt"), &with_line(7, "mine"));
    let all = house.until("both are seen", |all| all.len() == 1).await;
    let mut tasks = [second, third];
    tasks.sort();
    assert_eq!(all[0].tasks, tasks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_file_is_told_by_both_its_names() {
    let house = House::new(1_000, Duration::from_secs(60));
    let (one, two) = (house.worktree("one"), house.worktree("two"));
    let (mover, _) = (house.live(&one), house.live(&two));
    house.settled(2).await;
    fs::rename(one.join("src/a.txt"), one.join("src/moved.txt")).unwrap();
    write(&two.join("src/a.txt"), &with_line(7, "theirs"));
    let all = house.until("the rename", |all| all.len() == 1).await;
    let rename = TaskRename { task_id: mover, to: "src/moved.txt".into() };
    assert_eq!((&all[0].file_path[..], &all[0].renames[..]), ("src/a.txt", &[rename.clone()][..]));
    // git follows it: the other's line lands in the new file
    assert!(!all[0].conflict, "{all:#?}");
    write(&one.join("src/moved.txt"), &with_line(7, "mine"));
    let all = house.until("the same line through the rename", |all| all[0].conflict).await;
    assert_eq!(all[0].renames, [rename]);
    fs::rename(one.join("src/moved.txt"), one.join("src/a.txt")).unwrap();
    let plain = |all: &[Verdict]| all.len() == 1 && all[0].renames.is_empty();
    house.until("it is renamed back", plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_thousand_commits_meet_no_lock_under_the_fastest_polling() {
    let house = House::new(0, Duration::from_millis(1));
    let worktrees = [house.worktree("one"), house.worktree("two")];
    for path in &worktrees {
        house.live(path);
    }
    house.settled(2).await;
    let places = [house.user(), worktrees[0].clone()];
    let work = places.map(|place| {
        tokio::task::spawn_blocking(move || {
            for round in 0..500 {
                write(&place.join("src/a.txt"), &with_line(round % 40 + 1, &format!("{round}")));
                git(&place, &["add", "--all"]);
                git(&place, &["commit", "-q", "--allow-empty", "-m", "work"]);
            }
        })
    });
    write(&worktrees[1].join("src/a.txt"), &with_line(7, "mine"));
    for one in work {
        one.await.unwrap();
    }
    house.until("it was looked at all along", |all| all.len() == 1).await;
    assert_eq!(git(&house.user(), &["fsck", "--strict", "--no-dangling"]), "");
}
