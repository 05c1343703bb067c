//! What befalls a world: the tasks and the faults of a seed, and then peace.

use super::agents::{Agents, Manners};
use super::dice::Dice;
use super::history::{Fact, Host, RELAY};
use super::hosts::{DaemonHost, RelayHost};
use super::user::User;
use super::world::Sim;
use hayward_edge::clock::Side;
use serde_json::Value;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

/// Peace lasts this long at the least: what lives on by mistake is seen to live on.
const PEACE_LEAST: u64 = 45_000;

/// And this long at the most; what has not come to an end by then never will.
const PEACE_MOST: u64 = 600_000;

/// How often a user looks at the tasks.
const LOOK: Duration = Duration::from_secs(25);

/// Something that is done to the world.
#[derive(Clone, Debug)]
enum Act {
    Order(usize),
    Cancel(usize),
    Cut(Host),
    Fuse(Host, u64),
    Lose(Host),
    Part(Host),
    Join(Host),
    Down(Host, bool),
    Up(Host),
    Slow(Host, u64),
    Pace(Host, u64, u64),
    Jump(Side, i64),
    Look,
}

/// A task of the scenario.
#[derive(Clone, Debug)]
pub struct Wish {
    pub id: String,
    /// Whether the relay hands it over when its daemon is away for a minute.
    pub moves: bool,
    body: String,
}

/// What a seed makes of the world.
#[derive(Debug)]
pub struct Scenario {
    pub daemons: usize,
    pub capacity: u32,
    /// Milliseconds that an agent works at the most.
    longest: u64,
    pub wishes: Vec<Wish>,
    /// When peace begins.
    pub peace: u64,
    acts: Vec<(u64, Act)>,
}

/// What a world came to.
#[derive(Debug)]
pub struct Ended {
    /// The tasks, as the relay has them at last.
    pub tasks: Vec<Value>,
    /// Their events.
    pub events: Vec<(String, Vec<Value>)>,
    /// Machines whose journals hold what the relay does not.
    pub untold: Vec<Host>,
}

impl Scenario {
    pub fn of(dice: &Dice) -> Self {
        let mut dice = dice.apart(10);
        // in three of ten a daemon is away for so long that its tasks move
        let long_away = dice.percent(30);
        let daemons = dice.within(if long_away { 2 } else { 1 }, 4) as usize;
        let capacity = dice.within(1, 4) as u32;
        let mut acts = Vec::new();
        let mut wishes = Vec::new();
        let (peace, most) = match long_away {
            true => (dice.within(205_000, 225_000), 4),
            false => (dice.within(45_000, 90_000), 11),
        };
        let longest = match long_away {
            true => dice.within(170_000, 320_000),
            false => dice.within(2_000, 60_000),
        };
        for _ in 0..dice.within(1, most) {
            fault(&mut dice, daemons, peace, &mut acts);
        }
        if long_away {
            let host = dice.within(1, daemons as u64 + 1) as Host;
            let at = dice.within(12_000, 35_000);
            acts.push((at, Act::Part(host)));
            acts.push((at + dice.within(135_000, 170_000), Act::Join(host)));
        }
        for n in 0..dice.within(2, 6) as usize {
            let moves = dice.percent(if long_away { 80 } else { 20 });
            let attempts = dice.within(1, 4);
            let requeue = if moves { ",\"requeueAfter\":1" } else { "" };
            let body = format!(
                "{{\"name\":\"t{n}\",\"command\":[\"true\"],\"completionAction\":\"none\",\
                 \"maxAttempts\":{attempts}{requeue}}}"
            );
            wishes.push(Wish { id: Uuid::now_v7().to_string(), moves, body });
            let at = dice.within(0, if long_away { 20_000 } else { peace * 2 / 3 });
            acts.push((at, Act::Order(n)));
            if dice.percent(30) {
                acts.push((at + dice.within(0, 90_000), Act::Cancel(n)));
            }
        }
        let looks = LOOK.as_millis() as u64;
        acts.extend((1..peace / looks).map(|n| (n * looks, Act::Look)));
        acts.retain(|(at, _)| *at < peace);
        acts.sort_by_key(|(at, _)| *at);
        Self { daemons, capacity, longest, wishes, peace, acts }
    }
}

/// One fault, and what ends it.
fn fault(dice: &mut Dice, daemons: usize, peace: u64, acts: &mut Vec<(u64, Act)>) {
    let at = dice.within(1_000, peace);
    let host = dice.within(1, daemons as u64 + 1) as Host;
    let either = if dice.percent(50) { RELAY } else { host };
    let later = |dice: &mut Dice, most| at + dice.within(500, most);
    match dice.within(0, 100) {
        0..10 => acts.push((at, Act::Cut(either))),
        10..28 => acts.push((at, Act::Fuse(host, dice.within(1, 30)))),
        28..34 => acts.push((at, Act::Lose(host))),
        34..52 => {
            acts.push((at, Act::Part(host)));
            acts.push((later(dice, 200_000), Act::Join(host)));
        }
        52..64 => {
            acts.push((at, Act::Down(host, dice.percent(30))));
            acts.push((later(dice, 120_000), Act::Up(host)));
        }
        64..70 => {
            acts.push((at, Act::Down(RELAY, dice.percent(30))));
            acts.push((later(dice, 40_000), Act::Up(RELAY)));
        }
        70..78 => {
            // a disk that is slow is caught within a transaction
            acts.push((at, Act::Slow(RELAY, dice.within(200, 3_000))));
            let falls = later(dice, 4_000);
            acts.push((falls, Act::Down(RELAY, dice.percent(30))));
            acts.push((falls + dice.within(500, 20_000), Act::Up(RELAY)));
        }
        78..83 => {
            // much comes at once to a slow relay, and the link breaks while it is stored
            let joins = at + dice.within(8_000, 35_000);
            acts.push((at, Act::Part(host)));
            acts.push((joins - 1_000, Act::Slow(RELAY, dice.within(500, 2_500))));
            acts.push((joins, Act::Join(host)));
            let mut cut = joins;
            for _ in 0..3 {
                cut += dice.within(300, 6_000);
                acts.push((cut, Act::Cut(host)));
            }
            acts.push((joins + 30_000, Act::Slow(RELAY, 0)));
        }
        83..88 => {
            acts.push((at, Act::Slow(either, dice.within(20, 1_500))));
            acts.push((later(dice, 60_000), Act::Slow(either, 0)));
        }
        88..95 => {
            let from = dice.within(100, 3_000);
            acts.push((at, Act::Pace(host, from, from * 2)));
            acts.push((later(dice, 60_000), Act::Pace(host, 1, 40)));
        }
        _ => {
            let side = if dice.percent(50) { Side::Relay } else { Side::Daemon };
            let ms = dice.within(0, 120_000) as i64 - 50_000;
            acts.push((at, Act::Jump(side, ms)));
        }
    }
}

/// The machines of a world while it is acted upon.
pub struct Stageplay {
    sim: Rc<Sim>,
    relay: RelayHost,
    daemons: Vec<DaemonHost>,
    user: User,
    token: String,
    capacity: u32,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

impl Stageplay {
    pub async fn begin(sim: Rc<Sim>, scenario: &Scenario, dice: &Dice) -> Outcome<Self> {
        let mut relay = RelayHost::new(dice.apart(20));
        relay.up(&sim).await?;
        let (owner, token) = relay.tokens.clone().ok_or("the relay founded no workspace")?;
        let user = User { net: sim.net.clone(), history: sim.history.clone(), token: owner };
        let mut daemons = Vec::new();
        let manners = Manners { longest: scenario.longest, fail: 15 };
        for host in 1..=scenario.daemons {
            let apart = dice.apart(30 + host as u64);
            let agents = Agents::new(host, manners, apart.clone(), sim.history.clone());
            let mut daemon = DaemonHost::new(host, agents, apart.apart(1));
            daemon.up(&sim, &token, scenario.capacity).await?;
            daemons.push(daemon);
        }
        Ok(Self { sim, relay, daemons, user, token, capacity: scenario.capacity })
    }

    /// Plays to the end.
    pub async fn play(mut self, scenario: &Scenario) -> Outcome<Ended> {
        let begin = Instant::now();
        for (at, act) in &scenario.acts {
            sleep_until(begin + Duration::from_millis(*at)).await;
            self.act(act, scenario).await?;
        }
        sleep_until(begin + Duration::from_millis(scenario.peace)).await;
        self.make_peace().await?;
        let peace = Instant::now();
        sleep(Duration::from_millis(PEACE_LEAST)).await;
        loop {
            sleep(Duration::from_secs(10)).await;
            let tasks = self.user.look().await.unwrap_or_default();
            let over = tasks.len() == scenario.wishes.len() && tasks.iter().all(is_final);
            let untold = self.untold().await?;
            let too_long = peace.elapsed() >= Duration::from_millis(PEACE_MOST);
            if (over && untold.is_empty()) || too_long {
                let mut events = Vec::new();
                for wish in &scenario.wishes {
                    events.push((wish.id.clone(), self.user.events(&wish.id).await));
                }
                return Ok(Ended { tasks, events, untold });
            }
        }
    }

    async fn untold(&self) -> Outcome<Vec<Host>> {
        let mut untold = Vec::new();
        for daemon in &self.daemons {
            if !daemon.is_told().await? {
                untold.push(daemon.host);
            }
        }
        Ok(untold)
    }

    fn daemon(&mut self, host: Host) -> &mut DaemonHost {
        &mut self.daemons[host - 1]
    }

    async fn act(&mut self, act: &Act, scenario: &Scenario) -> Outcome<()> {
        let sim = self.sim.clone();
        if !matches!(act, Act::Look | Act::Order(_) | Act::Cancel(_)) {
            sim.history.fault(format!("{act:?}"));
        }
        match *act {
            Act::Order(n) => {
                let (user, wish) = (self.user.clone(), scenario.wishes[n].clone());
                tokio::spawn(async move { user.order(&wish.id, &wish.body).await });
            }
            Act::Cancel(n) => {
                let (user, wish) = (self.user.clone(), scenario.wishes[n].clone());
                tokio::spawn(async move { user.cancel(&wish.id).await });
            }
            Act::Look => {
                let user = self.user.clone();
                tokio::spawn(async move {
                    for task in user.look().await.unwrap_or_default() {
                        let text = |name: &str| task[name].as_str().unwrap_or("-").to_owned();
                        let seen = Fact::Seen(text("id"), text("status"), text("daemonId"));
                        user.history.note(seen);
                    }
                });
            }
            Act::Cut(host) => sim.net.cut(host),
            Act::Fuse(host, writes) => sim.net.fuse(host, writes),
            Act::Lose(host) => sim.net.lose(host),
            Act::Part(host) => sim.net.part(host),
            Act::Join(host) => sim.net.join(host),
            Act::Pace(host, from, to) => sim.net.pace(host, from, to),
            Act::Jump(side, ms) => sim.jump(side, ms),
            Act::Slow(RELAY, most) => self.relay.slow(most),
            Act::Slow(host, most) => self.daemon(host).slow(most),
            Act::Down(RELAY, machine) if self.relay.is_up() => self.relay.down(&sim, machine)?,
            Act::Down(host, machine) if host != RELAY && self.daemon(host).is_up() => {
                self.daemon(host).down(&sim, machine)?;
            }
            Act::Down(..) => {}
            Act::Up(host) => self.up(host).await?,
        }
        Ok(())
    }

    async fn up(&mut self, host: Host) -> Outcome<()> {
        let (sim, token, capacity) = (self.sim.clone(), self.token.clone(), self.capacity);
        if host == RELAY {
            if !self.relay.is_up() {
                self.relay.up(&sim).await?;
            }
        } else if !self.daemon(host).is_up() {
            self.daemon(host).up(&sim, &token, capacity).await?;
        }
        Ok(())
    }

    /// Ends every fault.
    async fn make_peace(&mut self) -> Outcome<()> {
        self.sim.history.fault("peace");
        self.relay.slow(0);
        self.up(RELAY).await?;
        for host in 1..=self.daemons.len() {
            self.sim.net.pace(host, 1, 40);
            self.sim.net.defuse(host);
            self.sim.net.join(host);
            self.daemon(host).slow(0);
            self.daemon(host).agents.hurry();
            self.up(host).await?;
        }
        Ok(())
    }
}

fn is_final(task: &Value) -> bool {
    let status = task["status"].as_str().unwrap_or_default();
    matches!(status, "completed" | "failed" | "cancelled" | "timed_out" | "skipped")
}
