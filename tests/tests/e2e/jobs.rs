//! Background work, on the command line: tried again where trouble may pass, listed, ordered about,
//! kept over restarts; judged by what the remote got.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, holds, until};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::time::Duration;

const PR: [&str; 4] = ["--on", "pr", "--target", "main"];

/// A port of this machine on which nobody listens while this lives.
fn silent() -> (TcpListener, u16) {
    // taken, so that no other program gets it; never accepted from
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    (taken, port)
}

fn only(home: &Home, words: &[&str]) -> Value {
    let listed = home.run(&[&["--json", "job", "ls"], words].concat()).expect(0).json();
    let jobs = listed["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 1, "{listed:#}");
    jobs[0].clone()
}

/// A job once a try of it is under way.
fn under_way(home: &Home) -> Value {
    until("a job is under way", LONG, || {
        let listed = home.json(&["job", "ls", "--status", "running"]);
        listed["jobs"].as_array().unwrap().first().cloned()
    })
}

fn phases(job: &Value) -> Vec<String> {
    let turns = job["history"].as_array().unwrap().iter();
    turns.map(|turn| turn["phase"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_merge_is_a_job_whose_turns_the_task_tells() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let script = Script::new().write("new", "new\n");
    let words = ["--on", "merge", "--target", "main"];
    let task = home.follow(repo.path(), &words, &script).expect(0).json();
    let job = only(&home, &["--task", id(&task)]);
    assert_eq!((&job["kind"], &job["status"]), (&"completion".into(), &"completed".into()));
    assert_eq!(job["taskId"], task["id"]);
    assert_eq!(phases(&job), ["created", "running", "completed"]);
    assert!(job["name"].as_str().unwrap().contains("into main"), "{job:#}");
    let told: Vec<_> = home
        .events(&task)
        .into_iter()
        .filter(|event| event["type"] == "job.transition")
        .map(|event| event["payload"]["phase"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, ["created", "running", "completed"]);
    let shown = home.run(&["job", "show", id(&job)]).expect(0);
    assert!(
        shown.text().contains("completion") && shown.text().contains("completed"),
        "{}",
        shown.text()
    );
    // what is done is done
    let refused = home.run(&["--json", "job", "retry", id(&job)]).expect(4).json();
    assert_eq!(refused["error"]["code"], "illegal_transition");
    home.run(&["job", "cancel", "feedbeef"]).expect(3);
}

#[test]
fn a_push_to_a_remote_that_is_not_there_fails_once_and_is_done_when_tried_again() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let remote = home.files().join("remote.git");
    repo.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &PR, &script).expect(7).json();
    assert_eq!(task["reason"], "push_failed", "{task:#}");
    let job = only(&home, &[]);
    assert_eq!(phases(&job), ["created", "running", "failed"]);
    assert_eq!(job["failure"]["reason"], "push_failed");
    fs::create_dir_all(&remote).unwrap();
    git(&remote).args(["init", "-q", "--bare", "-b", "main"]).status().unwrap();
    repo.git(&["push", "-q", "origin", "main"]);
    home.run(&["job", "retry", id(&job)]).expect(0);
    let job = ends(&home, "failed");
    assert_eq!(phases(&job)[3..], ["retried", "running", "failed"]);
    // a folder is no forge: pushed it is all the same
    assert_eq!(job["failure"]["reason"], "pull_request_failed", "{job:#}");
    let branch = task["branch"].as_str().unwrap();
    let pushed = git(&remote).args(["rev-parse", branch]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&pushed.stdout).trim(), task["headCommit"]);
}

/// The only job, once it stands so and is not about to be tried.
fn ends(home: &Home, status: &str) -> Value {
    until(&format!("the job is {status}"), LONG, || {
        let job = only(home, &[]);
        let is_over = job["nextRetryAt"].is_null() && job["history"].as_array().unwrap().len() > 3;
        (job["status"] == status && is_over).then_some(job)
    })
}

#[test]
fn f33_a_remote_that_is_away_is_asked_again_at_growing_distances_and_then_no_more() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (taken, port) = silent();
    drop(taken);
    let url = format!("http://127.0.0.1:{port}/o/r.git");
    repo.git(&["remote", "add", "origin", &url]);
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &PR, &script).expect(7).json();
    assert_eq!(task["reason"], "remote_unreachable", "{task:#}");
    let job = only(&home, &["--status", "failed"]);
    assert_eq!((&job["attempt"], &job["maxAttempts"]), (&4.into(), &4.into()));
    let tries = phases(&job);
    assert_eq!(tries.iter().filter(|phase| *phase == "deferred").count(), 3, "{tries:?}");
    // the branch is there all the same, and no run was begun anew
    assert_eq!(
        (&task["attempt"], repo.git(&["rev-parse", task["branch"].as_str().unwrap()])),
        (&1.into(), task["headCommit"].as_str().unwrap().to_owned())
    );
}

#[test]
fn f29_a_job_that_waits_stays_paused_over_a_killed_daemon_and_goes_on_when_it_may() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    // asked, it never answers: the try stays under way
    let (taken, port) = silent();
    let url = format!("http://127.0.0.1:{port}/o/r.git");
    repo.git(&["remote", "add", "origin", &url]);
    let script = Script::new().write("new", "new\n");
    let daemon = home.up();
    let task = home.submit(repo.path(), &PR, &script);
    let job = under_way(&home);
    let paused = home.run(&["--json", "job", "pause", id(&job)]).expect(0).json();
    assert_eq!((&paused["status"], &paused["attempt"]), (&"paused".into(), &0.into()));
    daemon.crash();
    home.up();
    let found = until("the daemon is back", LONG, || {
        home.json(&["job", "ls"])["jobs"].as_array()?.first().cloned()
    });
    assert_eq!((&found["id"], &found["status"]), (&job["id"], &"paused".into()));
    home.reaches(&task, "running");
    drop(taken);
    home.run(&["job", "resume", id(&job)]).expect(0);
    let task = home.reaches(&task, "failed");
    assert_eq!(task["reason"], "remote_unreachable", "{task:#}");
    let job = only(&home, &[]);
    assert_eq!(job["id"], found["id"]);
    assert!(phases(&job).iter().any(|phase| phase == "resumed"), "{job:#}");
}

#[test]
fn a_cancelled_job_fails_what_waits_for_it_by_its_name() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (_taken, port) = silent();
    let url = format!("http://127.0.0.1:{port}/o/r.git");
    repo.git(&["remote", "add", "origin", &url]);
    let daemon = home.up();
    let task = home.submit(repo.path(), &PR, &Script::new().write("new", "new\n"));
    let job = under_way(&home);
    home.run(&["job", "cancel", id(&job)]).expect(0);
    let task = home.reaches(&task, "failed");
    assert_eq!(task["reason"], "job_cancelled", "{task:#}");
    assert!(!task["branch"].is_null());
    // and the next daemon does not take it up again
    daemon.crash();
    home.up();
    holds("there is that job alone", Duration::from_secs(2), || {
        only(&home, &[])["status"] == "cancelled"
    });
}

#[test]
fn whoever_is_cancelled_waits_for_no_job() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (_taken, port) = silent();
    repo.git(&["remote", "add", "origin", &format!("http://127.0.0.1:{port}/o/r.git")]);
    let task = home.submit(repo.path(), &PR, &Script::new().write("new", "new\n"));
    let job = under_way(&home);
    home.run(&["job", "pause", id(&job)]).expect(0);
    home.run(&["task", "cancel", id(&task)]).expect(0);
    home.reaches(&task, "cancelled");
    until("its job is cancelled", LONG, || {
        (only(&home, &[])["status"] == "cancelled").then_some(())
    });
    let kept = repo.git(&["for-each-ref", "--format=%(refname)", "refs/heads/hayward"]);
    assert_eq!(repo.git(&["show", &format!("{kept}:new")]), "new");
}
