//! Worktrees in an instant: the pool, removal, and what a crash leaves, against the real git.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "fault-points")]
mod crashes;
mod farm;
mod seeds;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use farm::{Farm, git, is_fresh};
use hayward_daemon::git::pool::Miss;
use hayward_daemon::git::worktree::{NewWorktree, RemoveError, WorktreeError, Yard};
use hayward_daemon::git::{CommitId, Pool, Repositories};
use proptest::prelude::*;

#[tokio::test]
async fn a_claim_is_as_fresh_as_a_new_one_and_every_miss_has_its_reason() {
    let farm = Farm::new();
    let (all, repository) = farm.hot(1).await;
    let place = fs::read_dir(farm.yard().join(".pool")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 2);
    let claimed = farm.task(&repository, "second").await;
    assert_eq!(claimed.branch.as_ref().unwrap().name, "hayward/second-0badcafe");
    is_fresh(&farm, &claimed);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    let cold = farm.task(&repository, "third").await;
    is_fresh(&farm, &cold);
    let report = all.pool().report();
    let ours = &report.repositories[0];
    assert_eq!((ours.claims, ours.misses, ours.ready), (1, 2, 0));
    let reasons: Vec<&Miss> = ours.last_misses.iter().map(|missed| &missed.why).collect();
    assert_eq!(reasons, [&Miss::ColdRepository, &Miss::Empty]);
    let told = serde_json::to_value(&report).unwrap();
    assert_eq!(told["repositories"][0]["lastMisses"][0]["reason"], "cold_repository");
    farm.holds_only(&["first", "second", "third"]);
}

#[tokio::test]
async fn f13_a_claim_leaves_the_work_of_a_former_run_where_it_is() {
    let farm = Farm::new();
    let (all, repository) = farm.hot(1).await;
    let first = farm.yard().join("first");
    fs::write(first.join("work"), "of hours").unwrap();
    let commit = repository.resolve("main").await.unwrap();
    let refused = repository.provide(farm.wanted("first", &commit)).await.unwrap_err();
    assert!(matches!(refused, WorktreeError::Occupied { .. }), "{refused}");
    assert_eq!(fs::read_to_string(first.join("work")).unwrap(), "of hours");
    let missed = &all.pool().report().repositories[0].last_misses;
    assert!(matches!(missed.last().unwrap().why, Miss::ClaimFailed(_)), "{missed:?}");
    // nor is its branch gone
    assert_eq!(farm.git(&["-C", first.to_str().unwrap(), "status", "--porcelain"]), "?? work");
}

#[tokio::test]
async fn main_its_full_name_and_its_commit_find_the_same_place() {
    let farm = Farm::new();
    let (all, repository) = farm.hot(1).await;
    for (number, name) in ["main", "refs/heads/main", "HEAD"].into_iter().enumerate() {
        let commit = repository.resolve(name).await.unwrap();
        let new = farm.wanted(&format!("n{number}"), &commit);
        repository.provide(new).await.unwrap();
        all.refill().await;
    }
    let id = farm.git(&["rev-parse", "main"]);
    let commit = repository.resolve(&id).await.unwrap();
    let detached = NewWorktree { branch: None, ..farm.wanted("last", &commit) };
    let tree = repository.provide(detached).await.unwrap();
    is_fresh(&farm, &tree);
    assert_eq!(all.pool().report().repositories[0].claims, 4);
    // another handle, opened through a worktree, draws from the same places
    all.refill().await;
    let inner = all.open(&tree.path).await.unwrap();
    farm.task(&inner, "inner").await;
    assert_eq!(all.pool().report().repositories[0].claims, 5);
}

/// What somebody does to a waiting place.
type Touch<'a> = &'a dyn Fn(&Path);

#[tokio::test]
async fn a_place_that_somebody_touched_is_taken_down_and_the_task_gets_a_fresh_one() {
    let farm = Farm::new();
    let place = || {
        let pool = fs::read_dir(farm.yard().join(".pool")).unwrap().next().unwrap().unwrap();
        let inside = fs::read_dir(pool.path()).unwrap().map(|entry| entry.unwrap().path());
        inside.into_iter().find(|path| path.is_dir()).unwrap()
    };
    let (all, repository) = farm.hot(1).await;
    let touches: [(&str, Touch<'_>); 7] = [
        ("untracked", &|place| fs::write(place.join("new"), "x").unwrap()),
        ("ignored", &|place| {
            fs::create_dir(place.join("ignored")).unwrap();
            fs::write(place.join("ignored/x"), "x").unwrap();
        }),
        ("edited", &|place| fs::write(place.join("b.txt"), "c\n").unwrap()),
        ("gone", &|place| fs::remove_file(place.join("b.txt")).unwrap()),
        ("empty", &|place| fs::create_dir(place.join("empty")).unwrap()),
        ("staged", &|place| {
            git(place, &["rm", "-q", "--cached", "b.txt"]);
        }),
        ("settings", &|_| {
            farm.git(&["config", "core.autocrlf", "true"]);
        }),
    ];
    for (name, touch) in touches {
        touch(&place());
        let tree = farm.task(&repository, name).await;
        is_fresh(&farm, &tree);
        let report = all.pool().report().repositories[0].clone();
        let why = &report.last_misses.last().unwrap().why;
        assert!(matches!(why, Miss::ClaimFailed(_)), "{name}: {why:?}");
        assert_eq!(report.claims, 0, "{name}");
        all.empty_trash().await;
        all.refill().await;
    }
    assert_eq!(farm.task(&repository, "last").await.branch.unwrap().in_the_way.len(), 0);
    assert_eq!(all.pool().report().repositories[0].claims, 1);
}

#[tokio::test]
async fn the_pool_keeps_within_its_budget_and_zero_turns_it_off() {
    let farm = Farm::new();
    let all = Repositories::with_pool(Pool::new(farm.terms(2, 10)));
    let repository = all.open(&farm.user()).await.unwrap();
    farm.task(&repository, "first").await;
    all.refill().await;
    farm.task(&repository, "second").await;
    let report = all.pool().report();
    assert_eq!(report.repositories[0].last_misses[1].why, Miss::OverBudget);
    assert_eq!(report.used_bytes, 0);

    let off = farm.repositories(0);
    let repository = off.open(&farm.user()).await.unwrap();
    is_fresh(&farm, &farm.task(&repository, "third").await);
    off.refill().await;
    let report = off.pool().report();
    assert!((report.places, report.repositories.len()) == (0, 0));
    farm.holds_only(&["first", "second", "third"]);
}

#[tokio::test]
async fn a_restart_finds_its_places_again_and_a_pool_turned_off_leaves_nothing() {
    let farm = Farm::new();
    let (all, repository) = farm.hot(2).await;
    drop((all, repository));
    let next = farm.repositories(1);
    let known = farm.yard().join("first");
    next.recover(&Yard::new(farm.yard()), |path| path == known).await;
    next.empty_trash().await;
    assert_eq!(next.pool().report().repositories[0].ready, 1);
    let repository = next.open(&farm.user()).await.unwrap();
    is_fresh(&farm, &farm.task(&repository, "second").await);
    assert_eq!(next.pool().report().repositories[0].claims, 1);
    next.refill().await;
    drop((next, repository));
    let off = farm.repositories(0);
    off.recover(&Yard::new(farm.yard()), |path| path.is_dir()).await;
    Repositories::with_pool(Pool::new(farm.terms(1, 0))).empty_trash().await;
    assert_eq!(fs::read_dir(farm.yard().join(".pool")).unwrap().count(), 0);
    farm.holds_only(&["first", "second"]);
}

#[tokio::test]
async fn f40_what_no_task_knows_is_cleared_at_the_start_and_work_stays() {
    let farm = Farm::new();
    let all = farm.repositories(1);
    let repository = all.open(&farm.user()).await.unwrap();
    for name in ["clean", "known", "edited", "committed"] {
        farm.task(&repository, name).await;
    }
    fs::write(farm.yard().join("edited/new.txt"), "an agent's").unwrap();
    git(&farm.yard().join("committed"), &["commit", "-q", "--allow-empty", "-m", "work"]);
    drop((all, repository));
    let next = farm.repositories(1);
    let known = farm.yard().join("known");
    next.recover(&Yard::new(farm.yard()), |path| path == known).await;
    next.empty_trash().await;
    farm.holds_only(&["known", "edited", "committed"]);
}

#[tokio::test]
async fn f19_a_branch_that_was_locked_when_the_daemon_died_is_made_again() {
    let farm = Farm::new();
    let all = farm.repositories(0);
    let repository = all.open(&farm.user()).await.unwrap();
    farm.task(&repository, "first").await;
    drop((all, repository));
    for place in [".git/refs/heads", ".git/logs/refs/heads"] {
        let folder = farm.user().join(place).join("hayward");
        fs::write(folder.join("first-0badcafe.lock"), "").unwrap();
    }
    let next = farm.repositories(0);
    next.recover(&Yard::new(farm.yard()), |_| false).await;
    next.empty_trash().await;
    farm.holds_only(&[]);
    let repository = next.open(&farm.user()).await.unwrap();
    is_fresh(&farm, &farm.task(&repository, "first").await);
}

#[tokio::test]
async fn f19_a_folder_whose_link_was_not_written_when_the_daemon_died_is_taken() {
    let farm = Farm::new();
    let repository = farm.repositories(0).open(&farm.user()).await.unwrap();
    for (name, link) in [
        ("none", String::new()),
        ("gone", farm.user().join(".git/worktrees/x").display().to_string()),
    ] {
        let folder = farm.yard().join(name);
        fs::create_dir(&folder).unwrap();
        let link = if link.is_empty() { link } else { format!("gitdir: {link}\n") };
        fs::write(folder.join(".git"), link).unwrap();
        is_fresh(&farm, &farm.task(&repository, name).await);
    }
    let folder = farm.yard().join("theirs");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".git"), "gitdir: /elsewhere/.git/worktrees/x\n").unwrap();
    let commit = repository.resolve("main").await.unwrap();
    assert!(repository.create(farm.wanted("theirs", &commit)).await.is_err());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[tokio::test]
async fn f16_a_look_sees_hidden_changes_and_writes_no_index() {
    let farm = Farm::new();
    let repository = farm.repositories(0).open(&farm.user()).await.unwrap();
    let path = farm.task(&repository, "first").await.path;
    git(&path, &["update-index", "--assume-unchanged", "b.txt"]);
    let index = git(&path, &["rev-parse", "--path-format=absolute", "--git-path", "index"]);
    let before = fs::read(&index).unwrap();
    assert!(!repository.is_dirty(&path).await.unwrap());
    fs::write(path.join("b.txt"), "an agent's\n").unwrap();
    assert!(repository.is_dirty(&path).await.unwrap());
    let refused = repository.check_removal(&path).await;
    assert!(matches!(refused, Err(RemoveError::Dirty { .. })), "{refused:?}");
    assert_eq!(fs::read(&index).unwrap(), before);
    assert!(matches!(repository.remove(&path).await, Err(RemoveError::Dirty { .. })));
}

/// 32 at once, 20 times; `HAYWARD_TEST_ROUNDS` changes the rounds.
#[tokio::test(flavor = "multi_thread")]
async fn f15_many_starts_at_once_all_succeed() {
    let farm = Farm::new();
    let rounds: usize = std::env::var("HAYWARD_TEST_ROUNDS").map_or(20, |n| n.parse().unwrap());
    let all = farm.repositories(2);
    let repository = all.open(&farm.user()).await.unwrap();
    let commit = repository.resolve("main").await.unwrap();
    let mut names = Vec::new();
    for round in 0..rounds {
        let mut making = tokio::task::JoinSet::new();
        for number in 0..32 {
            let name = format!("r{round}-n{number}-");
            let (repository, new) = (repository.clone(), farm.wanted(&name, &commit));
            making.spawn(async move { repository.provide(new).await });
            names.push(name);
        }
        while let Some(made) = making.join_next().await {
            let made = made.unwrap().unwrap();
            assert!(made.branch.unwrap().in_the_way.is_empty());
        }
    }
    assert_eq!(farm.git(&["branch", "--list", "hayward/*"]).lines().count(), rounds * 32);
    assert_eq!(repository.worktrees().await.unwrap().len(), rounds * 32 + 1);
    farm.holds_only(&names.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test]
async fn f27_removal_touches_nothing_that_links_lead_to() {
    let farm = Farm::new();
    let all = farm.repositories(1);
    let repository = all.open(&farm.user()).await.unwrap();
    let outside = farm.room().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("module.js"), "kept").unwrap();
    let linked = farm.task(&repository, "linked").await;
    fs::create_dir(linked.path.join("ignored")).unwrap();
    symlink(&outside, linked.path.join("ignored/node_modules")).unwrap();
    repository.remove(&linked.path).await.unwrap();

    // the root is a link now, once to a stranger's folder and once to another worktree
    let sibling = farm.task(&repository, "sibling").await;
    for (name, target) in [("stranger", &outside), ("twin", &sibling.path)] {
        let tree = farm.task(&repository, name).await;
        fs::rename(&tree.path, farm.room().join(format!("moved-{name}"))).unwrap();
        symlink(target, &tree.path).unwrap();
        repository.remove(&tree.path).await.unwrap();
        assert!(fs::symlink_metadata(&tree.path).is_err());
        farm.git(&["branch", "-D", &tree.branch.unwrap().name]);
    }
    farm.git(&["branch", "-D", &linked.branch.unwrap().name]);
    all.empty_trash().await;
    assert_eq!(fs::read_to_string(outside.join("module.js")).unwrap(), "kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    is_fresh(&farm, &sibling);
    farm.holds_only(&["sibling"]);
}

#[tokio::test]
async fn f13_removal_refuses_whatever_would_be_lost() {
    let farm = Farm::new();
    let all = farm.repositories(1);
    let repository = all.open(&farm.user()).await.unwrap();
    let tree = farm.task(&repository, "one").await;
    let refused = async || repository.remove(&tree.path).await.unwrap_err();

    // the size is the same, and so may be the second
    fs::write(tree.path.join("b.txt"), "c\n").unwrap();
    assert!(matches!(refused().await, RemoveError::Dirty { .. }));
    // staged alone
    git(&tree.path, &["add", "b.txt"]);
    fs::write(tree.path.join("b.txt"), "b\n").unwrap();
    assert!(matches!(refused().await, RemoveError::Dirty { .. }));
    git(&tree.path, &["reset", "-q", "--hard"]);
    // made executable
    fs::set_permissions(tree.path.join("b.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(refused().await, RemoveError::Dirty { .. }));
    git(&tree.path, &["reset", "-q", "--hard"]);
    farm.git(&["worktree", "lock", "--reason", "mine", tree.path.to_str().unwrap()]);
    let locked = refused().await;
    assert!(matches!(&locked, RemoveError::Locked { reason, .. } if reason == "mine"), "{locked}");
    farm.git(&["worktree", "unlock", tree.path.to_str().unwrap()]);
    // what is ignored is not kept
    fs::create_dir(tree.path.join("ignored")).unwrap();
    fs::write(tree.path.join("ignored/x"), "x").unwrap();
    repository.remove(&tree.path).await.unwrap();
    all.empty_trash().await;
    farm.git(&["branch", "-D", "hayward/one-0badcafe"]);
    farm.holds_only(&[]);
}

#[tokio::test]
async fn line_ends_filters_links_and_sparse_patterns_come_out_as_git_writes_them() {
    let farm = Farm::new();
    farm.write(".gitattributes", "*.txt text eol=crlf\n*.lfs filter=shout\n");
    farm.write("long.txt", &"line\n".repeat(1000));
    farm.write("x.lfs", "pointer\n");
    farm.write("lib/left/out.txt", "x\n");
    symlink("b.txt", farm.user().join("link")).unwrap();
    farm.commit("attributes");
    let (all, repository) = farm.hot(1).await;
    let tree = farm.task(&repository, "second").await;
    is_fresh(&farm, &tree);
    assert!(fs::read_to_string(tree.path.join("long.txt")).unwrap().contains("\r\n"));
    assert_eq!(all.pool().report().repositories[0].claims, 1);

    farm.git(&["sparse-checkout", "set", "src"]);
    all.refill().await;
    let sparse = farm.task(&repository, "sparse").await;
    assert!(sparse.path.join("src/a.txt").exists());
    assert!(tree.path.join("lib").exists() && !sparse.path.join("lib").exists());
    is_fresh(&farm, &sparse);
}

/// One change of a file: which, and what becomes of it.
#[derive(Clone, Debug)]
enum Change {
    Write(u8, u16),
    Executable(u8),
    Link(u8),
    Delete(u8),
    Folder(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..12_u8, any::<u16>()).prop_map(|(file, text)| Change::Write(file, text)),
        1 => (0..12_u8).prop_map(Change::Executable),
        1 => (0..12_u8).prop_map(Change::Link),
        2 => (0..12_u8).prop_map(Change::Delete),
        1 => (0..12_u8).prop_map(Change::Folder),
    ]
}

impl Change {
    fn make(&self, top: &Path) {
        let at = |file: &u8| top.join(format!("d{}/f{file}", file % 3));
        let clear = |path: &Path| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match fs::symlink_metadata(path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
                Ok(_) => fs::remove_file(path).unwrap(),
                Err(_) => {}
            }
        };
        match self {
            Self::Write(file, text) => {
                clear(&at(file));
                fs::write(at(file), format!("{text}\n")).unwrap();
            }
            Self::Executable(file) => {
                clear(&at(file));
                fs::write(at(file), "#!/bin/sh\n").unwrap();
                fs::set_permissions(at(file), fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self::Link(file) => {
                clear(&at(file));
                symlink("elsewhere", at(file)).unwrap();
            }
            Self::Delete(file) => clear(&at(file)),
            Self::Folder(file) => {
                clear(&at(file));
                fs::create_dir(at(file)).unwrap();
                fs::write(at(file).join("inner"), "x\n").unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn a_delta_claim_equals_a_fresh_checkout(
        steps in proptest::collection::vec(proptest::collection::vec(change(), 1..8), 2..5),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let farm = Farm::new();
            let commits: Vec<CommitId> = steps
                .iter()
                .map(|changes| {
                    changes.iter().for_each(|change| change.make(&farm.user()));
                    farm.commit("step")
                })
                .collect();
            let (all, repository) = farm.hot(1).await;
            for (number, index) in order.iter().enumerate() {
                let new = farm.wanted(&format!("n{number}"), index.get(&commits));
                let tree = repository.provide(new).await.unwrap();
                is_fresh(&farm, &tree);
                assert_eq!(all.pool().report().repositories[0].claims, number as u64 + 1);
                all.refill().await;
            }
        });
    }
}
