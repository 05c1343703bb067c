//! What runs on this machine is seen without the relay: attach, logs and tasks straight from the
//! daemon, whoever else may not, and what a relay that goes and comes does to who is watching.

use crate::attach::tells_the_end;
use hayward_tests::cable::Cable;
use hayward_tests::home::{Home, id};
use hayward_tests::program::{Ran, run, wait};
use hayward_tests::relay::{Linked, Relay};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::skip;
use hayward_tests::tmux::Tmux;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A program that says `ready`, then prints each line that is typed.
fn echo(home: &Home, repo: &ScratchRepo, options: &[&str]) -> Value {
    let command = ["sh", "-c", "stty -echo; echo ready; cat"].map(str::to_owned);
    let options = [&["--on", "none"], options].concat();
    home.reaches(&home.submit_command(repo.path(), &options, &command), "running")
}

fn attach(tmux: &Tmux, terminal: &str, task: &Value) {
    tmux.open(terminal, 160, 12);
    tmux.hayward(terminal, &format!("attach {}", id(task)));
    tmux.shows(terminal, "the agent's word", |text| text.starts_with("ready\n"));
}

fn type_line(tmux: &Tmux, terminal: &str, word: &str, seen_by: &[&str]) {
    tmux.keys(terminal, &[word, "Enter"]);
    for viewer in seen_by {
        tmux.shows(viewer, word, |text| text.contains(&format!("\n{word}\n")));
    }
}

#[test]
fn attach_needs_no_relay_and_viewers_of_both_ways_share_a_session() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let Some(tmux) = Tmux::start("attach without the relay", home, &[]) else { return };
    let task = echo(home, &repo, &[]);
    attach(&tmux, "first", &task);
    relay.crash();
    tmux.showed("first", 0, "without the relay");
    type_line(&tmux, "first", "one", &["first"]);
    attach(&tmux, "second", &task);
    type_line(&tmux, "second", "two", &["first", "second"]);
    tmux.keys("second", &["C-\\", "C-\\"]);
    let text = tmux.shows("second", "the shell", |text| text.contains("code=0"));
    let warned = text.matches("this machine's daemon answers").count();
    assert!(warned == 1 && text.contains("cannot reach the relay"), "{text}");
    tmux.hayward("second", &format!("attach --take {}", id(&task)));
    tmux.shows("second", "all of it again", |text| text.starts_with("ready\none\ntwo\n"));
    relay.come_back();
    until_true("the daemon is back", LONG, || linked.online());
    attach(&tmux, "third", &task);
    type_line(&tmux, "third", "three", &["first", "second", "third"]);
    let quit = Instant::now();
    tmux.keys("second", &["C-d"]);
    for viewer in ["first", "second", "third"] {
        let text = tmux.shows(viewer, "the end", |text| text.contains("code=0"));
        assert!(tells_the_end(&text, quit), "{viewer}:\n{text}");
    }
    home.reaches(&task, "completed");
}

#[test]
fn an_end_without_the_relay_is_told_to_who_is_attached() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let Some(tmux) = Tmux::start("end without the relay", home, &[]) else { return };
    let task = echo(home, &repo, &[]);
    relay.crash();
    attach(&tmux, "a", &task);
    let quit = Instant::now();
    tmux.keys("a", &["C-d"]);
    let text = tmux.shows("a", "the end", |text| text.contains("code=0"));
    assert!(text.contains("has ended; ") && tells_the_end(&text, quit), "{text}");
    home.reaches(&task, "completed");
    tmux.hayward("a", &format!("attach {}", id(&task)));
    let text = tmux.shows("a", "the refusal", |text| text.contains("code=4"));
    assert!(text.contains("runs no more") && text.contains("hayward logs"), "{text}");
}

#[test]
fn a_daemon_that_dies_and_starts_without_the_relay_is_found_again() {
    let mut relay = Relay::start();
    let mut linked = Linked::start(&relay, &relay.url(), "");
    let repo = ScratchRepo::new();
    let Some(tmux) = Tmux::start("daemon anew without the relay", &linked.home, &[]) else {
        return;
    };
    let task = echo(&linked.home, &repo, &[]);
    attach(&tmux, "a", &task);
    relay.crash();
    tmux.showed("a", 0, "without the relay");
    let before = tmux.written("a");
    linked.crash();
    tmux.showed("a", before, "connecting again");
    linked.come_back();
    tmux.shows("a", "the screen alone", |text| text.trim() == "ready");
    type_line(&tmux, "a", "one", &["a"]);
    attach(&tmux, "b", &task);
    type_line(&tmux, "b", "two", &["a", "b"]);
}

#[test]
fn attach_goes_straight_unless_a_relay_is_named_and_does_not_notice_that_the_relay_goes() {
    let mut relay = Relay::start();
    let mut linked = Linked::start(&relay, &relay.url(), "");
    let repo = ScratchRepo::new();
    let task = echo(&linked.home, &repo, &[]);
    fs::write(linked.home.state().join("token"), relay.token()).unwrap();
    for name in ["HAYWARD_RELAY", "HAYWARD_TOKEN"] {
        linked.home.unset(name);
    }
    let Some(tmux) = Tmux::start("attach goes straight", &linked.home, &[]) else { return };
    attach(&tmux, "straight", &task);
    tmux.open("around", 160, 12);
    let named = format!("--relay {} --token {}", relay.url(), relay.token());
    tmux.hayward("around", &format!("{named} attach {}", id(&task)));
    tmux.shows("around", "the agent's word", |text| text.starts_with("ready\n"));
    relay.crash();
    tmux.showed("around", 0, "without the relay");
    type_line(&tmux, "straight", "one", &["straight", "around"]);
    let text = tmux.shows("straight", "no word of the relay", |text| text.contains("one"));
    assert_eq!(text.trim(), "ready\none");
    relay.come_back();
    until_true("the daemon is back", LONG, || {
        let told = linked.home.run(&["--json", "status"]);
        told.code == 0 && told.json()["daemons"][0]["online"] == true
    });
    let quit = Instant::now();
    tmux.keys("straight", &["C-d"]);
    let text = tmux.shows("straight", "the end", |text| text.contains("code=0"));
    assert!(tells_the_end(&text, quit), "{text}");
    linked.home.reaches(&task, "completed");
}

#[test]
fn a_daemon_that_lost_the_relay_shows_its_own_sessions_though_others_reach_the_relay() {
    let relay = Relay::start();
    let cable = Cable::to(relay.address());
    let linked = Linked::start(&relay, &cable.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let Some(tmux) = Tmux::start("attach to an offline daemon", home, &[]) else { return };
    let task = echo(home, &repo, &["--daemon", &linked.id()]);
    cable.cut();
    until_true("the link is down", LONG, || !linked.online());
    attach(&tmux, "a", &task);
    type_line(&tmux, "a", "typed", &["a"]);
    tmux.keys("a", &["C-\\", "C-\\"]);
    let text = tmux.shows("a", "the shell", |text| text.contains("code=0"));
    assert!(text.starts_with("going on with this machine's daemon, without the relay\n"), "{text}");
    assert_eq!(home.run(&["logs", id(&task)]).expect(0).text(), "ready\ntyped\n");
}

#[test]
fn a_viewer_elsewhere_waits_for_the_relay_and_is_told_what_it_cannot_reach() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    // with a daemon of its own, which knows nothing of the run
    let other = Linked::start(&relay, &relay.url(), "");
    let Some(tmux) = Tmux::start("attach from elsewhere", &other.home, &[]) else { return };
    let repo = ScratchRepo::new();
    let task = echo(&linked.home, &repo, &["--daemon", &linked.announced()]);
    attach(&tmux, "a", &task);
    relay.crash();
    tmux.shows("a", "that it connects again", |text| text.contains("connecting again"));
    for command in ["logs", "attach"] {
        tmux.open(command, 200, 12);
        tmux.hayward(command, &format!("{command} {}", id(&task)));
        let text = tmux.shows(command, "the refusal", |text| text.contains("code=6"));
        assert!(text.contains("cannot reach the relay") && text.contains("has no run"), "{text}");
        assert!(text.contains("only what ran on this machine"), "{text}");
    }
    relay.come_back();
    tmux.shows("a", "the screen", |text| text.trim() == "ready");
    type_line(&tmux, "a", "typed", &["a"]);
    let alone = Home::new();
    let nowhere = ["--relay", "http://127.0.0.1:1", "--token", "t", "logs", id(&task)];
    let said = alone.run(&nowhere).expect(6).stderr;
    assert!(said.contains("cannot reach the relay"), "{said}");
}

#[test]
fn f32_logs_go_on_at_their_byte_when_the_relay_goes_and_begin_without_it() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let task = home.stream(repo.path());
    let follow = ["logs", id(&task), "-f", "--raw"];
    let mut before = home.spawn("before", repo.path(), &follow);
    until_true("output flows", LONG, || home.read("before.out").len() > 1000);
    relay.crash();
    let from = home.read("before.out").len();
    until_true("output goes on", LONG, || home.read("before.out").len() > from + 1000);
    let mut straight = home.spawn("straight", repo.path(), &follow);
    let offset = ["logs", id(&task), "-f", "--raw", "--from", "500"];
    let mut later = home.spawn("later", repo.path(), &offset);
    until_true("output flows there too", LONG, || home.read("later.out").len() > 1000);
    home.open_gate("gate");
    for (name, child) in
        [("before", &mut before), ("straight", &mut straight), ("later", &mut later)]
    {
        let said = || home.read(&format!("{name}.err"));
        assert_eq!(wait(child, LONG), Some(0), "{name}: {}", said());
    }
    let printed = home.read("printed");
    assert!(home.read("before.out") == printed, "the followed bytes differ");
    assert!(home.read("straight.out") == printed, "the bytes without a relay differ");
    assert!(home.read("later.out") == printed[500..], "the bytes from an offset differ");
    let told = home.read("before.err");
    assert_eq!(told.matches("without the relay").count(), 1, "{told}");
    let told = home.read("straight.err");
    assert_eq!(told.matches("this machine's daemon answers").count(), 1, "{told}");
    let ended = home.run(&["--json", "logs", id(&task)]).expect(0).json();
    assert_eq!((&ended["from"], ended["gaps"].as_array().map(Vec::len)), (&0.into(), Some(0)));
}

#[test]
fn tasks_of_this_machine_are_shown_without_the_relay_and_it_is_said_that_only_those_are() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let script = Script::new().write("work", "work\n");
    let done = home.follow(repo.path(), &["--label", "kind=done"], &script).expect(0).json();
    let live = echo(home, &repo, &[]);
    let before = home.task(&live);
    relay.crash();
    let shown = home.run(&["--json", "task", "show", id(&live)]).expect(0);
    assert!(shown.stderr.contains("this machine's daemon answers"), "{shown:?}");
    let shown = shown.json();
    for name in ["id", "status", "plan", "command", "runId", "attempt"] {
        assert_eq!(shown[name], before[name], "{name}");
    }
    assert!(shown["startedAt"].is_string() && shown["createdAt"].is_string(), "{shown}");
    let ids = |arguments: &[&str]| -> Vec<String> {
        let told = home.run(&[&["--json", "task", "ls"], arguments].concat()).expect(0).json();
        told["tasks"].as_array().unwrap().iter().map(|task| id(task).to_owned()).collect()
    };
    assert_eq!(ids(&[]), [id(&live), id(&done)]);
    assert_eq!(ids(&["--status", "running"]), [id(&live)]);
    assert_eq!(ids(&["--label", "kind=done"]), [id(&done)]);
    assert!(ids(&["--parent", id(&done)]).is_empty());
    let status = home.run(&["--json", "status"]).expect(6).json();
    assert_eq!(status["relay"]["reachable"], false);
    assert_eq!(
        (&status["tasks"]["running"], &status["tasks"]["completed"]),
        (&1.into(), &1.into())
    );
    let status = home.run(&["status"]).expect(6);
    assert!(status.text().contains("on this machine alone"), "{status:?}");
    let refused = home.run(&["task", "cancel", id(&live)]).expect(6);
    assert!(refused.stderr.contains("cannot reach the relay"), "{refused:?}");
}

/// Asks for a list over the socket as another user; what came back, or why nothing could.
fn stranger(home: &Home) -> Ran {
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(10)\n\
               s.connect(sys.argv[1])\ntry:\n    \
               s.sendall(b'GET /api/v1/tasks HTTP/1.1\\r\\nHost: daemon\\r\\n\\r\\n')\n    \
               print('got', len(s.recv(1000)))\nexcept (BrokenPipeError, ConnectionResetError):\n    \
               print('got 0')\n";
    let socket = home.state().join("daemon.sock");
    run(Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            ask,
        ])
        .arg(socket)
        .current_dir("/"))
}

#[test]
fn another_user_of_the_machine_is_kept_out_by_folder_file_and_the_daemon_itself() {
    let test = "another user at the socket";
    let is_root = nix::unistd::geteuid().is_root();
    let has = |program: &str| Path::new("/usr/bin").join(program).exists();
    if !is_root || !has("setpriv") || !has("python3") {
        return skip(test, "it takes root, setpriv and python3 to be another user");
    }
    let home = Home::new();
    let _daemon = home.up();
    let state = home.state();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("daemon.sock"))), (0o700, 0o600));
    let ran = stranger(&home);
    assert!(ran.code != 0 && ran.stderr.contains("PermissionError"), "{ran:?}");
    for (path, open) in
        [(state.parent().unwrap(), 0o755), (&state, 0o755), (&state.join("daemon.sock"), 0o666)]
    {
        fs::set_permissions(path, Permissions::from_mode(open)).unwrap();
    }
    assert_eq!(stranger(&home).expect(0).text(), "got 0\n");
    assert!(home.run(&["task", "ls"]).code == 0, "the daemon serves its own user no more");
}
