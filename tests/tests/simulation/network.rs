//! A network between the daemons' machines and the relay's. Bytes keep their order and take their
//! time; a connection can be cut, can vanish without a word, or can wait out a partition.

use super::dice::Dice;
use super::history::{Fact, History, Host, RELAY};
use super::tap::Tap;
use hayward_edge::{Door, Wire};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// What one direction holds before its writer waits, as a kernel's buffers do.
const WINDOW: usize = 64 * 1024;

/// The machine of those who ask over HTTP: no fault is ever its own.
pub const USER: Host = usize::MAX;

/// The network. Clones share it.
#[derive(Clone, Debug)]
pub struct Net(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    dice: Dice,
    history: History,
    door: Option<mpsc::UnboundedSender<Comer>>,
    lines: Vec<Line>,
    /// Machines that cannot reach the relay.
    apart: BTreeSet<Host>,
    /// Milliseconds that bytes of a machine take, from and to.
    pace: BTreeMap<Host, (u64, u64)>,
    /// Writes after which the connections of a machine break.
    fuses: BTreeMap<Host, u64>,
}

/// A connection.
#[derive(Debug)]
struct Line {
    host: Host,
    ways: [Way; 2],
    tap: Option<Tap>,
    broken: bool,
    /// Nothing comes through any more, and nobody is told.
    lost: bool,
}

/// One direction: from the machine (0), or to it (1).
#[derive(Debug, Default)]
struct Way {
    queue: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    last: Option<Instant>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// One end of a connection: `side` is the way that it writes to.
#[derive(Debug)]
struct End {
    net: Net,
    line: usize,
    side: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The relay's end of a connection, and whose it is.
type Comer = (Box<dyn Wire>, SocketAddr);

/// Where the relay listens.
#[derive(Debug)]
struct Gate(Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Comer>>>);

impl Net {
    pub fn new(dice: Dice, history: History) -> Self {
        let (apart, pace, fuses) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let lines = Vec::new();
        Self(Arc::new(Mutex::new(Inner { dice, history, door: None, lines, apart, pace, fuses })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn listen(&self) -> Box<dyn Door> {
        let (door, comers) = mpsc::unbounded_channel();
        self.lock().door = Some(door);
        Box::new(Gate(Arc::new(tokio::sync::Mutex::new(comers))))
    }

    /// Connects a machine with the relay.
    pub async fn dial(&self, host: Host) -> io::Result<Box<dyn Wire>> {
        let (trip, apart) = {
            let mut inner = self.lock();
            (inner.delay(host), inner.apart.contains(&host))
        };
        if apart {
            // what is sent goes nowhere, and whoever dials gives up
            return std::future::pending().await;
        }
        sleep(trip * 2).await;
        let mut inner = self.lock();
        let door = inner.door.clone().filter(|door| !door.is_closed());
        let Some(door) = door else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let line = inner.lines.len();
        let tap = (host != USER).then(Tap::default);
        inner.lines.push(Line { host, ways: Default::default(), tap, broken: false, lost: false });
        drop(inner);
        let end = |side| Box::new(End { net: self.clone(), line, side, sleep: None });
        let from = SocketAddr::from(([10, 0, 0, 9], 1_000 + u16::try_from(line % 60_000).unwrap()));
        match door.send((end(1), from)) {
            Ok(()) => Ok(end(0)),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Breaks all connections of a machine; both sides see it at once.
    pub fn cut(&self, host: Host) {
        self.lock().each(host, |line| line.broken = true);
    }

    /// Breaks the connections of a machine at its so-manieth write from now.
    pub fn fuse(&self, host: Host, writes: u64) {
        self.lock().fuses.insert(host, writes);
    }

    /// Takes the connections of a machine away without a word, as a lost power line does.
    pub fn lose(&self, host: Host) {
        self.lock().each(host, |line| line.lost = true);
    }

    /// Parts a machine from the relay: what is under way waits.
    pub fn part(&self, host: Host) {
        self.lock().apart.insert(host);
    }

    /// No connection of a machine breaks by itself any more.
    pub fn defuse(&self, host: Host) {
        self.lock().fuses.remove(&host);
    }

    /// Ends a partition. Connections that outlived it go on.
    pub fn join(&self, host: Host) {
        let mut inner = self.lock();
        inner.apart.remove(&host);
        inner.each(host, |_| {});
    }

    /// Nobody listens any more.
    pub fn shut(&self) {
        self.lock().door = None;
    }

    /// Milliseconds that each write of a machine, and each to it, takes from now on.
    pub fn pace(&self, host: Host, from: u64, to: u64) {
        self.lock().pace.insert(host, (from, to));
    }
}

impl Inner {
    fn delay(&mut self, host: Host) -> Duration {
        let (from, to) = self.pace.get(&host).copied().unwrap_or((1, 40));
        self.dice.millis(from, to)
    }

    fn each(&mut self, host: Host, mut change: impl FnMut(&mut Line)) {
        let touched = |line: &&mut Line| line.host == host || host == RELAY;
        for line in self.lines.iter_mut().filter(touched) {
            change(line);
            line.ways.iter_mut().for_each(Way::wake);
        }
    }

    /// Counts a write; whether the machine's fuse is through.
    fn blows(&mut self, host: Host) -> bool {
        let Some(left) = self.fuses.get_mut(&host) else { return false };
        *left = left.saturating_sub(1);
        let through = *left == 0;
        if through {
            self.fuses.remove(&host);
            self.history.fault(format!("the link of {host} breaks within a message"));
            self.each(host, |line| line.broken = true);
        }
        through
    }

    fn is_still(&self, line: &Line) -> bool {
        line.lost || self.apart.contains(&line.host)
    }
}

impl Door for Gate {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = Comer> + Send>> {
        let comers = self.0.clone();
        Box::pin(async move {
            match comers.lock().await.recv().await {
                Some(comer) => comer,
                None => std::future::pending().await,
            }
        })
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (net, side) = (self.net.clone(), 1 - self.side);
        let mut inner = net.lock();
        let still = inner.is_still(&inner.lines[self.line]);
        let line = &mut inner.lines[self.line];
        if line.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let host = line.host;
        let way = &mut line.ways[side];
        way.reader = Some(cx.waker().clone());
        if still {
            return Poll::Pending;
        }
        let Some((at, _)) = way.queue.front() else {
            return if way.closed { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        if *at > Instant::now() {
            let mut sleep = Box::pin(sleep_until(*at));
            let due = sleep.as_mut().poll(cx);
            if due.is_pending() {
                drop(inner);
                self.sleep = Some(sleep);
                return Poll::Pending;
            }
        }
        // all that is there comes with one read, as from a kernel
        let now = Instant::now();
        while let Some((at, bytes)) = way.queue.front_mut()
            && *at <= now
            && into.remaining() > 0
        {
            let len = bytes.len().min(into.remaining());
            into.put_slice(&bytes[..len]);
            bytes.drain(..len);
            way.held -= len;
            if bytes.is_empty() {
                way.queue.pop_front();
            }
        }
        way.writer.take().into_iter().for_each(Waker::wake);
        if side == 0 && host != USER {
            inner.history.note(Fact::Heard(host));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.net.lock();
        let host = inner.lines[self.line].host;
        if inner.lines[self.line].broken || inner.lines[self.line].ways[1 - self.side].closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if inner.lines[self.line].ways[self.side].held >= WINDOW {
            inner.lines[self.line].ways[self.side].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let due = Instant::now() + inner.delay(host);
        let line = &mut inner.lines[self.line];
        let way = &mut line.ways[self.side];
        let due = way.last.map_or(due, |last| last.max(due));
        way.last = Some(due);
        way.held += bytes.len();
        way.queue.push_back((due, bytes.to_vec()));
        way.reader.take().into_iter().for_each(Waker::wake);
        let texts = line.tap.as_mut().map(|tap| tap.take(self.side, bytes)).unwrap_or_default();
        for text in texts {
            let fact = if self.side == 0 { Fact::Told } else { Fact::Answered };
            inner.history.note(fact(host, text));
        }
        inner.blows(host);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.net.lock();
        let way = &mut inner.lines[self.line].ways[self.side];
        way.closed = true;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut inner = self.net.lock();
        // of a closed end nothing is read any more, and whoever reads comes to the end
        let line = &mut inner.lines[self.line];
        line.ways[self.side].closed = true;
        line.ways[1 - self.side].closed = true;
        line.ways.iter_mut().for_each(Way::wake);
    }
}
