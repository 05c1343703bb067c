//! What agents printed is found: as `rg` finds it in the same text without escapes, across
//! machines, within its time, whatever the pattern.

use hayward_tests::home::{Home, id};
use hayward_tests::http::Api;
use hayward_tests::relay::{Linked, Relay};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::skip;
use hayward_tests::wait::{LONG, at_best, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Logs of the differential test; `HAYWARD_SEARCH_LOGS` changes it.
const LOGS: usize = 12;

/// Prints a file in chunks of random sizes, as agents do.
const PRINTER: &str = "import os,random,sys\n\
    data=open(sys.argv[1],'rb').read(); random.seed(sys.argv[2]); at=0\n\
    while at<len(data):\n n=random.choice([1,2,3,7,64,1000,5000,40000]); \
    n=os.write(1,data[at:at+n]); at+=n\n";

/// A pattern, and how it is read.
type Pattern = (&'static str, &'static [&'static str]);

const PATTERNS: [Pattern; 50] = [
    ("error", &[]),
    ("ERROR", &["-i"]),
    ("warning|error", &[]),
    ("^error", &[]),
    ("error$", &[]),
    ("^$", &[]),
    ("^.$", &[]),
    (".", &[]),
    (r"\d+", &[]),
    (r"\d{4,}", &[]),
    (r"line \d+ of \d+", &[]),
    (r"\bcat\b", &[]),
    (r"\bCAT\b", &["-i"]),
    ("猫", &[]),
    ("猫|犬", &[]),
    ("🐁", &[]),
    (r"\p{Han}+", &[]),
    (r"\p{Emoji_Presentation}", &[]),
    (r"[^\x00-\x7f]", &[]),
    (r"^\s+\S", &[]),
    (r"\s$", &[]),
    (r"\t", &[]),
    ("a.c", &["-F"]),
    ("a.c", &[]),
    ("(a+)+$", &[]),
    ("(x+x+)+y", &[]),
    ("100%", &[]),
    (" 3%", &[]),
    ("^ 99%", &[]),
    ("done", &[]),
    ("(?i)DONE", &[]),
    ("[a-f0-9]{8}", &[]),
    (r"\[\w+\]", &[]),
    ("[", &["-F"]),
    (r"src/\w+\.rs:\d+", &[]),
    (r"\.rs:", &[]),
    ("é", &[]),
    ("É", &["-i"]),
    ("x{50}", &[]),
    ("needle", &[]),
    ("no such thing at all", &[]),
    (r"^(?:\S+ ){3}\S+$", &[]),
    ("a|b|c", &[]),
    ("foo.*bar", &[]),
    ("bar.*foo", &[]),
    (r"\W$", &[]),
    ("^[A-Z]", &[]),
    ("ß", &["-i"]),
    ("-", &[]),
    ("--", &["-F"]),
];

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

/// What an agent prints, and the text that remains of it, made side by side: nothing of what is
/// tested decides what is expected.
#[derive(Default)]
struct Log {
    raw: Vec<u8>,
    text: String,
}

impl Log {
    fn build(seed: u64) -> Self {
        let (mut log, mut dice) = (Self::default(), Dice(seed));
        for number in 0..150 + dice.roll(250) {
            match dice.roll(12) {
                0 => log.progress(&mut dice),
                1 => log.line("", &mut dice),
                2 if dice.roll(6) == 0 => {
                    let long = ["x", "foo ", "猫 ", "0123456789abcdef"][number as usize % 4];
                    let times = usize::try_from(dice.roll(20_000)).unwrap();
                    log.line(&format!("{} needle", long.repeat(times / long.len())), &mut dice);
                }
                _ => {
                    let line = words(&mut dice, number);
                    log.line(&line, &mut dice);
                }
            }
        }
        if dice.roll(2) == 0 {
            log.show("no line feed at the end", &mut dice);
        }
        log
    }

    /// Words with colours, links and controls between them.
    fn show(&mut self, words: &str, dice: &mut Dice) {
        for (index, word) in words.split(' ').enumerate() {
            if index > 0 {
                self.raw.push(b' ');
                self.text.push(' ');
            }
            let noise: &[u8] = match dice.roll(14) {
                0 => b"\x1b[31m",
                1 => b"\x1b[1;38;5;208m",
                2 => b"\x1b]0;a title with error in it\x07",
                3 => b"\x1b]8;;http://example.org/needle\x1b\\",
                4 => b"\0\x07",
                5 => b"\x1b[?25l\x1b[K",
                6 => b"\x1b(B\x1b=",
                _ => b"",
            };
            self.raw.extend_from_slice(noise);
            self.raw.extend_from_slice(word.as_bytes());
            self.text.push_str(word);
        }
        self.raw.extend_from_slice(b"\x1b[0m");
    }

    fn line(&mut self, words: &str, dice: &mut Dice) {
        self.show(words, dice);
        let end: &[u8] = if dice.roll(3) == 0 { b"\r\n" } else { b"\n" };
        self.raw.extend_from_slice(end);
        self.text.push('\n');
    }

    /// A line that is written over and over: what it says in the end counts.
    fn progress(&mut self, dice: &mut Dice) {
        let steps = 1 + dice.roll(30);
        for step in 1..=steps {
            let part = format!("{:>3}% [{}] of 猫", step * 100 / steps, "#".repeat(step as usize));
            self.raw.extend_from_slice(format!("\r\x1b[K{part}").as_bytes());
            if step == steps {
                writeln!(self.text, "{part}").unwrap();
            }
        }
        self.raw.extend_from_slice(b"\r\n");
    }
}

fn words(dice: &mut Dice, number: u64) -> String {
    let all = [
        "error",
        "Warning:",
        "cat",
        "concat",
        "猫",
        "犬が走る",
        "🐁",
        "👩‍👩‍👧‍👦",
        "é",
        "straße",
        "\tindented",
        "src/main.rs:12",
        "[INFO]",
        "a.c",
        "abc",
        "foo",
        "bar",
        "deadbeef",
        "--flag",
        "done",
        "Done.",
        "aaaa",
        "xxxxxx",
        "line",
        "100%",
    ];
    let mut line = format!("line {number} of 400");
    for _ in 0..dice.roll(9) {
        line.push(' ');
        line.push_str(dice.pick(&all));
    }
    line
}

/// Lines by number.
type Lines = BTreeMap<u64, String>;

/// What `rg` says: the lines that match, and all that it shows with two lines around each.
fn rg(file: &Path, (pattern, flags): Pattern) -> (Lines, Lines) {
    let mut command = Command::new("rg");
    command.args(["--no-config", "-a", "--json", "-C2"]).args(flags).arg("--").arg(pattern);
    let out = command.arg(file).output().unwrap();
    let (mut matches, mut shown) = (Lines::new(), Lines::new());
    for row in String::from_utf8(out.stdout).unwrap().lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        let kind = row["type"].as_str().unwrap_or_default();
        let Some(number) = row["data"]["line_number"].as_u64() else { continue };
        let text = row["data"]["lines"]["text"].as_str().unwrap().trim_end_matches('\n');
        shown.insert(number, text.to_owned());
        if kind == "match" {
            matches.insert(number, text.to_owned());
        }
    }
    (matches, shown)
}

/// The same of an answer of ours, which must be whole.
fn ours(answer: &Value) -> (Lines, Lines) {
    assert_eq!((&answer["truncated"], &answer["unanswered"]), (&json!(false), &json!([])));
    let (mut matches, mut shown) = (Lines::new(), Lines::new());
    let rows = answer["matches"].as_array().unwrap();
    for row in rows {
        let number = row["line"].as_u64().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert!(row.get("cut").is_none());
        let before = row["contextBefore"].as_array().unwrap();
        let after = row["contextAfter"].as_array().unwrap();
        for (other, line) in (number - before.len() as u64..).zip(before) {
            shown.insert(other, text(line));
        }
        for (other, line) in (number + 1..).zip(after) {
            shown.insert(other, text(line));
        }
        shown.insert(number, text(&row["content"]));
        matches.insert(number, text(&row["content"]));
    }
    assert_eq!(answer["total"], rows.len());
    (matches, shown)
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => all.push(byte.into()),
            _ => write!(all, "%{byte:02X}").unwrap(),
        }
        all
    })
}

fn query((pattern, flags): Pattern, task: &Value) -> String {
    let has = |flag: &str| flags.contains(&flag);
    format!(
        "/api/v1/search?pattern={}&task={}&limit=100000&context=2&ignoreCase={}&literal={}&budgetMs=8000",
        encoded(pattern),
        id(task),
        has("-i"),
        has("-F")
    )
}

/// A task that printed the file, at its end.
fn printed(home: &Home, repo: &ScratchRepo, file: &Path, seed: usize) -> Value {
    let file = file.to_string_lossy();
    let command = ["python3", "-c", PRINTER, &file, &seed.to_string()].map(str::to_owned);
    home.submit_command(repo.path(), &["--on", "none"], &command)
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn matches_numbers_and_context_are_those_of_rg_on_the_text_without_escapes() {
    if !has("rg") {
        return skip("search against rg", "there is no rg here");
    }
    let logs = std::env::var("HAYWARD_SEARCH_LOGS").map_or(LOGS, |text| text.parse().unwrap());
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let api = home.api(&daemon);
    let files: Vec<_> = (0..logs)
        .map(|seed| {
            let log = Log::build(0x9e37_79b9 + seed as u64);
            let (raw, text) =
                (home.file(&format!("{seed}.raw")), home.file(&format!("{seed}.text")));
            fs::write(&raw, &log.raw).unwrap();
            fs::write(&text, &log.text).unwrap();
            (printed(&home, &repo, &raw, seed), text)
        })
        .collect();
    let mut compared = 0;
    for (seed, (task, file)) in files.iter().enumerate() {
        home.reaches(task, "completed");
        for (number, pattern) in PATTERNS.into_iter().enumerate() {
            let theirs = rg(file, pattern);
            let found = ours(&api.get(&query(pattern, task)).json());
            assert_eq!(found, theirs, "{pattern:?} in log {seed}");
            compared += theirs.0.len();
            if number % 17 == seed % 17 {
                let words = [
                    &["search", "--limit", "100000", "-C", "2", "--task", id(task)],
                    pattern.1,
                    &["--", pattern.0],
                ];
                assert_eq!(ours(&home.json(&words.concat())), theirs, "{pattern:?} in log {seed}");
            }
        }
    }
    println!("{logs} logs, {} patterns: {compared} lines match, as those of rg", PATTERNS.len());
    assert!(compared > 1000 * logs / 2, "{compared} lines were compared");
}

fn shell(home: &Home, repo: &ScratchRepo, script: &str) -> Value {
    let command = ["sh", "-c", script].map(str::to_owned);
    let task = home.submit_command(repo.path(), &["--on", "none"], &command);
    home.reaches(&task, "completed")
}

#[test]
fn a_match_names_its_task_run_line_and_raw_offset_live_or_ended() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let ended = shell(&home, &repo, r"printf '\033[1mfirst\033[0m\nsecond needle\n'");
    let gate = home.file("go");
    let script =
        format!("echo a needle that lives; until [ -e '{}' ]; do sleep 0.05; done", gate.display());
    let command = ["sh", "-c", &script].map(str::to_owned);
    let live = home.submit_command(repo.path(), &["--on", "none"], &command);
    let all = until("both", LONG, || {
        Some(home.json(&["search", "needle", "--within", "8"])).filter(|all| all["total"] == 2)
    });
    let row = &all["matches"][0];
    assert_eq!((&row["taskId"], &row["runId"]), (&ended["id"], &ended["runId"]));
    assert_eq!(row["daemonId"], daemon.told["daemonId"]);
    assert_eq!((&row["line"], &row["content"]), (&json!(2), &json!("second needle")));
    let offset = row["offset"].to_string();
    let raw = home.run(&["logs", id(&ended), "--raw", "--from", &offset]).expect(0).stdout;
    assert_eq!(raw, b"second needle\r\n");
    assert_eq!(all["matches"][1]["taskId"], live["id"]);
    let newest = home.json(&["search", "needle", "--newest", "--limit", "1", "--within", "8"]);
    assert_eq!((&newest["total"], &newest["truncated"]), (&json!(2), &json!(true)));
    assert_eq!(newest["matches"][0]["taskId"], live["id"]);
    let one = home.json(&["search", "needle", "--task", id(&live), "--within", "8"]);
    assert_eq!(one["searched"]["runs"], 1);
    home.run(&["search", "needle", "--task", "ffffffff"]).expect(3);
    home.run(&["search", "needle", "--daemon", "ffffffff"]).expect(3);
    let text = home.run(&["search", "-C", "1", "--within", "8", "second"]).expect(0).text();
    assert!(text.contains("      1- first") && text.contains("      2: second needle"), "{text}");
    home.open_gate("go");
    home.reaches(&live, "completed");
}

#[test]
fn f41_a_pattern_that_is_none_is_refused_with_its_place() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    shell(&home, &repo, "echo anything");
    let api = home.api(&daemon);
    let bad = api.get("/api/v1/search?pattern=ab%28c");
    assert_eq!((bad.status, bad.code().as_str()), (400, "invalid"));
    let text = bad.json()["error"]["message"].to_string();
    assert!(text.contains("unclosed group") && text.contains("byte 2"), "{text}");
    assert!(text.contains("this is not a valid pattern: "), "{text}");
    for query in ["", "pattern=", "pattern=x&limit=0", "pattern=x&context=51", "pattern=x&order=up"]
    {
        assert_eq!(api.get(&format!("/api/v1/search?{query}")).status, 400, "{query}");
    }
    let long = "x".repeat(20_000);
    assert_eq!(api.get(&format!("/api/v1/search?pattern={long}")).status, 400);
    home.run(&["search", "(a"]).expect(2);
}

#[test]
fn f41_evil_and_huge_patterns_answer_or_time_out_within_a_second() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    shell(
        &home,
        &repo,
        "yes 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab 0123' | head -c 64000000",
    );
    let api = home.api(&daemon);
    let huge: String = (0..1000).map(|n| format!("x{n:04}|a.{{{}}}", n % 40)).collect();
    for pattern in ["(a+)+$", "(a|a|a)*c$", "(.*a){12}$", &"a?".repeat(5000), &huge] {
        at_best(&format!("{pattern:.20}"), Duration::from_millis(2500), || {
            let began = Instant::now();
            let answer = api.get(&format!("/api/v1/search?pattern={}&limit=5", encoded(pattern)));
            let took = began.elapsed();
            let told = answer.json();
            let refused = answer.status == 400 && told["error"]["code"] == "invalid";
            let left = &told["unsearched"];
            let cut = told["truncated"] == true && !left.as_array().is_none_or(Vec::is_empty);
            let whole = told["searched"]["bytes"].as_u64().unwrap_or_default() > 60_000_000;
            // or it said itself that it did not get through a single line
            let slow = told["unanswered"][0]["reason"].to_string().contains("takes too long");
            assert!(refused || cut || whole || slow, "{told}");
            took
        });
    }
}

#[test]
fn f12_lines_that_were_dropped_are_gone_and_the_numbers_of_the_others_stand() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[terminal]\nring_bytes = 1048576\n");
    home.up();
    let task = shell(&home, &repo, "seq -f 'line %.0f of many' 1 200000");
    let words = ["search", "of many", "--task", id(&task), "--limit", "100000", "--within", "8"];
    let found = home.json(&words);
    let rows = found["matches"].as_array().unwrap();
    let total = rows.len() as u64;
    let is_cut = &found["truncated"];
    assert!(total > 20_000 && total < 80_000, "{total}, truncated: {is_cut}");
    for (number, row) in (200_000 - total + 1..).zip(rows) {
        assert_eq!(row["line"], number);
        // of the first line that is kept, the beginning may be gone
        let whole = format!("line {number} of many");
        assert!(whole.ends_with(row["content"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn an_answer_larger_than_a_message_comes_whole_and_each_match_once() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let script = "seq -f 'line %.0f of the many that make an answer larger than a message' 1 20000";
    let task = shell(&home, &repo, script);
    for order in ["oldest", "newest"] {
        let query = format!("pattern=many&limit=100000&context=1&order={order}&task={}", id(&task));
        let all = home.api(&daemon).get(&format!("/api/v1/search?{query}&budgetMs=8000")).json();
        assert_eq!((&all["total"], &all["truncated"]), (&json!(20_000), &json!(false)));
        let rows = all["matches"].as_array().unwrap();
        let mut lines: Vec<u64> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
        if order == "newest" {
            lines.reverse();
        }
        assert!(lines.into_iter().eq(1..=20_000), "{order}");
    }
}

/// A question to the daemon itself, over its socket.
fn question(home: &Home, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(home.state().join("daemon.sock")).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Its status and answer.
fn ask_daemon(home: &Home, path: &str) -> (u16, Value) {
    let mut stream = question(home, path);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[test]
fn f41_two_searches_go_on_at_once_and_end_with_those_who_asked() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    // never the same line twice, so that nothing that was learnt of one serves the next
    shell(&home, &repo, "head -c 40000000 /dev/urandom | base64 -w 76");
    let slow = encoded("[a-zA-Z].{60}[^a-zA-Z0-9+/=]");
    let slow = format!("/api/v1/search?pattern={slow}&budgetMs=8000");
    let quick = "/api/v1/search?pattern=b&limit=1&budgetMs=100";
    let both = [question(&home, &slow), question(&home, &slow)];
    let (status, told) = until("two searches", LONG, || {
        Some(ask_daemon(&home, quick)).filter(|(status, _)| *status != 200)
    });
    assert_eq!(told["error"]["code"], "unavailable", "{status} {told}");
    assert!(told["error"]["message"].to_string().contains("2 other searches"), "{told}");
    drop(both);
    let left = Instant::now();
    until("room for others", LONG, || (ask_daemon(&home, quick).0 == 200).then_some(()));
    assert!(left.elapsed() < Duration::from_secs(6), "{:?}", left.elapsed());
}

#[test]
fn a_pane_is_searched_over_the_daemons_own_socket() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    let task = shell(&home, &repo, r"printf 'one\ntwo\nthree\n\033[1mtwo\033[0m again\n'");
    let other = shell(&home, &repo, "echo two");
    let pane = |task: &Value, run: &Value, query: &str| {
        let text = |id: &Value| id.as_str().unwrap().to_owned();
        let path = format!("/api/term/sessions/{}/panes/{}/search?{query}", text(task), text(run));
        let path = path + "&budgetMs=8000";
        ask_daemon(&home, &path)
    };
    let (status, found) = pane(&task["id"], &task["runId"], "pattern=two&limit=1&context=1");
    let row = json!({
        "line": 2, "content": "two", "contextBefore": ["one"], "contextAfter": ["three"],
    });
    let whole = json!({ "matches": [row], "total": 2, "truncated": true, "source": "ring" });
    assert_eq!((status, found), (200, whole));
    let (status, found) = pane(&task["id"], &task["runId"], "pattern=two&limit=2");
    assert_eq!((status, &found["truncated"]), (200, &json!(false)));
    // a run of another task is none of this session
    assert_eq!(pane(&task["id"], &other["runId"], "pattern=two").0, 404);
    for (query, code) in [
        ("pattern=", "bad_params"),
        (&format!("pattern={}", "x".repeat(201)), "bad_params"),
        ("pattern=x&limit=501", "bad_params"),
        ("pattern=x&limit=0", "bad_params"),
        ("pattern=x&context=51", "bad_params"),
        ("pattern=%28a", "bad_query"),
    ] {
        let (status, told) = pane(&task["id"], &task["runId"], query);
        assert_eq!((status, &told["error"]["code"]), (400, &json!(code)), "{query}");
    }
    let (status, told) = pane(&json!("nonsense"), &task["runId"], "pattern=x");
    assert_eq!((status, &told["error"]["code"]), (400, &json!("bad_id_format")));
}

#[test]
fn this_machine_is_searched_while_the_relay_is_away() {
    let mut relay = Relay::start();
    let machine = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&machine.home, ScratchRepo::new());
    let task = shell(home, &repo, "echo a needle that stays here");
    relay.crash();
    let ran =
        home.run(&["--json", "search", "needle", "--within", "8", "--task", id(&task)]).expect(0);
    assert_eq!(ran.json()["matches"][0]["content"], "a needle that stays here");
    let told = home.run(&["search", "needle", "--within", "8"]).expect(0);
    assert!(told.stderr.contains("only this machine is searched"), "{}", told.stderr);
    drop(machine);
}

/// The daemons that the relay knows.
fn daemons(api: &Api) -> Vec<String> {
    let all = api.get("/api/v1/daemons").json();
    let ids = all["daemons"].as_array().unwrap().iter();
    ids.map(|daemon| daemon["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_machine_is_searched_and_one_that_is_away_is_named() {
    let relay = Relay::start();
    let api = relay.api();
    let (mut machines, mut known): (Vec<(Linked, String)>, Vec<String>) = Default::default();
    for _ in 0..2 {
        let machine = Linked::start(&relay, &relay.url(), "");
        let own = daemons(&api).into_iter().find(|id| !known.contains(id)).unwrap();
        known.push(own.clone());
        machines.push((machine, own));
    }
    let repo = ScratchRepo::new();
    for id in &known {
        let order = json!({
            "plan": "say it", "agent": "command", "command": ["sh", "-c", "echo a needle here"],
            "repositoryUrl": repo.path(), "completionAction": "none", "wantedDaemonId": id,
        });
        assert_eq!(api.post("/api/v1/tasks", &order).status, 201);
    }
    let all = "/api/v1/search?pattern=needle&budgetMs=8000";
    let found =
        until("both needles", LONG, || Some(api.get(all).json()).filter(|all| all["total"] == 2));
    let rows = found["matches"].as_array().unwrap();
    for id in &known {
        assert!(rows.iter().any(|row| row["daemonId"] == **id), "{found}");
    }
    assert_eq!((&found["truncated"], &found["unanswered"]), (&json!(false), &json!([])));
    let (machine, away) = &mut machines[1];
    machine.crash();
    let rest = until("one to be away", LONG, || {
        let rest = api.get(all).json();
        Some(rest).filter(|rest| rest["unanswered"].as_array().is_some_and(|all| all.len() == 1))
    });
    assert_eq!((&rest["total"], &rest["unanswered"][0]["daemonId"]), (&json!(1), &json!(away)));
}
