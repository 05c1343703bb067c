//! Commands of the relay to the handle that carries each out: the only match on them.
//!
//! Commands are handed on in the order in which they came; their answers are waited for aside, so
//! that a slow one holds no other up. An answer is kept before it is sent: the same request again
//! gets the same answer, and nothing happens twice.

use crate::clock;
use crate::finish;
use crate::journal::Journal;
use crate::life::Life;
use crate::link::{self, Link};
use crate::merge::Desk;
use crate::overlap::{Overlap, Sibling, sibling_notice};
use crate::queue::Queue;
use crate::search::{Calls, Finder};
use crate::spans;
use crate::task::{Board, Command, Shop};
use crate::watch::{Hand, Watches};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::protocol::{FromDaemon, Reply, Tagged, ToDaemon};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument;
use uuid::Uuid;

/// Watches that are served over the link at once; more are refused.
const WATCHES: usize = 256;

/// The dispatcher. One actor owns it.
#[derive(Debug)]
pub struct Dispatch {
    shop: Arc<Shop>,
    board: Board,
    overlap: Overlap,
    queue: Queue,
    link: Link,
    watches: Watches,
    merges: Arc<Desk>,
    life: Arc<Life>,
    searches: Calls,
    answers: JoinSet<()>,
}

type Pending = oneshot::Receiver<Result<(), Fault>>;

impl Dispatch {
    /// A dispatcher that hands on to `board`.
    #[must_use]
    pub fn new(
        shop: Arc<Shop>,
        board: Board,
        overlap: Overlap,
        life: Arc<Life>,
        queue: Queue,
        finder: Finder,
        link: Link,
    ) -> Self {
        let watches = Watches::new(shop.clone(), board.clone(), link.lane(), WATCHES);
        let merges = Arc::new(Desk::new(shop.clone()));
        let searches = Calls::new(finder, link.lane());
        let answers = JoinSet::new();
        Self { shop, board, overlap, queue, link, watches, merges, life, searches, answers }
    }

    /// Hands on whatever the relay says, until the link ends.
    pub async fn run(mut self, mut commands: link::Commands) {
        while let Some(command) = commands.recv().await {
            match command {
                link::Command::Message(message) => self.message(message).await,
                link::Command::LinkLost => {
                    self.watches.clear();
                    self.searches.clear();
                }
            }
            self.searches.forget_ended();
            while self.answers.try_join_next().is_some() {}
        }
    }

    async fn message(&mut self, message: Tagged<ToDaemon>) {
        let span = spans::command(&message);
        if !span.is_none() {
            span.in_scope(|| tracing::debug!("the relay commands"));
        }
        self.serve(message).instrument(span).await;
    }

    /// What is done for the present command beside it, and is said as part of it.
    fn aside(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.answers.spawn(work.in_current_span());
    }

    async fn serve(&mut self, Tagged { body, tags }: Tagged<ToDaemon>) {
        let request = tags.request_id;
        if let Some(request) = request
            && !is_of_a_terminal(&body)
            && let Some(reply) = self.known(request).await
        {
            let link = self.link.clone();
            self.aside(async move { link.answer(Some(request), reply).await });
            return;
        }
        match body {
            ToDaemon::SpawnTask(spawn) => {
                self.board.spawn(Tagged { body: *spawn, tags }).await;
            }
            ToDaemon::PauseTask { .. }
            | ToDaemon::ResumeTask { .. }
            | ToDaemon::InterruptTask { .. }
            | ToDaemon::SendMessage { .. }
            | ToDaemon::CancelTask { .. }
            | ToDaemon::InjectSiblingContext { .. } => self.command(request, body).await,
            ToDaemon::Error { code, message, task_id } => {
                tracing::warn!(code, message, "the relay did not take a message");
                if code == Code::StaleLease.name()
                    && let Some(task) = task_id
                {
                    let fence = Command::Fence { epoch: tags.lease_epoch };
                    self.order(None, task, fence).await;
                }
            }
            ToDaemon::Search(query) => {
                if let Some(request) = request {
                    self.searches.begin(request, *query);
                }
            }
            ToDaemon::SearchMore { asked } => self.searches.more(asked),
            ToDaemon::CallOff { asked } => self.searches.call_off(asked),
            ToDaemon::ReadOverlap { task_id } => self.read_overlap(request, task_id),
            ToDaemon::WatchOutput(view) => {
                let begun = self.watches.begin(view).await;
                self.answer(request, begun.map_or_else(Reply::refused, Reply::done));
            }
            ToDaemon::GrantOutput { watch_id, up_to } => self.watches.grant(watch_id, up_to),
            ToDaemon::UnwatchOutput { watch_id } => self.watches.end(watch_id),
            ToDaemon::Authenticated(_)
            | ToDaemon::Ack { .. }
            | ToDaemon::HeartbeatAck { .. }
            | ToDaemon::WorkAvailable {} => {}
            ToDaemon::ListBranches { .. }
            | ToDaemon::MergeStart { .. }
            | ToDaemon::MergeStatus { .. }
            | ToDaemon::MergeResolve { .. }
            | ToDaemon::MergeCommit { .. }
            | ToDaemon::MergeAbort { .. }
            | ToDaemon::MergeSkip { .. }
            | ToDaemon::CheckMergeComplete { .. }
            | ToDaemon::PreviewMerge { .. } => self.merge(request, body),
            ToDaemon::RetryCompletionAction { .. } | ToDaemon::UndoCompletion { .. } => {
                self.finish(request, body);
            }
            ToDaemon::QueueAdd { .. } | ToDaemon::QueueList {} | ToDaemon::QueueRemove { .. } => {
                self.queue(request, body)
            }
            ToDaemon::ListJobs {} | ToDaemon::OrderJob { .. } => self.jobs(request, body),
            ToDaemon::ReadDiff { .. }
            | ToDaemon::ReadOverlay { .. }
            | ToDaemon::ListWorktrees { .. }
            | ToDaemon::PruneWorktrees { .. }
            | ToDaemon::CloneWorktree { .. }
            | ToDaemon::CheckTargetExists { .. } => self.worktree(request, body),
            ToDaemon::AttachTerminal { .. }
            | ToDaemon::TypeTerminal { .. }
            | ToDaemon::ResizeTerminal { .. }
            | ToDaemon::TakeTerminal { .. } => self.terminal(request, body),
        }
    }

    /// Hands an order on to the run of its task.
    async fn command(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let id = request.map_or_else(Uuid::now_v7, |request| request.0);
        let (task, command) = match body {
            ToDaemon::PauseTask { task_id } => (task_id, Command::Pause),
            ToDaemon::ResumeTask { task_id } => (task_id, Command::Resume),
            ToDaemon::InterruptTask { task_id, graceful } => {
                (task_id, Command::Interrupt { graceful })
            }
            ToDaemon::SendMessage { task_id, message: text } => {
                (task_id, Command::Message { id, text })
            }
            ToDaemon::CancelTask { task_id } => (task_id, Command::Cancel),
            ToDaemon::InjectSiblingContext {
                task_id,
                sibling_task_id,
                sibling_name: name,
                sibling_status: status,
                progress_summary: progress,
                changed_files: files,
            } => {
                let sibling =
                    Sibling { id: sibling_task_id.short(), name, status, progress, files };
                (task_id, Command::Inform(sibling_notice(id, sibling_task_id, sibling)))
            }
            _ => return,
        };
        self.order(request, task, command).await;
    }

    fn terminal(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let (watch_id, hand) = match body {
            ToDaemon::AttachTerminal(view) => {
                if let Err(fault) = self.watches.attach(request, view) {
                    self.answer(request, Reply::refused(fault));
                }
                return;
            }
            ToDaemon::TypeTerminal { watch_id, data } => (watch_id, Hand::Type(data)),
            ToDaemon::ResizeTerminal { watch_id, rows, cols } => {
                (watch_id, Hand::Resize(rows, cols))
            }
            ToDaemon::TakeTerminal { watch_id } => (watch_id, Hand::Take),
            _ => return,
        };
        if let Err(fault) = self.watches.hand(request, watch_id, hand) {
            self.answer(request, Reply::refused(fault));
        }
    }

    async fn known(&self, request: RequestId) -> Option<FromDaemon> {
        self.shop.journal.answer(request).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "an answer cannot be read");
            None
        })
    }

    async fn order(&mut self, request: Option<RequestId>, task: TaskId, command: Command) {
        let pending = self.board.command(task, command).await;
        let (link, journal) = (self.link.clone(), self.shop.journal.clone());
        self.aside(async move { conclude(link, journal, request, pending).await });
    }

    fn merge(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let (link, desk) = (self.link.clone(), self.merges.clone());
        self.aside(async move {
            let answer = desk.serve(body, request).await;
            link.answer(request, answer).await;
        });
    }

    fn finish(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let (link, shop) = (self.link.clone(), self.shop.clone());
        self.aside(async move {
            let answer = finish::serve(&shop, body, request).await;
            link.answer(request, answer).await;
        });
    }

    fn queue(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let (link, queue) = (self.link.clone(), self.queue.clone());
        self.aside(async move {
            let answer = queue.serve(body, request).await;
            link.answer(request, answer).await;
        });
    }

    fn jobs(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let (link, shop) = (self.link.clone(), self.shop.clone());
        self.aside(async move {
            let is_kept = matches!(body, ToDaemon::OrderJob { .. });
            let reply = shop.jobs.serve(body).await;
            let Some(request) = request else { return };
            if is_kept
                && let Err(error) = shop.journal.keep_reply(request, &reply, clock::now()).await
            {
                tracing::error!(error = &error as &dyn std::error::Error, "a reply cannot be kept");
            }
            link.reply(request, reply).await;
        });
    }

    fn read_overlap(&mut self, request: Option<RequestId>, task: Option<TaskId>) {
        let (link, overlap) = (self.link.clone(), self.overlap.clone());
        self.aside(async move {
            let report = overlap.report(task).await;
            if let (Some(request), Some(report)) = (request, report) {
                link.reply(request, Reply::done(report.on_the_wire())).await;
            }
        });
    }

    fn worktree(&mut self, request: Option<RequestId>, body: ToDaemon) {
        let (link, life, queue) = (self.link.clone(), self.life.clone(), self.queue.clone());
        self.aside(async move {
            if let ToDaemon::PruneWorktrees { task_id: Some(task), dry_run: false, force: true } =
                body
            {
                // it was discarded
                queue.forget(task).await;
            }
            let answer = life.serve(body, request).await;
            link.answer(request, answer).await;
        });
    }

    /// Sends an answer aside: the dispatcher never waits for the link, which may wait for it.
    fn answer(&mut self, request: Option<RequestId>, reply: Reply) {
        if let Some(request) = request {
            let link = self.link.clone();
            self.aside(async move { link.reply(request, reply).await });
        }
    }
}

/// What concerns a terminal is good for one watch, which ends with the link: no answer to it is
/// kept, and no key waits for the journal.
fn is_of_a_terminal(body: &ToDaemon) -> bool {
    matches!(
        body,
        ToDaemon::AttachTerminal { .. }
            | ToDaemon::TypeTerminal { .. }
            | ToDaemon::ResizeTerminal { .. }
            | ToDaemon::TakeTerminal { .. }
    )
}

async fn conclude(link: Link, journal: Journal, request: Option<RequestId>, pending: Pending) {
    let gone = || Err(Fault::new(Code::Conflict, "the run ended before it could do that"));
    let done = pending.await.unwrap_or_else(|_| gone());
    let Some(request) = request else {
        if let Err(fault) = done {
            tracing::debug!(%fault, "an order was not carried out");
        }
        return;
    };
    let reply = done.map_or_else(Reply::refused, |()| Reply::done(Value::Null));
    if let Err(error) = journal.keep_reply(request, &reply, clock::now()).await {
        tracing::error!(error = &error as &dyn std::error::Error, "a reply cannot be kept");
    }
    link.reply(request, reply).await;
}
