//! Merge commands that change something.

use super::machine::{self, Made, Session};
use super::{Desk, Ground, Step, faults};
use crate::clock;
use crate::fault;
use crate::git::CommitId;
use crate::git::join::Join;
use crate::git::land::Landing;
use crate::git::merge::Trial;
use crate::task::{section_of, whose};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::merge::{MergeSide, Relation};
use hayward_shared::protocol::{FromDaemon, ToDaemon};

/// The longest message of a merge commit, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// A landing that a crash cut off before it was told of.
pub(super) struct Healed {
    source: String,
    commit: String,
    /// Whether the landing was done; else nothing moved, and the merge is as it was before.
    is_landed: bool,
}

/// What a test that made a point fail is told.
fn stopped(cause: std::io::Error) -> Fault {
    Fault::new(Code::Failed, cause.to_string())
}

fn merged(task_id: TaskId, source: &str, commit: &str) -> FromDaemon {
    let message = format!("'{source}' is merged");
    result(task_id, message, Some(commit.to_owned()))
}

fn result(task_id: TaskId, message: String, commit_sha: Option<String>) -> FromDaemon {
    FromDaemon::MergeResult {
        task_id,
        success: true,
        message,
        commit_sha,
        conflicts: None,
        error: None,
    }
}

impl Desk {
    /// Ends what a crash cut off: a merge whose commit was landed is over, one whose commit was
    /// not is as if that commit had never been made.
    pub(super) async fn heal(&self, ground: &Ground) -> Result<Option<Healed>, Fault> {
        let Some(mut session) = self.session(ground.task).await? else { return Ok(None) };
        let Some(made) = session.made.take() else { return Ok(None) };
        let commit: CommitId = made.commit.parse().map_err(|error| faults::failed(&error))?;
        let tip = ground.tip().await?;
        let held = ground.repository.holds(&tip, &commit).await;
        let is_landed = held.map_err(|error| faults::failed(&error))?;
        let healed =
            Healed { source: session.source.clone(), commit: made.commit.clone(), is_landed };
        if is_landed {
            self.follow(ground, &made.from, &commit).await;
            let answer = merged(ground.task, &session.source, &made.commit);
            let moved = Some(made.commit);
            self.keep(ground, Step { session: None, answer, moved }, made.request).await?;
        } else {
            // a merge without conflicts waits for nobody: it is begun anew
            let session = Some(session).filter(|session| !session.files.is_empty());
            let kept =
                self.shop.journal.keep_merge(ground.task, session.as_ref(), None, None).await;
            kept.map_err(faults::journal)?;
        }
        Ok(Some(healed))
    }

    pub(super) async fn change(
        &self,
        ground: &Ground,
        command: &ToDaemon,
        request: Option<RequestId>,
        healed: Option<Healed>,
    ) -> Result<Step, Fault> {
        let session = self.session(ground.task).await?;
        let done = healed.filter(|healed| healed.is_landed);
        match (command, session, done) {
            (ToDaemon::MergeStart { source_branch, .. }, None, Some(done))
                if done.source == *source_branch =>
            {
                let answer = merged(ground.task, &done.source, &done.commit);
                Ok(Step { session: None, answer, moved: None })
            }
            (ToDaemon::MergeCommit { .. }, None, Some(done)) => {
                let answer = merged(ground.task, &done.source, &done.commit);
                Ok(Step { session: None, answer, moved: None })
            }
            (ToDaemon::MergeStart { source_branch, .. }, None, _) => {
                self.start(ground, source_branch, request).await
            }
            (ToDaemon::MergeStart { .. }, Some(session), _) => {
                let text = format!("a merge of '{}' is under way", session.source);
                Err(Fault::new(Code::Conflict, text).with_hint("commit or abort it first"))
            }
            (_, None, _) => {
                let text = format!("no merge is under way in task {}", ground.task.short());
                Err(Fault::new(Code::Conflict, text).with_hint("begin one: hayward merge start"))
            }
            (ToDaemon::MergeResolve { file, strategy, .. }, Some(session), _) => {
                resolve(ground, session, file, strategy)
            }
            (ToDaemon::MergeCommit { message, .. }, Some(session), _) => {
                self.commit(ground, session, message, request).await
            }
            (ToDaemon::MergeAbort { .. }, Some(session), _) => {
                let message = format!(
                    "the merge of '{}' is given up; '{}' is as it was",
                    session.source, ground.branch
                );
                Ok(Step { session: None, answer: result(ground.task, message, None), moved: None })
            }
            (other, Some(_), _) => {
                let text = format!("'{}' is no merge command", other.type_name());
                Err(Fault::new(Code::UnknownType, text))
            }
        }
    }

    async fn start(
        &self,
        ground: &Ground,
        source: &str,
        request: Option<RequestId>,
    ) -> Result<Step, Fault> {
        on_its_branch(self, ground).await?;
        let theirs = ground.repository.resolve(source).await.map_err(faults::resolve)?;
        let ours = ground.tip().await?;
        let trial = ground.repository.try_merge(&ours, &theirs).await.map_err(faults::preview)?;
        let conflicts = &trial.conflicts;
        let session = Session::begin(source, theirs.as_str(), ours.as_str(), conflicts);
        if trial.is_clean {
            return self.bring_home(ground, session, (ours, trial), "", request).await;
        }
        let files: Vec<_> =
            conflicts.iter().map(|conflict| machine::shown(&conflict.path)).collect();
        let message = format!(
            "merging '{source}' conflicts in {}: settle each with ours or theirs, then commit",
            machine::count(files.len())
        );
        let answer = FromDaemon::MergeResult {
            task_id: ground.task,
            success: false,
            message,
            commit_sha: None,
            conflicts: Some(files.into_iter().take(machine::MOST_LISTED).collect()),
            error: None,
        };
        Ok(Step { session: Some(session), answer, moved: None })
    }

    /// Commits a merge whose conflicts were chosen, on what the branch is now.
    async fn commit(
        &self,
        ground: &Ground,
        mut session: Session,
        message: &str,
        request: Option<RequestId>,
    ) -> Result<Step, Fault> {
        if message.len() > MAX_MESSAGE {
            return Err(Fault::new(Code::Invalid, "message: 64 KiB at the most"));
        }
        on_its_branch(self, ground).await?;
        let theirs: CommitId = session.theirs.parse().map_err(|error| faults::failed(&error))?;
        let ours = ground.tip().await?;
        let trial = ground.repository.try_merge(&ours, &theirs).await.map_err(faults::preview)?;
        if let Err(mut fault) = session.settle(&trial.conflicts) {
            if session.ours != ours.as_str() {
                let moved = format!("'{}' moved meanwhile", ground.branch);
                fault.message = format!("{moved}: {}", fault.message);
                session.renew(ours.as_str(), &trial.conflicts);
                let journal = &self.shop.journal;
                let kept = journal.keep_merge(ground.task, Some(&session), None, None).await;
                kept.map_err(faults::journal)?;
            }
            return Err(fault);
        }
        self.bring_home(ground, session, (ours, trial), message, request).await
    }

    /// Makes the merge's commit and lands it. Before it moves anything the journal says what is
    /// about to happen, so that a crash can be told from a landing that was never begun.
    async fn bring_home(
        &self,
        ground: &Ground,
        mut session: Session,
        (ours, trial): (CommitId, Trial),
        message: &str,
        request: Option<RequestId>,
    ) -> Result<Step, Fault> {
        if matches!(trial.relation, Relation::Identical | Relation::AlreadyMerged) {
            let message = format!("'{}' is merged already", session.source);
            return Ok(Step {
                session: None,
                answer: result(ground.task, message, None),
                moved: None,
            });
        }
        let theirs: CommitId = session.theirs.parse().map_err(|error| faults::failed(&error))?;
        let commit = match trial.relation {
            Relation::FastForward => theirs,
            _ => {
                let usual = machine::message(&session.source, &ground.branch);
                let join = Join {
                    ours: ours.clone(),
                    theirs,
                    settled: session.settle(&trial.conflicts)?,
                    tree: trial.tree,
                    message: if message.trim().is_empty() { usual } else { message.to_owned() },
                    at: clock::now().millis() / 1000,
                    sign: section_of(&self.shop, &ground.order, whose(&ground.place)).sign,
                };
                ground.repository.join(join).await.map_err(|error| faults::failed(&error))?
            }
        };
        fault::point("merge.commit.made").map_err(stopped)?;
        let before = Some(session.clone()).filter(|session| !session.files.is_empty());
        let (made, from) = (commit.to_string(), ours.to_string());
        session.made = Some(Made { commit: made, from, request });
        let journal = &self.shop.journal;
        let kept = journal.keep_merge(ground.task, Some(&session), None, None).await;
        kept.map_err(faults::journal)?;
        fault::point("merge.commit.kept").map_err(stopped)?;
        if let Err(fault) = land(ground, &ours, &commit).await {
            let kept = journal.keep_merge(ground.task, before.as_ref(), None, None).await;
            kept.map_err(faults::journal)?;
            return Err(fault);
        }
        fault::point("merge.commit.landed").map_err(stopped)?;
        self.follow(ground, ours.as_str(), &commit).await;
        fault::point("merge.commit.followed").map_err(stopped)?;
        let answer = merged(ground.task, &session.source, commit.as_str());
        Ok(Step { session: None, answer, moved: Some(commit.to_string()) })
    }

    /// Takes the worktree of a task that has ended along. One that holds changes stays behind:
    /// they are worth more than its standing at the tip.
    async fn follow(&self, ground: &Ground, from: &str, to: &CommitId) {
        if ground.is_live || !ground.place.path.is_dir() {
            return;
        }
        let Ok(from) = from.parse() else { return };
        if let Err(error) = ground.repository.follow(&ground.place.path, &from, to).await {
            let (error, task) = (&error as &dyn std::error::Error, ground.task);
            tracing::info!(%task, error, "the worktree stays behind its branch");
        }
    }

    /// Leaves a part out and tells how the task stands then.
    pub(super) async fn skip(
        &self,
        ground: &Ground,
        part: TaskId,
        reason: &str,
    ) -> Result<FromDaemon, Fault> {
        let reason = machine::reason(reason)?;
        let parts = self.parts(ground.task).await?;
        if !parts.iter().any(|row| row.key.task_id == part) {
            return Err(Fault::not_found(
                "part",
                format!("{part} of task {}", ground.task.short()),
            ));
        }
        let (journal, now) = (&self.shop.journal, clock::now());
        let skipped = journal.skip_part(ground.task, part, reason, now).await;
        skipped.map_err(faults::journal)?;
        self.check(ground).await
    }
}

fn resolve(
    ground: &Ground,
    mut session: Session,
    file: &str,
    strategy: &str,
) -> Result<Step, Fault> {
    let side: MergeSide = strategy.parse().map_err(|error: hayward_shared::merge::BadSide| {
        Fault::new(Code::Invalid, error.to_string())
    })?;
    session.choose(file, side)?;
    let waiting = session.waiting();
    let message = match machine::some(&waiting) {
        None => format!("{side} is taken of '{file}'; all is settled: commit"),
        Some(names) => format!("{side} is taken of '{file}'; still in conflict: {names}"),
    };
    let conflicts = Some(waiting.into_iter().take(machine::MOST_LISTED).collect());
    let answer = FromDaemon::MergeResult {
        task_id: ground.task,
        success: true,
        message,
        commit_sha: None,
        conflicts,
        error: None,
    };
    Ok(Step { session: Some(session), answer, moved: None })
}

async fn land(ground: &Ground, from: &CommitId, to: &CommitId) -> Result<(), Fault> {
    let branch = ground.branch.clone();
    if *from == ground.base()? {
        // a branch that held nothing may have been dropped
        ground.repository.restore_branch(&branch, from).await.map_err(faults::land)?;
    }
    let landing = Landing { branch, from: from.clone(), to: to.clone() };
    ground.repository.land(landing).await.map(drop).map_err(faults::land)
}

/// A live agent that left its branch would find work on it that it does not have.
async fn on_its_branch(desk: &Desk, ground: &Ground) -> Result<(), Fault> {
    if !ground.is_live || !ground.place.path.is_dir() {
        return Ok(());
    }
    let opened = desk.shop.repositories.open(&ground.place.path).await.map_err(faults::open)?;
    let head = opened.head().await.map_err(faults::resolve)?;
    if head.branch.as_deref() == Some(&*ground.branch) {
        return Ok(());
    }
    let text = format!(
        "the agent of task {} is at work and has left '{}'",
        ground.task.short(),
        ground.branch
    );
    Err(Fault::new(Code::Conflict, text).with_hint("merge when it has ended"))
}
