//! The smallest HTTP client that serves: one request, one connection, any header.

use crate::must;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where the relay is, and who asks.
#[derive(Clone, Debug)]
pub struct Api {
    /// `HOST:PORT`.
    pub host: String,
    /// The bearer token; empty: none is shown.
    pub token: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Its headers, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The value of a header; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut named = pairs.filter(|(one, _)| one.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// The code of the error in the body.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Api {
    /// For a relay's address as `up` prints it.
    #[must_use]
    pub fn new(url: &str, token: &str) -> Self {
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { host, token: token.trim().to_owned() }
    }

    /// The same relay for somebody else.
    #[must_use]
    pub fn as_other(&self, token: &str) -> Self {
        Self { host: self.host.clone(), token: token.to_owned() }
    }

    /// Asks.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None, &[])
    }

    /// Tells.
    #[track_caller]
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, Some(&body.to_string()), &[])
    }

    /// Sends a request with these headers besides the usual ones; one of the same name replaces
    /// the usual one, and an empty value leaves it out.
    #[track_caller]
    #[must_use]
    pub fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        more: &[(&str, &str)],
    ) -> Reply {
        let what = format!("{method} {path} on {}", self.host);
        must(&what, self.try_send(method, path, body, more))
    }

    /// As [`Self::send`].
    ///
    /// # Errors
    /// The relay cannot be reached, or says nothing for half a minute.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        more: &[(&str, &str)],
    ) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let bearer = format!("Bearer {}", self.token);
        let usual = [
            ("Host", self.host.as_str()),
            ("Connection", "close"),
            ("Authorization", if self.token.is_empty() { "" } else { &bearer }),
        ];
        let replaced = |name: &str| more.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let kept = usual.iter().filter(|(name, _)| !replaced(name));
        for (name, value) in kept.chain(more).filter(|(_, value)| !value.is_empty()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            let length = body.len();
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.unwrap_or_default().as_bytes())?;
        let mut answer = Vec::new();
        read_answer(&mut stream, &mut answer)?;
        Ok(parse(&answer))
    }

    /// Asks for a WebSocket; only the answer's status is of interest.
    #[track_caller]
    #[must_use]
    pub fn upgrade(&self, path: &str, more: &[(&str, &str)]) -> u16 {
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend_from_slice(more);
        self.send("GET", path, None, &headers).status
    }
}

/// Reads until the answer is whole; one that opens a socket is whole with its head.
fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<()> {
    let mut part = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut part)?;
        answer.extend_from_slice(&part[..count]);
        if count == 0 || is_whole(answer) {
            return Ok(());
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
    text.starts_with("http/1.1 101")
        || length.is_some_and(|length| answer.len() >= head + 4 + length)
}

fn parse(answer: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { join(body) } else { body.to_owned() };
    Reply { status, head: head.to_owned(), body }
}

fn join(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}
