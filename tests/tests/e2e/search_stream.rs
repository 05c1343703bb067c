//! A search that streams tells what it finds as it finds it, in the order of the whole answer; and
//! ends at once when nobody waits for it any more, wherever it runs.

use hayward_tests::home::{Home, id};
use hayward_tests::http::Api;
use hayward_tests::process::Process;
use hayward_tests::relay::{Linked, Relay};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::wait::{LONG, until_true};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A pattern that nothing shortens, of lines that are the same nowhere.
const SLOW: &str = "needle|[a-zA-Z].{60}[^a-zA-Z0-9%2B/=]";

/// The longest budget there is.
const LONGEST: &str = "budgetMs=8000";

/// A search that was called off has made room by then: before the longest budget is over.
const SOON: Duration = Duration::from_secs(6);

fn shell(home: &Home, repo: &ScratchRepo, script: &str) -> Value {
    let command = ["sh", "-c", script].map(str::to_owned);
    let task = home.submit_command(repo.path(), &["--on", "none"], &command);
    home.reaches(&task, "completed")
}

/// Ten lines that match, and then very many that do not.
fn large(home: &Home, repo: &ScratchRepo) -> Value {
    let script = "seq -f 'needle %.0f' 1 10; head -c 40000000 /dev/urandom | base64 -w 76";
    shell(home, repo, script)
}

/// An answer that is read as it comes, chunk by chunk. Dropping it drops the connection.
struct Coming(BufReader<Box<dyn Read>>);

impl Coming {
    /// Asks the relay for lines.
    fn ask(api: &Api, path: &str) -> Self {
        let mut stream = TcpStream::connect(&api.host).unwrap();
        let (host, token) = (&api.host, &api.token);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             Accept: application/x-ndjson\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Self(BufReader::new(Box::new(stream)))
    }

    /// Asks this machine's daemon for lines.
    fn ask_daemon(home: &Home, path: &str) -> Self {
        let mut stream = UnixStream::connect(home.state().join("daemon.sock")).unwrap();
        let head = "HTTP/1.1\r\nHost: daemon\r\nAccept: application/x-ndjson\r\n\r\n";
        stream.write_all(format!("GET {path} {head}").as_bytes()).unwrap();
        Self(BufReader::new(Box::new(stream)))
    }

    /// Reads the head; its status.
    fn status(&mut self) -> u16 {
        let mut status = String::new();
        self.0.read_line(&mut status).unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the head is cut off");
        }
        status.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The next chunk; none at the end.
    fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.0.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut text = vec![0; size + 2];
        self.0.read_exact(&mut text).unwrap();
        text.truncate(size);
        Some(String::from_utf8(text).unwrap()).filter(|text| !text.is_empty())
    }

    /// All lines, which must be whole answers: matches, then the end.
    fn all(mut self) -> (Vec<Value>, Value) {
        assert_eq!(self.status(), 200);
        let mut text = String::new();
        while let Some(chunk) = self.chunk() {
            text += &chunk;
        }
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines: Vec<Value> = lines.collect();
        let end = lines.pop().unwrap()["end"].take();
        (lines.iter_mut().map(|line| line["match"].take()).collect(), end)
    }
}

/// Whether the daemon has a place for one more search: by its own word, for it knows at once. That
/// it did not come far in that time is another matter.
fn has_room(home: &Home) -> bool {
    let query = "/api/v1/search?pattern=b&limit=1&budgetMs=100";
    Coming::ask_daemon(home, query).status() != 503
}

fn fill_up(home: &Home) {
    until_true("two searches", LONG, || !has_room(home));
}

fn makes_room(home: &Home, what: &str) {
    let left = Instant::now();
    until_true(what, LONG, || has_room(home));
    assert!(left.elapsed() < SOON, "{what}: {:?}", left.elapsed());
}

fn search_of(pattern: &str) -> String {
    format!("/api/v1/search?pattern={pattern}&{LONGEST}")
}

#[test]
fn f41_searches_through_the_relay_end_with_those_who_asked() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let api = home.api(&daemon);
    large(&home, &repo);
    // one is answered by lines, the other at its end
    let lines = Coming::ask(&api, &search_of(SLOW));
    let whole = TcpStream::connect(&api.host).unwrap();
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        search_of(SLOW),
        api.host,
        api.token
    );
    (&whole).write_all(head.as_bytes()).unwrap();
    fill_up(&home);
    drop((lines, whole));
    makes_room(&home, "room once both have gone");

    let two = [(); 2].map(|()| searching(&home, SLOW));
    fill_up(&home);
    for mut child in two {
        let pid = i32::try_from(child.id()).unwrap();
        Process::of(pid).unwrap().signal(Signal::SIGINT);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
    makes_room(&home, "room once both commands were interrupted");
}

/// `hayward search` for people, at work on what takes very long.
fn searching(home: &Home, pattern: &str) -> Child {
    let pattern = pattern.replace("%2B", "+");
    let mut command = home.command(&["search", "--within", "8", &pattern]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn f41_matches_are_printed_as_they_come_and_a_closed_pipe_ends_the_search() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    large(&home, &repo);
    let two = [(); 2].map(|()| searching(&home, SLOW));
    fill_up(&home);
    let mut closed = Vec::new();
    for mut child in two {
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        for _ in 0..3 {
            out.read_line(&mut lines).unwrap();
        }
        assert!(lines.contains("      1: needle 1\n      2: needle 2\n"), "{lines}");
        closed.push(child);
    }
    makes_room(&home, "room once nobody reads");
    for mut child in closed {
        let status = child.wait().unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!((status.code(), told.as_str()), (Some(1), ""));
    }
}

#[test]
fn f41_the_first_lines_come_long_before_the_end() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let api = home.api(&daemon);
    large(&home, &repo);
    let asks: [&dyn Fn(&str) -> Coming; 2] =
        [&|path| Coming::ask(&api, path), &|path| Coming::ask_daemon(&home, path)];
    for ask in asks {
        let mut took = Vec::new();
        let is_early = |(first, whole): &(Duration, Duration)| *first < *whole / 2;
        while took.len() < 3 && !took.iter().any(is_early) {
            took.push(times(|| ask(&search_of(SLOW))));
        }
        assert!(took.iter().any(is_early), "{took:?}");
    }
}

/// When the first lines came, and when all had.
fn times(ask: impl FnOnce() -> Coming) -> (Duration, Duration) {
    let asked = Instant::now();
    let mut answer = ask();
    assert_eq!(answer.status(), 200);
    let mut text = answer.chunk().unwrap();
    let first = asked.elapsed();
    assert!(text.starts_with(r#"{"match":{"taskId":"#) && text.ends_with('\n'), "{text}");
    while let Some(more) = answer.chunk() {
        text += &more;
    }
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["end"]["total"], text.lines().count()), (&json!(10), 11), "{last}");
    (first, asked.elapsed())
}

#[test]
fn f41_a_lost_link_ends_the_searches_that_came_over_it() {
    let mut relay = Relay::start();
    let machine = Linked::start(&relay, &relay.url(), "");
    let repo = ScratchRepo::new();
    large(&machine.home, &repo);
    let api = relay.api();
    let two = [(); 2].map(|()| Coming::ask(&api, &search_of(SLOW)));
    fill_up(&machine.home);
    relay.crash();
    makes_room(&machine.home, "room once the link is lost");
    drop(two);
}

#[test]
fn f41_what_comes_by_lines_is_what_comes_at_once() {
    let relay = Relay::start();
    let api = relay.api();
    let machines = [(); 2].map(|()| Linked::start(&relay, &relay.url(), ""));
    let repo = ScratchRepo::new();
    for round in 0..6 {
        let machine = &machines[round % 2];
        let lines = [40, 4000, 1][round % 3];
        let script = format!("seq -f 'needle %.0f of {round}' 1 {lines}; seq 1 3000");
        let order = json!({
            "plan": "say it", "agent": "command", "command": ["sh", "-c", script],
            "repositoryUrl": repo.path(), "completionAction": "none",
            "wantedDaemonId": machine.announced(),
        });
        let posted = api.post("/api/v1/tasks", &order);
        assert_eq!(posted.status, 201, "{}", posted.body);
        let task = posted.json();
        until_true("the task to end", LONG, || {
            api.get(&format!("/api/v1/tasks/{}", id(&task))).json()["status"] == "completed"
        });
    }
    for order in ["oldest", "newest"] {
        for more in ["limit=100000&context=1", "limit=7", "limit=4100", "limit=500&daemon=DAEMON"] {
            let more = more.replace("DAEMON", &machines[0].announced());
            let path = format!("/api/v1/search?pattern=needle&order={order}&{LONGEST}&{more}");
            let mut whole = api.get(&path).json();
            let (rows, mut end) = Coming::ask(&api, &path).all();
            for answer in [&mut whole, &mut end] {
                answer["searched"]["ms"] = Value::Null;
            }
            let matches = whole.as_object_mut().unwrap().remove("matches").unwrap();
            assert_eq!(matches.as_array().unwrap().len(), rows.len(), "{path}");
            assert_eq!((Value::from(rows), end), (matches, whole), "{path}");
        }
    }
    let bad = Coming::ask(&api, "/api/v1/search?pattern=ab%28c").status();
    assert_eq!(bad, 400);
    let bad = Coming::ask(&api, "/api/v1/search?pattern=x&daemon=ffffffff").status();
    assert_eq!(bad, 404);
}

#[test]
fn this_machine_streams_the_same_while_the_relay_is_away() {
    let mut relay = Relay::start();
    let machine = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&machine.home, ScratchRepo::new());
    let task = shell(home, &repo, "seq -f 'needle %.0f' 1 2000");
    relay.crash();
    let told = home.run(&["search", "needle", "--limit", "1000", "--within", "8"]).expect(0);
    assert_eq!(told.text().lines().count(), 1001);
    assert!(told.stderr.contains("only this machine is searched"), "{}", told.stderr);
    assert!(told.stderr.contains("1000 of 2000 matches in 1 run"), "{}", told.stderr);
    let path = format!("/api/v1/search?pattern=needle&limit=1500&{LONGEST}&task={}", id(&task));
    let (rows, end) = Coming::ask_daemon(home, &path).all();
    let lines: Vec<u64> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert!(lines.into_iter().eq(1..=1500));
    assert_eq!((&end["total"], &end["truncated"]), (&json!(2000), &json!(true)));
    let bad = Coming::ask_daemon(home, "/api/v1/search?pattern=ab%28c").status();
    assert_eq!(bad, 400);
}
