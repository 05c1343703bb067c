//! Reads the output of a task's last run: each byte once, in order, what is missing named.

use super::reach::Reach;
use super::socket::Heard;
use super::ways::Next;
use bytes::Bytes;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{TaskId, WatchId};
use hayward_shared::protocol::output::{Body, Frame};
use hayward_shared::protocol::{ClientMessage, ClientNotice, OutputView};

/// Bytes that may be under way: a relay and a terminal that are both fast are never idle.
const WINDOW: u64 = 1024 * 1024;

/// Tries without a byte between them before reading that does not follow gives up: about 15 s.
const TRIES: u32 = 6;

/// Takes what is read.
pub(crate) trait Sink {
    /// The next bytes.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fault>;

    /// The bytes from one offset to another are not there any more.
    fn gap(&mut self, from: u64, until: u64) -> Result<(), Fault>;

    /// Something that a person may want to know.
    fn news(&mut self, text: &str);
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Of which task.
    pub(crate) task: TaskId,
    /// From which byte on.
    pub(crate) from: u64,
    /// Whether to wait for more until the session ends.
    pub(crate) follow: bool,
}

/// How far reading is. Pure: frames go in, what to do comes out.
#[derive(Debug)]
struct Reading {
    offset: u64,
    granted: u64,
    /// The run that the offset counts in.
    run: Option<String>,
}

/// What a frame asks for.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// These bytes are missing.
    Gap { from: u64, until: u64 },
    /// Take these bytes, after those that are missing before them.
    Bytes { missing: Option<(u64, u64)>, bytes: &'a [u8] },
    /// Nothing follows.
    End,
}

impl Reading {
    fn new(from: u64) -> Self {
        Self { offset: from, granted: 0, run: None }
    }

    fn take<'a>(&mut self, frame: &Frame<'a>) -> Step<'a> {
        match frame.body {
            Body::End => Step::End,
            Body::Gap { until } => {
                let from = self.offset;
                self.offset = until.max(from);
                Step::Gap { from, until: self.offset }
            }
            // of terminals only
            Body::Screen(_) | Body::Paint(_) | Body::Resized(_) => {
                Step::Bytes { missing: None, bytes: &[] }
            }
            Body::Bytes(bytes) => {
                let missing = (frame.offset > self.offset).then_some((self.offset, frame.offset));
                // a frame may begin before what is wanted: that part was taken already
                let known = self.offset.saturating_sub(frame.offset);
                let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..));
                let bytes = fresh.unwrap_or_default();
                self.offset = self.offset.max(frame.offset) + bytes.len() as u64;
                Step::Bytes { missing, bytes }
            }
        }
    }

    /// The next grant, once half of the last one is used up.
    fn grant(&mut self) -> Option<u64> {
        if self.granted.saturating_sub(self.offset) > WINDOW / 2 {
            return None;
        }
        self.granted = self.offset + WINDOW;
        Some(self.granted)
    }

    /// Notes which run the bytes are of; `true` when it is another one than before.
    fn is_other_run(&mut self, run: Option<&str>) -> bool {
        let other = matches!((&self.run, run), (Some(old), Some(new)) if old != new);
        if let Some(run) = run {
            self.run = Some(run.to_owned());
        }
        other
    }
}

/// Why one connection's reading ended.
enum Stop {
    /// All was read.
    End,
    /// The task began a new run meanwhile: its output begins anew.
    OtherRun,
    /// The connection, or what is behind it, failed.
    Broken(Fault),
    /// The sink takes no more.
    Fault(Fault),
}

impl Watch {
    /// Reads into `sink` until the end; goes on at its offset over broken connections. Answers the
    /// offset that was reached.
    ///
    /// # Errors
    /// Nothing is to be read, nobody answers in time (only where it does not follow), or the sink
    /// takes no more.
    pub(crate) async fn read(self, mut reach: Reach, sink: &mut impl Sink) -> Result<u64, Fault> {
        let mut reading = Reading::new(self.from);
        loop {
            let before = reading.offset;
            let fault = match self.connection(&mut reach, &mut reading, sink).await {
                Stop::End => return Ok(reading.offset),
                Stop::OtherRun => {
                    sink.news("the agent was started anew: its output begins again");
                    reading.offset = 0;
                    continue;
                }
                Stop::Broken(fault) => fault,
                Stop::Fault(fault) => return Err(fault),
            };
            if reading.offset > before {
                reach.served();
            }
            match reach.failed(fault) {
                Next::Other => {}
                Next::Never(fault) => return Err(fault),
                Next::Later { pause, fault, failures } => {
                    if !self.follow && failures + 1 >= TRIES {
                        return Err(fault);
                    }
                    if failures == 0 {
                        sink.news(&format!("{fault}; trying again"));
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn connection(
        &self,
        reach: &mut Reach,
        reading: &mut Reading,
        sink: &mut impl Sink,
    ) -> Stop {
        let watch_id = WatchId::fresh();
        let opened = async {
            let mut socket = reach.open().await?;
            reading.granted = reading.offset + WINDOW;
            let view = OutputView {
                watch_id,
                task_id: self.task,
                from: reading.offset,
                follow: self.follow,
                grant: reading.granted,
            };
            socket.send(&ClientMessage::Watch(view)).await?;
            Ok(socket)
        };
        let mut socket = match opened.await {
            Ok(socket) => socket,
            Err(fault) => return Stop::Broken(fault),
        };
        loop {
            match socket.hear().await {
                Ok(Heard::Frame(frame)) => match take(&frame, watch_id, reading, sink) {
                    Ok(true) => return Stop::End,
                    Ok(false) => {}
                    Err(fault) => return Stop::Fault(fault),
                },
                Ok(Heard::Notice(ClientNotice::WatchStarted { payload, .. })) => {
                    if let Some(how) = reach.moved() {
                        sink.news(how);
                    }
                    let run = payload.get("runId").and_then(serde_json::Value::as_str);
                    if reading.is_other_run(run) {
                        return Stop::OtherRun;
                    }
                }
                Ok(Heard::Notice(
                    ClientNotice::WatchFailed { error, .. } | ClientNotice::Error { error },
                )) => return Stop::Broken(error),
                // the rest is no answer to a watch
                Ok(Heard::Notice(_) | Heard::Event(_)) => {}
                Err(fault) => return Stop::Broken(fault),
            }
            if let Some(up_to) = reading.grant()
                && let Err(fault) = socket.send(&ClientMessage::Grant { watch_id, up_to }).await
            {
                return Stop::Broken(fault);
            }
        }
    }
}

/// Takes one frame; `true` when it is the last.
fn take(
    frame: &Bytes,
    watch: WatchId,
    reading: &mut Reading,
    sink: &mut impl Sink,
) -> Result<bool, Fault> {
    let frame =
        Frame::decode(frame).map_err(|bad| Fault::new(Code::Incompatible, bad.to_string()))?;
    if frame.watch != watch {
        return Ok(false);
    }
    match reading.take(&frame) {
        Step::End => return Ok(true),
        Step::Gap { from, until } => sink.gap(from, until)?,
        Step::Bytes { missing, bytes } => {
            if let Some((from, until)) = missing {
                sink.gap(from, until)?;
            }
            sink.bytes(bytes)?;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: u64, body: Body<'_>) -> Frame<'_> {
        Frame { watch: WatchId::fresh(), offset, body }
    }

    #[test]
    fn bytes_are_taken_once_and_what_is_missing_is_named() {
        let mut reading = Reading::new(10);
        let step = reading.take(&frame(8, Body::Bytes(b"abcd")));
        assert_eq!(step, Step::Bytes { missing: None, bytes: b"cd" });
        let step = reading.take(&frame(20, Body::Bytes(b"x")));
        assert_eq!(step, Step::Bytes { missing: Some((12, 20)), bytes: b"x" });
        let step = reading.take(&frame(21, Body::Gap { until: 30 }));
        assert_eq!(step, Step::Gap { from: 21, until: 30 });
        let step = reading.take(&frame(5, Body::Bytes(b"old")));
        assert_eq!(step, Step::Bytes { missing: None, bytes: b"" });
        assert_eq!((reading.take(&frame(30, Body::End)), reading.offset), (Step::End, 30));
    }

    #[test]
    fn a_grant_is_renewed_once_half_of_it_is_used() {
        let mut reading = Reading::new(100);
        assert_eq!(reading.grant(), Some(100 + WINDOW));
        assert_eq!(reading.grant(), None);
        reading.offset += WINDOW / 2;
        assert_eq!(reading.grant(), Some(100 + WINDOW / 2 + WINDOW));
    }

    #[test]
    fn a_new_run_is_noticed() {
        let mut reading = Reading::new(0);
        assert!(!reading.is_other_run(Some("a")));
        assert!(!reading.is_other_run(None));
        assert!(!reading.is_other_run(Some("a")));
        assert!(reading.is_other_run(Some("b")));
    }
}
