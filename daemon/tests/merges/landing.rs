//! Landing a branch: what moves, and what keeps everything where it is.

use super::ground::{Ground, git, write};
use hayward_daemon::git::land::{LandError, Landing};
use std::fs;
use std::path::Path;

fn landing(ground: &Ground, branch: &str, to: &str) -> Landing {
    Landing { branch: branch.to_owned(), from: ground.tip(branch), to: ground.tip(to) }
}

#[tokio::test]
async fn a_branch_that_is_nowhere_checked_out_moves_by_its_ref_alone() {
    let ground = Ground::new();
    ground.git(&["branch", "target"]);
    ground.branch("work", &[("a.txt", "changed\n")]);
    let repository = ground.open().await;
    let landing = landing(&ground, "target", "work");
    let landed = repository.land(landing.clone()).await.unwrap();
    assert_eq!((landed.checkout, landed.already), (None, false));
    assert_eq!(ground.tip("target"), ground.tip("work"));
    assert_eq!(ground.git(&["status", "--porcelain"]), "");
    assert!(repository.land(landing).await.unwrap().already, "landing again does nothing");
}

#[tokio::test]
async fn a_clean_checkout_moves_with_its_branch() {
    let ground = Ground::new();
    ground.branch("work", &[("a.txt", "changed\n"), ("new/file", "new\n")]);
    ground.write("untracked", "stays\n");
    ground.write("ignored-file", "stays\n");
    let landed = ground.open().await.land(landing(&ground, "main", "work")).await.unwrap();
    assert_eq!(landed.checkout, Some(ground.user()));
    assert_eq!(ground.tip("main"), ground.tip("work"));
    assert_eq!(ground.git(&["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(ground.git(&["status", "--porcelain"]), "?? untracked");
    assert_eq!(fs::read_to_string(ground.user().join("new/file")).unwrap(), "new\n");
}

/// Lands in a checkout that was changed; nothing may move, and the file is named.
async fn f20_refused(change: impl Fn(&Ground), file: &str) {
    let ground = Ground::new();
    ground.branch("work", &[("a.txt", "changed\n"), ("new/file", "new\n"), ("ignored-x", "x\n")]);
    // git would put work away by itself with this
    ground.git(&["config", "merge.autoStash", "true"]);
    change(&ground);
    let landing = landing(&ground, "main", "work");
    ground.git(&["status"]);
    let before = ground.holdings(&ground.user());
    let refused = ground.open().await.land(landing).await.unwrap_err();
    assert_eq!(ground.holdings(&ground.user()), before, "{file}");
    assert_eq!(refused.files(), [Path::new(file)], "{refused}");
    assert!(refused.to_string().contains(file), "{refused}");
}

#[tokio::test]
async fn f20_whatever_is_changed_or_in_the_way_refuses_and_nothing_moves() {
    f20_refused(|ground| ground.write("a.txt", "mine\n"), "a.txt").await;
    f20_refused(|ground| ground.write("b.txt", "elsewhere\n"), "b.txt").await;
    f20_refused(|ground| fs::remove_file(ground.user().join("b.txt")).unwrap(), "b.txt").await;
    let staged = |ground: &Ground| {
        ground.write("b.txt", "staged\n");
        ground.git(&["add", "b.txt"]);
    };
    f20_refused(staged, "b.txt").await;
    let staged_new = |ground: &Ground| {
        ground.write("mine", "staged\n");
        ground.git(&["add", "mine"]);
    };
    f20_refused(staged_new, "mine").await;
    f20_refused(|ground| ground.write("new/file", "untracked\n"), "new/file").await;
    f20_refused(|ground| ground.write("new", "a file, not a folder\n"), "new").await;
    f20_refused(|ground| ground.write("ignored-x", "ignored\n"), "ignored-x").await;
    let hidden = |ground: &Ground| {
        ground.git(&["update-index", "--assume-unchanged", "b.txt"]);
        ground.write("b.txt", "hidden\n");
        ground.git(&["update-index", "--no-assume-unchanged", "b.txt"]);
    };
    f20_refused(hidden, "b.txt").await;
}

#[tokio::test]
async fn f20_a_hidden_change_of_a_file_that_would_move_is_never_overwritten() {
    let ground = Ground::new();
    ground.branch("work", &[("a.txt", "changed\n")]);
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        ground.git(&["update-index", flag, "a.txt"]);
        ground.write("a.txt", "hidden\n");
        let before = ground.holdings(&ground.user());
        let landing = landing(&ground, "main", "work");
        let refused = ground.open().await.land(landing).await.unwrap_err();
        assert_eq!(refused.files(), [Path::new("a.txt")], "{flag}: {refused}");
        assert_eq!(ground.holdings(&ground.user()), before, "{flag}");
        ground.git(&["update-index", &flag.replace("--", "--no-"), "a.txt"]);
        ground.git(&["checkout", "-q", "a.txt"]);
    }
}

#[tokio::test]
async fn a_branch_that_moved_or_would_lose_commits_is_refused() {
    let ground = Ground::new();
    ground.branch("work", &[("a.txt", "changed\n")]);
    let stale = landing(&ground, "main", "work");
    ground.write("b.txt", "meanwhile\n");
    ground.commit("meanwhile");
    let repository = ground.open().await;
    let before = ground.holdings(&ground.user());
    assert!(matches!(repository.land(stale).await.unwrap_err(), LandError::Moved { .. }));
    let sideways = landing(&ground, "main", "work");
    assert!(matches!(repository.land(sideways).await.unwrap_err(), LandError::NotForward { .. }));
    let absent = Landing { branch: "absent".into(), ..landing(&ground, "main", "work") };
    assert!(matches!(repository.land(absent).await.unwrap_err(), LandError::NoBranch(_)));
    let odd = Landing { branch: "no..name".into(), ..landing(&ground, "main", "work") };
    assert!(matches!(repository.land(odd).await.unwrap_err(), LandError::NoBranch(_)));
    assert_eq!(ground.holdings(&ground.user()), before);
}

#[tokio::test]
async fn f21_a_landing_cut_off_between_files_and_branch_is_done_by_landing_again() {
    let ground = Ground::new();
    ground.branch("work", &[("a.txt", "changed\n"), ("new/file", "new\n")]);
    ground.git(&["rm", "-q", "b.txt"]);
    ground.git(&["checkout", "-q", "HEAD", "--", "b.txt"]);
    // what a killed git leaves: files and index are there, the branch is not
    ground.git(&["read-tree", "-m", "-u", "main", "work"]);
    assert_ne!(ground.git(&["status", "--porcelain"]), "");
    ground.open().await.land(landing(&ground, "main", "work")).await.unwrap();
    assert_eq!(ground.tip("main"), ground.tip("work"));
    assert_eq!(ground.git(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn a_branch_in_the_middle_of_something_is_left_alone() {
    let ground = Ground::new();
    ground.branch("work", &[("new", "new\n")]);
    let repository = ground.open().await;
    ground.git(&["checkout", "-q", "-b", "side"]);
    ground.write("a.txt", "side\n");
    ground.commit("side");
    ground.git(&["checkout", "-q", "main"]);
    ground.write("a.txt", "main\n");
    ground.commit("main");
    ground.git(&["merge", "-q", "--no-edit", "work"]);
    ground.branch("further", &[("more", "more\n")]);
    let forward = landing(&ground, "main", "further");
    for start in [["merge", "side"], ["rebase", "side"]] {
        assert!(!super::ground::command(&ground.user()).args(start).status().unwrap().success());
        let before = ground.holdings(&ground.user());
        let refused = repository.land(forward.clone()).await.unwrap_err();
        assert!(matches!(refused, LandError::InProgress { .. }), "{refused}");
        assert_eq!(ground.holdings(&ground.user()), before);
        ground.git(&[start[0], "--abort"]);
    }
    repository.land(forward).await.unwrap();
}

#[tokio::test]
async fn a_worktree_moves_with_its_branch_and_a_detached_one_follows_when_clean() {
    let ground = Ground::new();
    let tree = ground.room().join("tree");
    let path = tree.display().to_string();
    ground.git(&["worktree", "add", "-q", "-b", "hayward/one", &path]);
    ground.branch("work", &[("a.txt", "changed\n")]);
    let repository = ground.open().await;
    let landed = repository.land(landing(&ground, "hayward/one", "work")).await.unwrap();
    assert_eq!(landed.checkout.as_deref(), Some(&*tree));
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    assert_eq!(ground.tip("main"), ground.tip("work~"));

    git(&tree, &["checkout", "-q", "--detach"]);
    let (from, to) = (ground.tip("work"), ground.branch("next", &[("n", "n\n")]));
    let next = ground.git(&["commit-tree", "-p", from.as_str(), "-m", "n", "next^{tree}"]);
    let next = next.parse().unwrap();
    assert!(!repository.follow(&tree, &to, &next).await.unwrap(), "it stands elsewhere");
    write(&tree.join("b.txt"), "changed\n");
    let before = ground.holdings(&tree);
    assert!(repository.follow(&tree, &from, &next).await.is_err());
    assert_eq!(ground.holdings(&tree), before);
    git(&tree, &["checkout", "-q", "b.txt"]);
    assert!(repository.follow(&tree, &from, &next).await.unwrap());
    assert_eq!(git(&tree, &["rev-parse", "HEAD"]), next.as_str());
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    assert!(!repository.follow(&ground.user(), &from, &next).await.unwrap(), "not ours");
}

#[tokio::test]
async fn f43_landing_runs_no_program_of_the_repository() {
    let ground = Ground::new();
    let plain = ground.room().join("plain");
    ground.git(&["config", "user.name", "User"]);
    let mark = ground.set_canaries();
    ground.git(&["clone", "-q", ".", &plain.display().to_string()]);
    // made where nothing sings
    write(&plain.join("x.bird"), "tweet\n");
    git(&plain, &["config", "user.name", "Other"]);
    git(&plain, &["config", "user.email", "other@example.org"]);
    git(&plain, &["add", "-A"]);
    git(&plain, &["commit", "-q", "-m", "bird"]);
    ground.git(&["-c", "core.hooksPath=/dev/null", "fetch", "-q", "../plain", "main:work"]);
    fs::remove_file(&mark).unwrap_or_default();
    let landing = landing(&ground, "main", "work");
    fs::remove_file(&mark).unwrap_or_default();
    ground.open().await.land(landing).await.unwrap();
    assert!(!mark.exists(), "{}", fs::read_to_string(&mark).unwrap_or_default());
    assert_eq!(fs::read_to_string(ground.user().join("x.bird")).unwrap(), "tweet\n");
}
