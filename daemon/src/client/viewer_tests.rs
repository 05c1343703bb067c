//! A viewer between a daemon and a keeper that are moved by hand, one message at a time: what is
//! tried here falls into moments that are too short to be met with real ones.

use super::super::direct::Direct;
use super::super::finder::Finder;
use super::super::ways::Way;
use super::*;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hayward_daemon::home::Home;
use hayward_daemon::keeper::wire::{self, FromClient, FromKeeper, Request, SOCKET_VERSION};
use hayward_daemon::terminal::ring::RingWriter;
use hayward_shared::id::TaskId;
use hayward_shared::protocol::output::{Body, Frame};
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::{Instant, pause, resume, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const SHAPE: Shape = Shape { rows: 24, cols: 80, owner: true };
const RUN: &str = "run";

/// What must come soon; a test that waits for more has failed.
async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(40), doing).await.unwrap_or_else(|_| panic!("not soon: {what}"))
}

/// Where daemon and keeper are waited for.
struct Stage {
    home: Home,
    daemons: UnixListener,
    keepers: UnixListener,
    _folder: TempDir,
}

impl Stage {
    fn new() -> (Self, Viewer) {
        Self::of(None, false)
    }

    /// A viewer that may also go through this relay.
    fn with_relay(relay: &TcpListener) -> (Self, Viewer) {
        Self::of(Some(format!("http://{}", relay.local_addr().unwrap())), false)
    }

    /// A viewer that may only look.
    fn read_only() -> (Self, Viewer) {
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

    async fn daemon(&self) -> Daemon {
        self.daemon_of(RUN).await
    }

    /// A daemon that names this run.
    async fn daemon_of(&self, run: &str) -> Daemon {
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
    async fn asked(&self) -> (Keeper, u64, u64) {
        Self::asked_at(&self.keepers).await
    }

    async fn asked_at(keepers: &UnixListener) -> (Keeper, u64, u64) {
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
    async fn keeper(&self, from: u64) -> Keeper {
        let (mut keeper, id, asked) = self.asked().await;
        assert_eq!(asked, from);
        keeper.say(&FromKeeper::Done { id }).await;
        keeper
    }
}

/// Where the keeper of a run is waited for.
fn keepers_of(home: &Home, run: &str) -> UnixListener {
    let run = home.runs().join(run);
    std::fs::create_dir(&run).unwrap();
    UnixListener::bind(run.join("socket")).unwrap()
}

struct Daemon {
    socket: WebSocketStream<UnixStream>,
    watch_id: WatchId,
}

impl Daemon {
    async fn hear(&mut self) -> ClientMessage {
        loop {
            let message = soon("a word to the daemon", self.socket.next()).await;
            if let Message::Text(text) = message.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    async fn say(&mut self, notice: &ClientNotice) {
        let text = serde_json::to_string(notice).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn frame(&mut self, offset: u64, body: Body<'_>) {
        let frame = Frame { watch: self.watch_id, offset, body }.encode();
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    async fn screen(&mut self, offset: u64, text: &str) {
        for body in [Body::Screen(SHAPE), Body::Paint(text.as_bytes()), Body::Resized(SHAPE)] {
            self.frame(offset, body).await;
        }
    }

    /// Answers a key that was never typed: what it said before was taken once that is seen.
    async fn mark(&mut self, viewer: &mut Viewer, seq: u64) {
        let watch_id = self.watch_id;
        self.say(&ClientNotice::TerminalTyped { watch_id, seq }).await;
        assert!(matches!(sees(viewer).await, Seen::Typed(seen) if seen == seq));
    }

    /// Waits until a key is typed here, past grants.
    async fn typed(&mut self) -> u64 {
        loop {
            if let ClientMessage::TypeTerminal { seq, .. } = self.hear().await {
                return seq;
            }
        }
    }
}

struct Keeper {
    stream: UnixStream,
    inbox: Vec<u8>,
}

impl Keeper {
    async fn hear(&mut self) -> FromClient {
        loop {
            if let Some((message, took)) = wire::decode_client(&self.inbox).unwrap() {
                self.inbox.drain(..took);
                return message;
            }
            let read = self.stream.read_buf(&mut self.inbox);
            assert!(soon("a word to the keeper", read).await.unwrap() > 0, "the viewer is gone");
        }
    }

    async fn say(&mut self, message: &FromKeeper) {
        self.stream.write_all(&wire::encode(message).unwrap()).await.unwrap();
    }

    async fn show(&mut self, offset: u64, bytes: &[u8]) {
        let mut frame = Vec::new();
        wire::add_output(&mut frame, offset, bytes).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }
}

/// What is seen next, breaks and ways left out.
async fn sees(viewer: &mut Viewer) -> Seen {
    loop {
        match soon("something to see", viewer.next()).await.unwrap() {
            Seen::Lost(_) | Seen::Apart(_) | Seen::Moved(_) => {}
            seen => return seen,
        }
    }
}

async fn sees_screen(viewer: &mut Viewer, text: &str) {
    assert!(matches!(sees(viewer).await, Seen::Screen(SHAPE)));
    prints(viewer, text).await;
}

async fn prints(viewer: &mut Viewer, text: &str) {
    let seen = sees(viewer).await;
    assert!(matches!(&seen, Seen::Print(bytes) if bytes == text), "{seen:?} in place of {text}");
}

#[tokio::test]
async fn f07_a_key_that_the_daemon_took_along_is_refused_and_the_keeper_answers_its_own() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    viewer.say(Say::Type(1, b"a".to_vec())).await;
    assert_eq!(daemon.typed().await, 1);
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    viewer.say(Say::Type(2, b"b".to_vec())).await;
    assert!(matches!(keeper.hear().await, FromClient::Input(input) if input.id == 2));
    drop((daemon, stage.daemons));
    let seen = sees(&mut viewer).await;
    assert!(matches!(seen, Seen::Refused(Some(1), _)), "{seen:?}");
    keeper.say(&FromKeeper::Done { id: 2 }).await;
    assert!(matches!(sees(&mut viewer).await, Seen::Typed(2)));
}

#[tokio::test]
async fn f07_a_keeper_that_does_not_answer_a_key_is_left_and_the_next_key_goes_to_the_daemon() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    // an answer to one key says nothing of the next
    for seq in [1, 2] {
        viewer.say(Say::Type(seq, b"a".to_vec())).await;
        assert!(matches!(keeper.hear().await, FromClient::Input(input) if input.id == seq));
    }
    keeper.say(&FromKeeper::Done { id: 1 }).await;
    assert!(matches!(sees(&mut viewer).await, Seen::Typed(1)));
    pause();
    let seen = sees(&mut viewer).await;
    resume();
    assert!(matches!(seen, Seen::Refused(Some(2), _)), "{seen:?}");
    viewer.say(Say::Type(3, b"b".to_vec())).await;
    assert_eq!(daemon.typed().await, 3);
}

#[tokio::test]
async fn who_only_looks_types_neither_at_the_daemon_nor_at_the_keeper() {
    let (stage, mut viewer) = Stage::read_only();
    let mut daemon = stage.daemon().await;
    refuses(&mut viewer, 1).await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    refuses(&mut viewer, 2).await;
    drop(viewer);
    let mut rest = keeper.inbox;
    soon("the viewer's end", keeper.stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    while let Some(Ok(message)) = soon("the viewer's end", daemon.socket.next()).await {
        assert!(!message.is_text(), "{message:?}");
    }
}

/// Types under this number, and is told that it may not.
async fn refuses(viewer: &mut Viewer, seq: u64) {
    viewer.say(Say::Type(seq, b"a".to_vec())).await;
    let seen = sees(viewer).await;
    let Seen::Refused(Some(refused), fault) = seen else { panic!("{seen:?}") };
    assert_eq!((refused, fault.code), (seq, Code::Forbidden));
}

#[tokio::test]
async fn f32_half_a_screen_is_not_shown_and_the_keeper_goes_on_where_it_was() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    daemon.frame(20, Body::Screen(SHAPE)).await;
    daemon.frame(20, Body::Paint(b"half")).await;
    daemon.mark(&mut viewer, 99).await;
    keeper.show(10, b"one ").await;
    prints(&mut viewer, "one ").await;
    drop((daemon, stage.daemons));
    while !matches!(soon("the break", viewer.next()).await.unwrap(), Seen::Apart(_)) {}
    keeper.show(14, b"two").await;
    prints(&mut viewer, "two").await;
}

#[tokio::test]
async fn f32_a_whole_screen_goes_before_what_the_keeper_showed_and_that_goes_on_behind_it() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    keeper.show(10, b"0123456789").await;
    prints(&mut viewer, "0123456789").await;
    daemon.screen(15, "second").await;
    sees_screen(&mut viewer, "second").await;
    let again = keeper.hear().await;
    let FromClient::Call(wire::Call { id, request }) = again else { panic!("{again:?}") };
    assert_eq!(request, Request::Show { from: 15 });
    keeper.show(20, b"of before").await;
    keeper.say(&FromKeeper::Done { id }).await;
    keeper.show(15, b"56789").await;
    prints(&mut viewer, "56789").await;
}

#[tokio::test]
async fn f32_who_is_too_far_behind_is_shown_all_by_the_daemon_and_the_end_is_the_daemons_to_tell() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    keeper.say(&FromKeeper::Skipped { until: 10 << 20 }).await;
    keeper.say(&exited()).await;
    let granted = daemon.hear().await;
    assert!(matches!(granted, ClientMessage::Grant { up_to, .. } if up_to > 10), "{granted:?}");
    daemon.frame(10, Body::Bytes(b"abc")).await;
    prints(&mut viewer, "abc").await;
    let wider = Shape { cols: 90, ..SHAPE };
    daemon.frame(13, Body::Resized(wider)).await;
    let seen = sees(&mut viewer).await;
    assert!(matches!(seen, Seen::Resized(shape) if shape == wider), "{seen:?}");
    drop(keeper);
    daemon.frame(13, Body::Bytes(b"d")).await;
    prints(&mut viewer, "d").await;
    daemon.frame(14, Body::End).await;
    assert!(matches!(sees(&mut viewer).await, Seen::End));
}

#[tokio::test]
async fn f32_output_that_nobody_showed_ends_the_connection_and_the_next_begins_with_a_screen() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    // granted before the keeper served, as it may be
    daemon.frame(10, Body::Bytes(b"abc")).await;
    daemon.mark(&mut viewer, 99).await;
    drop(keeper);
    let mut daemon = stage.daemon().await;
    daemon.screen(13, "all").await;
    sees_screen(&mut viewer, "all").await;
}

#[tokio::test]
async fn f32_the_keeper_of_a_former_run_is_left_for_that_of_the_run_that_the_daemon_names() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut former = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    drop(daemon);
    let keepers = keepers_of(&stage.home, "another");
    let mut daemon = stage.daemon_of("another").await;
    daemon.screen(5, "second").await;
    let (mut keeper, id, from) = Stage::asked_at(&keepers).await;
    assert_eq!(from, 5);
    keeper.say(&FromKeeper::Done { id }).await;
    sees_screen(&mut viewer, "second").await;
    viewer.say(Say::Type(1, b"a".to_vec())).await;
    assert!(matches!(keeper.hear().await, FromClient::Input(input) if input.id == 1));
    let left = soon("the former one left", former.stream.read(&mut [0; 64])).await;
    assert!(matches!(left, Ok(0)), "{left:?}");
}

#[tokio::test]
async fn f07_while_the_keeper_shows_no_relay_is_asked_that_would_take_it_away() {
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stage, mut viewer) = Stage::with_relay(&relay);
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    drop(daemon);
    let mut daemon = stage.daemon().await;
    assert!(relay.accept().now_or_never().is_none(), "the relay was asked");
    daemon.screen(10, "second").await;
    sees_screen(&mut viewer, "second").await;
    assert!(matches!(keeper.hear().await, FromClient::Call(_)));
}

#[tokio::test]
async fn f33_a_daemon_that_falls_silent_is_told_of_once_while_the_keeper_goes_on() {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let mut keeper = stage.keeper(10).await;
    sees_screen(&mut viewer, "first").await;
    pause();
    let began = Instant::now();
    let seen = viewer.next().await.unwrap();
    assert!(matches!(seen, Seen::Apart(_)), "{seen:?}");
    assert!(began.elapsed() > Duration::from_secs(40), "{:?}", began.elapsed());
    // many more connections fail meanwhile, none of them answered
    let again = timeout(Duration::from_secs(300), viewer.next()).await;
    assert!(again.is_err(), "{again:?}");
    resume();
    keeper.show(10, b"on").await;
    prints(&mut viewer, "on").await;
    viewer.say(Say::Type(1, b"a".to_vec())).await;
    assert!(matches!(keeper.hear().await, FromClient::Input(input) if input.id == 1));
    drop(keeper);
    assert!(matches!(sees(&mut viewer).await, Seen::Refused(Some(1), _)));
    let seen = soon("that it stands still", viewer.next()).await.unwrap();
    assert!(matches!(seen, Seen::Lost(_)), "{seen:?}");
}

#[tokio::test]
async fn f07_what_is_typed_goes_to_no_keeper_that_has_not_agreed_and_one_that_refused_is_left_alone()
 {
    let (stage, mut viewer) = Stage::new();
    let mut daemon = stage.daemon().await;
    daemon.screen(10, "first").await;
    let (keeper, _, _) = stage.asked().await;
    sees_screen(&mut viewer, "first").await;
    viewer.say(Say::Type(1, b"a".to_vec())).await;
    // as one that does not know the call
    drop(keeper);
    assert_eq!(daemon.typed().await, 1);
    daemon.mark(&mut viewer, 1).await;
    daemon.screen(20, "second").await;
    sees_screen(&mut viewer, "second").await;
    viewer.say(Say::Type(2, b"b".to_vec())).await;
    assert_eq!(daemon.typed().await, 2);
    let again = stage.keepers.accept().now_or_never();
    assert!(again.is_none(), "it was asked again");
}

fn exited() -> FromKeeper {
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
async fn direct(stage: &Stage, from: u64) -> (Direct, Keeper) {
    let folder = RunFolder::new(stage.home.runs().join(RUN));
    let (direct, keeper) = tokio::join!(Direct::open(&folder, from), stage.keeper(from));
    (direct.unwrap(), keeper)
}

#[tokio::test]
async fn f39_what_the_disk_refused_is_passed_over_with_what_ends_a_sequence() {
    let (stage, _viewer) = Stage::new();
    let run = stage.home.runs().join(RUN);
    let mut ring = RingWriter::open(&run.join("ring"), 1 << 20).unwrap();
    ring.append(b"kept").unwrap();
    std::fs::rename(run.join("ring"), run.join("away")).unwrap();
    // what fits the open segment is kept all the same
    ring.append(&vec![b'x'; 70_000]).unwrap_err();
    std::fs::rename(run.join("away"), run.join("ring")).unwrap();
    let until = ring.end();
    let (mut direct, mut keeper) = direct(&stage, 0).await;
    keeper.say(&FromKeeper::Skipped { until }).await;
    keeper.show(until, b"more").await;
    let mut all = Vec::new();
    while direct.offset() < until + 4 {
        match soon("output", direct.next()).await {
            direct::Heard::Output(bytes, _) => all.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(all.starts_with(b"kept") && all.ends_with(b"\x18more"), "{} bytes", all.len());
    assert!((all.len() as u64) < until);
}

#[tokio::test]
async fn f07_an_answer_to_a_key_does_not_wait_for_output_that_is_read_from_the_ring() {
    const MUCH: u64 = 6 << 20;
    let (stage, _viewer) = Stage::new();
    let ring = stage.home.runs().join(RUN).join("ring");
    let mut ring = RingWriter::open(&ring, 16 << 20).unwrap();
    ring.append(&vec![b'x'; 6 << 20]).unwrap();
    let (mut direct, mut keeper) = direct(&stage, 0).await;
    keeper.say(&FromKeeper::Skipped { until: MUCH }).await;
    assert!(matches!(soon("output", direct.next()).await, direct::Heard::Output(..)));
    keeper.say(&FromKeeper::Resized { rows: 30, cols: 90 }).await;
    keeper.say(&FromKeeper::Done { id: 7 }).await;
    let mut sized = None;
    let answered = loop {
        tokio::task::yield_now().await;
        match soon("the answer", direct.next()).await {
            direct::Heard::Output(..) => {}
            direct::Heard::Sized(..) => sized = Some(direct.offset()),
            direct::Heard::Typed(7) => break direct.offset(),
            other => panic!("{other:?}"),
        }
    };
    assert!(answered < MUCH, "it waited for all");
    while sized.is_none() {
        if let direct::Heard::Sized(..) = soon("the size", direct.next()).await {
            sized = Some(direct.offset());
        }
    }
    assert_eq!(sized, Some(MUCH), "a size out of its place");
}
