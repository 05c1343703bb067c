//! What goes wrong on the command line: the exit code, the words, and one JSON value.

use hayward_tests::home::Home;
use hayward_tests::program::Ran;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::Value;

/// The command fails with this code, in words for people and, with `--json`, for programs.
#[track_caller]
fn fails(home: &Home, folder: &std::path::Path, arguments: &[&str], code: i32) -> (Ran, Value) {
    let plain = home.run_in(folder, arguments).expect(code);
    assert_eq!(plain.text(), "", "an error on stdout");
    assert!(plain.stderr.lines().any(|line| line.starts_with("error: ")), "{}", plain.stderr);
    let json = home.run_in(folder, &[&["--json"], arguments].concat()).expect(code).json();
    let error = json["error"].clone();
    assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "{json}");
    let message = error["message"].as_str().unwrap_or_default().to_owned();
    assert!(!message.is_empty() && plain.stderr.contains(&message), "{json} {}", plain.stderr);
    (plain, error)
}

#[test]
fn a_folder_without_repository_is_refused_with_a_hint() {
    let home = Home::new();
    let (ran, _) = fails(&home, &home.user(), &["run", "--", "true"], 2);
    assert!(ran.stderr.contains("git") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    let empty = Home::new();
    hayward_tests::program::run(hayward_tests::repo::git(&empty.user()).args(["init", "-q"]));
    let ran = empty.run(&["run", "--", "true"]);
    assert!(ran.code != 0 && ran.stderr.contains("commit"), "{}", ran.stderr);
}

#[test]
fn an_unknown_base_is_named() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let words = ["run", "--base", "mian", "--", "true"];
    let (ran, _) = fails(&home, repo.path(), &words, 3);
    assert!(ran.stderr.contains("mian") && ran.stderr.contains("main"), "{}", ran.stderr);
}

#[test]
fn without_an_agent_a_prompt_says_what_to_install() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let before = repo.snapshot();
    let ran = home.run_in(repo.path(), &["run", "do something"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("agent"), "{}", ran.stderr);
    assert!(ran.stderr.contains("install"), "{}", ran.stderr);
    assert_eq!(repo.snapshot(), before);
    let words = ["run", "--agent", "nobody", "do something"];
    let mut run = home.spawn("nobody", repo.path(), &words);
    let code = hayward_tests::program::wait(&mut run, LONG);
    drop(run.kill());
    assert!(code.is_some_and(|code| code != 0), "it waits for ever: {}", home.read("nobody.err"));
    assert!(home.read("nobody.err").contains("nobody"), "{}", home.read("nobody.err"));
}

#[test]
fn a_relay_that_is_not_there_is_code_6() {
    let home = Home::new();
    let words = ["--relay", "http://127.0.0.1:1", "--token", "hwu_x", "task", "ls"];
    let (_, error) = fails(&home, &home.user(), &words, 6);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("127.0.0.1:1")), "{error}");
    let (ran, _) = fails(&home, &home.user(), &["task", "ls"], 6);
    assert!(ran.stderr.contains("hayward up"), "{}", ran.stderr);
    home.up().crash();
    fails(&home, &home.user(), &["task", "ls"], 6);
    let status = home.run(&["--json", "status"]);
    assert!(status.code == 6 || status.json()["relay"]["reachable"] == false, "{}", status.text());
}

#[test]
fn a_bad_token_is_code_5() {
    let home = Home::new();
    home.up();
    for token in ["hwu_wrong", "nonsense"] {
        fails(&home, &home.user(), &["--token", token, "task", "ls"], 5);
    }
}

#[test]
fn an_unknown_id_is_code_3_at_every_command() {
    let home = Home::new();
    home.up();
    for command in [
        &["task", "show", "deadbeef"][..],
        &["task", "wait", "deadbeef"],
        &["task", "events", "deadbeef"],
        &["task", "diff", "deadbeef"],
        &["task", "usage", "deadbeef"],
        &["task", "cancel", "deadbeef"],
        &["task", "pause", "deadbeef"],
        &["task", "resume", "deadbeef"],
        &["task", "retry", "deadbeef"],
        &["task", "discard", "deadbeef"],
        &["task", "interrupt", "deadbeef"],
        &["task", "message", "deadbeef", "x"],
        &["logs", "deadbeef"],
        &["logs", "deadbeef", "--raw"],
    ] {
        let (_, error) = fails(&home, &home.user(), command, 3);
        assert_eq!(error["code"], "not_found", "{command:?}");
    }
}

#[test]
fn misuse_is_code_2() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    for command in [&["run"][..], &["run", "--on", "fire", "x"], &["tsak"], &["task", "show"]] {
        let ran = home.run_in(repo.path(), command).expect(2);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        let ran = home.run_in(repo.path(), &[&["--json"], command].concat()).expect(2);
        assert!(ran.json()["error"]["message"].is_string(), "{}", ran.text());
    }
    home.configure("[daemon]\nmax_concurent_tasks = 2\n");
    let ran = home.run(&["up", "--detach"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("max_concurent_tasks"), "{}", ran.stderr);
    assert!(ran.stderr.contains("max_concurrent_tasks"), "{}", ran.stderr);
}

#[test]
fn up_twice_is_one_daemon_and_down_twice_is_no_error() {
    let home = Home::new();
    let first = home.up();
    let second = home.up();
    assert_eq!(first.told, second.told);
    assert_eq!(first.told["home"], home.state().canonicalize().unwrap().to_str().unwrap());
    home.run(&["down"]).expect(0);
    until_true("the daemon is gone", LONG, || !first.process.alive());
    home.run(&["down"]).expect(0);
    let third = home.up();
    assert_eq!(third.told["daemonId"], first.told["daemonId"]);
    assert_ne!(third.process, first.process);
}

#[test]
fn starts_at_once_agree_on_one_daemon() {
    let home = Home::new();
    let pids: Vec<i64> = std::thread::scope(|scope| {
        let starts: Vec<_> =
            (0..4).map(|_| scope.spawn(|| home.json(&["up", "--detach"]))).collect();
        let told = starts.into_iter().map(|start| start.join().unwrap());
        told.map(|told| told["pid"].as_i64().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[test]
fn the_second_daemon_on_a_state_folder_refuses_and_names_the_first() {
    let home = Home::new();
    let daemon = home.up();
    let relay = daemon.told["relay"].as_str().unwrap();
    let words = ["daemon", "run", "--relay", relay, "--token", "hwd_x"];
    let ran = home.run(&words).expect(4);
    let pid = daemon.process.pid.to_string();
    assert!(ran.stderr.contains(&pid), "{} is not named: {}", pid, ran.stderr);
    assert!(daemon.process.alive());
    until("the first serves on", LONG, || (home.run(&["task", "ls"]).code == 0).then_some(()));
}

#[test]
fn every_command_has_help_and_nothing_else_on_stdout() {
    let home = Home::new();
    let help = home.run(&["--help"]).expect(0).text();
    for command in [
        "up",
        "down",
        "status",
        "run",
        "task",
        "logs",
        "agent",
        "demo",
        "token",
        "user",
        "relay",
        "daemon",
        "completions",
        "version",
    ] {
        assert!(help.contains(command), "{command} is not in the help");
        let own = home.run(&[command, "--help"]).expect(0);
        assert!(own.text().contains("Usage: hayward"), "{}", own.text());
        assert_eq!(own.stderr, "");
    }
    let version = home.run(&["--json", "version"]).expect(0).json();
    assert!(version["version"].is_string(), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.run(&["completions", shell]).expect(0).text().contains("hayward"));
    }
}
