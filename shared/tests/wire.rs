//! Every message of the wire against its frozen golden file: exact text, round trip, and what
//! becomes of it when it is damaged.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod dialogues;

use hayward_shared::protocol::{
    DecodeError, FROM_DAEMON_TYPES, FromDaemon, MAX_TEXT, TO_DAEMON_TYPES, Tagged, ToDaemon,
    decode, encode,
};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Decodes as one family and encodes again.
type Pass = fn(&str) -> Result<String, DecodeError>;

fn from_daemon(text: &str) -> Result<String, DecodeError> {
    decode::<FromDaemon>(text, MAX_TEXT).map(|message| encode(&message).unwrap())
}

fn to_daemon(text: &str) -> Result<String, DecodeError> {
    decode::<ToDaemon>(text, MAX_TEXT).map(|message| encode(&message).unwrap())
}

const FAMILIES: [(&str, &[&str], Pass); 2] =
    [("from_daemon", FROM_DAEMON_TYPES, from_daemon), ("to_daemon", TO_DAEMON_TYPES, to_daemon)];

fn golden(family: &str, kind: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(family)
        .join(format!("{kind}.json"));
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim_end()
        .to_owned()
}

fn each(mut check: impl FnMut(&str, &str, Pass)) {
    for (family, kinds, pass) in FAMILIES {
        for kind in kinds {
            check(kind, &golden(family, kind), pass);
        }
    }
}

#[test]
fn every_message_is_written_as_its_golden_file_says() {
    each(|kind, text, pass| assert_eq!(pass(text).unwrap(), text, "{kind}"));
}

#[test]
fn every_golden_file_belongs_to_a_message() {
    for (family, kinds, _) in FAMILIES {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family);
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, kinds.len(), "{family}");
    }
}

#[test]
fn unknown_fields_are_passed_over() {
    each(|kind, text, pass| {
        let more = text.replacen('{', r#"{"ofTomorrow":{"a":[1]},"#, 1);
        assert_eq!(pass(&more).unwrap(), text, "{kind}");
    });
}

#[test]
fn what_a_command_goes_back_to_is_kept_and_where_it_cannot_be_read_passed_over() {
    let command = |more: Value| {
        let mut fields: Value = serde_json::from_str(&golden("to_daemon", "pauseTask")).unwrap();
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_str::<Value>(&to_daemon(&fields.to_string()).unwrap()).unwrap()
    };
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let good = command(json!({ "origin": "build-7", "traceparent": parent }));
    assert_eq!((&good["origin"], &good["traceparent"]), (&"build-7".into(), &parent.into()));
    let plain = command(json!({}));
    for bad in [json!("two words"), json!(7), json!(null), json!({}), json!("a".repeat(65))] {
        assert_eq!(command(json!({ "origin": bad, "traceparent": bad })), plain);
    }
}

#[test]
fn an_absent_optional_field_is_the_same_as_null() {
    each(|kind, text, pass| {
        let mut fields: Map<String, Value> = serde_json::from_str(text).unwrap();
        fields.retain(|_, value| !value.is_null());
        let without = serde_json::to_string(&fields).unwrap();
        assert_eq!(pass(&without).unwrap(), text, "{kind}");
    });
}

/// What a message can do without.
fn is_optional(kind: &str, field: &str) -> bool {
    let tags = ["requestId", "seq", "leaseEpoch"];
    let own: &[&str] = match kind {
        "authenticate" => {
            &["protocolVersion", "version", "capabilities", "runtimes", "labels", "resume"]
        }
        "authenticated" => &["protocolVersion", "version", "capabilities", "ackedSeq"],
        "spawnTask" => &["taskName", "run", "repoUrl", "baseBranch", "completionAction"],
        "mergeStatusResponse" => &["sourceBranch"],
        "mergeResult" => &["conflicts", "error"],
        "completionActionResult" => &["prUrl", "error"],
        "cloneWorktreeResult" => &["targetDir", "error"],
        "checkTargetExistsResult" => &["error"],
        "previewMerge" => &["taskId", "repository", "source", "target"],
        "taskStatusChange" => &["at", "details"],
        "taskEvent" => &["channel"],
        "search" => &["literal", "ignoreCase", "newestFirst", "taskIds", "after", "stream"],
        "searchFound" => &["reached"],
        "readOverlap" | "listWorktrees" => &["taskId"],
        "pruneWorktrees" => &["force"],
        "queueAdd" => &["target", "timeoutSeconds"],
        "heartbeat" => &["beat", "vitals"],
        "heartbeatAck" => &["spreadMs"],
        "reply" | "error" => &["error", "taskId"],
        _ => &[],
    };
    tags.contains(&field) || own.contains(&field)
}

#[test]
fn a_missing_or_mistyped_field_is_malformed_and_named_by_its_message() {
    each(|kind, text, pass| {
        let fields: Map<String, Value> = serde_json::from_str(text).unwrap();
        for (field, value) in &fields {
            if field == "type" {
                continue;
            }
            let mut without = fields.clone();
            without.remove(field);
            let taken = pass(&serde_json::to_string(&without).unwrap());
            if value.is_null() || is_optional(kind, field) {
                assert!(taken.is_ok(), "{kind} without {field}");
            } else {
                let named =
                    matches!(&taken, Err(DecodeError::Malformed { kind: k, .. }) if k == kind);
                assert!(named, "{kind} without {field}: {taken:?}");
            }
            if field != "payload" {
                let mut wrong = fields.clone();
                wrong.insert(field.clone(), Value::Array(vec![Value::Bool(true)]));
                let taken = pass(&serde_json::to_string(&wrong).unwrap());
                assert!(matches!(taken, Err(DecodeError::Malformed { .. })), "{kind}.{field}");
            }
        }
    });
}

#[test]
fn a_beat_tells_how_its_machine_stands_and_a_plain_peers_does_not() {
    let plain = golden("from_daemon", "heartbeat");
    let told =
        r#""beat":3,"vitals":{"loadPercent":140,"freeBytes":7,"floorBytes":8,"warm":["/r"]}}"#;
    let text = plain.replacen("]}", &format!("],{told}"), 1);
    assert_eq!(from_daemon(&text).unwrap(), text);
    let FromDaemon::Heartbeat { vitals: Some(vitals), .. } =
        decode::<FromDaemon>(&text, MAX_TEXT).unwrap().body
    else {
        panic!()
    };
    assert!(vitals.is_short());
    assert!(from_daemon(&text.replace(r#""freeBytes":7"#, r#""freeBytes":-1"#)).is_err());
    let FromDaemon::Heartbeat { vitals, .. } = decode::<FromDaemon>(&plain, MAX_TEXT).unwrap().body
    else {
        panic!()
    };
    assert_eq!(vitals, None);
}

#[test]
fn cut_and_foreign_text_is_refused_and_never_panics() {
    each(|kind, text, pass| {
        for end in 0..text.len() {
            if text.is_char_boundary(end) {
                assert!(pass(&text[..end]).is_err(), "{kind} cut at {end}");
            }
        }
    });
    for text in ["", "null", "[]", "1", "{}", r#"{"type":5}"#, "\u{0}"] {
        assert!(matches!(from_daemon(text), Err(DecodeError::Malformed { .. })), "{text:?}");
    }
    let unknown = to_daemon(r#"{"type":"teleport"}"#).unwrap_err();
    assert_eq!(unknown.fault().code.name(), "unknown_type");
    let long = format!(r#"{{"type":"sendMessage","message":"{}"}}"#, "x".repeat(MAX_TEXT));
    assert_eq!(to_daemon(&long).unwrap_err().fault().code.name(), "too_large");
}

#[test]
fn numbers_out_of_range_and_unknown_words_are_refused() {
    let hello = golden("from_daemon", "authenticate");
    for bad in [r#""maxConcurrentTasks":-1"#, r#""maxConcurrentTasks":5000000000"#] {
        let text = hello.replace(r#""maxConcurrentTasks":4"#, bad);
        assert!(from_daemon(&text).is_err(), "{bad}");
    }
    let spawn = golden("to_daemon", "spawnTask").replace(r#""depth":0"#, r#""depth":-1"#);
    assert!(to_daemon(&spawn).is_err());
    let change = golden("from_daemon", "taskStatusChange").replace("completed", "finished");
    assert!(from_daemon(&change).is_err());
}

#[test]
fn f30_a_nul_byte_survives_the_wire() {
    let text = golden("to_daemon", "sendMessage").replace("go on", "a\\u0000b\\ufffd");
    assert_eq!(to_daemon(&text).unwrap(), text.replace("\\ufffd", "\u{fffd}"));
}

#[test]
fn what_a_plain_peer_sends_is_understood() {
    let id = "01939d3a-7c00-7000-8000-0000000000a1";
    let nameless = format!(
        r#"{{"type":"spawnTask","taskId":"{id}","plan":"Build it","repoUrl":null,"baseBranch":null,
        "parentTaskId":null,"depth":0,"isOrchestrator":false}}"#
    );
    let Tagged { body, .. } = decode::<ToDaemon>(&nameless, MAX_TEXT).unwrap();
    let ToDaemon::SpawnTask(spawn) = body else { panic!() };
    assert_eq!(spawn.task_name, "000000a1");
    let named = nameless.replace(r#""plan""#, r#""taskName":"Build","plan""#);
    let Tagged { body, .. } = decode::<ToDaemon>(&named, MAX_TEXT).unwrap();
    let ToDaemon::SpawnTask(spawn) = body else { panic!() };
    assert_eq!(spawn.task_name, "Build");

    let done = format!(
        r#"{{"type":"taskStatusChange","taskId":"{id}","oldStatus":"running","newStatus":"done"}}"#
    );
    assert!(from_daemon(&done).unwrap().contains(r#""newStatus":"completed""#));
    let hello = r#"{"type":"authenticate","apiKey":"k","machineId":"01939d3a-7c00-7000-8000-0000000000e1",
        "hostname":"h","maxConcurrentTasks":2}"#;
    assert!(from_daemon(hello).is_ok());
}

#[test]
fn f36_every_word_of_the_last_version_is_read_and_said_again() {
    let mut cast = dialogues::Cast::default();
    cast.set("<token>", "hwd_0");
    for line in dialogues::last() {
        let (family, pass): (_, Pass) = match line.who.as_str() {
            "daemon" => ("fromDaemon", from_daemon),
            "relay" => ("toDaemon", to_daemon),
            _ => continue,
        };
        assert!(dialogues::was_known(family, line.says["type"].as_str().unwrap()));
        let said = cast.speak(&line.says);
        let again = pass(&said.to_string()).unwrap_or_else(|e| panic!("line {}: {e}", line.number));
        let again = serde_json::from_str(&again).unwrap();
        assert!(cast.hears(&line.says, &again), "line {}: {said}\n{again}", line.number);
    }
    assert_ne!(cast.is("<task-1>"), cast.is("<task-2>"));
    for (family, now) in [("fromDaemon", FROM_DAEMON_TYPES), ("toDaemon", TO_DAEMON_TYPES)] {
        let gone: Vec<_> = dialogues::known(family);
        let gone: Vec<_> = gone.iter().filter(|kind| !now.contains(&kind.as_str())).collect();
        assert_eq!(gone, Vec::<&String>::new(), "messages that the last version may send");
    }
}
