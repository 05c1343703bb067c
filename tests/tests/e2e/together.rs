//! `up` on two machines that share a PostgreSQL database and a bus, and what tells of the two relays.

use crate::relays::schema;
use hayward_tests::home::{Home, id};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::skip;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;

/// The relays that a status tells of.
fn relays(home: &Home) -> Vec<Value> {
    home.json(&["status"])["relays"].as_array().cloned().unwrap_or_default()
}

#[test]
fn up_works_on_the_configured_database_and_bus_and_status_tells_of_all_relays() {
    let test = "up works on the configured database and bus";
    let var = |name| std::env::var(name).ok();
    let servers = var("HAYWARD_TEST_POSTGRES").zip(var("HAYWARD_TEST_NATS"));
    let Some((server, bus)) = servers else {
        return skip(test, "HAYWARD_TEST_POSTGRES or HAYWARD_TEST_NATS names no server");
    };
    let text = format!("[relay]\ndatabase = \"{}\"\nbus = \"{bus}\"\n", schema(&server));
    let (first, second) = (Home::new(), Home::new());
    let repo = ScratchRepo::new();
    for home in [&first, &second] {
        home.configure(&text);
    }
    let daemon = first.up();
    assert!(!first.state().join("relay.db").exists());
    let alone = relays(&first);
    assert_eq!((alone.len(), &alone[0]["answers"]), (1, &true.into()), "{alone:?}");
    let script = Script::new().then(Step::Print { text: "done".into() });
    let task = first.follow(repo.path(), &["--on", "none"], &script).expect(0).json();

    // whoever comes second is let in at once, and sees what the first one did
    second.up();
    assert_eq!(second.task(&task)["status"], "completed");
    for home in [&first, &second] {
        until_true("the bus is there", LONG, || home.json(&["status"])["relay"]["bus"] == "up");
        until_true("both relays are told of", LONG, || {
            let told = relays(home);
            told.len() == 2 && told.iter().all(|one| one["online"] == true && one["links"] == 1)
        });
        let told = home.json(&["status"]);
        let own = told["relays"].as_array().unwrap().iter().filter(|one| one["answers"] == true);
        let urls: Vec<_> = own.map(|one| &one["url"]).collect();
        assert_eq!(urls, [&told["relay"]["url"]], "{told:#}");
    }
    let shown = second.run(&["status"]).expect(0).text();
    assert!(shown.contains("answers") && shown.contains("LINKS"), "{shown}");
    // asked here, answered by the daemon there
    let printed = second.run(&["logs", id(&task), "--raw"]).expect(0);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "done");

    let token = |home: &Home| fs::read_to_string(home.state().join("token")).unwrap();
    let before = token(&first);
    daemon.crash();
    until_true("the killed relay is told to be gone", LONG, || {
        relays(&second).iter().any(|one| one["online"] == false && one["links"] == 0)
    });
    first.up();
    assert_eq!(token(&first), before);
    until_true("it is back", LONG, || {
        let told = relays(&second);
        told.len() == 2 && told.iter().all(|one| one["online"] == true)
    });
}

#[test]
fn a_configured_database_that_is_not_there_is_named_with_what_to_do_and_without_its_password() {
    let home = Home::new();
    home.configure("[relay]\ndatabase = \"postgres://me:geheim@127.0.0.1:1/none\"\n");
    let told = home.run(&["--json", "up", "--detach"]).expect(1);
    let error = told.json()["error"].clone();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("postgres://me@127.0.0.1:1/none"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("relay doctor"), "{error}");
    let all = format!("{} {} {}", told.text(), told.stderr, home.log());
    assert!(!all.contains("geheim"), "{all}");
    assert!(!home.state().join("relay.db").exists());

    // a file is meant from the state folder on, wherever the command is given
    home.configure("[relay]\ndatabase = \"other.db\"\n");
    home.up();
    assert!(home.state().join("other.db").exists());
    assert_eq!(relays(&home).len(), 1);
}
