//! A viewer between a daemon and a keeper that are moved by hand, one message at a time: what is
//! tried here falls into moments that are too short to be met with real ones.

#[path = "viewer_stage.rs"]
mod stage;

use self::stage::*;
use super::*;
use futures_util::{FutureExt, StreamExt};
use hayward_daemon::keeper::wire::{self, FromClient, FromKeeper, Request};
use hayward_daemon::terminal::ring::RingWriter;
use hayward_shared::protocol::output::Body;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, pause, resume, timeout};

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
