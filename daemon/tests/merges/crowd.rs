//! Many at work on one repository at once, with gc going on.

use super::ground::{Ground, command, git, write};
use hayward_daemon::git::CommitId;
use hayward_daemon::git::commit::{Hooks, Limits, Message, WorkOrder};
use hayward_daemon::git::join::Join;
use hayward_daemon::git::land::Landing;
use hayward_daemon::git::worktree::NewWorktree;
use hayward_daemon::git::{BranchName, Repository};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Committers at work.
const CROWD: usize = 8;

/// Seconds that they work; `HAYWARD_CROWD_SECONDS=60` is the whole test.
fn seconds() -> u64 {
    let set = std::env::var("HAYWARD_CROWD_SECONDS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or_else(|| {
        eprintln!("f22: 8 s in place of 60; HAYWARD_CROWD_SECONDS=60 works the whole time");
        8
    })
}

/// Commits in a worktree of its own, again and again, and merges each commit into one branch that
/// all share; how often.
async fn work(ground: Arc<Ground>, repository: Repository, who: usize, until: Instant) -> usize {
    let base = ground.tip("main");
    let branch = BranchName::for_task(&format!("w{who}"), "0badcafe");
    let path = ground.room().join(format!("tree{who}"));
    let new = NewWorktree { path: path.clone(), commit: base.clone(), branch: Some(branch) };
    let tree = repository.create(new).await.unwrap();
    let branch = tree.branch.unwrap().name;
    let mut done = 0;
    while done == 0 || Instant::now() < until {
        write(&path.join(format!("file{who}-{}", done % 7)), &format!("{done}\n"));
        let order = WorkOrder {
            worktree: path.clone(),
            base: base.clone(),
            branch: Some(branch.clone()),
            message: Message { subject: format!("{who} {done}"), body: String::new() },
            limits: Limits::default(),
            hooks: Hooks::Inert,
            sign: false,
        };
        let head = repository.commit_work(order).await.unwrap().head;
        while !bring(&repository, &head).await {
            assert!(Instant::now() < until + Duration::from_secs(60), "{who} never lands");
        }
        done += 1;
    }
    done
}

/// Merges a commit into `hayward/all`; false when another was quicker.
async fn bring(repository: &Repository, theirs: &CommitId) -> bool {
    let ours = repository.resolve("refs/heads/hayward/all").await.unwrap();
    let trial = repository.try_merge(&ours, theirs).await.unwrap();
    assert!(trial.is_clean);
    let new = Join {
        ours: ours.clone(),
        theirs: theirs.clone(),
        tree: trial.tree,
        settled: Vec::new(),
        message: "m".into(),
        at: 1_800_000_000,
        sign: false,
    };
    let to = repository.join(new).await.unwrap();
    let landing = Landing { branch: "hayward/all".into(), from: ours, to };
    repository.land(landing).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_eight_committers_and_a_merger_with_gc_on_lose_nothing() {
    let ground = Arc::new(Ground::new());
    ground.git(&["branch", "hayward/all"]);
    // what a user has by default, and more often than by default
    ground.git(&["config", "gc.auto", "50"]);
    ground.git(&["config", "gc.autoDetach", "false"]);
    let repository = ground.open().await;
    let until = Instant::now() + Duration::from_secs(seconds());
    let over = Arc::new(AtomicBool::new(false));
    let (folder, stop) = (ground.user(), over.clone());
    let gc = std::thread::spawn(move || {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            // two gcs of a user may meet: then one of them gives up
            drop(command(&folder).args(["gc", "--auto", "--quiet"]).output().unwrap());
            drop(command(&folder).args(["repack", "-q", "-d"]).output().unwrap());
            rounds += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        rounds
    });
    let crowd: Vec<_> = (0..CROWD)
        .map(|who| tokio::spawn(work(ground.clone(), repository.clone(), who, until)))
        .collect();
    let mut done = Vec::new();
    for one in crowd {
        done.push(one.await.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    let rounds = gc.join().unwrap();
    eprintln!("f22: commits {done:?}, {rounds} rounds of gc");
    assert!(done.iter().all(|count| *count > 0) && rounds > 0);
    for (who, count) in done.iter().enumerate() {
        let branch = format!("hayward/w{who}-0badcafe");
        let held = ground.git(&["rev-list", "--count", &format!("main..{branch}")]);
        assert_eq!(held, count.to_string());
        git(&ground.user(), &["merge-base", "--is-ancestor", &branch, "hayward/all"]);
    }
    assert_eq!(ground.git(&["fsck", "--strict", "--no-dangling"]), "");
}
