//! The keeper's loop: gathers what happened, hands it to the machine, runs what it decides.

mod show;

use super::agent::Streams;
use super::client::{Client, Gone};
use super::doors::Doors;
use super::folder::{Exit, How, LaunchFault, RunFolder};
use super::input::Asker;
use super::machine::{Effect, Event, Machine};
use super::pace::Pace;
use super::streams::Held;
use super::wire::{Fault, FromClient, FromKeeper, Request, Target};
use super::{KeeperFault, Rings, SOCKET, tree, while_doing};
use crate::clock;
use crate::process::ProcessId;
use hayward_shared::id::RunId;
use hayward_shared::time::Timestamp;
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

/// The most clients at once: a daemon needs one, people look with a few more.
const MAX_CLIENTS: usize = 16;
/// What an agent gets when the machine goes down, or somebody asks the keeper itself to end.
const SHUTDOWN_GRACE_MS: u64 = 5000;
/// What it gets when its time is over: with the 10 s that its leftovers may take, half of what is
/// left until another daemon may begin.
const FENCE_GRACE_MS: u64 = 5000;

/// The one owner of everything about a session. Lives on the keeper's main thread.
pub(super) struct Session {
    folder: RunFolder,
    run: RunId,
    keeper: ProcessId,
    began: Instant,
    machine: Machine,
    agent: Option<ProcessId>,
    /// When the agent ended; the present until then.
    ended_at: Option<Timestamp>,
    streams: Held,
    doors: Doors,
    clients: Vec<Client>,
    pace: Pace,
    /// The session was ended because its time was over.
    fenced: bool,
    exit: Option<Exit>,
}

impl Session {
    /// A session without an agent yet.
    pub(super) fn new(folder: RunFolder, run: RunId, keeper: ProcessId, doors: Doors) -> Self {
        Self {
            folder,
            run,
            keeper,
            began: Instant::now(),
            machine: Machine::new(),
            agent: None,
            ended_at: None,
            streams: Held::default(),
            doors,
            clients: Vec::new(),
            pace: Pace::default(),
            fenced: false,
            exit: None,
        }
    }

    /// Takes over a started agent: from here on its output is read.
    pub(super) fn attend(
        &mut self,
        id: ProcessId,
        streams: Streams,
        rings: Rings,
    ) -> Result<(), KeeperFault> {
        self.agent = Some(id);
        self.streams =
            Held::attend(streams, rings).map_err(while_doing("read the agent's output"))?;
        Ok(())
    }

    /// The agent could not be started: only the end is left to record.
    pub(super) fn never_started(&mut self, cause: LaunchFault) {
        self.agent_ended(How::NotStarted { cause });
    }

    /// Runs until the session has ended and clients were told.
    pub(super) fn run(mut self) -> Result<(), KeeperFault> {
        while !self.machine.over() {
            let ready = self.doors.wait(&self.streams, &self.clients, self.timeout())?;
            if ready.signals {
                self.read_signals();
            }
            if ready.fence && self.doors.time_is_over() {
                self.fence();
            }
            if ready.knocks {
                self.accept();
            }
            self.serve(&ready.clients);
            // first: an agent whose output nobody takes does not take input either
            if ready.output {
                self.read_output();
            }
            if self.type_input() {
                // what a terminal itself echoes has little room
                self.read_output();
            }
            self.look_at_output();
            self.answer_typed(self.now());
            self.feed(Event::Tick);
            self.flush();
        }
        if let Err(fault) = fs::remove_file(SOCKET) {
            eprintln!("the socket could not be removed: {fault}");
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn timeout(&self) -> PollTimeout {
        let now = self.now();
        let input = self.streams.input.as_ref().and_then(|input| input.due(now));
        let output = self.progress_due();
        let due = [self.machine.due(), input, output, self.pace.answers_due()]
            .into_iter()
            .flatten()
            .min();
        due.map_or(PollTimeout::NONE, |due| {
            let left = i32::try_from(due.saturating_sub(now)).unwrap_or(i32::MAX);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        })
    }

    fn read_signals(&mut self) {
        let told = self.doors.signals();
        if told.end {
            self.feed(Event::End { grace_ms: SHUTDOWN_GRACE_MS });
        }
        if told.child {
            self.reap();
        }
    }

    /// Another daemon may soon have the task: nothing of this session may live then.
    fn fence(&mut self) {
        if !self.machine.agent_ended() {
            eprintln!("no word of the relay came in time: the session is ended");
            self.fenced = true;
            self.feed(Event::End { grace_ms: FENCE_GRACE_MS });
        }
    }

    fn reap(&mut self) {
        let agent = self.agent.map(|agent| agent.pid);
        for status in tree::reap() {
            if status.pid().map(nix::unistd::Pid::as_raw) != agent {
                continue;
            }
            let how = match status {
                WaitStatus::Exited(_, code) => self.exited(code),
                WaitStatus::Signaled(_, signal, _) => How::Signalled { signal: signal as i32 },
                _ => continue,
            };
            self.agent_ended(how);
        }
    }

    /// What its code means: a process that could not become the agent left a note.
    fn exited(&self, code: i32) -> How {
        match self.folder.read::<LaunchFault>() {
            Ok(Some(cause)) => How::NotStarted { cause },
            Ok(None) => How::Exited { code },
            Err(fault) => {
                eprintln!("the note about the launch cannot be read: {fault}");
                How::Exited { code }
            }
        }
    }

    fn agent_ended(&mut self, how: How) {
        self.ended_at = Some(clock::now());
        self.feed(Event::AgentEnded(how));
    }

    /// Hands an event to the machine and runs what it decides, and what follows from that.
    fn feed(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now();
            for effect in self.machine.on(event, now) {
                events.extend(self.act(effect));
            }
        }
    }

    fn act(&mut self, effect: Effect) -> Option<Event> {
        let done = match effect {
            // a stopped process cannot hear that it should end
            Effect::Ask => tree::signal(Signal::SIGTERM, |_| true)
                .and_then(|_| tree::signal(Signal::SIGCONT, |_| true)),
            Effect::Make => tree::signal(Signal::SIGKILL, |_| true),
            Effect::Count => {
                self.reap();
                return Some(Event::Counted(tree::count()));
            }
            Effect::LetGo => {
                self.streams.let_go();
                return self.streams.is_drained().then_some(Event::Drained);
            }
            Effect::Record { how, leftovers, drained } => {
                return self.record(how, leftovers, drained);
            }
            Effect::Tell => {
                self.answer_typed(u64::MAX);
                if let Some(exit) = self.exit.clone() {
                    let output_end = exit.output_end;
                    let end = FromKeeper::Exited { exit };
                    for client in &mut self.clients {
                        client.catch_up(output_end);
                        client.tell(&end);
                    }
                }
                return None;
            }
        };
        if let Err(fault) = done {
            eprintln!("the tree cannot be signalled: {fault}");
        }
        None
    }

    fn record(&mut self, how: How, leftovers: u32, drained: bool) -> Option<Event> {
        // the time for the rest may have gone by in one write that the disk held up
        self.read_rest();
        let drained = drained || self.streams.is_drained();
        self.streams.stop();
        let (output_end, stderr_end) = self.streams.ends();
        let recorded_at = clock::now();
        let ended_at = self.ended_at.unwrap_or(recorded_at);
        let (run, fenced) = (self.run, self.fenced);
        let exit = Exit {
            run,
            how,
            ended_at,
            recorded_at,
            output_end,
            stderr_end,
            drained,
            leftovers,
            fenced,
        };
        let written = self.folder.write(&exit);
        if let Err(fault) = &written {
            if is_removed() {
                eprintln!("the end cannot be recorded, the run folder was removed");
                return Some(Event::Homeless);
            }
            eprintln!("the end could not be recorded, trying again: {fault}");
        }
        self.exit = written.is_ok().then_some(exit);
        Some(Event::Recorded(written.is_ok()))
    }

    fn accept(&mut self) {
        while let Some(client) = self.doors.client(self.clients.len() < MAX_CLIENTS) {
            self.clients.push(client);
        }
    }

    fn serve(&mut self, ready: &[u64]) {
        for id in ready {
            if let Err(Gone) = self.serve_one(*id) {
                self.clients.retain(|client| client.id != *id);
            }
        }
    }

    fn serve_one(&mut self, id: u64) -> Result<(), Gone> {
        self.client(id).map_or(Ok(()), Client::read)?;
        while let Some(message) = self.client(id).map_or(Ok(None), Client::next_message)? {
            self.hear(id, message);
        }
        Ok(())
    }

    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    fn hear(&mut self, client: u64, message: FromClient) {
        match message {
            FromClient::Input(input) => {
                let asker = Asker { client, call: input.id };
                let ended = self.machine.agent_ended();
                let queue = self.streams.input.as_mut().filter(|_| !ended);
                if let Err(fault) = queue.ok_or(Fault::Ended).and_then(|q| q.push(asker, input)) {
                    self.answer(asker, Err(fault));
                }
            }
            FromClient::Call(call) => {
                let asker = Asker { client, call: call.id };
                match call.request {
                    Request::Status => {
                        let (keeper, agent) = (self.keeper, self.agent);
                        self.tell(client, &FromKeeper::Status { id: call.id, keeper, agent });
                    }
                    Request::Subscribe => {
                        self.answer(asker, Ok(()));
                        self.subscribe(client);
                    }
                    Request::Show { from } => self.show(asker, from),
                    request => {
                        let done = self.do_request(&request);
                        self.answer(asker, done);
                    }
                }
            }
        }
    }

    fn do_request(&mut self, request: &Request) -> Result<(), Fault> {
        if self.machine.agent_ended() {
            return Err(Fault::Ended);
        }
        let system = |fault: io::Error| Fault::System { detail: fault.to_string() };
        match *request {
            Request::CloseInput => self.streams.input.as_mut().ok_or(Fault::Ended)?.close(),
            Request::Resize { rows, cols } => {
                // what was printed at the old size is shown before
                self.read_output();
                self.streams.resize(rows, cols)?;
                if let Some(size) = self.streams.size() {
                    self.clients.iter_mut().for_each(|client| client.resized(size));
                }
                Ok(())
            }
            Request::Signal { signal, to } => {
                let signal =
                    Signal::try_from(signal).map_err(|_| Fault::NoSuchSignal { signal })?;
                let group = self.streams.foreground().or(self.agent.map(|agent| agent.pid));
                tree::signal(signal, |row| to == Target::Tree || Some(row.group) == group)
                    .map(drop)
                    .map_err(system)
            }
            Request::End { grace_ms } => {
                self.feed(Event::End { grace_ms: u64::from(grace_ms) });
                Ok(())
            }
            Request::Pause => tree::stop().map_err(system),
            Request::Resume => tree::signal(Signal::SIGCONT, |_| true).map(drop).map_err(system),
            Request::Status | Request::Subscribe | Request::Show { .. } => Ok(()),
        }
    }

    fn subscribe(&mut self, client: u64) {
        let (end, stderr_end) = self.streams.ends();
        self.tell(client, &FromKeeper::Output { end, stderr_end });
        if let Some(client) = self.client(client) {
            client.told = Some((end, stderr_end));
        }
        if let Some(exit) = self.exit.clone() {
            self.tell(client, &FromKeeper::Exited { exit });
        }
    }

    fn answer(&mut self, asker: Asker, done: Result<(), Fault>) {
        let id = asker.call;
        let answer = match done {
            Ok(()) => FromKeeper::Done { id },
            Err(fault) => FromKeeper::Refused { id, fault },
        };
        self.tell(asker.client, &answer);
    }

    fn tell(&mut self, client: u64, message: &FromKeeper) {
        if let Some(client) = self.client(client) {
            client.tell(message);
        }
    }

    /// Types what waits to be typed; true while some of it is held back.
    fn type_input(&mut self) -> bool {
        let now = self.now();
        let Some(input) = self.streams.input.as_mut() else { return false };
        let typed = input.advance(now);
        let waits = input.due(now).is_some();
        if !typed.is_empty() {
            let is_shown = |id| self.clients.iter().any(|one| one.id == id && one.is_shown());
            let all_shown = typed.iter().all(|(asker, _)| is_shown(asker.client));
            for (asker, done) in self.pace.typed(now, typed, all_shown) {
                self.answer(asker, done);
            }
        }
        waits
    }

    fn answer_typed(&mut self, now: u64) {
        for (asker, done) in self.pace.answers(now) {
            self.answer(asker, done);
        }
    }

    /// When somebody has to be told of output that came since.
    fn progress_due(&self) -> Option<u64> {
        let ends = self.streams.ends();
        let behind =
            |client: &Client| client.told.is_some_and(|told| told != ends) && !client.is_behind();
        self.clients.iter().any(behind).then(|| self.pace.due())
    }

    /// Tells subscribers how far the output is; one that is behind hears of it later, once.
    fn look_at_output(&mut self) {
        if self.streams.is_drained() {
            self.feed(Event::Drained);
        }
        if self.clients.iter().all(|client| client.told.is_none()) {
            return;
        }
        let now = self.now();
        if self.progress_due().is_none_or(|due| due > now) {
            return;
        }
        self.pace.told(now);
        let ends @ (end, stderr_end) = self.streams.ends();
        for client in &mut self.clients {
            if client.told.is_some_and(|told| told != ends) && !client.is_behind() {
                client.tell(&FromKeeper::Output { end, stderr_end });
                client.told = Some(ends);
            }
        }
    }

    fn flush(&mut self) {
        let (end, _) = self.streams.ends();
        self.clients.retain_mut(|client| client.flush(end).is_ok());
        if self.exit.is_some() && !self.clients.iter().any(Client::is_behind) {
            self.feed(Event::Told);
        }
    }
}

/// Whether the run folder, in which a keeper stands, was removed. One that was moved may come back.
fn is_removed() -> bool {
    fs::metadata(".").is_ok_and(|folder| folder.nlink() == 0)
}
