//! A collector of OpenTelemetry: takes spans by OTLP over HTTP, and says what they were.

use crate::must;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A span as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The trace, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// That of the span it is in; empty when it is the first.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// What it says of itself.
    pub attributes: BTreeMap<String, String>,
    /// What the process says of itself.
    pub resource: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Taken {
    heads: Vec<String>,
    spans: Vec<Span>,
}

/// It listens until the test's process ends.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    /// One that takes all that it is sent.
    #[must_use]
    pub fn start() -> Self {
        Self::listen(true)
    }

    /// One that reads what it is sent, and never answers.
    #[must_use]
    pub fn silent() -> Self {
        Self::listen(false)
    }

    fn listen(answers: bool) -> Self {
        let listener = must("listen", TcpListener::bind("127.0.0.1:0"));
        let address = must("know the address", listener.local_addr());
        let taken = Arc::new(Mutex::new(Taken::default()));
        let all = taken.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = all.clone();
                // one that breaks off has said what it had to say
                thread::spawn(move || drop(serve(&stream, answers, &all)));
            }
        });
        Self { address, taken }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` must say.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans that came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// The first lines and headers of what came so far.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).heads.clone()
    }
}

fn serve(stream: &TcpStream, answers: bool, taken: &Mutex<Taken>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
            head.push_str(line);
            head.push('\n');
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        {
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.heads.push(head);
            taken.spans.extend(spans(&body));
        }
        if answers {
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
            (&mut &*stream).write_all(answer.as_bytes())?;
        }
    }
}

/// The fields of a message of protobuf that have bytes, by their numbers in its definition; numbers
/// are passed over.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while let Some(key) = varint(&mut bytes) {
        let skip = match key & 7 {
            0 => {
                varint(&mut bytes);
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let length = varint(&mut bytes).and_then(|length| usize::try_from(length).ok());
                let Some((field, _)) = bytes.split_at_checked(length.unwrap_or(usize::MAX)) else {
                    return found;
                };
                found.push((key >> 3, field));
                field.len()
            }
            _ => return found,
        };
        bytes = bytes.get(skip..).unwrap_or_default();
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn of(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).into_iter().filter(move |(found, _)| *found == number).map(|(_, field)| field)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Attributes whose values are texts.
fn attributes<'a>(pairs: impl Iterator<Item = &'a [u8]>) -> BTreeMap<String, String> {
    let pair = |pair: &[u8]| {
        let value = of(pair, 2).next()?.to_vec();
        Some((text(of(pair, 1).next()?), text(of(&value, 1).next()?)))
    };
    pairs.filter_map(pair).collect()
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Vec<Span> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut found = Vec::new();
    for of_resource in of(request, 1) {
        let resource = of(of_resource, 1).next().unwrap_or_default();
        let resource = attributes(of(resource, 1));
        for span in of(of_resource, 2).flat_map(|scope| of(scope, 2).collect::<Vec<_>>()) {
            let first = |number| of(span, number).next().unwrap_or_default();
            found.push(Span {
                trace: hex(first(1)),
                id: hex(first(2)),
                parent: hex(first(4)),
                name: text(first(5)),
                attributes: attributes(of(span, 9)),
                resource: resource.clone(),
            });
        }
    }
    found
}
