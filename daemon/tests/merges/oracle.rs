//! Three hundred random histories: what we say and make is what the installed git says and makes.

use super::ground::{Ground, command, git};
use super::histories::{History, import};
use hayward_daemon::git::diff::ChangeKind;
use hayward_daemon::git::merge::{Conflict, NewMerge, Preview, Settled, Trial, Version};
use hayward_daemon::git::{CommitId, Repository};
use hayward_shared::merge::{ConflictKind, MergeSide};
use std::collections::BTreeMap;
use std::path::Path;

/// Histories of one run; `HAYWARD_HISTORIES` sets another number.
const USUAL: u64 = 300;

fn histories() -> u64 {
    std::env::var("HAYWARD_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL)
}

async fn tree_of_ours(
    repository: &Repository,
    history: &History,
    trial: &Trial,
    side: MergeSide,
) -> String {
    let conflicts = trial.conflicts.iter().filter(|conflict| !conflict.stages.is_empty());
    let settled = conflicts
        .map(|one| Settled { path: one.path.clone(), stages: one.stages.clone(), side })
        .collect();
    let new = NewMerge {
        ours: history.ours.clone(),
        theirs: history.theirs.clone(),
        tree: trial.tree.clone(),
        settled,
        message: "merge".into(),
        at: 1_800_000_000,
    };
    let made = repository.make_merge(new).await.unwrap();
    let parents = git(repository.common_dir(), &["log", "-1", "--format=%P", made.as_str()]);
    assert_eq!(parents, format!("{} {}", history.ours, history.theirs));
    tree(repository.common_dir(), &made)
}

fn tree(place: &Path, commit: &CommitId) -> String {
    git(place, &["rev-parse", &format!("{commit}^{{tree}}")])
}

/// `git merge` in a work tree, each conflict settled by `git checkout --ours` or `--theirs`; a side
/// that lacks the file removes it. None where git itself broke down: it aborts over some renamed
/// folders.
fn tree_of_git(scratch: &Path, history: &History, side: Option<MergeSide>) -> Option<String> {
    git(scratch, &["checkout", "-q", "-f", "--detach", history.ours.as_str()]);
    let merge = ["merge", "-q", "--no-edit", "--no-ff", history.theirs.as_str()];
    let merged = command(scratch).args(merge).output().unwrap().status;
    if merged.code().is_none() {
        std::fs::remove_file(scratch.join(".git/index.lock")).unwrap();
        git(scratch, &["reset", "-q", "--hard"]);
        git(scratch, &["clean", "-q", "-fdx"]);
        return None;
    }
    assert_eq!(merged.success(), side.is_none(), "seed {}", history.seed);
    if let Some(side) = side {
        let wanted = if side == MergeSide::Ours { "2" } else { "3" };
        let mut stages: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in git(scratch, &["ls-files", "-u"]).lines() {
            let (info, path) = line.split_once('\t').unwrap();
            let stage = info.rsplit(' ').next().unwrap();
            stages.entry(path.to_owned()).or_default().push(stage.to_owned());
        }
        for (path, stages) in stages {
            if stages.iter().any(|stage| stage == wanted) {
                git(scratch, &["checkout", "-q", &format!("--{side}"), "--", &path]);
                git(scratch, &["add", "-f", "--", &path]);
            } else {
                git(scratch, &["rm", "-q", "--cached", "--", &path]);
            }
        }
    }
    let tree = git(scratch, &["write-tree"]);
    git(scratch, &["reset", "-q", "--hard"]);
    git(scratch, &["clean", "-q", "-fdx"]);
    Some(tree)
}

/// The changed files and their lines are those that `git diff --numstat` tells.
fn assert_changes(ground: &Ground, history: &History, preview: &Preview) {
    let seed = history.seed;
    let asked =
        ["diff", "--no-ext-diff", "-M", "--numstat", history.ours.as_str(), &preview.trial.tree];
    let told = ground.git(&asked);
    let rows: Vec<(u64, u64)> = told
        .lines()
        .map(|row| {
            let mut words = row.split('\t').map(|word| word.parse().unwrap_or(0));
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect();
    let files = &preview.changed_files;
    // where a file came and another went, the two may judge a rename differently
    let is_plain = files.iter().all(|file| matches!(file.status, ChangeKind::Modified));
    if is_plain && !told.contains("=>") {
        let ours: Vec<_> =
            files.iter().map(|file| (file.additions as u64, file.deletions as u64)).collect();
        assert_eq!(ours, rows, "seed {seed}: {told}");
    }
}

/// Whether the outcome does not depend on how the sides are called. Git names what it moves out of
/// the way after its branch, and so it does in the markers of a file that it merged twice.
fn is_defined(ground: &Ground, conflict: &Conflict) -> bool {
    let stages = [&conflict.stages.base, &conflict.stages.ours, &conflict.stages.theirs];
    let is_nested = |version: &Version| {
        let blob = command(&ground.user()).args(["cat-file", "-p", &version.id]).output().unwrap();
        String::from_utf8_lossy(&blob.stdout).contains("<<<<<<< ")
    };
    let is_moved = conflict.path.to_string_lossy().contains('~');
    !matches!(conflict.kind, ConflictKind::FileDirectory | ConflictKind::Type)
        && !is_moved
        && !stages.into_iter().flatten().any(is_nested)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previews_and_merge_commits_equal_those_of_git() {
    let ground = Ground::new();
    let histories = import(&ground.user(), 1..=histories());
    let scratch = ground.room().join("scratch");
    ground.git(&["clone", "-q", "--shared", "--no-checkout", ".", "../scratch"]);
    for (key, value) in [("user.name", "A"), ("user.email", "a@example.org")] {
        git(&scratch, &["config", key, value]);
    }
    let before = ground.holdings(&ground.user());
    let repository = ground.open().await;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut settled = 0;
    for history in &histories {
        let seed = history.seed;
        let preview = repository.preview(&history.ours, &history.theirs).await.unwrap();
        let trial = &preview.trial;
        let asked = ["merge-tree", "--write-tree", history.ours.as_str(), history.theirs.as_str()];
        let oracle = command(&ground.user()).args(asked).output().unwrap();
        assert_eq!(trial.is_clean, oracle.status.code() == Some(0), "seed {seed}");
        let told = String::from_utf8(oracle.stdout).unwrap();
        assert_eq!(trial.tree, told.lines().next().unwrap(), "seed {seed}");
        assert_eq!(trial.is_clean, trial.conflicts.is_empty(), "seed {seed}");
        assert_changes(&ground, history, &preview);
        if trial.is_clean {
            *kinds.entry("clean").or_default() += 1;
            let ours = tree_of_ours(&repository, history, trial, MergeSide::Ours).await;
            assert_eq!(Some(ours), tree_of_git(&scratch, history, None), "seed {seed}");
            continue;
        }
        for conflict in &trial.conflicts {
            *kinds.entry(conflict.kind.words()).or_default() += 1;
        }
        if trial.conflicts.iter().all(|conflict| is_defined(&ground, conflict)) {
            settled += 1;
            for side in [MergeSide::Ours, MergeSide::Theirs] {
                let ours = tree_of_ours(&repository, history, trial, side).await;
                let theirs = tree_of_git(&scratch, history, Some(side));
                assert!(theirs.is_none_or(|theirs| theirs == ours), "seed {seed} by {side}");
            }
        }
    }
    eprintln!("{} histories, {settled} settled by both sides: {kinds:?}", histories.len());
    if histories.len() >= 300 {
        assert!(
            kinds["clean"] > 30 && kinds.len() > 5,
            "the histories are too much alike: {kinds:?}"
        );
    }
    assert_eq!(ground.holdings(&ground.user()), before);
    ground.assert_no_merge_head();
}
