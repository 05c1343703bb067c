//! Follows tasks to their end, on the screen.

use super::progress::{Progress, made};
use crate::cli::context::Context;
use crate::cli::print::Live;
use crate::cli::print::tone::Tone;
use crate::client::{Client, Doc, Finder, Followed, Follower};
use hayward_daemon::clock;
use hayward_shared::event::task_stream;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::task::Task;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often the status line is drawn: its smallest unit is a second.
const TICK: Duration = Duration::from_millis(250);

/// How following ended.
pub(super) enum Ended {
    /// All tasks have ended.
    All {
        /// As they ended.
        tasks: Vec<Doc<Task>>,
        /// Their worktrees.
        places: BTreeMap<TaskId, String>,
    },
    /// The user pressed Ctrl-C while these went on.
    Interrupted(Vec<TaskId>),
}

/// What happened.
enum News {
    Followed(Result<Followed, Fault>),
    Tick,
    Interrupt(std::io::Result<()>),
}

/// Shows what the tasks do until all have ended or the user presses Ctrl-C.
pub(super) async fn follow(
    tasks: Vec<Doc<Task>>,
    client: &Client,
    finder: Finder,
    context: &Context,
) -> Result<Ended, Fault> {
    let mut screen = Screen {
        progress: Progress::new(tasks.iter().map(|task| &task.body), context.out.verbose()),
        live: context.out.live(),
        context,
    };
    for task in &tasks {
        let (tone, text) = made(&task.body);
        context.out.note(tone, &text);
    }
    let streams = tasks.iter().map(|task| (task_stream(task.body.id), None)).collect();
    let mut follower = Follower::start(finder.clone(), streams);
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !screen.progress.open().is_empty() {
        let news = tokio::select! {
            biased;
            signal = &mut interrupt => News::Interrupt(signal),
            followed = follower.next() => News::Followed(followed),
            _ = tick.tick(), if screen.live.is_on() => News::Tick,
        };
        match news {
            News::Interrupt(signal) => {
                signal.map_err(|error| Fault::new(Code::Failed, format!("no signals: {error}")))?;
                screen.live.wipe();
                return Ok(Ended::Interrupted(screen.progress.open()));
            }
            News::Followed(followed) => screen.take(followed?),
            News::Tick => screen.draw(),
        }
    }
    screen.live.wipe();
    let places = screen.progress.places();
    let mut ended = Vec::with_capacity(tasks.len());
    for task in tasks {
        // the relay may have moved meanwhile
        let client = finder.place().and_then(Client::new).unwrap_or_else(|_| client.clone());
        ended.push(client.task_patiently(task.body.id).await?);
    }
    Ok(Ended::All { tasks: ended, places })
}

/// Owns what is shown.
struct Screen<'a> {
    progress: Progress,
    live: Live,
    context: &'a Context,
}

impl Screen<'_> {
    fn take(&mut self, followed: Followed) {
        let lines = match followed {
            Followed::Event(event) => self.progress.on(&event),
            Followed::Lost(fault) => vec![(Tone::Warn, format!("{fault}; trying again"))],
            Followed::Back => vec![(Tone::Dim, "the relay is back".to_owned())],
        };
        if lines.is_empty() {
            return;
        }
        self.live.wipe();
        for (tone, text) in lines {
            self.context.out.note(tone, &text);
        }
        self.draw();
    }

    fn draw(&mut self) {
        let status = self.progress.status(clock::now());
        self.live.show(&status);
    }
}
