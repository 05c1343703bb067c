//! A way from a producer to a subscriber through some server. Both are plain sockets that read and
//! write many frames at once, so that the server is what is measured.

use crate::shipped::link::{Link, frame};
use crate::shipped::{BOUND, Shipped, connect, processor};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::{self, Message};
use uuid::Uuid;

/// Bytes of a frame before an agent's: its kind, its watch, its offset.
const HEADER: usize = 25;

/// Bytes that a viewer lets come before it grants more; ours do so.
const WINDOW: u64 = 1024 * 1024;

/// Bytes that the producer writes at once where it is not paced.
const WRITE: usize = 64 * 1024;

/// What one round took.
pub struct Times {
    /// Frames a second.
    pub rate: f64,
    /// Microseconds of the server's processor time for a frame.
    pub theirs: f64,
    /// The same of producer and subscriber.
    pub own: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Wire {
    Web,
    Nats,
}

pub struct Road {
    wire: Wire,
    from: TcpStream,
    to: Subscriber,
    watch: Uuid,
    /// Where the next frame begins.
    offset: u64,
    /// How far the daemon may send; without a relay nobody says.
    window: Option<Arc<Window>>,
    /// What the daemon says every now and then.
    beat: Vec<u8>,
    pid: u32,
    /// Ends with the road.
    _server: Option<Server>,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[derive(Default)]
struct Window {
    granted: Mutex<u64>,
    moved: Condvar,
}

impl Window {
    fn wait_for(&self, offset: u64) {
        let granted = self.granted.lock().unwrap();
        let enough = self.moved.wait_timeout_while(granted, BOUND, |granted| *granted < offset);
        assert!(!enough.unwrap().1.timed_out(), "no grant came");
    }
}

impl Road {
    /// As a user watches a run: the relay knows daemon, task, run and client.
    pub fn through_relay(relay: &Shipped) -> Self {
        let mut daemon = Link::daemon(relay, &relay.daemon_token(), 4);
        let run = daemon.running(relay);
        let mut client = Link::client(relay);
        let watch = Uuid::now_v7();
        client.say(&json!({
            "type": "watch", "watchId": watch, "taskId": run.task, "from": 0, "follow": true,
            "grant": WINDOW,
        }));
        let asked = daemon.until("watchOutput");
        let payload = json!({"runId": run.run});
        let request = &asked["requestId"];
        daemon.say(&json!({"type": "reply", "requestId": request, "ok": true, "payload": payload}));
        client.until("watch.started");
        let window = Arc::new(Window { granted: Mutex::new(WINDOW), ..Window::default() });
        let from = daemon.socket.get_ref().try_clone().unwrap();
        hear_grants(from.try_clone().unwrap(), window.clone());
        let beat = json!({"type": "heartbeat", "activeTasks": [run.task]}).to_string();
        let mut to = Subscriber::new(Wire::Web, client.socket.get_ref().try_clone().unwrap());
        to.granted = Some(WINDOW);
        let mut road = Self::new(Wire::Web, from, to, relay.pid());
        (road.watch, road.window, road.beat) = (watch, Some(window), text(&beat));
        road
    }

    pub fn through_forwarder() -> Self {
        let own = std::env::current_exe().unwrap();
        Self::through_server(Command::new(own).arg("forward"))
    }

    pub fn through_node(folder: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/benches/forward.mjs");
        Self::through_server(Command::new("node").arg(script).arg(folder))
    }

    /// A server that prints its port, takes frames from its first link and sends them to its second.
    fn through_server(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let server = Server(child);
        let address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
        let open = || {
            let request = format!("ws://{address}/");
            let (link, _) = tungstenite::client(request, connect(address)).unwrap();
            link.get_ref().try_clone().unwrap()
        };
        let (from, to) = (open(), open());
        let mut road = Self::new(Wire::Web, from, Subscriber::new(Wire::Web, to), pid);
        road._server = Some(server);
        road
    }

    pub fn through_nats(url: &str) -> Self {
        let address = url.trim_start_matches("nats://").parse().unwrap();
        let open = |words: &str| {
            let mut stream = connect(address);
            let begin = format!("CONNECT {{\"verbose\":false}}\r\n{words}PING\r\n");
            stream.write_all(begin.as_bytes()).unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"PONG\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                heard.push(byte[0]);
            }
            stream
        };
        let (to, from) = (open("SUB lane 1\r\n"), open(""));
        Self::new(Wire::Nats, from, Subscriber::new(Wire::Nats, to), 0)
    }

    fn new(wire: Wire, from: TcpStream, to: Subscriber, pid: u32) -> Self {
        let (watch, beat) = (Uuid::now_v7(), Vec::new());
        Self { wire, from, to, watch, offset: 0, window: None, beat, pid, _server: None }
    }

    /// Sends `count` frames of `size` bytes as fast as they are taken.
    pub fn pour(&mut self, size: usize, count: u64) -> Times {
        let own = std::process::id();
        let spent = || (processor(self.pid), processor(own));
        let (before, begun) = (spent(), Instant::now());
        self.run(size, count, None, |_| {});
        let took = begun.elapsed().as_secs_f64();
        let after = (processor(self.pid), processor(own));
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / count as f64;
        Times {
            rate: count as f64 / took,
            theirs: each(after.0 - before.0),
            own: each(after.1 - before.1),
        }
    }

    /// Sends frames at a pace; how long after it was due each arrived.
    pub fn paced(&mut self, size: usize, (rate, count): (u32, u64)) -> Vec<Duration> {
        let base = Instant::now();
        let mut waits = Vec::new();
        self.run(size, count, Some((base, rate)), |frame| {
            let due = u64::from_be_bytes(frame[HEADER..HEADER + 8].try_into().unwrap());
            waits.push(base.elapsed() - Duration::from_nanos(due));
        });
        // what comes first meets cold caches everywhere
        waits.split_off(waits.len() / 6)
    }

    fn run(
        &mut self,
        size: usize,
        count: u64,
        paced: Option<(Instant, u32)>,
        mut on: impl FnMut(&[u8]),
    ) {
        self.from.write_all(&self.beat).unwrap();
        let start = self.offset;
        let body = (size - HEADER) as u64;
        self.offset += body * count;
        let frames = Frames { wire: self.wire, watch: self.watch, size, start, count };
        let (from, window, watch) = (&mut self.from, self.window.as_deref(), self.watch);
        let to = &mut self.to;
        std::thread::scope(|scope| {
            scope.spawn(|| frames.send(from, window, paced));
            let (mut heard, mut expected) = (0, start);
            while heard < count {
                to.read(|frame| {
                    let offset = u64::from_be_bytes(frame[17..HEADER].try_into().unwrap());
                    assert_eq!((frame.len(), offset), (size, expected), "frame {heard}");
                    on(frame);
                    expected += body;
                    heard += 1;
                });
                to.grant(watch, expected);
            }
        });
    }
}

/// What a producer sends.
struct Frames {
    wire: Wire,
    watch: Uuid,
    size: usize,
    start: u64,
    count: u64,
}

impl Frames {
    fn send(&self, to: &mut TcpStream, window: Option<&Window>, paced: Option<(Instant, u32)>) {
        let one = self.one();
        let lead = one.len() - self.size - self.wire.tail();
        let most = if paced.is_some() { 1 } else { (WRITE / one.len()).max(1) };
        let mut many = one.repeat(most);
        let (mut sent, mut offset) = (0, self.start);
        while sent < self.count {
            let now = most.min((self.count - sent) as usize);
            for frame in many.chunks_exact_mut(one.len()).take(now) {
                frame[lead + 17..lead + HEADER].copy_from_slice(&offset.to_be_bytes());
                offset += (self.size - HEADER) as u64;
            }
            if let Some(window) = window {
                window.wait_for(offset);
            }
            if let Some((base, rate)) = paced {
                let due = Duration::from_secs(1) * u32::try_from(sent).unwrap() / rate;
                std::thread::sleep(due.saturating_sub(base.elapsed()));
                // not when it is sent: whoever holds the producer up would be let off that wait
                let at = u64::try_from(due.as_nanos()).unwrap();
                many[lead + HEADER..lead + HEADER + 8].copy_from_slice(&at.to_be_bytes());
            }
            to.write_all(&many[..one.len() * now]).unwrap();
            sent += now as u64;
        }
        if let Some((base, rate)) = paced {
            let (planned, took) =
                (self.count as f64 / f64::from(rate), base.elapsed().as_secs_f64());
            assert!(took < planned * 1.1, "the pace was not kept: {took:.2} s for {planned:.2}");
        }
    }

    /// A frame with all that is written around it.
    fn one(&self) -> Vec<u8> {
        let mut payload = vec![1];
        payload.extend_from_slice(self.watch.as_bytes());
        payload.resize(self.size, b'x');
        match self.wire {
            Wire::Web => masked(Message::binary(payload)),
            Wire::Nats => {
                let mut line = format!("PUB lane {}\r\n", self.size).into_bytes();
                line.extend(payload);
                line.extend(b"\r\n");
                line
            }
        }
    }
}

impl Wire {
    /// Bytes that follow a payload.
    fn tail(self) -> usize {
        if self == Self::Nats { 2 } else { 0 }
    }
}

fn masked(message: Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, &message);
    bytes
}

fn text(words: &str) -> Vec<u8> {
    masked(Message::text(words))
}

/// Moves a window as the relay says, until the link ends.
fn hear_grants(stream: TcpStream, window: Arc<Window>) {
    stream.set_read_timeout(None).unwrap();
    let mut reader = Subscriber::new(Wire::Web, stream);
    std::thread::spawn(move || {
        while reader.hear(|told| {
            if let Some(up_to) = told["upTo"].as_u64().filter(|_| told["type"] == "grantOutput") {
                *window.granted.lock().unwrap() = up_to;
                window.moved.notify_all();
            }
        }) {}
    });
}

/// Reads what a server sends, many frames at once.
struct Subscriber {
    wire: Wire,
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    granted: Option<u64>,
}

impl Subscriber {
    fn new(wire: Wire, stream: TcpStream) -> Self {
        Self { wire, stream, buffer: vec![0; 256 * 1024], filled: 0, granted: None }
    }

    /// Reads once, and hands on each frame that is whole.
    fn read(&mut self, mut on: impl FnMut(&[u8])) {
        let more = self.fill(|kind, payload| match kind {
            2 => on(payload),
            1 => panic!("instead of a frame: {}", String::from_utf8_lossy(payload)),
            8 => panic!("the link was ended"),
            _ => {}
        });
        assert!(more, "the link ended");
    }

    /// The same for texts.
    fn hear(&mut self, mut on: impl FnMut(&Value)) -> bool {
        self.fill(|kind, payload| {
            if kind == 1 {
                on(&serde_json::from_slice(payload).unwrap());
            }
        })
    }

    fn fill(&mut self, mut on: impl FnMut(u8, &[u8])) -> bool {
        let Ok(read @ 1..) = self.stream.read(&mut self.buffer[self.filled..]) else {
            return false;
        };
        self.filled += read;
        let mut at = 0;
        while let Some((kind, payload, whole)) = next(self.wire, &self.buffer[at..self.filled]) {
            on(kind, payload);
            at += whole;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        true
    }

    /// Lets more come once half of what was granted is there.
    fn grant(&mut self, watch: Uuid, offset: u64) {
        if self.granted.is_none_or(|granted| granted - offset > WINDOW / 2) {
            return;
        }
        let up_to = offset + WINDOW;
        self.granted = Some(up_to);
        let grant = json!({"type": "grant", "watchId": watch, "upTo": up_to}).to_string();
        self.stream.write_all(&text(&grant)).unwrap();
    }
}

/// The first frame: its kind, what it carries, and its whole length.
fn next(wire: Wire, bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (kind, start, length) = match wire {
        Wire::Web => match *bytes {
            [kind, 127, a, b, c, d, e, f, g, h, ..] => {
                (kind & 15, 10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize)
            }
            [_, 127, ..] => return None,
            [kind, 126, a, b, ..] => (kind & 15, 4, u16::from_be_bytes([a, b]).into()),
            [_, 126, ..] => return None,
            [kind, length, ..] => (kind & 15, 2, length.into()),
            _ => return None,
        },
        Wire::Nats => {
            let line = bytes.split_inclusive(|b| *b == b'\n').next()?;
            let words = std::str::from_utf8(line).unwrap().strip_suffix("\r\n")?;
            let length = words.strip_prefix("MSG ").and_then(|rest| rest.rsplit(' ').next());
            match length {
                Some(length) => (2, line.len(), length.parse().unwrap()),
                None => return Some((9, &[], line.len())),
            }
        }
    };
    let payload = bytes.get(start..start + length)?;
    let whole = start + length + wire.tail();
    (bytes.len() >= whole).then_some((kind, payload, whole))
}
