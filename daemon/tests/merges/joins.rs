//! The one way to make a merge commit: the same again is the same commit, and git finds it whole.

use super::ground::Ground;
use hayward_daemon::git::join::{Join, JoinError, Settled};
use hayward_shared::merge::MergeSide;

/// 2027-01-15 08:00:00 UTC.
const AT: i64 = 1_800_000_000;

#[tokio::test]
async fn the_same_merge_made_again_is_the_same_commit_with_its_conflicts_settled() {
    let ground = Ground::new();
    let theirs = ground.branch("theirs", &[("a.txt", "theirs\n"), ("new", "n\n")]);
    ground.write("a.txt", "ours\n");
    let ours = ground.commit("ours");
    // what is written is UTF-8, whatever the user's editor writes
    ground.git(&["config", "i18n.commitEncoding", "ISO-8859-1"]);
    ground.git(&["config", "commit.gpgSign", "true"]);
    let before = ground.holdings(&ground.user());
    let repository = ground.open().await;
    let trial = repository.try_merge(&ours, &theirs).await.unwrap();
    let settled = trial.conflicts.iter().map(|one| Settled {
        path: one.path.clone(),
        stages: one.stages.clone(),
        side: MergeSide::Theirs,
    });
    let join = Join {
        ours: ours.clone(),
        theirs: theirs.clone(),
        tree: trial.tree.clone(),
        settled: settled.collect(),
        message: "größer\r\n\r\nbody\0\n\n".into(),
        at: AT,
        sign: false,
    };
    let made = repository.join(join.clone()).await.unwrap();
    assert_eq!(repository.join(join.clone()).await.unwrap(), made);
    let written = ground.git(&["cat-file", "commit", made.as_str()]);
    let tree = ground.git(&["rev-parse", &format!("{made}^{{tree}}")]);
    let who = format!("User <user@example.org> {AT} +0000");
    let wanted = format!(
        "tree {tree}\nparent {ours}\nparent {theirs}\nauthor {who}\ncommitter {who}\n\n\
         größer\n\nbody\u{fffd}"
    );
    assert_eq!(written, wanted);
    assert_eq!(ground.git(&["show", &format!("{made}:a.txt")]), "theirs");
    assert_eq!(ground.git(&["show", &format!("{made}:new")]), "n");
    assert_eq!(ground.git(&["fsck", "--strict", "--no-dangling"]), "");
    assert_eq!(ground.holdings(&ground.user()), before);
    // without a tree there is no commit
    let lost = Join { tree: "1".repeat(40), ..join };
    let refused = repository.join(lost).await.unwrap_err();
    assert!(matches!(refused, JoinError::Unreadable { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_merge_of_a_user_without_a_name_is_ours_and_an_empty_message_says_something() {
    let ground = Ground::new();
    let theirs = ground.branch("theirs", &[("new", "n\n")]);
    let ours = ground.commit("ours");
    ground.git(&["config", "user.name", ""]);
    let repository = ground.open().await;
    let trial = repository.try_merge(&ours, &theirs).await.unwrap();
    let join = Join {
        ours,
        theirs,
        tree: trial.tree,
        settled: Vec::new(),
        message: " \n".into(),
        at: AT,
        sign: false,
    };
    let made = repository.join(join).await.unwrap();
    let told = ground.git(&["log", "-1", "--format=%an|%s", made.as_str()]);
    assert!(told.ends_with("|Merge") && !told.starts_with("User"), "{told}");
}

#[tokio::test]
async fn the_lines_of_many_changed_files_are_told_in_order() {
    let ground = Ground::new();
    let names: Vec<String> = (0..41).map(|file| format!("many/{file:02}.txt")).collect();
    names.iter().for_each(|name| ground.write(name, "kept\ngone\n"));
    ground.commit("many");
    let texts: Vec<String> =
        (0..41).map(|file| format!("kept\n{}", "new\n".repeat(file))).collect();
    let files: Vec<_> =
        names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    let work = ground.branch("work", &files);
    ground.write("a.txt", "ours\n");
    let main = ground.commit("ours");
    let preview = ground.open().await.preview(&main, &work).await.unwrap();
    let told =
        preview.changed_files.iter().map(|one| (one.path.to_str(), one.additions, one.deletions));
    let wanted = names.iter().enumerate().map(|(file, name)| (Some(name.as_str()), file, 1));
    assert!(told.eq(wanted), "{:?}", preview.changed_files);
}
