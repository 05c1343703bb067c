//! `hayward attach`.

mod keys;
mod paint;
mod show;
mod tty;

use super::context::Context;
use super::logs::begun;
use super::print::tone::Tone;
use super::typed::Typed;
use crate::client::{Reach, Say, Seen, View, Viewer};
use crate::exit::{End, OrFault, Outcome};
use hayward_daemon::fault;
use hayward_daemon::terminal::screen::Size;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::protocol::output::Shape;
use hayward_shared::task::Task;
use serde_json::json;
use show::Show;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tty::{Keyboard, Tty};

/// How often the screen is drawn while much is printed; the first change is drawn at once, and so
/// is the first one after a key.
const FRAME: Duration = Duration::from_millis(8);

/// The end of a task follows that of its agent's session by this much at most, while nothing of
/// it has to be brought home.
const REPORT: Duration = Duration::from_secs(3);

/// How often it is looked for.
const POLL: Duration = Duration::from_millis(100);

/// Whose terminal.
#[derive(clap::Args)]
pub(crate) struct AttachArgs {
    /// The task
    id: Typed,

    /// Only look: type nothing, and leave the size to others
    #[arg(long)]
    read_only: bool,

    /// Take over the size of the terminal from whoever is attached already
    #[arg(long, conflicts_with = "read_only")]
    take: bool,
}

/// Why the terminal is given back.
enum Left {
    /// The user left.
    Detached,
    /// The agent's session ended.
    Ended,
    /// A signal asked for it, or the user's terminal is gone.
    Signal,
}

/// Shows the terminal of a task's agent, and types into it.
pub(crate) async fn run(args: AttachArgs, context: &Context) -> Outcome {
    if !tty::is_terminal() {
        return Err(Fault::new(Code::Usage, "attach needs a terminal to show and to type in")
            .with_hint("what the agent prints: hayward logs -f"));
    }
    let (mut reach, task) = context.find(&args.id).await?;
    let task = tokio::select! {
        task = begun(&mut reach, task, context) => task?.body,
        _ = tokio::signal::ctrl_c() => return Ok(End::Interrupted),
    };
    if task.status.is_final() {
        let text = format!("task {} is {}: its agent runs no more", task.id.short(), task.status);
        return Err(Fault::new(Code::Conflict, text)
            .with_hint(format!("what it printed: hayward logs {}", task.id.short())));
    }
    let size = tty::size().ok_or_else(|| Fault::new(Code::Failed, "the terminal has no size"))?;
    let view = View {
        task: task.id,
        size: (size.rows(), size.cols()),
        read_only: args.read_only,
        take: args.take,
    };
    let mut viewer = Viewer::start(reach.clone().straight_first(), view);
    let first = tokio::select! {
        first = screen(&mut viewer, context) => first?,
        _ = tokio::signal::ctrl_c() => return Ok(End::Interrupted),
    };
    let left = match first {
        Some(shape) => {
            let show = Show::new(size, args.read_only, shape, Instant::now());
            // what the runtime itself waits for goes on after a look at the system, a task of it at
            // once: each key would take another turn of the loop
            match tokio::spawn(attached(viewer, show)).await {
                Ok(left) => left,
                Err(broke) => std::panic::resume_unwind(broke.into_panic()),
            }
        }
        None => Ok(Left::Ended),
    };
    tell(left, reach, task.id, context).await
}

/// The first screen; none when the session ended before.
async fn screen(viewer: &mut Viewer, context: &Context) -> Result<Option<Shape>, Fault> {
    loop {
        match viewer.next().await? {
            Seen::Screen(shape) => return Ok(Some(shape)),
            Seen::End => return Ok(None),
            Seen::Lost(fault) => context.out.note(Tone::Warn, &format!("{fault}; trying again")),
            Seen::Moved(how) => context.out.note(Tone::Warn, how),
            _ => {}
        }
    }
}

/// What woke the loop.
enum Event {
    Seen(Result<Seen, Fault>),
    Keys(Option<Vec<u8>>),
    Sized,
    Left(Left),
    Draw,
}

/// Signals that concern the terminal.
struct Signals {
    sized: Signal,
    ending: [Signal; 3],
}

impl Signals {
    fn listen() -> Result<Self, Fault> {
        let on = |kind| signal(kind).or_fault(Code::Failed);
        let ending =
            [on(SignalKind::terminate())?, on(SignalKind::hangup())?, on(SignalKind::interrupt())?];
        Ok(Self { sized: on(SignalKind::window_change())?, ending })
    }

    async fn next(&mut self) -> Event {
        let [terminate, hangup, interrupt] = &mut self.ending;
        tokio::select! {
            _ = self.sized.recv() => Event::Sized,
            _ = terminate.recv() => Event::Left(Left::Signal),
            _ = hangup.recv() => Event::Left(Left::Signal),
            _ = interrupt.recv() => Event::Left(Left::Signal),
        }
    }
}

/// Lends the user's terminal to the agent's until one of the two is left.
async fn attached(mut viewer: Viewer, mut show: Show) -> Result<Left, Fault> {
    let mut signals = Signals::listen()?;
    let tty = Tty::enter()?;
    let keyboard = Keyboard::open()?;
    let mut drawn = None;
    loop {
        let event = gather(&mut viewer, &keyboard, &mut signals, &show, drawn).await;
        match event {
            Event::Seen(seen) => {
                if show.see(seen?, Instant::now()) {
                    return Ok(Left::Ended);
                }
            }
            Event::Keys(None) => return Ok(Left::Signal),
            Event::Keys(Some(keys)) => {
                if show.press(&keys, Instant::now()) {
                    return Ok(Left::Detached);
                }
                drawn = None;
            }
            Event::Sized => {
                if let Some(size) = tty::size().filter(|size| *size != show.size()) {
                    show.resize(size);
                    viewer.say(Say::Resize(size.rows(), size.cols())).await;
                }
            }
            Event::Left(left) => return Ok(left),
            Event::Draw => {
                tty.write(&show.draw(Instant::now()))?;
                fault::point("attach.screen.drawn").or_fault(Code::Failed)?;
                drawn = Some(Instant::now());
            }
        }
        if let Some((seq, part)) = show.typed() {
            viewer.say(Say::Type(seq, part)).await;
        }
    }
}

async fn gather(
    viewer: &mut Viewer,
    keyboard: &Keyboard,
    signals: &mut Signals,
    show: &Show,
    drawn: Option<Instant>,
) -> Event {
    let now = Instant::now();
    let due = show.due(drawn.map_or(now, |drawn| drawn + FRAME));
    if due.is_some_and(|due| due <= now) {
        // a timer would take another millisecond
        return Event::Draw;
    }
    tokio::select! {
        seen = viewer.next() => Event::Seen(seen),
        keys = keyboard.next(), if show.takes_keys() => Event::Keys(keys),
        event = signals.next() => event,
        () = sleep_until(due.unwrap_or(now)), if due.is_some() => Event::Draw,
    }
}

/// Says how it went, on the user's own screen.
async fn tell(left: Result<Left, Fault>, reach: Reach, id: TaskId, context: &Context) -> Outcome {
    let (left, fault) = match left {
        Ok(left) => (left, None),
        // it may have ended while there was no connection
        Err(fault) if fault.code == Code::Conflict => (Left::Ended, Some(fault)),
        Err(fault) => return Err(fault),
    };
    let short = id.short();
    let mut task: Option<Task> = None;
    if matches!(left, Left::Ended) {
        let ended = ended(reach, id).await?;
        if let Some(fault) = fault.filter(|_| !ended.status.is_final()) {
            return Err(fault);
        }
        task = Some(ended);
    }
    if context.out.json() {
        let status = task.as_ref().map(|task| task.status);
        let detached = matches!(left, Left::Detached);
        context.out.value(&json!({ "taskId": id, "detached": detached, "status": status }))?;
    }
    match (left, task) {
        (Left::Signal, _) => Ok(End::Interrupted),
        (_, Some(task)) => {
            let text = format!("the agent of task {short} has ended; the task is {}", task.status);
            context.out.note(Tone::Plain, &text);
            Ok(End::Done)
        }
        (_, None) => {
            let text = format!("detached; the agent goes on: hayward attach {short}");
            context.out.note(Tone::Dim, &text);
            Ok(End::Done)
        }
    }
}

/// The task once its end is known, or soon.
async fn ended(mut reach: Reach, id: TaskId) -> Result<Task, Fault> {
    let begin = Instant::now();
    loop {
        let task = reach.task(id).await?.body;
        if task.status.is_final() {
            return Ok(task);
        }
        if begin.elapsed() > REPORT {
            // a relay that its daemon cannot reach has not heard of the end
            return Ok(reach.own_word(id).await.unwrap_or(task));
        }
        sleep(POLL).await;
    }
}

/// How large a terminal is, from a frame; none that no terminal has.
fn size_of(shape: Shape) -> Option<Size> {
    Size::new(shape.rows, shape.cols)
}
