//! What gives merges up, leaves parts out, previews, and brings work home, as raw text on the
//! daemon's wire; refs and trees judge.

use super::wire::Wire;
use hayward_shared::id::RequestId;
use serde_json::{Value, json};

fn refs(wire: &Wire) -> String {
    wire.ground.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
}

fn complete(action: &str, target: &str) -> Value {
    json!({"type": "retryCompletionAction", "taskName": "own", "action": action,
        "targetRepoPath": "", "targetBranch": target})
}

#[tokio::test]
async fn a_merge_is_given_up_and_a_part_left_out_on_the_wire() {
    let mut wire = Wire::new().await;
    let before = refs(&wire);
    let start = json!({"type": "mergeStart", "sourceBranch": "hayward/part"});
    let begun = wire.ask(start, "mergeResult").await;
    assert_eq!(begun["conflicts"], json!(["a.txt"]));
    let (request, abort) = (RequestId::fresh(), json!({"type": "mergeAbort"}));
    let given_up = wire.ask_as(request, abort.clone(), "mergeResult").await;
    assert_eq!(given_up["success"], true, "{given_up}");
    assert_eq!(wire.ask_as(request, abort.clone(), "mergeResult").await, given_up);
    let status = wire.ask(json!({"type": "mergeStatus"}), "mergeStatusResponse").await;
    assert_eq!((&status["inProgress"], &status["sourceBranch"]), (&json!(false), &Value::Null));
    assert_eq!(wire.ask(abort, "mergeResult").await["error"]["code"], "conflict");
    assert_eq!(refs(&wire), before);
    for part in wire.parts {
        let skip = json!({"type": "mergeSkip", "subtaskId": part, "reason": "not needed"});
        wire.ask(skip, "mergeCompleteCheck").await;
    }
    let check = wire.ask(json!({"type": "checkMergeComplete"}), "mergeCompleteCheck").await;
    assert_eq!((&check["canComplete"], &check["skippedCount"]), (&json!(true), &json!(2)));
    assert_eq!(refs(&wire), before);
    wire.ground.assert_no_merge_head();
}

#[tokio::test]
async fn a_preview_on_the_wire_says_what_git_says_and_touches_nothing() {
    let mut wire = Wire::new().await;
    let user = wire.ground.user();
    let before = wire.ground.holdings(&user);
    for (source, clean) in [("hayward/part", false), ("hayward/plain", true)] {
        let preview = json!({"type": "previewMerge", "source": source, "target": "hayward/own"});
        let seen = wire.ask(preview, "reply").await["payload"].clone();
        assert_eq!(seen["canMerge"], json!(clean), "{seen}");
        // the texts of a conflict name its sides
        let tips = ["hayward/own", source].map(|name| wire.ground.tip(name).to_string());
        let words = ["merge-tree", "--write-tree", "--no-messages", "--name-only"];
        let mut oracle = super::ground::command(&user);
        let told = oracle.args(words).args([&tips[0], &tips[1]]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let mut lines = told.lines();
        assert_eq!(seen["tree"], json!(lines.next()), "{source}");
        let conflicts: Vec<_> = lines.collect();
        assert_eq!(seen["conflictedFiles"], json!(conflicts), "{source}");
    }
    assert_eq!(wire.ground.holdings(&user), before);
}

#[tokio::test]
async fn a_merge_that_was_held_up_is_made_anew_when_git_cleared_it_away() {
    for goes_on in [false, true] {
        let mut wire = Wire::new().await;
        wire.ground.write("b.txt", "main\n");
        wire.ground.commit("main goes on");
        wire.ground.write("own", "in the way\n");
        let held = wire.ask(complete("merge", "main"), "completionActionResult").await;
        assert_eq!(held["error"]["code"], "conflict", "{held}");
        wire.ground.clear_out();
        std::fs::remove_file(wire.ground.user().join("own")).unwrap();
        if goes_on {
            wire.ground.commit("main goes on once more");
        }
        let main = wire.ground.git(&["rev-parse", "main"]);
        let done = wire.ask(complete("merge", "main"), "completionActionResult").await;
        assert_eq!(done["success"], true, "{done}");
        let parents = wire.ground.git(&["log", "-1", "--format=%P", "main"]);
        assert_eq!(parents, format!("{main} {}", wire.ground.tip("hayward/own")));
        assert_eq!(wire.ground.git(&["show", "main:own"]), "own");
        assert_eq!(wire.ground.git(&["status", "--porcelain"]), "");
    }
}

#[tokio::test]
async fn work_is_brought_home_and_taken_back_on_the_wire() {
    let mut wire = Wire::new().await;
    let (base, head) = (wire.ground.tip("main").to_string(), wire.ground.tip("hayward/own"));
    // `main` goes on so that the work conflicts with it: nothing moves
    wire.ground.write("a.txt", "main\ntwo\nthree\n");
    wire.ground.commit("main goes on");
    let user = wire.ground.user();
    let before = wire.ground.holdings(&user);
    let refused = wire.ask(complete("merge", "main"), "completionActionResult").await;
    assert_eq!(
        (&refused["success"], &refused["error"]["code"]),
        (&json!(false), &json!("conflict"))
    );
    assert!(refused["message"].as_str().unwrap().contains("a.txt"), "{refused}");
    let missing = wire.ask(complete("merge", "nowhere"), "completionActionResult").await;
    assert_eq!(missing["error"]["code"], "not_found");
    assert_eq!(wire.ground.holdings(&user), before);
    // back where it began it goes in, once, and is taken back
    wire.ground.git(&["reset", "-q", "--hard", &base]);
    let request = RequestId::fresh();
    let merge = complete("merge", "main");
    let done = wire.ask_as(request, merge.clone(), "completionActionResult").await;
    assert_eq!(done["success"], true, "{done}");
    assert_eq!(wire.ask_as(request, merge, "completionActionResult").await, done);
    assert_eq!(wire.ground.tip("main"), head);
    assert_eq!(wire.ground.git(&["status", "--porcelain"]), "");
    let undone = wire.ask(json!({"type": "undoCompletion"}), "completionActionResult").await;
    assert_eq!(undone["success"], true, "{undone}");
    assert_eq!(wire.ground.tip("main").to_string(), base);
    assert_eq!(wire.ground.git(&["show", "main:a.txt"]), "one\ntwo\nthree");
    assert_eq!(wire.ground.git(&["status", "--porcelain"]), "");
    // the branch as it is, and a push where no remote is
    let branch = wire.ask(complete("branch", "main"), "completionActionResult").await;
    assert_eq!(branch["success"], true, "{branch}");
    let unpushed = wire.ask(complete("pr", "main"), "completionActionResult").await;
    assert_eq!(unpushed["success"], false, "{unpushed}");
    assert!(unpushed["message"].as_str().unwrap().contains("no remote"), "{unpushed}");
    assert_eq!((wire.ground.tip("main").to_string(), wire.ground.tip("hayward/own")), (base, head));
    wire.ground.assert_no_merge_head();
}
