//! A bus that asks who comes: TLS, passwords, credentials and certificates. Skipped by name where
//! `HAYWARD_TEST_POSTGRES` or `HAYWARD_TEST_NATS` names no server, or there is no `openssl`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::authority::Authority;
use harness::bus::{bus_is, config, is_asked_through, is_reached_through, meet, nats, running};
use harness::guarded::{CERTIFICATES, Guarded, Operator};
use harness::{BOUND, House, house_with, schema};
use hayward_relay::{BusAddress, BusKeys, Config, Relay, examine};
use std::error::Error;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const GUARD: &str = "authorization { user: relay, password: \"p@ss:word\" }";

fn authority(test: &str) -> Option<Authority> {
    nats(test)?;
    let authority = Authority::found(test)?;
    authority.issue("server", "DNS:localhost,IP:127.0.0.1");
    Some(authority)
}

/// A configuration for a guarded bus.
fn guarded(database: &str, bus: &str, keys: &BusKeys) -> Config {
    let mut config = config(database, bus);
    config.bus = Some(bus.parse::<BusAddress>().unwrap().opened_with(keys.clone()));
    config
}

/// Two relays that meet there.
async fn meeting(bus: &str, keys: &BusKeys) -> (House, House) {
    let database = schema().await;
    let mut first = house_with(|of| *of = guarded(&database, bus, keys)).await;
    let mut second = first.beside(guarded(&database, bus, keys)).await;
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    meet(&mut first, &mut second).await;
    (first, second)
}

async fn fault_is(house: &House, wanted: &str) {
    let begun = Instant::now();
    loop {
        let health = house.get("/health").await;
        if health["busFault"] == wanted {
            return;
        }
        assert!(begun.elapsed() < 2 * BOUND, "the bus is never {wanted}: {health}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What a look from outside says of the bus.
async fn told(bus: &str, keys: &BusKeys) -> String {
    let config = guarded(&schema().await, bus, keys);
    assert!(!format!("{config:?}").contains("p@ss"), "{config:?}");
    let found = examine(&config).await.bus.unwrap();
    let error = found.expect_err("the bus lets everybody in");
    let text = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
    assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
    error.to_string()
}

#[tokio::test]
async fn relays_meet_over_tls_by_a_password_and_again_after_the_bus_was_started_anew() {
    let Some(authority) = authority("relays meet over TLS by a password") else { return };
    let mut server = Guarded::start(&authority, "server", GUARD);
    let bus = format!("tls://relay:p%40ss%3Aword@localhost:{}", server.port);
    let keys = BusKeys { ca: Some(authority.file("ca.pem")), ..BusKeys::default() };
    let (first, second) = meeting(&bus, &keys).await;
    let (mut daemon, run) = running(&first).await;
    is_asked_through(&second, &mut daemon, &run).await;

    // the password is another one now: that is told, and not taken for a bus that is away
    server.restart("server", "authorization { user: relay, password: other }");
    for house in [&first, &second] {
        fault_is(house, "refused").await;
    }
    server.restart("server", GUARD);
    for house in [&first, &second] {
        bus_is(house, "up").await;
        assert!(house.get("/health").await["busFault"].is_null());
    }
    is_reached_through(&second, &mut daemon, &run).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn relays_meet_by_credentials_that_an_operator_gave_out() {
    let Some(authority) = authority("relays meet by credentials") else { return };
    let operator = Operator::new();
    let mut server = Guarded::start(&authority, "server", &operator.guard);
    let bus = format!("tls://127.0.0.1:{}", server.port);
    let keys = BusKeys {
        credentials: Some(operator.credentials(authority.file("relay.creds"))),
        ca: Some(authority.file("ca.pem")),
        ..BusKeys::default()
    };
    let (first, second) = meeting(&bus, &keys).await;
    let (mut daemon, run) = running(&first).await;
    is_asked_through(&second, &mut daemon, &run).await;
    server.end();
    for house in [&first, &second] {
        bus_is(house, "away").await;
    }
    server.restart("server", &operator.guard);
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    is_reached_through(&second, &mut daemon, &run).await;

    let other = Operator::new().credentials(authority.file("other.creds"));
    let stranger = BusKeys { credentials: Some(other), ..keys };
    assert!(told(&bus, &stranger).await.contains("--bus-credentials"));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_bus_that_does_not_let_a_relay_in_is_told_with_what_to_do() {
    let Some(authority) = authority("a bus does not let a relay in") else { return };
    authority.issue("other", "DNS:bus.example");
    let mut server = Guarded::start(&authority, "server", GUARD);
    let address = |who: &str| format!("tls://{who}127.0.0.1:{}", server.port);
    let (right, wrong, none) =
        (address("relay:p%40ss%3Aword@"), address("relay:p%40ss@"), address(""));
    let known = BusKeys { ca: Some(authority.file("ca.pem")), ..BusKeys::default() };
    for bus in [&wrong, &none] {
        let text = told(bus, &known).await;
        assert!(text.contains("refuses this relay"), "{text}");
    }
    let text = told(&right, &BusKeys::default()).await;
    assert!(text.contains("--bus-ca"), "{text}");

    server.restart("other", GUARD);
    let text = told(&right, &known).await;
    assert!(text.contains("another name"), "{text}");

    // a relay that is refused serves what is its own all the same
    server.restart("server", GUARD);
    let database = schema().await;
    let house = house_with(|of| *of = guarded(&database, &wrong, &known)).await;
    fault_is(&house, "refused").await;
    assert_eq!(house.get("/health").await["bus"], "away");
    house.stop().await;

    // a file that is not there is no reason to wait
    let keys = BusKeys { credentials: Some(authority.file("none.creds")), ..known.clone() };
    let refused = Relay::start(guarded(&database, &right, &keys)).await.unwrap_err();
    let cause = refused.source().unwrap().to_string();
    assert!(cause.contains("none.creds"), "{refused}: {cause}");
}

#[tokio::test]
async fn a_bus_that_asks_for_a_certificate_is_shown_one() {
    let Some(authority) = authority("a bus asks for a certificate") else { return };
    authority.issue("relay", "DNS:relay.example");
    let server = Guarded::start(&authority, "server", CERTIFICATES);
    let bus = format!("tls://localhost:{}", server.port);
    let unknown = BusKeys { ca: Some(authority.file("ca.pem")), ..BusKeys::default() };
    let text = told(&bus, &unknown).await;
    assert!(text.contains("--bus-certificate"), "{text}");
    let keys = BusKeys {
        certificate: Some(authority.file("relay.pem")),
        key: Some(authority.file("relay.key")),
        ..unknown
    };
    let (first, second) = meeting(&bus, &keys).await;
    first.stop().await;
    second.stop().await;
}
