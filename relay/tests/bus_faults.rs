//! Several relays on one database and one bus, where something fails or is said wrongly. Skipped by
//! name where `HAYWARD_TEST_POSTGRES` or `HAYWARD_TEST_NATS` names no server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use futures_util::StreamExt;
use harness::bus::{
    Cable, ask, bus_is, config, daemon, done, houses, is_asked_through, is_reached_through, nats,
    online, running, until_online, view,
};
use harness::{BOUND, House, Socket, house_with, schema};
use hayward_relay::{Config, Relay};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// Nothing comes within this.
const QUIET: Duration = Duration::from_millis(300);

/// Follows a stream until it has so many events; their numbers must be whole.
async fn follow(client: &mut Socket, count: u64) {
    for seq in 0..count {
        let event = loop {
            let heard = client.hear().await.expect("the link ended");
            if heard["stream"].is_string() && heard["seq"].is_u64() {
                break heard;
            }
        };
        assert_eq!(event["seq"], seq, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_whole_at_each_relay_while_both_write() {
    let Some(bus) = nats("events are whole at each relay while both write") else { return };
    let cable = Cable::lay(&bus).await;
    let database = schema().await;
    let first = house_with(|of| *of = config(&database, &bus)).await;
    let second = first.beside(config(&database, &cable.url)).await;
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    let (mut daemon, run) = running(&first).await;
    let stream = format!("task:{}", run.task);
    let before = first.events(&run.task).await.len() as u64;
    let mut clients = Vec::new();
    for house in [&first, &second] {
        let mut client = house.client().await;
        client.say(json!({"type": "subscribe", "stream": stream})).await;
        clients.push(client);
    }
    const EACH: u64 = 60;
    let write = async {
        for nth in 0..EACH {
            let text = json!({"type": "taskProgress", "taskId": run.task, "summary": format!("{nth}"), "leaseEpoch": run.epoch});
            daemon.store(text).await;
            // the second relay loses the bus for a while
            cable.cut.send_replace((20..40).contains(&nth));
        }
    };
    let patch = async {
        for nth in 0..EACH {
            loop {
                let version = second.task(&run.task).await["version"].clone();
                let body = json!({"version": version, "name": format!("n{nth}")});
                let path = format!("/api/v1/tasks/{}", run.task);
                let (status, answer) = second.call("PATCH", &path, Some(body)).await;
                match status {
                    200 => break,
                    409 => {}
                    _ => panic!("{status} {answer}"),
                }
            }
        }
    };
    let all = before + 2 * EACH;
    let [one, two] = &mut clients[..] else { panic!() };
    tokio::join!(write, patch, follow(one, all), follow(two, all));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bus_each_relay_serves_its_own_and_says_so_and_it_heals() {
    let Some(bus) = nats("without the bus each relay serves its own") else { return };
    let cable = Cable::lay(&bus).await;
    let (first, second) = houses(&cable.url).await;
    let (mut daemon, run) = running(&first).await;
    let id = daemon.welcome["daemonId"].clone();
    let path = format!("/api/v1/tasks/{}/diff", run.task);
    let mut client = second.client().await;
    let watch = Uuid::now_v7();
    client.say(view(watch, &run)).await;
    let asked = daemon.socket.until("watchOutput").await;
    daemon.socket.say(done(&asked, Value::Null)).await;
    client.until("watch.started").await;
    let under_way = ask(&second, "GET", &path, None);
    daemon.socket.until("readDiff").await;

    cable.cut.send_replace(true);
    // what was under way ends in the open
    let (status, refused) = under_way.await.unwrap();
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("unavailable")), "{refused}");
    assert_eq!(client.until("watch.failed").await["error"]["code"], "unavailable");
    assert_eq!(daemon.socket.until("unwatchOutput").await["watchId"], json!(watch));
    for house in [&first, &second] {
        bus_is(house, "away").await;
    }
    let (status, refused) = second.call("GET", &path, None).await;
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("unavailable")), "{refused}");
    assert!(online(&second, &id).await, "the store knows that it is linked");
    let metrics = second.http.get(second.url("/metrics")).send().await.unwrap();
    assert!(metrics.text().await.unwrap().contains("hayward_relay_bus_up 0"));
    is_asked_through(&first, &mut daemon, &run).await;

    cable.cut.send_replace(false);
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    is_reached_through(&second, &mut daemon, &run).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_the_daemons_of_a_killed_relay_are_offline_and_come_back_at_another() {
    let Some(bus) = nats("F37 a relay is killed") else { return };
    let database = schema().await;
    let second = house_with(|of| {
        *of = config(&database, &bus);
        // longer than the whole test waits for anything
        of.timing.reply = 2 * BOUND;
    })
    .await;
    // a life of its own, that can be ended without a goodbye
    let life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let life = life.unwrap();
    let (there, of) = (life.handle().clone(), config(&database, &bus));
    let relay = tokio::task::spawn_blocking(move || there.block_on(Relay::start(of)));
    let relay = relay.await.unwrap().unwrap();
    let first = second.with(relay);
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    let token = second.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut old = daemon(&first, &token, machine).await;
    let id = old.welcome["daemonId"].clone();
    second.make(json!({"plan": "x"})).await;
    let run = old.claim_one().await;
    old.store(run.status("dispatched", "running")).await;
    let mut client = second.client().await;
    let watch = Uuid::now_v7();
    client.say(view(watch, &run)).await;
    let asked = old.socket.until("watchOutput").await;
    old.socket.say(done(&asked, Value::Null)).await;
    client.until("watch.started").await;

    // till its connections are closed it still seems to listen
    tokio::task::spawn_blocking(move || life.shutdown_timeout(BOUND)).await.unwrap();
    drop(first);
    let begun = Instant::now();
    let path = format!("/api/v1/tasks/{}/diff", run.task);
    let (status, refused) = second.call("GET", &path, None).await;
    assert_eq!(status, 503, "{refused}");
    assert!(begun.elapsed() < BOUND, "it waited for one that is gone");
    client.until("watch.failed").await;
    until_online(&second, &id, false).await;
    let (_, refused) = second.call("GET", &path, None).await;
    assert_eq!(refused["error"]["code"], "daemon_offline", "{refused}");

    let mut new = daemon(&second, &token, machine).await;
    assert_eq!(new.welcome["daemonId"], id);
    assert!(online(&second, &id).await);
    new.store(run.status("running", "completed")).await;
    second.until(&run.task, "completed").await;
    let events = second.events(&run.task).await;
    assert!(events.iter().zip(0_u64..).all(|(event, seq)| event["seq"] == seq), "{events:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_links_of_a_daemon_at_two_relays_the_later_one_lives() {
    let Some(bus) = nats("of two links at two relays the later one lives") else { return };
    let (first, second) = houses(&bus).await;
    let token = first.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut old = daemon(&first, &token, machine).await;
    let id = old.welcome["daemonId"].clone();
    let mut new = daemon(&second, &token, machine).await;
    while timeout(BOUND, old.socket.hear()).await.expect("it lives on").is_some() {}
    for house in [&first, &second] {
        assert!(online(house, &id).await);
    }
    first.make(json!({"plan": "x"})).await;
    let run = new.claim_one().await;
    new.store(run.status("dispatched", "running")).await;
    is_asked_through(&first, &mut new, &run).await;
    let page = first.get("/api/v1/daemons").await;
    assert_eq!(page["daemons"].as_array().unwrap().len(), 1);
    first.stop().await;
    second.stop().await;
}

/// Everything that goes over the bus below the deployment of a house.
async fn tap(bus: &str, house: &House) -> (async_nats::Client, async_nats::Subscriber) {
    let client = async_nats::connect(bus).await.unwrap();
    let root = format!("hayward.{}", house.owner.workspace.0.simple());
    let heard = client.subscribe(format!("{root}.relay.*")).await.unwrap();
    client.flush().await.unwrap();
    (client, heard)
}

/// The next command that one relay has for a daemon of another: kind 3, behind 26 bytes of a parcel.
async fn command_of(heard: &mut async_nats::Subscriber) -> async_nats::Message {
    loop {
        let message = timeout(BOUND, heard.next()).await.expect("no command").unwrap();
        if message.payload.get(26) == Some(&3) {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_a_command_that_is_published_twice_reaches_the_daemon_once() {
    let Some(bus) = nats("F37 a command is published twice") else { return };
    let (first, second) = houses(&bus).await;
    let (mut daemon, run) = running(&first).await;
    let (client, mut heard) = tap(&bus, &first).await;
    let path = format!("/api/v1/tasks/{}/message", run.task);
    let asked = ask(&second, "POST", &path, Some(json!({"message": "once"})));
    let original = command_of(&mut heard).await;
    let command = daemon.socket.until("sendMessage").await;
    // as it was
    client.publish(original.subject.clone(), original.payload.clone()).await.unwrap();
    // and under a number of its own, as if it had been said again
    let mut again = original.payload.to_vec();
    let number = u64::from_be_bytes(again[17..25].try_into().unwrap()) + 1;
    again[17..25].copy_from_slice(&number.to_be_bytes());
    client.publish(original.subject, again.into()).await.unwrap();
    client.flush().await.unwrap();
    assert!(daemon.socket.silent_of("sendMessage", QUIET).await);
    daemon.socket.say(done(&command, Value::Null)).await;
    assert_eq!(asked.await.unwrap().0, 200);
    let events = first.events(&run.task).await;
    let told = events.iter().filter(|event| event["type"] == "task.message").count();
    assert_eq!(told, 1, "{events:?}");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_workspace_reaches_no_daemon_and_odd_messages_are_dropped() {
    let Some(bus) = nats("a foreign workspace reaches no daemon") else { return };
    let (first, second) = houses(&bus).await;
    let (mut daemon, run) = running(&first).await;
    let other = second.relay().add_workspace("other", "stranger").await.unwrap().unwrap();
    let stranger = other.token.expose();
    for path in ["diff", "merge/status"] {
        let path = format!("/api/v1/tasks/{}/{path}", run.task);
        assert_eq!(second.call_as(stranger, "GET", &path, None).await.0, 404);
    }
    let (_, all) = second.call_as(stranger, "GET", "/api/v1/daemons", None).await;
    assert_eq!(all["daemons"], json!([]));

    let (client, mut heard) = tap(&bus, &first).await;
    let asked = ask(&second, "GET", &format!("/api/v1/tasks/{}/diff", run.task), None);
    let good = command_of(&mut heard).await;
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);
    // a relay that nobody knows says odd things: of another workspace, of no shape, of no kind
    let stranger = *Uuid::now_v7().as_bytes();
    let mut foreign = good.payload.to_vec();
    foreign[1..17].copy_from_slice(&stranger);
    foreign[43..59].copy_from_slice(other.workspace.0.as_bytes());
    for (nth, end) in [foreign.len(), 60, 40, 30, 27, 26, 20, 1].into_iter().enumerate() {
        let mut odd = foreign[..end].to_vec();
        if odd.len() > 25 {
            odd[17..25].copy_from_slice(&(nth as u64).to_be_bytes());
        }
        client.publish(good.subject.clone(), odd.into()).await.unwrap();
    }
    let mut spawn = good.payload[..59].to_vec();
    spawn[1..17].copy_from_slice(&stranger);
    spawn[17..25].copy_from_slice(&20_u64.to_be_bytes());
    spawn.extend_from_slice(b"{\"type\":\"ack\",\"upTo\":9999}");
    client.publish(good.subject.clone(), spawn.into()).await.unwrap();
    client.flush().await.unwrap();
    assert!(daemon.socket.silent_of("readDiff", QUIET).await);
    // all goes on
    is_asked_through(&second, &mut daemon, &run).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_bus_is_refused_where_no_other_relay_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path().join("relay.db"), "127.0.0.1:0".parse().unwrap());
    config.bus = Some("nats://me:geheim@127.0.0.1:1".parse().unwrap());
    let shown = format!("{config:?}");
    let error = Relay::start(config).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("PostgreSQL"), "{error}: {cause}");
    assert!(!format!("{shown} {error:?}").contains("geheim"));
}
