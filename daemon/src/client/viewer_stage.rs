//! The stage of the viewer's tests: a daemon and a keeper that are moved by hand, one message at a time.

use super::super::super::direct::Direct;
use super::super::super::finder::Finder;
use super::super::super::ways::Way;
use super::super::*;
use futures_util::{SinkExt, StreamExt};
use hayward_daemon::home::Home;
use hayward_daemon::keeper::wire::{self, FromClient, FromKeeper, Request, SOCKET_VERSION};
use hayward_shared::id::TaskId;
use hayward_shared::protocol::output::{Body, Frame};
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub(super) const SHAPE: Shape = Shape { rows: 24, cols: 80, owner: true };
pub(super) const RUN: &str = "run";

/// What must come soon; a test that waits for more has failed.
pub(super) async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(40), doing).await.unwrap_or_else(|_| panic!("not soon: {what}"))
}

/// Where daemon and keeper are waited for.
pub(super) struct Stage {
    pub(super) home: Home,
    pub(super) daemons: UnixListener,
    pub(super) keepers: UnixListener,
    _folder: TempDir,
}

impl Stage {
    pub(super) fn new() -> (Self, Viewer) {
        Self::of(None, false)
    }

    /// A viewer that may also go through this relay.
    pub(super) fn with_relay(relay: &TcpListener) -> (Self, Viewer) {
        Self::of(Some(format!("http://{}", relay.local_addr().unwrap())), false)
    }

    /// A viewer that may only look.
    pub(super) fn read_only() -> (Self, Viewer) {
        Self::of(None, true)
    }

    fn of(relay: Option<String>, read_only: bool) -> (Self, Viewer) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path()), None).unwrap();
        home.furnish().unwrap();
        let daemons = UnixListener::bind(home.socket()).unwrap();
        let keepers = keepers_of(&home, RUN);
        let finder = Finder { relay, token: None, home: home.clone() };
        let view = View { task: TaskId::fresh(), size: (24, 80), read_only, take: false };
        let viewer = Viewer::start(Reach::by(finder, Way::Near), view);
        (Self { home, daemons, keepers, _folder: folder }, viewer)
    }

    pub(super) async fn daemon(&self) -> Daemon {
        self.daemon_of(RUN).await
    }

    /// A daemon that names this run.
    pub(super) async fn daemon_of(&self, run: &str) -> Daemon {
        let (stream, _) = soon("a viewer at the daemon", self.daemons.accept()).await.unwrap();
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut daemon = Daemon { socket, watch_id: WatchId::fresh() };
        let ClientMessage::AttachTerminal(wanted) = daemon.hear().await else { panic!("no wish") };
        assert_eq!(wanted.grant, 0);
        daemon.watch_id = wanted.watch_id;
        let payload = json!({ "folder": run });
        daemon.say(&ClientNotice::WatchStarted { watch_id: wanted.watch_id, payload }).await;
        daemon
    }

    /// A keeper that was asked to show what comes behind the offset, and has not answered.
    pub(super) async fn asked(&self) -> (Keeper, u64, u64) {
        Self::asked_at(&self.keepers).await
    }

    pub(super) async fn asked_at(keepers: &UnixListener) -> (Keeper, u64, u64) {
        let (mut stream, _) = soon("a viewer at the keeper", keepers.accept()).await.unwrap();
        stream.read_exact(&mut [0; wire::GREETING]).await.unwrap();
        stream.write_all(&wire::welcome(SOCKET_VERSION)).await.unwrap();
        let mut keeper = Keeper { stream, inbox: Vec::new() };
        match keeper.hear().await {
            FromClient::Call(wire::Call { id, request: Request::Show { from } }) => {
                (keeper, id, from)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A keeper that shows what comes behind `from`.
    pub(super) async fn keeper(&self, from: u64) -> Keeper {
        let (mut keeper, id, asked) = self.asked().await;
        assert_eq!(asked, from);
        keeper.say(&FromKeeper::Done { id }).await;
        keeper
    }
}

/// Where the keeper of a run is waited for.
pub(super) fn keepers_of(home: &Home, run: &str) -> UnixListener {
    let run = home.runs().join(run);
    std::fs::create_dir(&run).unwrap();
    UnixListener::bind(run.join("socket")).unwrap()
}

pub(super) struct Daemon {
    pub(super) socket: WebSocketStream<UnixStream>,
    watch_id: WatchId,
}

impl Daemon {
    pub(super) async fn hear(&mut self) -> ClientMessage {
        loop {
            let message = soon("a word to the daemon", self.socket.next()).await;
            if let Message::Text(text) = message.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    pub(super) async fn say(&mut self, notice: &ClientNotice) {
        let text = serde_json::to_string(notice).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(super) async fn frame(&mut self, offset: u64, body: Body<'_>) {
        let frame = Frame { watch: self.watch_id, offset, body }.encode();
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    pub(super) async fn screen(&mut self, offset: u64, text: &str) {
        for body in [Body::Screen(SHAPE), Body::Paint(text.as_bytes()), Body::Resized(SHAPE)] {
            self.frame(offset, body).await;
        }
    }

    /// Answers a key that was never typed: what it said before was taken once that is seen.
    pub(super) async fn mark(&mut self, viewer: &mut Viewer, seq: u64) {
        let watch_id = self.watch_id;
        self.say(&ClientNotice::TerminalTyped { watch_id, seq }).await;
        assert!(matches!(sees(viewer).await, Seen::Typed(seen) if seen == seq));
    }

    /// Waits until a key is typed here, past grants.
    pub(super) async fn typed(&mut self) -> u64 {
        loop {
            if let ClientMessage::TypeTerminal { seq, .. } = self.hear().await {
                return seq;
            }
        }
    }
}

pub(super) struct Keeper {
    pub(super) stream: UnixStream,
    pub(super) inbox: Vec<u8>,
}

impl Keeper {
    pub(super) async fn hear(&mut self) -> FromClient {
        loop {
            if let Some((message, took)) = wire::decode_client(&self.inbox).unwrap() {
                self.inbox.drain(..took);
                return message;
            }
            let read = self.stream.read_buf(&mut self.inbox);
            assert!(soon("a word to the keeper", read).await.unwrap() > 0, "the viewer is gone");
        }
    }

    pub(super) async fn say(&mut self, message: &FromKeeper) {
        self.stream.write_all(&wire::encode(message).unwrap()).await.unwrap();
    }

    pub(super) async fn show(&mut self, offset: u64, bytes: &[u8]) {
        let mut frame = Vec::new();
        wire::add_output(&mut frame, offset, bytes).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }
}

/// What is seen next, breaks and ways left out.
pub(super) async fn sees(viewer: &mut Viewer) -> Seen {
    loop {
        match soon("something to see", viewer.next()).await.unwrap() {
            Seen::Lost(_) | Seen::Apart(_) | Seen::Moved(_) => {}
            seen => return seen,
        }
    }
}

pub(super) async fn sees_screen(viewer: &mut Viewer, text: &str) {
    assert!(matches!(sees(viewer).await, Seen::Screen(SHAPE)));
    prints(viewer, text).await;
}

pub(super) async fn prints(viewer: &mut Viewer, text: &str) {
    let seen = sees(viewer).await;
    assert!(matches!(&seen, Seen::Print(bytes) if bytes == text), "{seen:?} in place of {text}");
}

pub(super) fn exited() -> FromKeeper {
    use hayward_daemon::keeper::{Exit, How};
    use hayward_shared::id::RunId;
    use hayward_shared::time::Timestamp;
    let at = Timestamp::from_millis(0);
    FromKeeper::Exited {
        exit: Exit {
            run: RunId::fresh(),
            how: How::Exited { code: 0 },
            ended_at: at,
            recorded_at: at,
            output_end: 10 << 20,
            stderr_end: 0,
            drained: true,
            leftovers: 0,
            fenced: false,
        },
    }
}

/// A way to a keeper by hand that shows what lies behind `from` of the ring in `folder`.
pub(super) async fn direct(stage: &Stage, from: u64) -> (Direct, Keeper) {
    let folder = RunFolder::new(stage.home.runs().join(RUN));
    let (direct, keeper) = tokio::join!(Direct::open(&folder, from), stage.keeper(from));
    (direct.unwrap(), keeper)
}
