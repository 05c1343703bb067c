//! Searches whose reader is slow, and output that is larger than what is kept of it: nothing is held
//! without a bound, and what is left out is said.

use hayward_tests::home::Home;
use hayward_tests::process::keepers;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::wait::{LONG, until_true};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// A search waits five seconds in all for whoever takes what it finds.
const TOO_LATE: Duration = Duration::from_secs(15);

/// Matches of half a KiB each: more than all sockets on the way hold.
const MATCHES: u64 = 60_000;

const PATH: &str = "/api/v1/search?pattern=needle&limit=100000&budgetMs=8000";

fn shell(home: &Home, repo: &ScratchRepo, script: &str) -> Value {
    let command = ["sh", "-c", script].map(str::to_owned);
    let task = home.submit_command(repo.path(), &["--on", "none"], &command);
    home.reaches(&task, "completed")
}

/// The body of an answer that was not read for too long.
fn late(stream: &mut (impl Read + Write), more: &str) -> String {
    let head = format!("GET {PATH} HTTP/1.0\r\nHost: localhost\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    thread::sleep(TOO_LATE);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    body.to_owned()
}

/// Of lines: how many matches came, in their order, and what the last one says.
fn read_lines(body: &str) -> (u64, Value) {
    let mut lines: Vec<Value> = body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let end = lines.pop().unwrap()["end"].take();
    assert!(lines.iter().zip(1..).all(|(line, number)| line["match"]["line"] == number));
    (lines.len() as u64, end)
}

#[test]
fn f41_a_reader_that_is_too_slow_loses_the_end_and_is_told_so_or_loses_nothing() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let api = home.api(&daemon);
    let script = format!("seq -f \"needle %.0f $(printf '%0500d' 0)\" 1 {MATCHES}");
    shell(&home, &repo, &script);
    let auth = format!("Authorization: Bearer {}\r\n", api.token);
    let lines = "Accept: application/x-ndjson\r\n";
    thread::scope(|scope| {
        let by_relay = scope.spawn(|| {
            let mut stream = TcpStream::connect(&api.host).unwrap();
            late(&mut stream, &format!("{auth}{lines}"))
        });
        let by_daemon = scope.spawn(|| {
            let mut stream = UnixStream::connect(home.state().join("daemon.sock")).unwrap();
            late(&mut stream, lines)
        });
        for body in [by_relay.join().unwrap(), by_daemon.join().unwrap()] {
            let (came, end) = read_lines(&body);
            assert!(came > 0 && came < MATCHES, "{came}: {end}");
            assert_eq!(end["truncated"], true, "{end}");
            // where the machine is slow as well, the time is over before the patience
            let reason = &end["unsearched"][0]["reason"];
            let is_late = reason == "what was found of it was not taken in time";
            assert!(is_late || end["unsearched"][0]["to"].is_u64(), "{end}");
        }
    });
    // one answer waits at the relay
    let mut stream = TcpStream::connect(&api.host).unwrap();
    let whole: Value = serde_json::from_str(&late(&mut stream, &auth)).unwrap();
    let rows = whole["matches"].as_array().unwrap().len() as u64;
    assert!(is_told(rows, &whole), "{rows}: {}", whole["unsearched"]);
    // the command line reads on by itself
    let mut command = home.command(&["search", "needle", "--limit", "100000", "--within", "8"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    thread::sleep(TOO_LATE);
    let told = child.wait_with_output().unwrap();
    let (text, notes) =
        (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{notes}");
    let rows = text.matches("needle").count() as u64;
    let all = rows == MATCHES && !notes.contains("not searched");
    let late = rows < MATCHES && notes.contains("was not searched: the time was over");
    assert!((all || late) && notes.contains(&format!("{rows} ")), "{rows}: {notes}");
}

/// Whether nothing is missing for want of a reader: all is there, or the time of the search was over.
fn is_told(rows: u64, end: &Value) -> bool {
    let left = end["unsearched"].as_array().unwrap();
    match rows == MATCHES {
        true => end["truncated"] == false && left.is_empty(),
        false => end["truncated"] == true && left.iter().all(|left| left["to"].is_u64()),
    }
}

#[test]
fn f12_a_line_of_100_mb_is_bounded_on_disk_and_in_memory_and_what_follows_is_found() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let gate = home.file("go");
    let script = format!(
        "stty raw; head -c 100000000 /dev/zero | tr '\\0' x; printf '\\nneedle behind it\\n'; \
         until [ -e '{}' ]; do sleep 0.05; done",
        gate.display()
    );
    let command = ["sh", "-c", &script].map(str::to_owned);
    let task = home.submit_command(repo.path(), &["--on", "none"], &command);
    let mut found = Value::Null;
    until_true("what follows the line", LONG * 3, || {
        let words = ["search", "^needle", "--newest", "--limit", "1", "--within", "8", "-C", "1"];
        found = home.json(&words);
        found["matches"].as_array().is_some_and(|rows| !rows.is_empty())
    });
    let row = &found["matches"][0];
    assert_eq!((&row["line"], &row["offset"]), (&json!(2), &json!(100_000_001)));
    // of the line before it the end is kept, and no more than an answer holds
    assert_eq!(row["cut"], true);
    let line = home.json(&["search", "xxx", "--newest", "--limit", "1", "--within", "8"]);
    assert_eq!(
        (&line["matches"][0]["line"], &line["matches"][0]["cut"]),
        (&json!(1), &json!(true))
    );
    let keeper = keepers(&home.state())[0];
    let (held, kept) = (daemon.process.resident_kib().unwrap(), keeper.resident_kib().unwrap());
    assert!(held < 512 << 10 && kept < 64 << 10, "daemon {held} KiB, keeper {kept} KiB");
    home.open_gate("go");
    home.reaches(&task, "completed");
}
