//! A model that never thinks: it speaks the Anthropic Messages dialect on loopback and gives the
//! turns it was told to, one for each request that offers tools.

use crate::must;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What every good reply says that it used: anew, written, from the cache, into the cache.
pub const USED: [u64; 4] = [100, 20, 50, 10];

/// One answer.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Words; ends the agent's turn.
    Say(&'static str),
    /// A call of a tool that the client offers. `{cwd}` stands for the client's folder.
    Call(&'static str, Value),
    /// An HTTP error of this status.
    Refuse(u16),
    /// This answer from now on, whatever is asked.
    Always(Box<Turn>),
    /// Half a streamed answer, then the line is cut.
    Cut,
}

/// The running model. It ends with the test.
#[derive(Debug)]
pub struct Model {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    turns: Vec<Turn>,
    next: usize,
    asked: Vec<Value>,
}

impl Model {
    /// Gives these turns; when they are used up it says "done".
    #[must_use]
    pub fn start(turns: Vec<Turn>) -> Self {
        let listener = must("listen", TcpListener::bind("127.0.0.1:0"));
        let address = must("know the address", listener.local_addr());
        let shared = Arc::new(Mutex::new(Shared { turns, next: 0, asked: vec![] }));
        let state = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                // a client that hangs up is no fault of the test
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Self { address, shared }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bodies of the requests that took a turn.
    #[must_use]
    pub fn asked(&self) -> Vec<Value> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }
}

fn serve(stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (line, body) = request(&mut reader)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if !line.starts_with("POST /v1/messages") || line.contains("count_tokens") {
        return answer(&stream, 404, "application/json", br#"{"type":"error"}"#);
    }
    let is_side = body["tools"].as_array().is_none_or(Vec::is_empty);
    let mut turn = if is_side { Turn::Say("aside") } else { next(shared, &body) };
    if let Turn::Call(_, input) = &mut turn {
        let text = input.to_string().replace("{cwd}", &folder(&body.to_string()));
        *input = serde_json::from_str(&text).unwrap_or(Value::Null);
    }
    reply(&stream, turn, body["stream"] == true)
}

/// The folder that the client says it works in.
fn folder(body: &str) -> String {
    let told = body.split_once("orking directory").map(|(_, after)| after);
    let path = told.and_then(|after| after.find('/').map(|begin| &after[begin..]));
    let ends = |c: char| c.is_whitespace() || matches!(c, '\\' | '"' | '\'' | '`' | '<');
    path.and_then(|path| path.split(ends).next()).unwrap_or_default().to_owned()
}

fn request(reader: &mut impl BufRead) -> std::io::Result<(String, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((first, body))
}

fn next(shared: &Mutex<Shared>, body: &Value) -> Turn {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    shared.asked.push(body.clone());
    let turn = shared.turns.get(shared.next).cloned().unwrap_or(Turn::Say("done"));
    if let Turn::Always(turn) = turn {
        return *turn;
    }
    shared.next += 1;
    turn
}

fn reply(stream: &TcpStream, turn: Turn, streamed: bool) -> std::io::Result<()> {
    let (content, stop) = match &turn {
        Turn::Refuse(status) => {
            let kind = match status {
                429 => "rate_limit_error",
                529 => "overloaded_error",
                _ => "api_error",
            };
            let body = json!({"type": "error", "error": {"type": kind, "message": "as told"}});
            return answer(stream, *status, "application/json", body.to_string().as_bytes());
        }
        Turn::Call(name, input) => {
            let id = format!("toolu_{:016x}", crate::unique());
            (json!({"type": "tool_use", "id": id, "name": name, "input": input}), "tool_use")
        }
        Turn::Say(text) => (json!({"type": "text", "text": text}), "end_turn"),
        Turn::Cut | Turn::Always(_) => (json!({"type": "text", "text": "half of it"}), "end_turn"),
    };
    let (kind, text) = match streamed {
        true => ("text/event-stream", stream_of(&content, stop)),
        false => ("application/json", message(&json!([content]), Some(stop), USED[1]).to_string()),
    };
    if matches!(turn, Turn::Cut) {
        let half = &text.as_bytes()[..text.len() / 2];
        return begin(stream, 200, kind, text.len()).and_then(|mut stream| stream.write_all(half));
    }
    answer(stream, 200, kind, text.as_bytes())
}

fn message(content: &Value, stop: Option<&str>, output: u64) -> Value {
    json!({
        "id": format!("msg_{:016x}", crate::unique()), "type": "message", "role": "assistant",
        "model": "stub-model", "content": content, "stop_reason": stop, "stop_sequence": null,
        "usage": {
            "input_tokens": USED[0], "output_tokens": output,
            "cache_read_input_tokens": USED[2], "cache_creation_input_tokens": USED[3],
        },
    })
}

/// The answer as server-sent events, the content in two pieces.
fn stream_of(content: &Value, stop: &str) -> String {
    let is_call = content["type"] == "tool_use";
    let whole = match is_call {
        true => content["input"].to_string(),
        false => content["text"].as_str().unwrap_or_default().to_owned(),
    };
    let (one, two) = whole.split_at(whole.floor_char_boundary(whole.len() / 2));
    let mut opened = content.clone();
    if is_call {
        opened["input"] = json!({});
    } else {
        opened["text"] = json!("");
    }
    let delta = |part: &str| match is_call {
        true => json!({"type": "input_json_delta", "partial_json": part}),
        false => json!({"type": "text_delta", "text": part}),
    };
    let events = [
        json!({"type": "message_start", "message": message(&json!([]), None, 1)}),
        json!({"type": "content_block_start", "index": 0, "content_block": opened}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta(one)}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta(two)}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": {"output_tokens": USED[1]},
        }),
        json!({"type": "message_stop"}),
    ];
    let line = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    events.iter().map(line).collect()
}

fn answer(stream: &TcpStream, status: u16, kind: &str, body: &[u8]) -> std::io::Result<()> {
    begin(stream, status, kind, body.len())?.write_all(body)
}

/// Sends the head of an answer whose body is to have `length` bytes.
fn begin<'a>(
    mut stream: &'a TcpStream,
    status: u16,
    kind: &str,
    length: usize,
) -> std::io::Result<&'a TcpStream> {
    let retry = if status == 429 { "retry-after: 0\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} told\r\ncontent-type: {kind}\r\nconnection: close\r\n{retry}\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}
