//! The agents of one machine, in the place of worktrees, keepers and processes. They outlive their
//! daemon, as agents do that have keepers, and die with their machine.

use super::dice::Dice;
use super::history::{Fact, History, Host};
use hayward_daemon::keeper::{Exit, How, RunFolder};
use hayward_daemon::process::ProcessId;
use hayward_daemon::session::{Apart, End, Found, Lost, Session, StartError};
use hayward_daemon::task::{Chosen, Doing, Place, Stage, Work};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{DiffStat, Outcome};
use hayward_shared::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

/// How often a keeper that starts is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// What agents do, as a seed has it.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// The longest that one works, in milliseconds.
    pub longest: u64,
    /// How many of a hundred fail.
    pub fail: u64,
}

/// The agents of a machine. Clones share them.
#[derive(Clone, Debug)]
pub struct Agents {
    host: Host,
    history: History,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    dice: Dice,
    manners: Manners,
    known: BTreeMap<RunId, Agent>,
}

#[derive(Clone, Debug)]
struct Agent {
    end: watch::Sender<Option<End>>,
    /// Wakes it to end before its time.
    ended: Arc<Notify>,
    stand: Stand,
    task: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stand {
    /// A keeper is on its way.
    Starting,
    /// No keeper may start it any more.
    Barred,
    Working,
    Over,
}

impl Agents {
    pub fn new(host: Host, manners: Manners, dice: Dice, history: History) -> Self {
        let inner = Inner { dice, manners, known: BTreeMap::new() };
        Self { host, history, inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand(&self, run: RunKey) -> Option<Stand> {
        self.lock().known.get(&run.run_id).map(|agent| agent.stand)
    }

    fn pause(&self, most: u64) -> Duration {
        self.lock().dice.millis(0, most)
    }

    /// Whoever begins from now on has little to do.
    pub fn hurry(&self) {
        self.lock().manners.longest = 3_000;
    }

    /// The machine lost its power: nothing of them is left, and no record.
    pub fn perish(&self) {
        let mut inner = self.lock();
        for (run, agent) in &mut inner.known {
            match agent.stand {
                Stand::Working => {
                    self.history.note(Fact::Died(self.host, agent.task.clone(), run.to_string()));
                    agent.end.send_replace(Some(End::Lost(Lost { ended: 0, left: 0 })));
                    agent.stand = Stand::Over;
                }
                Stand::Starting => agent.stand = Stand::Barred,
                Stand::Barred | Stand::Over => {}
            }
        }
    }

    /// The keeper of a run comes to life, unless its folder was barred, and with it the agent.
    async fn live(self, run: RunKey) {
        sleep(self.pause(300)).await;
        let (agent, works, fails) = {
            let mut inner = self.lock();
            let Manners { longest, fail } = inner.manners;
            let works = inner.dice.millis(50, longest);
            let fails = inner.dice.percent(fail);
            let Some(agent) = inner.known.get_mut(&run.run_id) else { return };
            if agent.stand != Stand::Starting {
                return;
            }
            agent.stand = Stand::Working;
            (agent.clone(), works, fails)
        };
        let (task, id) = (run.task_id.to_string(), run.run_id.to_string());
        self.history.note(Fact::Born(self.host, task.clone(), id.clone()));
        let mut how = How::Exited { code: i32::from(fails) };
        tokio::select! {
            biased;
            () = agent.ended.notified() => {
                sleep(self.pause(900)).await;
                how = How::Signalled { signal: 15 };
            }
            () = sleep(works) => {}
        }
        let mut inner = self.lock();
        let Some(agent) = inner.known.get_mut(&run.run_id) else { return };
        if agent.stand != Stand::Working {
            return;
        }
        agent.stand = Stand::Over;
        self.history.note(Fact::Died(self.host, task, id));
        agent.end.send_replace(Some(End::Exited(record(run.run_id, how))));
    }

    /// A daemon's way to an agent.
    fn session(&self, folder: RunFolder, agent: &Agent) -> Session {
        let (session, mut apart) = Session::apart(folder, ProcessId { pid: 1, start: 1 });
        let (mut end, ended) = (agent.end.subscribe(), agent.ended.clone());
        tokio::spawn(async move {
            let known = tokio::select! {
                biased;
                known = over(&mut end) => known,
                () = ask_on(&mut apart, &ended) => None,
            };
            if let Some(known) = known {
                apart.over(known);
            }
        });
        session
    }
}

async fn over(end: &mut watch::Receiver<Option<End>>) -> Option<End> {
    end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone())
}

/// Hands on every wish that the agent end. Never over.
async fn ask_on(apart: &mut Apart, ended: &Notify) {
    loop {
        apart.asked_to_end().await;
        ended.notify_one();
    }
}

fn record(run: RunId, how: How) -> Exit {
    let at = Timestamp::from_millis(0);
    let (ended_at, recorded_at) = (at, at);
    let (output_end, stderr_end, drained, leftovers) = (0, 0, true, 0);
    let fenced = false;
    Exit { run, how, ended_at, recorded_at, output_end, stderr_end, drained, leftovers, fenced }
}

impl Stage for Agents {
    fn prepare(&self, run: RunKey) -> Doing<Result<(Place, Chosen), Failure>> {
        let pause = self.pause(400);
        Box::pin(async move {
            sleep(pause).await;
            let place = Place {
                path: format!("/worktrees/{}", run.task_id).into(),
                repository: "/repository".into(),
                base_commit: "0".repeat(40),
                branch: None,
                lent_from: None,
                first_port: None,
                pushes_to: None,
                notes: Vec::new(),
            };
            Ok((place, Chosen { name: "command".into(), why: "a command was given".into() }))
        })
    }

    fn start(&self, run: RunKey, folder: RunFolder) -> Doing<Result<Session, StartError>> {
        let agents = self.clone();
        Box::pin(async move {
            let agent = Agent {
                end: watch::Sender::new(None),
                ended: Arc::default(),
                stand: Stand::Starting,
                task: run.task_id.to_string(),
            };
            agents.lock().known.insert(run.run_id, agent.clone());
            // the keeper is a process of its own: it starts though its daemon is killed
            tokio::spawn(agents.clone().live(run));
            sleep(agents.pause(500)).await;
            // nobody hears of a session whose keeper did not take its folder yet
            while agents.stand(run) == Some(Stand::Starting) {
                sleep(LOOK).await;
            }
            match agents.stand(run) {
                Some(Stand::Working | Stand::Over) => Ok(agents.session(folder, &agent)),
                _ => Err(StartError::Refused { log: folder.log().display().to_string() }),
            }
        })
    }

    fn find(&self, run: RunKey, folder: RunFolder) -> Doing<Found> {
        let agents = self.clone();
        Box::pin(async move {
            sleep(agents.pause(50)).await;
            let mut inner = agents.lock();
            let Some(agent) = inner.known.get_mut(&run.run_id) else { return Found::Never };
            match agent.stand {
                Stand::Starting | Stand::Barred => {
                    agent.stand = Stand::Barred;
                    Found::Never
                }
                Stand::Working => {
                    let agent = agent.clone();
                    drop(inner);
                    Found::Live(agents.session(folder, &agent))
                }
                Stand::Over => match agent.end.borrow().clone() {
                    Some(End::Exited(exit)) => Found::Ended(exit),
                    Some(End::Lost(lost)) => Found::Lost(lost),
                    None => Found::Never,
                },
            }
        })
    }

    fn deliver(&self, _: RunKey) -> Doing<Result<Work, Failure>> {
        let pause = self.pause(400);
        Box::pin(async move {
            sleep(pause).await;
            Ok(Work {
                outcome: Outcome::Delivered,
                branch: None,
                head_commit: None,
                commits: 1,
                stat: DiffStat::default(),
                withheld: Vec::new(),
                inert_hooks: Vec::new(),
                completed: None,
                pr_url: None,
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn f29_a_session_that_began_is_never_said_to_have_never_run() {
    for seed in 0..100 {
        let manners = Manners { longest: 60_000, fail: 0 };
        let agents = Agents::new(1, manners, Dice::new(seed), History::new());
        let (task_id, run_id) = (TaskId::fresh(), RunId::fresh());
        let (run, folder) =
            (RunKey { task_id, run_id, lease_epoch: 1 }, RunFolder::new("/nowhere"));
        agents.start(run, folder.clone()).await.unwrap();
        agents.perish();
        let found = agents.find(run, folder).await;
        assert!(!matches!(found, Found::Never), "seed {seed}");
    }
}
