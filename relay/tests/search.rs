//! Searches over the relay: what daemons of either kind are told, and what the reader gets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{Daemon, House, Socket, hello, house, house_with};
use reqwest::Response;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Nothing comes within this.
const QUIET: Duration = Duration::from_millis(300);

const LINES: &str = "application/x-ndjson";

async fn daemon(house: &House, more: &[&str]) -> Daemon {
    let token = house.daemon_token().await;
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    let mut hello = hello(Uuid::now_v7(), &token, &[]);
    let can = hello["capabilities"].as_array_mut().unwrap();
    can.extend(more.iter().map(|word| json!(word)));
    socket.say(hello).await;
    let welcome = socket.until("authenticated").await;
    Daemon { socket, next: 0, welcome }
}

/// A search under way; aborted, its asker is gone.
fn ask(house: &House, accept: &str) -> tokio::task::JoinHandle<Response> {
    let request = house.http.get(house.url("/api/v1/search?pattern=x&limit=100"));
    let request = request.bearer_auth(house.owner.token.expose()).header("Accept", accept);
    tokio::spawn(async move { request.send().await.unwrap() })
}

fn found(run: Uuid, line: u64) -> Value {
    json!({
        "taskId": run, "runId": run, "line": line, "offset": 0, "content": format!("x {line}"),
        "contextBefore": [], "contextAfter": [],
    })
}

fn page(request: &Value, run: Uuid, line: u64) -> Value {
    json!({"type": "searchFound", "requestId": request, "matches": [found(run, line)]})
}

fn reply(request: &Value, matches: &[Value], total: usize, more: Value) -> Value {
    let mut payload = json!({
        "matches": matches, "total": total, "truncated": false,
        "searched": {"runs": 1, "bytes": 1, "ms": 1},
    });
    for (name, value) in more.as_object().unwrap() {
        payload[name] = value.clone();
    }
    json!({"type": "reply", "requestId": request, "ok": true, "payload": payload})
}

/// The lines of an answer: the numbers of the matches, and its end.
async fn lines(answer: Response) -> (Vec<u64>, Value) {
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &LINES.parse().unwrap())
    );
    let text = answer.text().await.unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    (lines.iter().map(|line| line["match"]["line"].as_u64().unwrap()).collect(), end)
}

#[tokio::test]
async fn a_daemon_that_cannot_stream_is_asked_as_before_and_told_of_no_end() {
    let house = house().await;
    let mut old = daemon(&house, &[]).await.socket;
    let answer = ask(&house, LINES);
    let run = Uuid::now_v7();
    let first = old.until("search").await;
    assert!(first.get("stream").is_none());
    let next = json!({"next": {"runId": run, "line": 1}});
    old.say(reply(&first["requestId"], &[found(run, 1)], 2, next)).await;
    let second = old.until("search").await;
    assert_eq!(second["after"], json!({"runId": run, "line": 1}));
    old.say(reply(&second["requestId"], &[found(run, 2)], 0, json!({}))).await;
    let (matches, end) = lines(answer.await.unwrap()).await;
    assert_eq!((matches, &end["end"]["total"]), (vec![1, 2], &json!(2)));

    let left = ask(&house, LINES);
    old.until("search").await;
    left.abort();
    assert!(old.silent_of("callOff", QUIET).await);
}

#[tokio::test]
async fn f41_matches_go_on_before_the_end_and_each_page_lets_one_more_come() {
    let house = house().await;
    let mut new = daemon(&house, &["searchStreams"]).await.socket;
    let answer = ask(&house, LINES);
    let search = new.until("search").await;
    assert_eq!(search["stream"], true);
    let (request, run) = (&search["requestId"], Uuid::now_v7());
    new.say(page(request, run, 1)).await;
    let mut answer = answer.await.unwrap();
    let first = String::from_utf8(answer.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.starts_with(r#"{"match":"#) && first.contains("x 1"), "{first}");
    assert_eq!(new.until("searchMore").await["asked"], *request);
    new.say(page(request, run, 2)).await;
    assert_eq!(new.until("searchMore").await["asked"], *request);
    new.say(reply(request, &[found(run, 3)], 7, json!({}))).await;
    let (matches, end) = lines(answer).await;
    assert_eq!(matches, [2, 3]);
    let end = &end["end"];
    assert_eq!((&end["total"], &end["truncated"]), (&json!(7), &json!(true)));
    assert!(new.silent_of("callOff", QUIET).await);
}

#[tokio::test]
async fn f41_whoever_leaves_calls_the_search_off_by_its_request() {
    let house = house().await;
    let mut new = daemon(&house, &["searchStreams"]).await.socket;
    for accept in [LINES, "application/json"] {
        let left = ask(&house, accept);
        let search = new.until("search").await;
        left.abort();
        assert_eq!(new.until("callOff").await["asked"], search["requestId"], "{accept}");
    }
    // one that has begun to answer
    let begun = ask(&house, LINES);
    let search = new.until("search").await;
    new.say(page(&search["requestId"], Uuid::now_v7(), 1)).await;
    drop(begun.await.unwrap());
    assert_eq!(new.until("callOff").await["asked"], search["requestId"]);
}

#[tokio::test]
async fn a_refusal_before_the_first_match_has_its_status_and_a_daemon_that_goes_is_named() {
    let house = house().await;
    let mut new = daemon(&house, &["searchStreams"]).await.socket;
    let answer = ask(&house, LINES);
    let request = new.until("search").await["requestId"].clone();
    let error = json!({"code": "invalid", "message": "no pattern", "retryable": false});
    new.say(json!({"type": "reply", "requestId": request, "ok": false, "error": error})).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status().as_u16(), 400);

    let answer = ask(&house, LINES);
    let request = new.until("search").await["requestId"].clone();
    new.say(page(&request, Uuid::now_v7(), 1)).await;
    let answer = answer.await.unwrap();
    drop(new);
    let (matches, end) = lines(answer).await;
    let end = &end["end"];
    assert_eq!((matches, &end["truncated"]), (vec![1], &json!(true)));
    assert_eq!(end["unanswered"][0]["hostname"], "box");
    assert_eq!(end["unanswered"][0]["reason"], "it went away while it searched");
    assert_eq!(end["total"], 1);
}

/// A page of half a MiB.
fn large(request: &Value, run: Uuid, line: u64) -> Value {
    let mut page = page(request, run, line);
    page["matches"][0]["content"] = json!("x".repeat(512 << 10));
    page
}

/// Pages of that size that no chain of sockets takes without a reader.
const MANY: u64 = 128;

/// A search that has told of its first large page, whose answer nobody reads.
struct Unread {
    daemon: Socket,
    request: Value,
    run: Uuid,
    answer: Response,
}

async fn unread(house: &House) -> Unread {
    let mut daemon = daemon(house, &["searchStreams"]).await.socket;
    let answer = ask(house, LINES);
    let request = daemon.until("search").await["requestId"].clone();
    let run = Uuid::now_v7();
    daemon.say(large(&request, run, 1)).await;
    Unread { daemon, request, run, answer: answer.await.unwrap() }
}

#[tokio::test]
async fn f41_a_reader_that_stops_reading_stops_the_pages() {
    let house = house().await;
    let Unread { daemon: mut new, request, run, answer } = unread(&house).await;
    let request = &request;
    let mut sent = 1;
    while !new.silent_of("searchMore", QUIET).await {
        sent += 1;
        assert!(sent < MANY, "nothing stops the pages");
        new.say(large(request, run, sent)).await;
    }
    new.say(reply(request, &[], sent as usize, json!({}))).await;
    // what was held up comes whole once it is read
    let (matches, end) = lines(answer).await;
    assert!(matches.into_iter().eq(1..=sent));
    assert_eq!(end["end"]["truncated"], false);
}

#[tokio::test]
async fn a_daemon_that_sends_more_than_it_may_is_heard_no_further() {
    let house = house().await;
    let Unread { daemon: mut new, request, run, answer } = unread(&house).await;
    let request = &request;
    for line in 2..=MANY {
        new.say(large(request, run, line)).await;
    }
    assert_eq!(new.until("callOff").await["asked"], *request);
    let (matches, end) = lines(answer).await;
    assert!(matches.len() < MANY as usize, "{}", matches.len());
    assert!(matches.into_iter().zip(1..).all(|(got, line)| got == line));
    let end = &end["end"];
    assert_eq!(
        (&end["truncated"], &end["unanswered"][0]["hostname"]),
        (&json!(true), &json!("box"))
    );
}

#[tokio::test]
async fn f41_a_daemon_that_always_answers_just_in_time_does_not_keep_a_search_for_ever() {
    // much longer than from one page to the next, on a slow machine too
    let house = house_with(|config| config.timing.reply = Duration::from_secs(5)).await;
    let mut new = daemon(&house, &["searchStreams"]).await.socket;
    let answer = ask(&house, LINES);
    let request = new.until("search").await["requestId"].clone();
    let (run, mut sent) = (Uuid::now_v7(), 0);
    let told = async { lines(answer.await.unwrap()).await };
    let keep_on = async {
        // far longer than all that the question and an answer may take
        while sent < 60 && new.silent_of("callOff", QUIET).await {
            sent += 1;
            new.say(page(&request, run, sent)).await;
        }
    };
    let ((matches, end), ()) = tokio::join!(told, keep_on);
    assert!(sent < 60 && !matches.is_empty(), "{sent} pages");
    assert!(matches.into_iter().zip(1..).all(|(got, line)| got == line));
    let end = &end["end"];
    assert_eq!(end["truncated"], true);
    assert_eq!(end["unanswered"][0]["reason"], "it did not come to an end in time");
}
