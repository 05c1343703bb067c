//! Two relays, PostgreSQL, NATS and four daemons, of which whatever can be killed is.

use hayward_tests::home::id;
use hayward_tests::http::Api;
use hayward_tests::relay::Linked;
use hayward_tests::replicas::Replicas;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::skip;
use hayward_tests::wait::until_true;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What can be killed, and for how long it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Relay(usize),
    Daemon(usize),
    Bus,
}

const VICTIMS: [Victim; 7] = [
    Victim::Relay(0),
    Victim::Relay(1),
    Victim::Daemon(0),
    Victim::Daemon(1),
    Victim::Daemon(2),
    Victim::Daemon(3),
    Victim::Bus,
];

/// Between two steps of the killer.
const STEP: Duration = Duration::from_millis(700);

/// All tasks have ended so long after the last kill: a lease runs out and a daemon's longest pause
/// between two dials goes by in it.
const HEALED: Duration = Duration::from_secs(180);

/// An empty schema of the server.
pub(crate) fn schema(server: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = format!("t{}", Uuid::now_v7().simple());
    let options: sqlx::postgres::PgConnectOptions = server.parse().unwrap();
    runtime.block_on(async {
        let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
        sqlx::query(sql).execute(&mut side).await.unwrap();
    });
    format!("{server}?options[search_path]={name}")
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Makes a task, again and again until a relay has taken it: once only, by its key.
fn make(api: &Api, order: &Value) -> String {
    let key = Uuid::now_v7().to_string();
    let text = order.to_string();
    let began = Instant::now();
    loop {
        let headers = [("Idempotency-Key", key.as_str())];
        if let Ok(reply) = api.try_send("POST", "/api/v1/tasks", Some(&text), &headers) {
            if [200, 201].contains(&reply.status) {
                return id(&reply.json()).to_owned();
            }
            // 0: nothing was answered, as the relay was killed
            assert!([0, 503].contains(&reply.status), "{}: {}", reply.status, reply.body);
        }
        assert!(began.elapsed() < HEALED, "no relay takes a task");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All events of a task.
fn events(api: &Api, task: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let since = all.last().map_or(String::new(), |event| format!("&since={}", event["seq"]));
        let page = api.get(&format!("/api/v1/tasks/{task}/events?limit=200{since}")).json();
        let events = page["events"].as_array().unwrap().clone();
        let last = events.len() < 200;
        all.extend(events);
        if last {
            return all;
        }
    }
}

/// Kills and starts again, one step; `dice` decides.
struct Killer {
    dice: u64,
    away: Option<(Victim, Instant)>,
    kills: BTreeMap<Victim, u32>,
}

impl Killer {
    fn step(&mut self, replicas: &mut Replicas, daemons: &mut [Linked]) {
        if let Some((victim, _)) = self.away.take_if(|(_, until)| *until <= Instant::now()) {
            start(victim, replicas, daemons);
        }
        if self.away.is_some() {
            return;
        }
        // xorshift: the seed is printed, so the order of kills is known
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let victim = VICTIMS[usize::try_from(self.dice % 7).unwrap()];
        match victim {
            Victim::Relay(nth) => replicas.kill_relay(nth),
            Victim::Daemon(nth) => daemons[nth].crash(),
            Victim::Bus => replicas.kill_bus(),
        }
        *self.kills.entry(victim).or_default() += 1;
        let away = Duration::from_millis(300 + self.dice % 1_500);
        self.away = Some((victim, Instant::now() + away));
    }
}

fn start(victim: Victim, replicas: &mut Replicas, daemons: &mut [Linked]) {
    match victim {
        Victim::Relay(nth) => replicas.start_relay(nth),
        Victim::Daemon(nth) => daemons[nth].come_back(),
        Victim::Bus => replicas.start_bus(),
    }
}

/// Each task ended once, and its stream is whole at either relay.
fn check(replicas: &Replicas, tasks: &[String]) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for task in tasks {
        let told = events(&replicas.api(0), task);
        assert_eq!(told, events(&replicas.api(1), task));
        for (event, seq) in told.iter().zip(0_u64..) {
            assert_eq!(event["seq"], seq, "{told:#?}");
        }
        let statuses = told.iter().filter(|event| event["type"] == "task.status_changed");
        let ends: Vec<_> = statuses
            .filter_map(|event| event["payload"]["newStatus"].as_str())
            .filter(|status| ["completed", "failed", "cancelled", "timed_out"].contains(status))
            .collect();
        assert_eq!(ends.len(), 1, "{told:#?}");
        *counts.entry(ends[0].to_owned()).or_default() += 1;
        *counts.entry("events".into()).or_default() += u32::try_from(told.len()).unwrap();
    }
    counts
}

/// Short by default; `HAYWARD_RELAYS_TASKS=200 HAYWARD_RELAYS_SECONDS=180` is the long run.
#[test]
fn f37_every_task_ends_once_while_relays_daemons_and_the_bus_are_killed() {
    let Ok(server) = std::env::var("HAYWARD_TEST_POSTGRES") else {
        return skip("relays, daemons and the bus are killed", "HAYWARD_TEST_POSTGRES is not set");
    };
    if std::env::var("HAYWARD_TEST_NATS").is_err() {
        return skip("relays, daemons and the bus are killed", "HAYWARD_TEST_NATS is not set");
    }
    let (count, seconds) =
        (number("HAYWARD_RELAYS_TASKS", 20), number("HAYWARD_RELAYS_SECONDS", 20));
    let seed = number(
        "HAYWARD_RELAYS_SEED",
        u64::try_from(Uuid::now_v7().as_u128() & 0xffff_ffff).unwrap() | 1,
    );
    eprintln!("seed {seed}: {count} tasks, {seconds} s");
    let mut replicas = Replicas::start(&schema(&server));
    let (url, token) = (replicas.balancer.url(), replicas.token());
    let mut daemons: Vec<_> = (0..4)
        .map(|_| Linked::dial((&url, &token), &url, "[daemon]\nmax_concurrent_tasks = 2\n"))
        .collect();
    let repo = ScratchRepo::new();
    let ledgers = daemons[0].home.files();
    let api = replicas.any();
    let mut killer = Killer { dice: seed | 1, away: None, kills: BTreeMap::new() };
    let began = Instant::now();
    let span = Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    let mut next_kill = Instant::now() + STEP;
    while began.elapsed() < span || (tasks.len() as u64) < count {
        let due = span.mul_f64(tasks.len() as f64 / count as f64);
        if (tasks.len() as u64) < count && began.elapsed() >= due {
            let ledger = ledgers.join(format!("starts-{}", tasks.len()));
            let script = Script::new().sign(ledger).then(Step::Linger { ms: 300 });
            let order = json!({
                "plan": "short", "command": script.command(), "completionAction": "none",
                "repositoryUrl": repo.path(), "maxAttempts": 3,
            });
            tasks.push(make(&api, &order));
        }
        if Instant::now() >= next_kill && began.elapsed() < span {
            killer.step(&mut replicas, &mut daemons);
            next_kill = Instant::now() + STEP;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some((victim, _)) = killer.away.take() {
        start(victim, &mut replicas, &mut daemons);
    }
    replicas.is_ready(0);
    replicas.is_ready(1);
    until_true("all tasks have ended", HEALED, || {
        tasks.iter().all(|task| {
            let shown = replicas.api(1).get(&format!("/api/v1/tasks/{task}")).json();
            !shown["completedAt"].is_null()
        })
    });
    let counts = check(&replicas, &tasks);
    let starts: Vec<_> =
        (0..tasks.len()).map(|nth| daemons[0].home.starts(&format!("starts-{nth}"))).collect();
    eprintln!(
        "{counts:?}, kills {:?}, agents started {}",
        killer.kills,
        starts.iter().sum::<usize>()
    );
    assert_eq!(counts.get("completed"), Some(&u32::try_from(tasks.len()).unwrap()), "{counts:?}");
    assert!(starts.iter().all(|starts| *starts == 1), "{starts:?}");
}
