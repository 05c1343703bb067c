//! What `daemon doctor` finds on a machine, and says to do about it.

use hayward_tests::home::Home;
use hayward_tests::skip;
use hayward_tests::wait::until_true;
use serde_json::Value;
use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// The finding of one check.
#[track_caller]
fn finding<'a>(told: &'a Value, check: &str) -> &'a Value {
    let all = told["findings"].as_array().unwrap();
    let found = all.iter().find(|one| one["check"] == check);
    assert!(found.is_some(), "no {check}: {told:#}");
    found.unwrap()
}

const DOCTOR: [&str; 3] = ["daemon", "doctor", "--json"];

#[test]
fn a_machine_that_is_well_is_told_so_and_what_ails_one_is_named_with_what_to_do() {
    let home = Home::new();
    home.configure("");
    let told = home.run(&DOCTOR).expect(0).json();
    assert_eq!(finding(&told, "daemon")["verdict"], "warning");
    assert_eq!(finding(&told, "relay")["verdict"], "warning");

    home.up();
    let is_linked = || finding(&home.run(&DOCTOR).expect(0).json(), "link")["verdict"] == "ok";
    until_true("the daemon is linked", Duration::from_secs(60), is_linked);
    let told = home.run(&DOCTOR).expect(0).json();
    for check in ["git", "state folder", "daemon", "link", "relay"] {
        assert_eq!(finding(&told, check)["verdict"], "ok", "{told:#}");
    }
    let shown = home.run(&["daemon", "doctor"]).expect(0);
    assert!(shown.text().contains("the daemon is linked to its relay"), "{}", shown.text());

    // a disk with less room than is to be left
    home.configure("[daemon]\nmin_free_bytes = 9000000000000000\n");
    let told = home.run(&DOCTOR).expect(1).json();
    assert_eq!(told["verdict"], "failed");
    let hint = finding(&told, "state folder")["hint"].as_str().unwrap();
    assert!(hint.contains("prune"), "{hint}");
    home.configure("");

    // a token that the relay does not know
    let told = home.run(&["daemon", "doctor", "--json", "--token", "hwu_none"]).expect(1).json();
    let relay = finding(&told, "relay");
    assert_eq!(relay["verdict"], "failed");
    assert!(relay["hint"].as_str().unwrap().contains("token create"), "{relay:#}");
}

#[test]
fn a_git_that_is_too_old_is_named_before_a_merge_fails_by_it() {
    let home = Home::new();
    home.configure("");
    let program = home.bin().join("git");
    write(&program, "#!/bin/sh\necho git version 2.30.2\n").unwrap();
    set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let told = home.run(&DOCTOR).expect(1).json();
    let git = finding(&told, "git");
    assert_eq!(
        (&git["verdict"], &git["message"]),
        (&"failed".into(), &"git version 2.30.2 is too old".into())
    );
}

#[test]
fn what_a_relay_works_on_is_looked_at_while_it_serves_and_before_it_does() {
    let home = Home::new();
    home.configure("");
    let doctor = ["relay", "doctor", "--json"];
    let told = home.run(&doctor).expect(1).json();
    assert_eq!(finding(&told, "database")["verdict"], "failed");
    assert!(!home.state().join("relay.db").exists(), "a look makes no database");

    let daemon = home.up();
    let at = daemon.told["relay"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let told = home.run(&[&doctor[..], &["--listen", &at]].concat()).expect(0).json();
    for check in ["tables", "relay", "disk"] {
        assert_eq!(finding(&told, check)["verdict"], "ok", "{told:#}");
    }
    // how quick it is hangs on what else runs here
    assert_ne!(finding(&told, "database")["verdict"], "failed", "{told:#}");
}

#[test]
fn a_postgres_database_and_a_bus_are_looked_at_from_outside() {
    let test = "a PostgreSQL database and a bus are looked at";
    let var = |name| std::env::var(name).ok();
    let servers = var("HAYWARD_TEST_POSTGRES").zip(var("HAYWARD_TEST_NATS"));
    let Some((database, bus)) = servers else {
        return skip(test, "HAYWARD_TEST_POSTGRES or HAYWARD_TEST_NATS names no server");
    };
    let home = Home::new();
    home.configure("");
    let doctor = ["relay", "doctor", "--json", "--database", &database, "--bus"];
    let told = home.run(&[&doctor[..], &[&bus]].concat()).expect(0).json();
    assert_eq!(finding(&told, "clock")["verdict"], "ok", "{told:#}");
    for check in ["database", "bus"] {
        assert_ne!(finding(&told, check)["verdict"], "failed", "{told:#}");
    }
    // and says no password
    let password = database.split([':', '@']).nth(2).unwrap();
    let told = home.run(&[&doctor[..], &["nats://127.0.0.1:1"]].concat()).expect(1);
    assert!(!told.text().contains(password));
    assert_eq!(finding(&told.json(), "bus")["verdict"], "failed");
}

#[test]
fn files_that_open_a_bus_are_looked_at() {
    let home = Home::new();
    home.configure("[relay]\nbus_credentials = \"relay.creds\"\n");
    let doctor = ["relay", "doctor", "--json", "--bus", "tls://me:geheim@127.0.0.1:1"];
    let told = home.run(&doctor).expect(1);
    let bus = finding(&told.json(), "bus")["message"].as_str().unwrap().to_owned();
    assert!(bus.contains("state/relay.creds") && !told.text().contains("geheim"), "{bus}");

    let file = home.state().join("relay.creds");
    write(&file, "no credentials").unwrap();
    set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let told = home.run(&doctor).expect(1).json();
    let keys = finding(&told, "bus keys");
    assert!(keys["hint"].as_str().unwrap().contains("chmod 600"), "{keys:#}");
    set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let told = home.run(&doctor).expect(1).json();
    assert!(told["findings"].as_array().unwrap().iter().all(|one| one["check"] != "bus keys"));
    assert_eq!(finding(&told, "bus")["verdict"], "failed");
}
