//! Agents as they are: the recorded output of a real CLI, real shells and programs for discovery,
//! and, where it is installed, that CLI itself against a model on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use hayward_daemon::agent::discover::{self, Found};
use hayward_daemon::agent::ending::{Ending, Exit};
use hayward_daemon::agent::environment::{RunFacts, Variables, environment};
use hayward_daemon::agent::event::{AgentEvent, Outcome, SUMMARY_BYTES, TEXT_BYTES, Usage};
use hayward_daemon::agent::lines::LINE_BYTES;
use hayward_daemon::agent::login_shell::Silent;
use hayward_daemon::agent::{Decode, Decoder, Message, Order, Refused, Runtime, Session, Step};
use hayward_daemon::clock;
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::task::Reason;
use hayward_shared::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

// ---- reading recordings ----

/// The ids of the messages in the recordings: 1111…, 2222…, and so on.
fn message_id(digit: u8) -> Uuid {
    let run = |count: usize| char::from(b'0' + digit).to_string().repeat(count);
    let text = format!("{}-{}-4{}-8{}-{}", run(8), run(4), run(3), run(3), run(12));
    text.parse().unwrap()
}

fn message(digit: u8, text: &str) -> Message {
    Message { id: message_id(digit), text: text.to_owned() }
}

fn order(session: Session, prompt: Message) -> Order {
    Order {
        worktree: "/repo".into(),
        command: Vec::new(),
        prompt: Some(prompt),
        model: None,
        session,
        instructions: None,
    }
}

fn decoder(prompt: u8, resumed: bool) -> Decoder {
    let fresh = Session::Fresh(Uuid::from_u128(1));
    let session = if resumed { Session::Resume("s".into()) } else { fresh };
    Runtime::Claude.driver().unwrap().decoder(&order(session, message(prompt, "")))
}

fn recorded(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/claude");
    fs::read(folder.join(format!("{name}.jsonl"))).unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// Reads a recording line by line, one second apart.
fn read(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Step> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').zip(0i64..);
    lines.flat_map(|(line, n)| decoder.decode(line, at(n * 1000))).collect()
}

fn events(steps: &[Step]) -> Vec<&AgentEvent> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Event(event) => Some(event),
            _ => None,
        })
        .collect()
}

fn usage(steps: &[Step]) -> Usage {
    let of = |event: &&AgentEvent| match event {
        AgentEvent::Usage(usage) => Some(*usage),
        _ => None,
    };
    events(steps).iter().rev().find_map(of).unwrap()
}

/// The figures of so many requests to the stub, as input, output, cache read, cache write.
fn requests(count: u64) -> (u64, u64, u64, u64) {
    (100 * count, 20 * count, 50 * count, 10 * count)
}

fn tokens(steps: &[Step]) -> (u64, u64, u64, u64) {
    let usage = usage(steps);
    (usage.input, usage.output, usage.cache_read, usage.cache_write)
}

fn closes(steps: &[Step]) -> usize {
    steps.iter().filter(|step| **step == Step::CloseInput).count()
}

fn results(steps: &[Step]) -> Vec<String> {
    let of = |event: &AgentEvent| match event {
        AgentEvent::Result { text, .. } => Some(text.clone()),
        _ => None,
    };
    events(steps).into_iter().filter_map(of).collect()
}

fn notices(steps: &[Step]) -> Vec<String> {
    let of = |event: &AgentEvent| match event {
        AgentEvent::Notice { text } => Some(text.clone()),
        _ => None,
    };
    events(steps).into_iter().filter_map(of).collect()
}

/// Name, outcome and latency of each tool call that ended.
fn finished(steps: &[Step]) -> Vec<(String, Outcome, Option<u64>)> {
    let of = |event: &AgentEvent| match event {
        AgentEvent::ToolFinished { name, outcome, latency_ms, .. } => {
            Some((name.clone(), *outcome, *latency_ms))
        }
        _ => None,
    };
    events(steps).into_iter().filter_map(of).collect()
}

fn reason(ending: &Ending) -> Option<Reason> {
    match ending {
        Ending::Finished => None,
        Ending::Failed { reason, message } => {
            assert!(!message.is_empty() && message.len() <= SUMMARY_BYTES);
            Some(*reason)
        }
    }
}

/// The recording up to before the first line that contains `mark`, and the rest.
fn split_before(bytes: &[u8], mark: &str) -> (Vec<u8>, Vec<u8>) {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let hit = text.find(mark).unwrap();
    let start = text[..hit].rfind('\n').map_or(0, |newline| newline + 1);
    (text[..start].into(), text[start..].into())
}

// ---- what the recordings tell ----

#[test]
fn a_whole_run_is_told_in_events_with_exact_usage_and_latencies() {
    let mut decoder = decoder(1, false);
    let steps = read(&mut decoder, &recorded("one_shot"));
    let told = events(&steps);
    let AgentEvent::Session { version, model, .. } = told[0] else { panic!("{told:?}") };
    assert!(version.is_some() && model.is_some());
    let title = |event: &&AgentEvent| match event {
        AgentEvent::ToolStarted { name, title, .. } => Some(format!("{name} {title}")),
        _ => None,
    };
    let commit = "Bash git add -A && git -c user.name=a -c user.email=a@b commit -qm add-hello";
    let started: Vec<String> = told.iter().filter_map(title).collect();
    assert_eq!(started, ["Write /repo/hello.txt", commit]);
    // Between a call and its result lie the question and the echo of our answer.
    let calls = [
        ("Write".to_owned(), Outcome::Ok, Some(3000)),
        ("Bash".to_owned(), Outcome::Ok, Some(3000)),
    ];
    assert_eq!(finished(&steps), calls);
    assert_eq!(tokens(&steps), requests(3));
    assert!((usage(&steps).cost_usd.unwrap() - 0.00258).abs() < 1e-9);
    assert!(told.contains(&&AgentEvent::Text { text: "done".into() }));
    assert_eq!(results(&steps), ["done"]);
    let answers = steps.iter().filter(|step| matches!(step, Step::Write(_))).count();
    assert_eq!((answers, closes(&steps)), (2, 1));
    assert!(decoder.untaken().is_empty());
    assert_eq!(decoder.finish(&Exit::Code(0)), Ending::Finished);
    assert_eq!(decoder.message(&message(9, "late")), Err(Refused::Closed));
    assert_eq!(decoder.interrupt(), Err(Refused::Closed));
}

#[test]
fn permission_is_given_with_the_input_as_it_was_asked_for() {
    let steps = read(&mut decoder(1, false), &recorded("one_shot"));
    let write = steps.iter().find_map(|step| match step {
        Step::Write(bytes) => Some(bytes),
        _ => None,
    });
    let answer: Value = serde_json::from_slice(write.unwrap()).unwrap();
    let answer = &answer["response"]["response"];
    assert_eq!(answer["behavior"], "allow");
    let input = json!({"file_path": "/repo/hello.txt", "content": "hi é\n"});
    assert_eq!(answer["updatedInput"], input);
}

#[test]
fn a_question_to_the_user_is_declined_because_nobody_is_there() {
    let line = json!({"type": "control_request", "request_id": "q", "request": {
        "subtype": "can_use_tool", "tool_name": "AskUserQuestion", "tool_use_id": "t",
        "input": {"questions": [{"question": "Which colour?"}]}}});
    let steps = decoder(1, false).decode(format!("{line}\n").as_bytes(), at(0));
    let [Step::Event(AgentEvent::PermissionRequested { allowed, .. }), Step::Write(bytes)] =
        &steps[..]
    else {
        panic!("{steps:?}")
    };
    let answer: Value = serde_json::from_slice(bytes).unwrap();
    assert!(!allowed);
    assert_eq!(answer["response"]["response"]["behavior"], "deny");
}

#[test]
fn a_resumed_run_counts_only_itself() {
    let mut decoder = decoder(4, true);
    let steps = read(&mut decoder, &recorded("resume"));
    assert_eq!(tokens(&steps), requests(2));
    assert!((usage(&steps).cost_usd.unwrap() - 0.00172).abs() < 1e-9);
    assert_eq!(decoder.finish(&Exit::Code(0)), Ending::Finished);
}

#[test]
fn a_message_during_a_tool_call_joins_the_turn() {
    let mut decoder = decoder(1, false);
    let second = message(2, "Please also be kind.");
    let (before, after) = split_before(&recorded("message_during_tool"), "22222222");
    assert_eq!(closes(&read(&mut decoder, &before)), 0);
    let written = decoder.message(&second).unwrap();
    assert_eq!(decoder.message(&second).unwrap(), written, "a repeat is the same line");
    assert_eq!(decoder.untaken(), [second.id]);
    let steps = read(&mut decoder, &after);
    assert_eq!((closes(&steps), results(&steps).len()), (1, 1));
    assert!(decoder.untaken().is_empty());
    assert_eq!(tokens(&steps), requests(2));
}

#[test]
fn a_message_that_a_turn_did_not_take_starts_another_and_usage_adds_up() {
    let mut decoder = decoder(1, false);
    let (before, after) = split_before(&recorded("message_after_result"), "22222222");
    let (early, result) = split_before(&before, "\"terminal_reason\"");
    let mut steps = read(&mut decoder, &early);
    decoder.message(&message(2, "Second.")).unwrap();
    steps.extend(read(&mut decoder, &result));
    assert_eq!(closes(&steps), 0, "a message is on its way");
    steps.extend(read(&mut decoder, &after));
    assert_eq!(results(&steps), ["first done", "second done"]);
    assert_eq!((closes(&steps), tokens(&steps)), (1, requests(3)));
    assert!((usage(&steps).cost_usd.unwrap() - 0.00258).abs() < 1e-9);
}

#[test]
fn two_messages_during_a_reply_share_the_next_turn() {
    let mut decoder = decoder(1, false);
    let (before, after) = split_before(&recorded("two_messages_during_reply"), "22222222");
    let mut steps = read(&mut decoder, &before);
    decoder.message(&message(2, "")).unwrap();
    decoder.message(&message(3, "")).unwrap();
    steps.extend(read(&mut decoder, &after));
    assert_eq!((results(&steps).len(), closes(&steps)), (2, 1));
    let close = steps.iter().position(|step| *step == Step::CloseInput).unwrap();
    assert_eq!(results(&steps[..close]).len(), 2);
    assert_eq!(tokens(&steps), requests(2));
}

#[test]
fn an_interrupt_pauses_and_a_message_goes_on() {
    let mut decoder = decoder(1, false);
    let (before, after) = split_before(&recorded("interrupt_then_message"), "hayward-interrupt-1");
    assert_eq!(decoder.interrupt(), Err(Refused::Idle));
    read(&mut decoder, &before);
    let written = decoder.interrupt().unwrap();
    let [Step::Write(line)] = &written[..] else { panic!("{written:?}") };
    assert!(String::from_utf8_lossy(line).contains("hayward-interrupt-1"));
    let (paused, after) = split_before(&after, "22222222");
    let steps = read(&mut decoder, &paused);
    assert!(events(&steps).contains(&&AgentEvent::Interrupted));
    assert_eq!((closes(&steps), results(&steps).len()), (0, 0), "it waits for a message");
    decoder.message(&message(2, "Go on.")).unwrap();
    let steps = read(&mut decoder, &after);
    assert_eq!((results(&steps), closes(&steps)), (vec!["went on".to_owned()], 1));
    assert_eq!(tokens(&steps), requests(2));
    assert_eq!(decoder.finish(&Exit::Code(0)), Ending::Finished);
}

#[test]
fn the_input_stays_open_while_background_work_may_still_need_permission() {
    let mut decoder = decoder(1, false);
    let steps = read(&mut decoder, &recorded("background"));
    assert_eq!(results(&steps), ["started", "after bg"]);
    let close = steps.iter().position(|step| *step == Step::CloseInput).unwrap();
    assert_eq!(results(&steps[..close]).len(), 2);
    assert_eq!(tokens(&steps), requests(3));
}

#[test]
fn a_message_that_the_session_knew_ends_the_run_instead_of_hanging_it() {
    let mut decoder = decoder(1, true);
    let steps = read(&mut decoder, &recorded("repeated_message"));
    assert_eq!(closes(&steps), 1);
    assert_eq!(reason(&decoder.finish(&Exit::Code(0))), Some(Reason::InvalidRequest));
}

#[test]
fn every_recorded_failure_has_its_reason() {
    let table = [
        ("overloaded", 1, Some(Reason::ProviderOverloaded)),
        ("unavailable", 1, Some(Reason::ProviderOverloaded)),
        ("rate_limited", 1, Some(Reason::ProviderRateLimited)),
        ("auth", 1, Some(Reason::ProviderAuth)),
        ("forbidden", 1, Some(Reason::ProviderAuth)),
        ("invalid", 1, Some(Reason::InvalidRequest)),
        ("server_error", 1, Some(Reason::ProviderNetwork)),
        ("truncate_for_ever", 1, Some(Reason::ProviderNetwork)),
        ("midstream_for_ever", 1, Some(Reason::ProviderNetwork)),
        ("disconnect_for_ever", 1, Some(Reason::ProviderNetwork)),
        ("context_overflow", 1, Some(Reason::ContextOverflow)),
        ("max_turns", 1, Some(Reason::IterationLimit)),
        ("truncate", 0, None),
        ("midstream", 0, None),
        ("disconnect", 0, None),
        ("rate_limited_twice", 0, None),
        ("hang", 0, None),
        ("think", 0, None),
        ("tool_error", 0, None),
        ("two_tools", 0, None),
        ("denied", 0, None),
    ];
    for (name, code, expected) in table {
        let mut decoder = decoder(1, false);
        let steps = read(&mut decoder, &recorded(name));
        assert_eq!(reason(&decoder.finish(&Exit::Code(code))), expected, "{name}");
        assert_eq!(closes(&steps), 1, "{name}");
        assert_eq!(notices(&steps), [""; 0], "{name}");
    }
    let mut missing = decoder(1, true);
    let steps = read(&mut missing, &recorded("resume_missing"));
    assert_eq!(reason(&missing.finish(&Exit::Code(1))), Some(Reason::InvalidRequest));
    assert_eq!((closes(&steps), missing.untaken().len()), (1, 1));
    let mut killed = decoder(1, false);
    let steps = read(&mut killed, &recorded("killed"));
    assert_eq!(reason(&killed.finish(&Exit::Signal(9))), Some(Reason::AgentSignal));
    assert_eq!(tokens(&steps).0, 100, "what a killed run used is not forgotten");
}

#[test]
fn f58_retries_are_told_with_status_attempt_and_delay() {
    let steps = read(&mut decoder(1, false), &recorded("rate_limited_twice"));
    let of = |event: &AgentEvent| match event {
        AgentEvent::Retry { attempt, status, reason, delay_ms } => {
            assert!(*delay_ms >= 1000);
            Some((*attempt, *status, reason.clone()))
        }
        _ => None,
    };
    let retries: Vec<_> = events(&steps).into_iter().filter_map(of).collect();
    let code = "rate_limit".to_owned();
    assert_eq!(retries, [(1, Some(429), code.clone()), (2, Some(429), code)]);
    let steps = read(&mut decoder(1, false), &recorded("disconnect"));
    let cut = |event: &&AgentEvent| matches!(event, AgentEvent::Retry { status: None, .. });
    assert!(events(&steps).iter().any(cut));
}

#[test]
fn tools_end_ok_in_error_or_denied() {
    let outcomes = |name: &str| {
        let steps = read(&mut decoder(1, false), &recorded(name));
        finished(&steps).into_iter().map(|(_, outcome, _)| outcome).collect::<Vec<_>>()
    };
    assert_eq!(outcomes("tool_error"), [Outcome::Error]);
    assert_eq!(outcomes("denied"), [Outcome::Denied]);
    assert_eq!(outcomes("two_tools"), [Outcome::Ok, Outcome::Ok]);
    assert_eq!(outcomes("interrupt"), [Outcome::Error]);
    let steps = read(&mut decoder(1, false), &recorded("think"));
    let thought = AgentEvent::Reasoning { text: "deep thought".into() };
    assert!(events(&steps).contains(&&thought));
}

#[test]
fn oddities_are_notices_and_the_stream_goes_on() {
    let mut decoder = decoder(1, false);
    let odd: [&[u8]; 6] = [
        b"Warning: old node\n",
        b"\n",
        b"\xff\xfe\n",
        b"{\"type\":\"assistant\"}\n",
        b"[]\n",
        b"{\"a\":1}\n",
    ];
    let tame = b"{\"type\":\"brand_new\"}\n{\"type\":\"system\",\"subtype\":\"brand_new\"}\n";
    let steps = read(&mut decoder, &[&odd.concat(), &tame[..], &recorded("hang")].concat());
    assert_eq!(notices(&steps)[0], "Warning: old node");
    assert_eq!(notices(&steps).len(), 5, "{:?}", notices(&steps));
    assert_eq!(results(&steps), ["woke"]);
}

#[test]
fn a_line_beyond_the_bound_is_reported_and_texts_are_cut_to_theirs() {
    let mut decoder = decoder(1, false);
    let long = vec![b'x'; LINE_BYTES / 2 + 1];
    let mut steps = decoder.decode(&long, at(0));
    steps.extend(decoder.decode(&long, at(0)));
    let word = "é".repeat(100_000);
    let said = json!({"type": "assistant", "message": {"id": "m", "content": [
        {"type": "text", "text": word},
        {"type": "tool_use", "id": "t", "name": "Write", "input": {"content": word}},
    ]}});
    let result = json!({"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": word}]},
    ]}});
    steps.extend(decoder.decode(format!("tail\n{said}\n{result}\n").as_bytes(), at(0)));
    assert!(notices(&steps)[0].contains(&(LINE_BYTES + 6).to_string()));
    let told = events(&steps);
    assert_eq!(told.len(), 4);
    for event in &told[1..] {
        match event {
            AgentEvent::Text { text } => assert!(text.len() > 8000 && text.len() <= TEXT_BYTES),
            AgentEvent::ToolStarted { input, .. } => assert!(input.len() <= SUMMARY_BYTES),
            AgentEvent::ToolFinished { summary, .. } => assert!(summary.len() <= SUMMARY_BYTES),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_gap_is_named_and_reading_goes_on_behind_it() {
    let mut decoder = decoder(1, false);
    decoder.decode(b"{\"type\":\"sys", at(0));
    assert_eq!(decoder.offset(), 0);
    assert!(notices(&decoder.gap(5000))[0].contains("5000"));
    assert_eq!(results(&read(&mut decoder, &recorded("hang"))), ["woke"]);
    assert_eq!(decoder.offset(), 5000 + recorded("hang").len() as u64);
}

#[test]
fn unknown_questions_are_answered_so_that_the_agent_does_not_wait_for_ever() {
    let line = json!({"type": "control_request", "request_id": "q",
        "request": {"subtype": "hook_callback", "callback_id": "x"}});
    let steps = decoder(1, false).decode(format!("{line}\n").as_bytes(), at(0));
    let Step::Write(answer) = &steps[0] else { panic!("{steps:?}") };
    let answer: Value = serde_json::from_slice(answer).unwrap();
    assert_eq!(answer["response"]["subtype"], "error");
    assert_eq!(answer["response"]["request_id"], "q");
}

#[test]
fn any_cut_and_any_restart_give_the_same_steps() {
    let bytes = recorded("tool_error");
    let now = at(7);
    let expected = decoder(1, false).decode(&bytes, now);
    for cut in 0..=bytes.len() {
        let mut cut_up = decoder(1, false);
        let before = cut_up.decode(&bytes[..cut], now);
        let stored = serde_json::to_string(&cut_up).unwrap();
        let after = cut_up.decode(&bytes[cut..], now);
        assert!([before.clone(), after].concat() == expected, "cut at {cut}");
        if cut % 61 == 0 {
            let mut restored: Decoder = serde_json::from_str(&stored).unwrap();
            let from = usize::try_from(restored.offset()).unwrap();
            assert!(from <= cut);
            let after = restored.decode(&bytes[from..], now);
            assert!([before, after].concat() == expected, "restart at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_chunks_with_restarts_between_give_the_same_steps(
        name in prop_oneof![Just("two_tools"), Just("interrupt"), Just("background"), Just("auth")],
        cuts in proptest::collection::vec((1usize..4000, any::<bool>()), 1..40),
    ) {
        let bytes = recorded(name);
        let expected = decoder(1, false).decode(&bytes, at(7));
        let (mut decoder, mut steps, mut fed) = (decoder(1, false), Vec::new(), 0);
        for (length, restart) in cuts.into_iter().cycle() {
            if fed == bytes.len() {
                break;
            }
            let end = bytes.len().min(fed + length);
            steps.extend(decoder.decode(&bytes[fed..end], at(7)));
            fed = end;
            if restart {
                let stored = serde_json::to_vec(&decoder).unwrap();
                decoder = serde_json::from_slice(&stored).unwrap();
                let from = usize::try_from(decoder.offset()).unwrap();
                steps.extend(decoder.decode(&bytes[from..fed], at(7)));
            }
        }
        prop_assert!(steps == expected);
    }

    #[test]
    fn no_bytes_make_the_decoder_fail(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = decoder(1, false);
        decoder.decode(&bytes, at(0));
        decoder.finish(&Exit::Code(0));
    }
}

// ---- finding agents ----

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn program(folder: &Path, name: &str, script: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Waits until a process whose id a script wrote to `file` is gone.
async fn gone(file: &Path) -> bool {
    let pid: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    for _ in 0..3_000 {
        if nix::sys::signal::kill(pid, None).is_err() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn f51_an_agent_known_only_to_the_interactive_shell_is_found_by_a_bare_daemon() {
    for file in [".bashrc", ".profile"] {
        let home = tempfile::tempdir().unwrap();
        let tools = home.path().join("tools");
        program(&tools, "claude", "echo 9.9.9");
        let rc = format!(
            "echo hello; case $- in *i*) export PATH={}:$PATH ;; esac; echo \"t=$SECRET\" >&2\n",
            tools.display()
        );
        fs::write(home.path().join(file), rc).unwrap();
        let home_text = home.path().to_str().unwrap();
        let parent = variables(&[("HOME", home_text), ("SHELL", "/bin/bash"), ("SECRET", "s")]);
        let found = discover::search_path(&parent, PATIENCE).await;
        assert!(found.silent.is_none(), "{:?}", found.silent);
        let claude = discover::resolve("claude", &found.path);
        assert_eq!(claude, Some(tools.join("claude")), "{file}: {}", found.path);
    }
}

#[tokio::test]
async fn f51_a_hanging_shell_costs_its_bound_and_leaves_no_process() {
    let home = tempfile::tempdir().unwrap();
    let pid = home.path().join("pid");
    let rc = format!("sleep 600 & echo $! > {}; read -r line < <(sleep 600)\n", pid.display());
    fs::write(home.path().join(".bash_profile"), &rc).unwrap();
    fs::write(home.path().join(".bashrc"), "sleep 600\n").unwrap();
    let home_text = home.path().to_str().unwrap();
    let own = "/usr/bin:/bin";
    let parent = variables(&[("HOME", home_text), ("SHELL", "/bin/bash"), ("PATH", own)]);
    let begun = Instant::now();
    let found = discover::search_path(&parent, PATIENCE).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(matches!(found.silent, Some(Silent::Hangs { .. })), "{:?}", found.silent);
    assert_eq!(found.path, own);
    assert!(gone(&pid).await);
}

#[tokio::test]
async fn f51_what_a_hanging_shell_started_gives_back_the_lock_that_it_holds() {
    let home = tempfile::tempdir().unwrap();
    let lock = home.path().join("lock");
    let holder = format!("trap 'rm -f {0}' EXIT; : > {0}; sleep 600", lock.display());
    fs::write(home.path().join(".bashrc"), format!("bash -c \"{holder}\"\n")).unwrap();
    let home_text = home.path().to_str().unwrap();
    let own = "/usr/bin:/bin";
    let parent = variables(&[("HOME", home_text), ("SHELL", "/bin/bash"), ("PATH", own)]);
    let hangs = discover::search_path(&parent, Duration::from_secs(600));
    let held = async {
        while !lock.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // whoever asked goes, as a daemon does that is stopped
    tokio::select! {
        found = hangs => panic!("{:?}", found.silent),
        () = held => {}
    }
    let begun = Instant::now();
    while lock.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the lock stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn f54_one_hanging_agent_delays_no_other_and_is_named() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    let pid = home.path().join("pid");
    program(&bin, "claude", "echo; printf '2.1.0 (Claude)\\033[0m\\n'; yes | head -c 100000");
    program(&bin, "codex", &format!("sleep 600 & echo $! > {}; wait", pid.display()));
    program(&bin, "gemini", "exit 3");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let begun = Instant::now();
    let found = discover::discover(&path, &Variables::new(), PATIENCE).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    let seen: Vec<_> = found.iter().map(|it| (it.name, it.healthy, it.driven)).collect();
    let expected = [
        (Runtime::Claude, true, true),
        (Runtime::Codex, false, false),
        (Runtime::Gemini, false, false),
        (Runtime::Command, true, true),
    ];
    assert_eq!(seen, expected);
    let [claude, codex, ..] = &found[..] else { panic!("{found:?}") };
    assert_eq!(claude.version.as_deref(), Some("2.1.0 (Claude)[0m"));
    assert!(codex.reason.as_deref().unwrap().contains("10 s"), "{codex:?}");
    assert!(gone(&pid).await);
}

#[tokio::test]
async fn f54_an_agent_that_moved_is_found_at_the_next_launch() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (home.path().join("v1"), home.path().join("v2"));
    let path = format!("{}:{}", old.display(), new.display());
    let first = program(&old, "claude", "echo 1");
    fs::create_dir_all(&new).unwrap();
    fs::create_dir_all(new.join("codex")).unwrap();
    assert_eq!(discover::resolve("claude", &path).as_ref(), Some(&first));
    fs::rename(&first, new.join("claude")).unwrap();
    assert_eq!(discover::resolve("claude", &path), Some(new.join("claude")));
    assert_eq!(discover::resolve("codex", &path), None, "a folder is no program");
    assert_eq!(discover::resolve(first.to_str().unwrap(), &path), None);
    let found: Vec<Found> = discover::discover(&path, &Variables::new(), PATIENCE).await;
    assert_eq!(found[0].version.as_deref(), Some("1"));
}

// ---- the real CLI, against a model on loopback ----

/// The real CLI and the stub model, in a home of their own.
struct Live {
    home: tempfile::TempDir,
    claude: PathBuf,
    port: String,
    _stub: tokio::process::Child,
}

/// `None`, with the reason printed, where the machine lacks what it takes.
async fn live() -> Option<Live> {
    let prefix = std::env::var("HAYWARD_TEST_AGENTS").unwrap_or_default();
    let folders = format!("{prefix}/bin");
    let Some(claude) = discover::resolve("claude", &folders) else {
        eprintln!("SKIP driver against the real claude: none in $HAYWARD_TEST_AGENTS/bin");
        return None;
    };
    let stub = std::env::var_os("HAYWARD_TEST_STUB").map(PathBuf::from).filter(|it| it.is_file());
    let Some(stub) = stub else {
        eprintln!("SKIP driver against the real claude: $HAYWARD_TEST_STUB names no stub model");
        return None;
    };
    let home = tempfile::tempdir().unwrap();
    let port_file = home.path().join("port");
    let stub = tokio::process::Command::new("python3")
        .arg(stub)
        .args(["--port", "0", "--port-file"])
        .arg(&port_file)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut port = String::new();
    for _ in 0..500 {
        port = fs::read_to_string(&port_file).unwrap_or_default().trim().to_owned();
        if !port.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!port.is_empty(), "the stub model did not start");
    Some(Live { home, claude, port, _stub: stub })
}

impl Live {
    fn worktree(&self, name: &str) -> PathBuf {
        let folder = self.home.path().join(name);
        if !folder.exists() {
            let made = std::process::Command::new("git")
                .args(["init", "-q"])
                .arg(&folder)
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .status();
            assert!(made.unwrap().success());
        }
        folder
    }

    fn order(&self, name: &str, session: Session, script: &Value) -> Order {
        let text = format!("Work on {name}. STUB: {script}");
        Order {
            worktree: self.worktree(name),
            command: vec![self.claude.to_str().unwrap().to_owned()],
            prompt: Some(Message { id: Uuid::new_v4(), text }),
            model: None,
            session,
            instructions: Some("Be kind.".into()),
        }
    }

    /// Runs the order to its end. `watch` sees each step and may have things said to the agent.
    async fn run(
        &self,
        order: &Order,
        mut watch: impl FnMut(&mut Decoder, &Step) -> Vec<Step>,
    ) -> (Vec<Step>, Ending) {
        let driver = Runtime::Claude.driver().unwrap();
        let plan = driver.launch(order);
        let home = self.home.path().join("home");
        fs::create_dir_all(&home).unwrap();
        let url = format!("http://127.0.0.1:{}", self.port);
        let parent = variables(&[
            ("HOME", home.to_str().unwrap()),
            ("LANG", "C.UTF-8"),
            ("ANTHROPIC_BASE_URL", &url),
            ("ANTHROPIC_API_KEY", "sk-ant-dummy"),
            ("CLAUDE_CODE_MAX_RETRIES", "1"),
        ]);
        let facts = RunFacts {
            task: TaskId::fresh(),
            run: RunId::fresh(),
            worktree: order.worktree.clone(),
            base_commit: "0".into(),
            search_path: "/usr/local/bin:/usr/bin:/bin".into(),
            home: None,
            ports: None,
            terminal: false,
        };
        let env = environment(&parent, driver, &plan.env, &Variables::new(), &facts);
        let mut child = tokio::process::Command::new(&plan.argv[0])
            .args(&plan.argv[1..])
            .current_dir(&order.worktree)
            .env_clear()
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take();
        let mut stdout = child.stdout.take().unwrap();
        stdin.as_mut().unwrap().write_all(&plan.first_input.unwrap()).await.unwrap();
        let (mut decoder, mut all, mut chunk) = (driver.decoder(order), Vec::new(), [0; 777]);
        let talk = async {
            loop {
                let count = stdout.read(&mut chunk).await.unwrap();
                if count == 0 {
                    break;
                }
                let mut steps = decoder.decode(&chunk[..count], clock::now());
                let said: Vec<Step> =
                    steps.iter().flat_map(|step| watch(&mut decoder, step)).collect();
                steps.extend(said);
                for step in steps {
                    match &step {
                        Step::Write(bytes) => {
                            stdin.as_mut().unwrap().write_all(bytes).await.unwrap();
                        }
                        Step::CloseInput => stdin = None,
                        Step::Event(_) => {}
                    }
                    all.push(step);
                }
            }
            child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(Duration::from_secs(60), talk).await.unwrap();
        let exit = Exit::Code(status.code().unwrap());
        (all, decoder.finish(&exit))
    }
}

fn quiet(_: &mut Decoder, _: &Step) -> Vec<Step> {
    Vec::new()
}

fn starts_tool(step: &Step) -> bool {
    matches!(step, Step::Event(AgentEvent::ToolStarted { .. }))
}

/// A command that takes a while, in a form that the CLI does not decline.
fn slow(seconds: u32) -> Value {
    let command = format!("python3 -c 'import time; time.sleep({seconds})'");
    json!({"tool": "bash", "command": command})
}

#[tokio::test]
async fn live_a_run_edits_commits_and_is_resumed() {
    let Some(live) = live().await else { return };
    let commit = "git add -A && git -c user.name=a -c user.email=a@b commit -qm add";
    let script = json!([
        {"tool": "write_file", "path": "hello.txt", "content": "hi\n"},
        {"tool": "bash", "command": commit},
        {"say": "done"},
    ]);
    let id = Uuid::now_v7();
    let order = live.order("edit", Session::Fresh(id), &script);
    let (steps, ending) = live.run(&order, quiet).await;
    assert_eq!(ending, Ending::Finished, "{steps:?}");
    assert_eq!(fs::read_to_string(order.worktree.join("hello.txt")).unwrap(), "hi\n");
    assert!(order.worktree.join(".git/refs/heads").read_dir().unwrap().next().is_some());
    assert_eq!(tokens(&steps), requests(3));
    let session = |event: &&AgentEvent| matches!(event, AgentEvent::Session { id: told, .. } if *told == id.to_string());
    assert!(events(&steps).iter().any(session));
    assert_eq!(notices(&steps), [""; 0]);

    let again = json!([{"tool": "bash", "command": "echo again"}, {"say": "again"}]);
    let order = live.order("edit", Session::Resume(id.to_string()), &again);
    let (steps, ending) = live.run(&order, quiet).await;
    assert_eq!((ending, tokens(&steps)), (Ending::Finished, requests(2)));

    let order = live.order("edit", Session::Resume(Uuid::new_v4().to_string()), &again);
    let (_, ending) = live.run(&order, quiet).await;
    assert_eq!(reason(&ending), Some(Reason::InvalidRequest));
}

#[tokio::test]
async fn live_the_cli_is_discovered_with_its_version() {
    let Some(live) = live().await else { return };
    let folder = live.claude.parent().unwrap().display();
    let home = variables(&[("HOME", live.home.path().to_str().unwrap())]);
    let path = format!("{folder}:/usr/local/bin:/usr/bin:/bin");
    let found = discover::discover(&path, &home, discover::PROBE_PATIENCE).await;
    let claude = &found[0];
    assert_eq!((claude.name, claude.healthy, claude.driven), (Runtime::Claude, true, true));
    assert!(claude.version.as_deref().unwrap().starts_with(|c: char| c.is_ascii_digit()));
}

#[tokio::test]
async fn live_messages_reach_a_busy_agent_and_one_that_just_ended_its_turn() {
    let Some(live) = live().await else { return };
    let script = json!([slow(8), {"say": "done"}]);
    let order = live.order("busy", Session::Fresh(Uuid::new_v4()), &script);
    let mut id = None;
    let (steps, ending) = live
        .run(&order, |decoder, step| {
            if id.is_some() || !starts_tool(step) {
                return Vec::new();
            }
            let extra = Message { id: Uuid::new_v4(), text: "Also be kind.".into() };
            id = Some(extra.id);
            let twice = decoder.message(&extra).unwrap();
            [twice, decoder.message(&extra).unwrap()].concat()
        })
        .await;
    assert_eq!((ending, tokens(&steps)), (Ending::Finished, requests(2)));
    assert!(finished(&steps)[0].2.unwrap() >= 1500, "{:?}", finished(&steps));

    // Written while the model's last words arrive: too late for this turn.
    let script = json!([{"say": "first"}]);
    let order = live.order("late", Session::Fresh(Uuid::new_v4()), &script);
    let mut said = false;
    let (steps, ending) = live
        .run(&order, |decoder, step| {
            let words = matches!(step, Step::Event(AgentEvent::Text { .. }));
            if said || !words {
                return Vec::new();
            }
            said = true;
            let text = "Second. STUB: [{\"say\": \"second\"}]".to_owned();
            decoder.message(&Message { id: Uuid::new_v4(), text }).unwrap_or_default()
        })
        .await;
    assert_eq!(ending, Ending::Finished);
    assert_eq!(results(&steps).last().map(String::as_str), Some("second"), "{steps:?}");
}

#[tokio::test]
async fn live_an_interrupt_stops_the_turn_and_a_message_goes_on() {
    let Some(live) = live().await else { return };
    let script = json!([slow(50), {"say": "done"}]);
    let order = live.order("stop", Session::Fresh(Uuid::new_v4()), &script);
    let (steps, ending) = live
        .run(&order, |decoder, step| match step {
            Step::Event(AgentEvent::PermissionRequested { .. }) => decoder.interrupt().unwrap(),
            Step::Event(AgentEvent::Interrupted) => {
                let text = "Go on. STUB: [{\"say\": \"went on\"}]".to_owned();
                decoder.message(&Message { id: Uuid::new_v4(), text }).unwrap()
            }
            _ => Vec::new(),
        })
        .await;
    assert_eq!((ending, results(&steps)), (Ending::Finished, vec!["went on".to_owned()]));
}

#[tokio::test]
async fn f58_live_failures_of_the_provider_have_their_reasons() {
    let Some(live) = live().await else { return };
    let table = [
        ("limited", json!(429), Reason::ProviderRateLimited),
        ("overloaded", json!(529), Reason::ProviderOverloaded),
        ("login", json!(401), Reason::ProviderAuth),
        ("cut", json!("truncate"), Reason::ProviderNetwork),
        ("gone", json!("disconnect"), Reason::ProviderNetwork),
    ];
    for (name, error, expected) in table {
        let script = json!([{"error": error, "times": 99}, {"say": "fine"}]);
        let order = live.order(name, Session::Fresh(Uuid::new_v4()), &script);
        let (_, ending) = live.run(&order, quiet).await;
        assert_eq!(reason(&ending), Some(expected), "{name}");
    }
}
