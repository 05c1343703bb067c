//! The whole daemon at the end of a wire: a relay of the test's own sends commands as raw text and
//! reads raw answers; refs and trees judge.

use super::ground::{Ground, git, write};
use futures_util::{SinkExt, StreamExt};
use hayward_daemon::clock;
use hayward_daemon::config::Config;
use hayward_daemon::home::Home;
use hayward_daemon::journal::{Journal, Step};
use hayward_daemon::service::Daemon;
use hayward_daemon::task::{Phase, Place, RunState};
use hayward_shared::id::{DaemonId, RequestId, RunId, TaskId};
use hayward_shared::protocol::SpawnTask;
use hayward_shared::run::RunKey;
use hayward_shared::time::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Whatever is waited for must come within this.
const BOUND: Duration = Duration::from_secs(120);

/// A daemon that ran a task and its parts, linked to a relay that the test plays.
pub struct Wire {
    pub ground: Ground,
    socket: WebSocketStream<TcpStream>,
    _daemon: Daemon,
    pub task: TaskId,
    /// Its parts: `part`, which conflicts with it, and `plain`.
    pub parts: [TaskId; 2],
    branch: String,
    tree: PathBuf,
}

/// Writes down a run that made a branch in a worktree, and has ended or not.
async fn remember(
    journal: &Journal,
    ground: &Ground,
    name: &str,
    parent: Option<TaskId>,
) -> TaskId {
    let task = TaskId::fresh();
    let key = RunKey { task_id: task, run_id: RunId::fresh(), lease_epoch: 1 };
    let spawn = SpawnTask {
        task_id: task,
        task_name: name.to_owned(),
        plan: name.to_owned(),
        repo_url: None,
        base_branch: Some("main".to_owned()),
        target_branch: None,
        parent_task_id: parent,
        depth: 0,
        is_orchestrator: false,
        target_repo_path: None,
        completion_action: None,
        continue_from_task_id: None,
        copy_files: None,
        run: None,
    };
    let place = Place {
        path: ground.room().join(name),
        repository: ground.user().join(".git"),
        base_commit: ground.tip("main").to_string(),
        branch: Some(format!("hayward/{name}")),
        lent_from: None,
        first_port: None,
        pushes_to: None,
        notes: Vec::new(),
    };
    let state = RunState { place: Some(place), phase: Phase::Ended, ..RunState::default() };
    assert!(journal.accept(key, &spawn, &state, clock::now()).await.unwrap());
    journal
        .step(Step {
            key,
            state: &state,
            ended: true,
            messages: &[],
            at: Timestamp::from_millis(1),
        })
        .await
        .unwrap();
    task
}

impl Wire {
    pub async fn new() -> Self {
        Self::on(Ground::new()).await
    }

    /// A task `own` and a part of it, `part`, which conflicts with it in `a.txt`.
    pub async fn on(ground: Ground) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        ground.branch("hayward/own", &[("a.txt", "own\ntwo\nthree\n"), ("own", "own\n")]);
        ground.branch("hayward/part", &[("a.txt", "part\ntwo\nthree\n"), ("part", "part\n")]);
        ground.branch("hayward/plain", &[("plain", "plain\n")]);
        let tree = ground.room().join("own");
        let path = tree.display().to_string();
        ground.git(&[
            "-c",
            "core.hooksPath=/dev/null",
            "worktree",
            "add",
            "-q",
            "--detach",
            &path,
            "hayward/own",
        ]);
        let home = Home::open(Some(&ground.room().join("home")), None).unwrap();
        home.furnish().unwrap();
        let journal = Journal::open(&home.journal()).await.unwrap();
        let task = remember(&journal, &ground, "own", None).await;
        let part = remember(&journal, &ground, "part", Some(task)).await;
        let plain = remember(&journal, &ground, "plain", Some(task)).await;
        drop(journal);
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", relay.local_addr().unwrap());
        let daemon = Daemon::start(home, Config::default(), url, "token".to_owned()).await.unwrap();
        let (stream, _) = tokio::time::timeout(BOUND, relay.accept()).await.unwrap().unwrap();
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let branch = "hayward/own".to_owned();
        let mut wire =
            Self { ground, socket, _daemon: daemon, task, parts: [part, plain], branch, tree };
        wire.until("authenticate").await;
        let capabilities = ["outbox", "claim", "outputFrames", "replies"];
        wire.say(
            json!({"type": "authenticated", "daemonId": DaemonId::fresh(), "protocolVersion": 1,
            "capabilities": capabilities}),
        )
        .await;
        wire
    }

    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    pub async fn until(&mut self, kind: &str) -> Value {
        let heard = async {
            loop {
                if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["type"] == kind {
                        return message;
                    }
                }
            }
        };
        tokio::time::timeout(BOUND, heard).await.unwrap()
    }

    /// Sends a command with a request of its own; the answer, without its tag.
    pub async fn ask(&mut self, command: Value, kind: &str) -> Value {
        self.ask_as(RequestId::fresh(), command, kind).await
    }

    pub async fn ask_as(&mut self, request: RequestId, mut command: Value, kind: &str) -> Value {
        command["taskId"] = json!(self.task);
        command["requestId"] = json!(request);
        self.say(command).await;
        let mut answer = self.until(kind).await;
        assert_eq!(answer["requestId"], json!(request));
        answer.as_object_mut().unwrap().remove("requestId");
        answer
    }

    fn tip(&self) -> String {
        self.ground.tip(&self.branch).to_string()
    }
}

#[tokio::test]
async fn every_command_is_answered_in_the_seeds_exact_words() {
    let mut wire = Wire::new().await;
    let (task, old) = (json!(wire.task), wire.tip());
    let list = wire.ask(json!({"type": "listBranches"}), "branchList").await;
    let names: Vec<_> =
        list["branches"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names.len(), 2, "{list}");
    let keys: Vec<_> = list["branches"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["isMerged", "lastCommit", "lastCommitMessage", "name", "taskId"]);
    let begun = wire
        .ask(json!({"type": "mergeStart", "sourceBranch": "hayward/part"}), "mergeResult")
        .await;
    let message = begun["message"].clone();
    assert_eq!(
        begun,
        json!({"type": "mergeResult", "taskId": task, "success": false,
        "message": message, "commitSha": null, "conflicts": ["a.txt"]})
    );
    let status = wire.ask(json!({"type": "mergeStatus"}), "mergeStatusResponse").await;
    assert_eq!(
        status,
        json!({"type": "mergeStatusResponse", "taskId": task, "inProgress": true,
        "sourceBranch": "hayward/part", "conflictedFiles": ["a.txt"]})
    );
    let early = wire.ask(json!({"type": "mergeCommit", "message": "m"}), "mergeResult").await;
    assert_eq!((&early["success"], &early["error"]["code"]), (&json!(false), &json!("conflict")));
    let bad = json!({"type": "mergeResolve", "file": "a.txt", "strategy": "mine"});
    assert_eq!(wire.ask(bad, "mergeResult").await["error"]["code"], "invalid");
    assert_eq!(wire.tip(), old);
    let resolve = json!({"type": "mergeResolve", "file": "a.txt", "strategy": "theirs"});
    assert_eq!(wire.ask(resolve, "mergeResult").await["success"], true);

    // the same request again: the same answer, one merge
    let request = RequestId::fresh();
    let commit = json!({"type": "mergeCommit", "message": "chosen"});
    let done = wire.ask_as(request, commit.clone(), "mergeResult").await;
    let tip = wire.tip();
    assert_eq!((&done["success"], &done["commitSha"]), (&json!(true), &json!(tip)));
    assert_eq!(wire.ask_as(request, commit, "mergeResult").await, done);
    assert_eq!(wire.tip(), tip);
    assert_eq!(wire.ground.git(&["show", &format!("{tip}:a.txt")]), "part\ntwo\nthree");
    assert_eq!(wire.ground.git(&["log", "-1", "--format=%s", &tip]), "chosen");
    assert_eq!(git(&wire.tree, &["rev-parse", "HEAD"]), tip);
    assert_eq!(git(&wire.tree, &["status", "--porcelain"]), "");

    let check = wire.ask(json!({"type": "checkMergeComplete"}), "mergeCompleteCheck").await;
    assert_eq!(
        check,
        json!({"type": "mergeCompleteCheck", "taskId": task, "canComplete": false,
        "unmergedBranches": ["hayward/plain"], "mergedCount": 1, "skippedCount": 0})
    );
    // a part that is none is refused where the answer has no place for it
    let stranger = json!({"type": "mergeSkip", "subtaskId": TaskId::fresh(), "reason": "r"});
    assert_eq!(wire.ask(stranger, "reply").await["error"]["code"], "not_found");
    wire.ground.assert_no_merge_head();
}

#[tokio::test]
async fn a_plain_relay_is_answered_without_tags_and_strangers_by_an_error() {
    let mut wire = Wire::new().await;
    let task = wire.task;
    wire.say(json!({"type": "mergeStart", "taskId": task, "sourceBranch": "hayward/plain"})).await;
    let done = wire.until("mergeResult").await;
    assert_eq!((&done["success"], done.get("requestId")), (&json!(true), None));
    assert_eq!(done["commitSha"], json!(wire.tip()));
    let unknown = TaskId::fresh();
    wire.say(json!({"type": "listBranches", "taskId": unknown})).await;
    assert_eq!(wire.until("error").await["code"], "not_found");
    wire.say(json!({"type": "mergeAbort", "taskId": unknown})).await;
    let refused = wire.until("mergeResult").await;
    assert_eq!(
        (&refused["taskId"], &refused["error"]["code"]),
        (&json!(unknown), &json!("not_found"))
    );
}

#[tokio::test]
async fn a_branch_that_moved_meanwhile_is_merged_into_as_it_is_now() {
    let mut wire = Wire::new().await;
    let start = json!({"type": "mergeStart", "sourceBranch": "hayward/part"});
    let resolve = json!({"type": "mergeResolve", "file": "a.txt", "strategy": "ours"});
    wire.ask(start.clone(), "mergeResult").await;
    wire.ask(resolve.clone(), "mergeResult").await;
    // the branch gains a commit that has nothing to do with the conflict
    let commit_on = |wire: &Wire, file: &str, text: &str| {
        write(&wire.tree.join(file), text);
        git(&wire.tree, &["add", "-A"]);
        git(
            &wire.tree,
            &["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-m", "more"],
        );
        let tip = git(&wire.tree, &["rev-parse", "HEAD"]);
        wire.ground.git(&["update-ref", "refs/heads/hayward/own", &tip]);
        tip
    };
    let moved = commit_on(&wire, "more", "more\n");
    let done = wire.ask(json!({"type": "mergeCommit", "message": ""}), "mergeResult").await;
    assert_eq!(done["commitSha"], json!(wire.tip()), "{done}");
    let parents = wire.ground.git(&["log", "-1", "--format=%P", &wire.branch]);
    assert_eq!(parents, format!("{moved} {}", wire.ground.tip("hayward/part")));
    assert_eq!(wire.ground.git(&["show", "hayward/own:more"]), "more");
    let subject = wire.ground.git(&["log", "-1", "--format=%s", &wire.branch]);
    assert_eq!(subject, "Merge branch 'hayward/part' into hayward/own");

    // one that changes the very file asks for another choice, and then takes it
    wire.ground.branch("hayward/again", &[("a.txt", "again\ntwo\nthree\n")]);
    let start = json!({"type": "mergeStart", "sourceBranch": "hayward/again"});
    assert_eq!(wire.ask(start, "mergeResult").await["conflicts"], json!(["a.txt"]));
    wire.ask(resolve.clone(), "mergeResult").await;
    let moved = commit_on(&wire, "a.txt", "own, later\ntwo\nthree\n");
    let refused = wire.ask(json!({"type": "mergeCommit", "message": "m"}), "mergeResult").await;
    assert_eq!(refused["error"]["code"], "conflict");
    assert!(refused["message"].as_str().unwrap().contains("moved meanwhile"), "{refused}");
    assert_eq!(wire.tip(), moved);
    wire.ask(resolve, "mergeResult").await;
    let done = wire.ask(json!({"type": "mergeCommit", "message": "m"}), "mergeResult").await;
    assert_eq!(done["success"], true, "{done}");
    assert_eq!(wire.ground.git(&["show", "hayward/own:a.txt"]), "own, later\ntwo\nthree");
}

#[tokio::test]
async fn f20_a_worktree_with_changes_stays_behind_and_a_user_who_has_the_branch_is_not_overrun() {
    let mut wire = Wire::new().await;
    write(&wire.tree.join("a.txt"), "not committed\n");
    let before = wire.ground.holdings(&wire.tree);
    let start = json!({"type": "mergeStart", "sourceBranch": "hayward/plain"});
    let done = wire.ask(start.clone(), "mergeResult").await;
    assert_eq!(done["success"], true, "{done}");
    let mut after = wire.ground.holdings(&wire.tree);
    after.insert("refs".to_owned(), before["refs"].clone());
    assert_eq!(after, before, "its files are worth more than its standing at the tip");

    wire.ground.git(&["checkout", "-q", "hayward/own"]);
    wire.ground.write("b.txt", "the user's\n");
    wire.ground.branch("other", &[]);
    wire.ground.git(&["checkout", "-q", "hayward/own"]);
    wire.ground.git(&["branch", "-f", "hayward/more", "main"]);
    let user = wire.ground.user();
    let fresh = wire.ground.git(&["commit-tree", "-p", "main", "-m", "n", "hayward/part^{tree}"]);
    wire.ground.git(&["update-ref", "refs/heads/hayward/more", &fresh]);
    wire.ground.write("own", "the user's\n");
    let before = wire.ground.holdings(&user);
    let start = json!({"type": "mergeStart", "sourceBranch": "hayward/plain~0"});
    let same = wire.ask(start, "mergeResult").await;
    assert_eq!(same["success"], true, "merged already: {same}");
    let clash = json!({"type": "mergeStart", "sourceBranch": "hayward/more"});
    wire.ask(clash, "mergeResult").await;
    let resolve = json!({"type": "mergeResolve", "file": "a.txt", "strategy": "theirs"});
    wire.ask(resolve, "mergeResult").await;
    let refused = wire.ask(json!({"type": "mergeCommit", "message": "m"}), "mergeResult").await;
    assert_eq!(refused["error"]["code"], "conflict", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("own"), "{refused}");
    assert_eq!(wire.ground.holdings(&user), before);
    // once the user's changes are put away, the same merge goes on
    wire.ground.git(&["checkout", "-q", "--", "."]);
    let done = wire.ask(json!({"type": "mergeCommit", "message": "m"}), "mergeResult").await;
    assert_eq!(done["success"], true, "{done}");
    assert_eq!(wire.ground.git(&["status", "--porcelain", "--untracked-files=no"]), "");
}

#[tokio::test]
async fn f43_previews_and_merges_run_no_program_of_the_repository() {
    let ground = Ground::new();
    let mark = ground.set_canaries();
    let quiet = |ground: &Ground| {
        ground.git(&["config", "core.hooksPath", "/dev/null"]);
        for key in ["core.fsmonitor", "commit.gpgSign"] {
            ground.git(&["config", key, "false"]);
        }
    };
    // laid out without them, so that only ours could sing
    let hooks = ground.git(&["config", "core.hooksPath"]);
    let monitor = ground.git(&["config", "core.fsmonitor"]);
    quiet(&ground);
    let mut wire = Wire::on(ground).await;
    wire.ground.git(&["config", "core.hooksPath", &hooks]);
    wire.ground.git(&["config", "core.fsmonitor", &monitor]);
    wire.ground.git(&["config", "commit.gpgSign", "true"]);
    std::fs::remove_file(&mark).unwrap_or_default();
    let preview =
        json!({"type": "previewMerge", "source": "hayward/part", "target": "hayward/own"});
    let seen = wire.ask(preview, "reply").await;
    assert_eq!(seen["payload"]["conflictedFiles"], json!(["a.txt"]), "{seen}");
    for command in [
        json!({"type": "mergeStart", "sourceBranch": "hayward/part"}),
        json!({"type": "mergeResolve", "file": "a.txt", "strategy": "ours"}),
        json!({"type": "mergeCommit", "message": "m"}),
        json!({"type": "mergeStart", "sourceBranch": "hayward/plain"}),
    ] {
        wire.ask(command, "mergeResult").await;
    }
    let sung = std::fs::read_to_string(&mark).unwrap_or_default();
    assert_eq!(sung, "");
    assert_eq!(
        wire.ground.git(&["-c", "core.fsmonitor=false", "show", "hayward/own:plain"]),
        "plain"
    );
}
