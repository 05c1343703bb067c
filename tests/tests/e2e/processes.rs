//! Agents and what they print, through crashes of everything around them.

use hayward_shared::time::Timestamp;
use hayward_tests::home::{Home, id};
use hayward_tests::http::Api;
use hayward_tests::pattern;
use hayward_tests::process::{self, Process};
use hayward_tests::program::wait;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, at_best, holds, until, until_true};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Three agents that print until the gate opens, each into a ledger of its own.
struct Three {
    home: Home,
    repo: ScratchRepo,
    tasks: Vec<Value>,
    agents: Vec<Process>,
}

impl Three {
    fn start() -> Self {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        home.up();
        let script = |number: usize| {
            Script::new()
                .then(Step::Raw)
                .sign(home.file(&format!("starts{number}")))
                .then(Step::Stream {
                    ledger: home.file(&format!("printed{number}")),
                    until: home.file("gate"),
                })
                .write("work", "work\n")
        };
        let tasks: Vec<Value> =
            (0..3).map(|number| home.submit(repo.path(), &[], &script(number))).collect();
        for task in &tasks {
            home.reaches(task, "running");
        }
        let agent = |number: usize| {
            until("the agent signed", LONG, || {
                home.signed(&format!("starts{number}")).first().copied()
            })
        };
        let agents = (0..3).map(agent).collect();
        Self { home, repo, tasks, agents }
    }

    fn printed(&self, number: usize) -> Vec<u8> {
        fs::read(self.home.file(&format!("printed{number}"))).unwrap_or_default()
    }

    fn all_alive(&self) -> bool {
        self.agents.iter().all(|agent| agent.alive())
    }

    /// Opens the gate: each agent ends well, once started, with every byte in its place.
    fn end_well(&self) {
        self.home.open_gate("gate");
        for (number, task) in self.tasks.iter().enumerate() {
            let task = self.home.reaches(task, "completed");
            assert_eq!(task["attempt"], 1);
            assert_eq!(self.home.starts(&format!("starts{number}")), 1);
            let (came, printed) = (self.home.output(&task), self.printed(number));
            assert_eq!(came.len(), printed.len(), "bytes are missing or doubled");
            assert!(came == printed, "the bytes differ");
            let branch = task["branch"].as_str().unwrap_or_default();
            assert_eq!(self.repo.git(&["show", &format!("{branch}:work")]), "work");
            let statuses = self.home.statuses(&task);
            assert_eq!(statuses, ["dispatched", "running", "completed"]);
        }
    }
}

#[test]
fn f01_agents_outlive_a_killed_daemon_and_the_next_adopts_them_without_a_lost_byte() {
    let three = Three::start();
    for _ in 0..2 {
        let daemon = three.home.up();
        daemon.crash();
        let printed: Vec<usize> = (0..3).map(|number| three.printed(number).len()).collect();
        until_true("the agents go on without a daemon", LONG, || {
            (0..3).all(|number| three.printed(number).len() > printed[number] + 1000)
        });
        let again = three.home.up();
        assert_ne!(again.process, daemon.process);
        for task in &three.tasks {
            until_true("each agent is adopted", LONG, || {
                let is_adopted = |event: &Value| event["type"] == "run.adopted";
                three.home.events(task).iter().any(is_adopted)
            });
        }
        assert!(three.all_alive(), "an agent was ended");
    }
    three.end_well();
}

#[test]
fn agents_outlive_down_and_the_next_up_adopts_them() {
    let three = Three::start();
    let ran = three.home.run(&["down"]).expect(0);
    // it asks for their number for 2 s at most
    let is_late = ran.took > Duration::from_secs(2);
    let told = format!("{}{}", ran.stderr, ran.text());
    assert!(is_late || told.contains('3'), "{told}");
    holds("the agents live on", Duration::from_millis(500), || three.all_alive());
    three.home.up();
    three.end_well();
}

#[test]
fn f02_keepers_that_do_not_answer_are_left_alone() {
    let three = Three::start();
    let keepers = process::keepers(&three.home.state());
    assert_eq!(keepers.len(), 3, "{keepers:?}");
    for keeper in &keepers {
        keeper.signal(Signal::SIGSTOP);
    }
    three.home.up().crash();
    let ran = three.home.run(&["up", "--detach"]);
    holds("agents and keepers stay", Duration::from_secs(8), || {
        three.all_alive() && keepers.iter().all(|keeper| keeper.alive())
    });
    for (number, task) in three.tasks.iter().enumerate() {
        assert_eq!(three.home.starts(&format!("starts{number}")), 1, "a second copy was started");
        if ran.code == 0 {
            let status = three.home.task(task)["status"].clone();
            assert!(status == "running" || status == "waiting", "{status}");
        }
    }
    for keeper in &keepers {
        keeper.signal(Signal::SIGCONT);
    }
    three.home.up();
    three.end_well();
}

#[test]
fn f03_a_stale_record_that_points_at_a_stranger_sends_it_no_signal() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let script = Script::new().sign(home.file("starts")).wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &[], &script);
    let task = home.reaches(&task, "running");
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    let mut old: Vec<i64> = process::keepers(&home.state()).iter().map(|k| k.pid.into()).collect();
    old.push(agent.pid.into());
    assert_eq!(old.len(), 2);
    daemon.crash();
    for pid in &old {
        Process::of(i32::try_from(*pid).unwrap()).into_iter().for_each(Process::kill);
    }

    // a stranger notes every signal that can be noted
    let line = format!(
        "for s in HUP INT QUIT USR1 USR2 ALRM TERM CONT; do trap \"echo $s >> {0}\" $s; done; \
         touch {1}; while :; do sleep 0.05; done",
        home.file("signals").display(),
        home.file("ready").display(),
    );
    let mut stranger = Command::new("bash").args(["-c", &line]).spawn().unwrap();
    until_true("the stranger is ready", LONG, || home.file("ready").exists());
    let pid = i64::from(stranger.id());
    let mut forged = 0;
    let run = home.state().join("runs").join(task["runId"].as_str().unwrap());
    for entry in fs::read_dir(run).unwrap().flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let Ok(mut record) = serde_json::from_str::<Value>(&text) else { continue };
        forged += forge(&mut record, &old, pid);
        fs::write(entry.path(), record.to_string()).unwrap();
    }
    assert!(forged >= 2, "no record names the processes of a run");

    home.up();
    let task = home.reaches(&task, "failed");
    assert_eq!(task["reason"], "session_lost");
    home.run(&["task", "cancel", id(&task)]).expect(4);
    home.run(&["down"]).expect(0);
    assert_eq!(home.read("signals"), "");
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn f29_a_run_whose_records_are_gone_ends_as_lost_and_its_agent_with_it() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let script = Script::new().sign(home.file("starts")).wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &[], &script);
    home.reaches(&task, "running");
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    daemon.crash();
    fs::remove_dir_all(home.state().join("runs")).unwrap();
    assert!(agent.alive());

    home.up();
    assert_eq!(home.reaches(&task, "failed")["reason"], "session_lost");
    assert!(!agent.alive(), "it works on for a run that failed");
    assert_eq!(home.starts("starts"), 1);
}

/// Puts another number in the place of the old ones; how often.
fn forge(value: &mut Value, old: &[i64], new: i64) -> usize {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|n| old.contains(&n)) => {
            *value = new.into();
            1
        }
        Value::Array(all) => all.iter_mut().map(|value| forge(value, old, new)).sum(),
        Value::Object(all) => all.values_mut().map(|value| forge(value, old, new)).sum(),
        _ => 0,
    }
}

#[test]
fn f04_what_an_agent_leaves_behind_is_gone_within_5_s_sessions_of_its_own_included() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let ledger = home.file("children");
    let script = Script::new().then(Step::Children { count: 3, own_session: 1, ledger });
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    assert_eq!(task["exitCode"], 0);
    let children = home.signed("children");
    assert_eq!(children.len(), 3);
    until_true("all children are gone", Duration::from_secs(5), || {
        !children.iter().any(|child| child.alive())
    });
    let run = task["runId"].as_str().unwrap();
    assert_eq!(process::with_variable("HAYWARD_RUN_ID", run), []);
}

/// How long a run takes whose agent leaves a grandchild with the terminal open.
fn f05_held_open() -> Duration {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    let words = ["run", "--json", "--", "sh", "-c", "sleep 600 & echo hi"];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    assert_eq!(String::from_utf8_lossy(&home.output(&task)), "hi\r\n");
    let at = |kind: &str| -> Timestamp {
        let events = home.events(&task);
        let last = events.iter().rev().find(|event| event["type"] == kind);
        serde_json::from_value(last.unwrap()["at"].clone()).unwrap()
    };
    let took = at("task.status_changed").millis() - at("run.started").millis();
    let run = task["runId"].as_str().unwrap();
    until_true("the sleeper is gone", LONG, || {
        process::with_variable("HAYWARD_RUN_ID", run).is_empty()
    });
    Duration::from_millis(took.try_into().unwrap())
}

#[test]
fn f05_a_grandchild_that_keeps_the_terminal_open_delays_the_end_by_less_than_2_s() {
    at_best("the run", Duration::from_secs(2), f05_held_open);
}

/// Runs that print 64 KiB and exit at once; how many were byte-exact, their end the last event.
fn f06_runs(rounds: usize, at_once: usize) -> usize {
    const SIZE: usize = 64 * 1024;
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let api = home.api(&home.up());
    let count = at_once.to_string();
    let mut exact = 0;
    for round in 0..rounds {
        let seed = round as u64 + 1;
        let script =
            Script::new().then(Step::Raw).then(Step::Lines { seed, count: SIZE, chunk: SIZE });
        let options = ["--count", &count, "--on", "none"];
        let tasks = home.follow(repo.path(), &options, &script).expect(0).json();
        let wanted = pattern::lines(seed, SIZE);
        for task in tasks.as_array().unwrap() {
            assert!(home.output(task) == wanted, "round {round}: bytes are missing: {task:#}");
            let last = last_event(&api, task);
            assert_eq!(last["payload"]["newStatus"], "completed", "{last:#}");
            exact += 1;
        }
    }
    exact
}

fn last_event(api: &Api, task: &Value) -> Value {
    let path = format!("/api/v1/tasks/{}/events?limit=200", id(task));
    let events = api.get(&path).json()["events"].clone();
    events.as_array().and_then(|all| all.last()).cloned().unwrap_or_default()
}

#[test]
fn f06_no_last_line_is_lost_in_24_runs() {
    assert_eq!(f06_runs(3, 8), 24);
}

/// A task whose terminal lets every byte pass from `raw_after` on, and nobody reads until then.
fn typed(home: &Home, repo: &ScratchRepo, raw_after: u64, then: Step) -> Value {
    let script = Script::new()
        .sign(home.file("starts"))
        .then(Step::Linger { ms: raw_after })
        .then(Step::Raw)
        .write(home.file("raw"), "")
        .then(then);
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    home.reaches(&task, "running");
    until_true("the agent signed", LONG, || home.starts("starts") == 1);
    task
}

#[test]
fn f07_a_long_line_arrives_whole_though_the_terminal_is_raw_only_after_1_s() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    let text = String::from_utf8(pattern::lines(7, 60 * 1024)).unwrap().replace('\n', " ");
    let read = Step::Read { count: text.len() + 1, file: home.file("came") };
    let task = typed(&home, &repo, 1000, read);
    home.run(&["task", "message", id(&task), &text]).expect(0);
    home.reaches(&task, "completed");
    let came = home.read("came");
    assert_eq!(came.len(), text.len() + 1);
    assert!(came.trim_end_matches('\r') == text, "the line was changed on its way");
}

#[test]
fn f07_what_is_too_long_or_what_nobody_reads_is_refused_and_the_session_goes_on() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let api = home.api(&home.up());
    let read = Step::Await { file: home.file("gate") };
    let task = typed(&home, &repo, 0, read);
    until_true("the terminal is raw", LONG, || home.file("raw").exists());
    let path = format!("/api/v1/tasks/{}/message", id(&task));
    // more than a message may have; more than a request may have; more than the terminal takes
    for size in [100 * 1024, 2_000_000, 60 * 1024] {
        let begin = Instant::now();
        let reply = api.post(&path, &json!({ "message": "x".repeat(size) }));
        let took = begin.elapsed();
        assert!(reply.status >= 400 && !reply.code().is_empty(), "{size}: {reply:?}");
        assert!(took < Duration::from_secs(25), "{size}: {took:?}");
    }
    home.open_gate("gate");
    home.reaches(&task, "completed");
}

#[test]
fn f08_odd_bytes_are_the_same_live_and_replayed_from_anywhere() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    let mut script = Script::new().then(Step::Raw).wait_for(home.file("gate"));
    let mut wanted = Vec::new();
    for chunk in [1, 2, 3, 5, 7, 64, 4096] {
        script = script.then(Step::Odd { times: 20, chunk });
        wanted.extend(pattern::ODD.repeat(20));
    }
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    home.reaches(&task, "running");
    let mut live = home.spawn("live", repo.path(), &["logs", id(&task), "-f", "--raw"]);
    home.open_gate("gate");
    home.reaches(&task, "completed");
    assert_eq!(wait(&mut live, LONG), Some(0), "{}", home.read("live.err"));
    assert!(fs::read(home.file("live.out")).unwrap() == wanted, "the live bytes differ");
    assert!(home.output(&task) == wanted, "the replayed bytes differ");
    for from in [1, 2, 3, 10, 17, 100, wanted.len() - 1, wanted.len()] {
        let words = ["logs", id(&task), "--raw", "--from", &from.to_string()];
        assert!(home.run(&words).expect(0).stdout == wanted[from..], "from {from}");
    }
}

#[test]
fn f49_printed_logs_hold_no_escape_but_colours() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let attack = "\x1b]52;c;aGk=\x07\x1b]8;;http://evil\x07link\x1b]8;;\x07\x1b[2J\x1b[1;31mred\
        \x1b[0m\x1b]0;title\x1b\\\x1bP1$r\x1b\\\u{9b}6n\x1b[6nend\n";
    let script = Script::new().print(attack).then(Step::Odd { times: 3, chunk: 1 });
    let task = home.follow(repo.path(), &["--on", "none"], &script).expect(0).json();
    let text = home.run(&["logs", id(&task)]).expect(0).text();
    assert!(
        text.contains("link") && text.contains("end") && text.contains("漢字 한글"),
        "{text:?}"
    );
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once('\x1b') {
        let end = after.find(|c: char| !matches!(c, '[' | ';' | ':' | '0'..='9')).unwrap();
        assert!(after.starts_with('[') && after[end..].starts_with('m'), "{after:?}");
        rest = after;
    }
    let allowed = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\x1b');
    assert!(text.chars().all(allowed), "{text:?}");
    assert!(!text.contains("title") && !text.contains("aGk="), "{text:?}");
}

#[test]
fn a_lost_session_is_tried_again_once_the_old_agent_is_gone() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    let script = Script::new().sign(home.file("starts")).wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none", "--max-attempts", "2"], &script);
    home.reaches(&task, "running");
    let first = until("the agent signed", LONG, || home.signed("starts").first().copied());
    let keepers = process::keepers(&home.state());
    assert_eq!(keepers.len(), 1);
    keepers[0].kill();
    until_true("a second attempt begins", LONG, || {
        let starts = home.signed("starts");
        assert!(starts.iter().filter(|agent| agent.alive()).count() <= 1, "two at once");
        starts.len() == 2
    });
    assert!(!first.alive());
    home.open_gate("gate");
    let task = home.reaches(&task, "completed");
    assert_eq!(task["attempt"], 2);
    assert!(home.statuses(&task).contains(&"deferred".to_owned()));
}
