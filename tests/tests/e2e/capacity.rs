//! Many tasks, few agents.

use hayward_tests::home::Home;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CAPACITY: usize = 4;
const TASKS: usize = 50;

#[test]
fn fifty_tasks_share_four_slots_by_priority_then_age() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure(&format!("[daemon]\nmax_concurrent_tasks = {CAPACITY}\n"));
    home.up();
    let blocker = Script::new().sign(home.file("agents")).wait_for(home.file("gate")).command();
    let blockers: Vec<Value> = (0..CAPACITY)
        .map(|_| home.submit_command(repo.path(), &["--on", "none"], &blocker))
        .collect();
    for task in &blockers {
        home.reaches(task, "running");
    }
    // five calls of ten each, the later ones more urgent
    let script = Script::new().sign(home.file("agents")).then(Step::Linger { ms: 40 });
    let mut tasks = Vec::new();
    for priority in 0..5 {
        let options = ["--on", "none", "--count", "10", "--priority", &priority.to_string()];
        let made = home.submit(repo.path(), &options, &script);
        tasks.extend(made.as_array().cloned().unwrap_or_default());
    }
    assert_eq!(tasks.len(), TASKS);
    let listed = |status: &str| {
        let page = home.json(&["task", "ls", "--status", status]);
        page["tasks"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((listed("queued"), listed("running")), (TASKS, CAPACITY));
    let table = home.run(&["task", "ls"]).expect(0).text();
    assert_eq!(table.lines().filter(|line| line.contains("queued")).count(), TASKS);

    home.open_gate("gate");
    let (begin, mut most) = (Instant::now(), 0);
    loop {
        let alive = home.signed("agents").iter().filter(|agent| agent.alive()).count();
        assert!(alive <= CAPACITY, "{alive} agents at once");
        most = most.max(alive);
        let signed = home.starts("agents");
        if signed == TASKS + CAPACITY && alive == 0 {
            break;
        }
        assert!(begin.elapsed() < LONG * 2, "{signed} began; {}", home.log());
    }
    assert!(most > 1, "never two at once");
    until_true("all are completed", LONG, || listed("completed") == TASKS + CAPACITY);

    // the order of the claims, as the relay wrote it down
    let mut claims: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for task in &tasks {
        let events = home.events(task);
        let claim = events.iter().find(|event| event["payload"]["newStatus"] == "dispatched");
        let moment = format!("{} {}", claim.unwrap()["at"], claim.unwrap()["id"]);
        let made = task["createdAt"].as_str().unwrap().to_owned();
        claims.insert(moment, (-task["priority"].as_i64().unwrap(), made));
    }
    let order: Vec<_> = claims.into_values().collect();
    assert_eq!(order.len(), TASKS);
    assert!(order.is_sorted(), "{order:#?}");
}

#[test]
fn one_slot_is_never_left_empty_while_tasks_wait() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[daemon]\nmax_concurrent_tasks = 1\n");
    let script = Script::new().sign(home.file("agents"));
    let options = ["--on", "none", "--count", "60"];
    let made = home.submit(repo.path(), &options, &script);
    assert_eq!(made.as_array().map(Vec::len), Some(60));
    // an end that is told after the claim for its place must not lose that claim
    let (mut last, mut since) = (0, Instant::now());
    while last < 60 {
        let now = home.starts("agents");
        if now > last {
            (last, since) = (now, Instant::now());
        }
        let idle = since.elapsed();
        assert!(idle < Duration::from_secs(14), "{last} of 60 began, then nothing; {}", home.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}
