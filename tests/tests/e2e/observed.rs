//! What relay and daemon say of their work: lines of the log, and traces.

use hayward_tests::collector::{Collector, Span};
use hayward_tests::home::{Home, id};
use hayward_tests::http::Api;
use hayward_tests::relay::{Linked, Relay};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::skip;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::Value;

const PRINTED: &str = "words that only the agent says";
const PROMPT: &str = "what only the agent is asked";

/// The lines of a log, each of which must be one object.
#[track_caller]
fn lines(log: &str) -> Vec<Value> {
    let read = |line: &str| {
        let read: Value = serde_json::from_str(line).unwrap_or_default();
        assert!(
            read["message"].is_string() && read["time"].is_string(),
            "no line of a log: {line}"
        );
        read
    };
    log.lines().map(read).collect()
}

/// Whether a line has these texts.
fn has(line: &Value, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(name, value)| line[name] == *value)
}

fn pause(api: &Api, task: &Value, more: &[(&str, &str)]) -> String {
    let reply = api.send("POST", &format!("/api/v1/tasks/{}/pause", id(task)), Some("{}"), more);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.header("x-request-id").to_owned()
}

#[test]
fn each_line_of_a_tasks_life_bears_its_ids_on_both_sides() {
    let mut relay = Relay::start();
    let filter = "hayward_relay=debug,hayward_daemon=debug";
    let logs = [("HAYWARD_LOG_FORMAT", "json"), ("HAYWARD_LOG", filter)];
    logs.iter().for_each(|(name, value)| relay.set(name, value));
    relay.crash();
    relay.come_back();
    let mut linked = Linked::start(&relay, &relay.url(), "");
    logs.iter().for_each(|(name, value)| linked.home.set(name, value));
    linked.stop();
    linked.come_back();
    until_true("the daemon is back", LONG, || linked.online());

    let (home, repo) = (&linked.home, ScratchRepo::new());
    let script = Script::new().print(PRINTED).wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none", "--name", PROMPT], &script);
    let running = home.reaches(&task, "running");
    let api = relay.api();
    assert_eq!(pause(&api, &task, &[("X-Request-Id", "build_7.retry-2")]), "build_7.retry-2");
    // a name that could not stand in a log is not taken
    let path = format!("/api/v1/tasks/{}", id(&task));
    let fresh = api.send("GET", &path, None, &[("X-Request-Id", "two words")]);
    assert_eq!(fresh.header("x-request-id").len(), 36, "{}", fresh.head);
    home.run(&["task", "resume", id(&task)]).expect(0);
    home.open_gate("gate");
    home.reaches(&task, "completed");

    let (daemon, run) = (linked.announced(), running["runId"].as_str().unwrap().to_owned());
    let ids = [("task", id(&task)), ("run", run.as_str()), ("daemon", daemon.as_str())];
    let daemon_log = || lines(&home.read("daemon.err"));
    let is_over = |line: &Value| has(line, &ids) && line["message"] == "its run is over";
    until_true("the daemon says that its run is over", LONG, || daemon_log().iter().any(is_over));
    let (there, here) = (lines(&relay.log()), daemon_log());
    let named = [("request", "build_7.retry-2"), ids[0], ids[2]];
    let asked = [&named[..], &[("route", "/api/v1/tasks/{id}/pause"), ids[1]]].concat();
    assert!(there.iter().any(|line| has(line, &asked)), "the request: {there:#?}");
    let commanded = [&named[..], &[("command", "pauseTask")]].concat();
    assert!(here.iter().any(|line| has(line, &commanded)), "its command: {here:#?}");
    for message in ["handed out", "its run reports"] {
        let said = [&ids[..], &[("message", message)]].concat();
        assert!(there.iter().any(|line| has(line, &said)), "{message}: {there:#?}");
    }
    for line in here.iter().filter(|line| has(line, &ids[1..2])) {
        assert!(has(line, &ids), "a line of the run without its ids: {line}");
    }
    let secrets = [PRINTED, PROMPT, "hwd_", "hwu_", "hwt_"];
    for log in [relay.log(), home.read("daemon.err")] {
        for secret in secrets {
            assert!(!log.contains(secret), "the log holds '{secret}': {log}");
        }
    }
}

#[test]
fn a_build_without_traces_that_is_asked_for_them_says_so_once() {
    if std::env::var_os("HAYWARD_BIN").is_none() {
        return skip("without traces", "HAYWARD_BIN names no build that is shipped");
    }
    let mut relay = Relay::start();
    relay.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    relay.crash();
    relay.come_back();
    let told = relay.log().matches("built without the feature otel").count();
    assert_eq!(told, 1, "{}", relay.log());
    relay.set("OTEL_SDK_DISABLED", "true");
    relay.crash();
    relay.come_back();
    assert!(!relay.log().contains("otel"), "{}", relay.log());
}

/// A home of a build that sends traces to this collector.
fn traced(test: &str, collector: &Collector) -> Option<Home> {
    // the build for tests has both; no point has this name
    let mut home = Home::armed(test, "nowhere")?;
    home.set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url());
    home.set("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=letmein");
    Some(home)
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[test]
fn a_request_and_what_the_daemon_does_for_it_are_one_trace() {
    let collector = Collector::start();
    let Some(home) = traced("traces", &collector) else { return };
    let (up, repo) = (home.up(), ScratchRepo::new());
    let script = Script::new().print(PRINTED).wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    let run = home.reaches(&task, "running")["runId"].as_str().unwrap().to_owned();
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let more = [("traceparent", parent.as_str()), ("x-request-id", "build-7")];
    pause(&home.api(&up), &task, &more);
    let named = |name: &str, key: &str, value: &str| -> Span {
        until(&format!("a span {name} of {key} {value}"), LONG, || {
            let of = |span: &Span| span.attributes.get(key).is_some_and(|found| found == value);
            collector.spans().into_iter().find(|span| span.name == name && of(span))
        })
    };
    let request = named("request", "request", "build-7");
    assert_eq!((request.trace.as_str(), request.parent.as_str()), (TRACE, CALLER));
    let command = named("command", "request", "build-7");
    assert_eq!((&command.trace, &command.parent), (&request.trace, &request.id));
    assert_eq!(command.attributes["command"], "pauseTask");
    for span in [&request, &command] {
        assert_eq!(
            (&*span.attributes["task"], &*span.resource["service.name"]),
            (id(&task), "hayward")
        );
        assert!(span.attributes.contains_key("daemon"), "{span:#?}");
    }

    home.run(&["task", "resume", id(&task)]).expect(0);
    home.open_gate("gate");
    home.reaches(&task, "completed");
    let (assigned, ran) = (named("assign", "run", &run), named("run", "run", &run));
    assert_eq!((&ran.trace, &ran.parent), (&assigned.trace, &assigned.id));
    assert_eq!(ran.attributes["task"], id(&task));
    let all = collector.spans();
    assert!(!all.iter().any(|span| ["link", "client"].contains(&&*span.name)), "{all:#?}");
    assert!(!format!("{all:?}").contains(PRINTED));
    let head = collector.heads().remove(0);
    assert!(head.starts_with("POST /v1/traces ") && head.contains("letmein"), "{head}");
}

#[test]
fn a_collector_that_never_answers_holds_nothing_up() {
    let collector = Collector::silent();
    let Some(home) = traced("a silent collector", &collector) else { return };
    let (up, repo) = (home.up(), ScratchRepo::new());
    let task = home.submit(repo.path(), &["--on", "none"], &Script::new().print(PRINTED));
    home.reaches(&task, "completed");
    until_true("something was sent", LONG, || !collector.heads().is_empty());
    home.run(&["down"]).expect(0);
    until_true("the daemon has ended", LONG, || !up.process.alive());
    assert!(home.log().contains("the collector"), "{}", home.log());
}
