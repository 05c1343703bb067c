//! One connection to a keeper.

use crate::keeper::wire::{self, Call, FromKeeper, Request, SOCKET_VERSION, WELCOME, WireFault};
use crate::keeper::{RunFolder, SOCKET};
use crate::line::Line;
use crate::process::ProcessId;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long a keeper may take to read what it is sent: it reads whenever it runs.
pub const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Calls made while a link is opened; those of its user begin above.
const STATUS_CALL: u64 = 1;
const SUBSCRIBE_CALL: u64 = 2;

/// The first id that a link's user may give to a call.
pub(super) const FIRST_CALL: u64 = 16;

/// A greeted and subscribed connection.
pub(super) struct Link {
    stream: Line,
    inbox: Vec<u8>,
    /// Who keeps.
    pub(super) keeper: ProcessId,
    /// Who is kept.
    pub(super) agent: Option<ProcessId>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkFault {
    /// Nobody listens, or the connection broke.
    #[error("the keeper cannot be reached")]
    Io(#[from] io::Error),
    /// The keeper speaks this version.
    #[error("the keeper speaks version {0} of its socket, not {SOCKET_VERSION}")]
    Foreign(u32),
}

/// Connects to the keeper that listens in `folder`, and greets it: calls may follow. Waits for ever on a
/// keeper that hangs.
///
/// # Errors
/// Nobody listens there, or they speak another version.
pub async fn connect(folder: &RunFolder) -> Result<Line, LinkFault> {
    let mut line = Line::connect(&folder.path().join(SOCKET)).await?;
    line.write_all(&wire::greeting(SOCKET_VERSION)).await?;
    let mut welcome = [0; WELCOME];
    line.read_exact(&mut welcome).await?;
    match wire::read_welcome(welcome).map_err(broken)? {
        SOCKET_VERSION => Ok(line),
        theirs => Err(LinkFault::Foreign(theirs)),
    }
}

fn broken(fault: WireFault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

impl Link {
    /// Connects, greets, asks who is there and subscribes. Waits for ever on a keeper that hangs.
    pub(super) async fn open(folder: &RunFolder) -> Result<Self, LinkFault> {
        let stream = connect(folder).await?;
        let nobody = ProcessId { pid: 0, start: 0 };
        let mut link = Self { stream, inbox: Vec::new(), keeper: nobody, agent: None };
        link.send(&link_call(STATUS_CALL, Request::Status)?).await?;
        link.send(&link_call(SUBSCRIBE_CALL, Request::Subscribe)?).await?;
        loop {
            if let FromKeeper::Status { keeper, agent, .. } = link.receive().await? {
                (link.keeper, link.agent) = (keeper, agent);
                return Ok(link);
            }
        }
    }

    /// Sends one frame, whole or not at all as far as the keeper is concerned.
    pub(super) async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let sending = self.stream.write_all(frame);
        timeout(WRITE_LIMIT, sending).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next message. Dropping the future loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<FromKeeper> {
        loop {
            if let Some((message, took)) = wire::decode_keeper(&self.inbox).map_err(broken)? {
                self.inbox.drain(..took);
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A call as a frame.
pub(super) fn link_call(id: u64, request: Request) -> io::Result<Vec<u8>> {
    wire::encode(&Call { id, request }).map_err(broken)
}
