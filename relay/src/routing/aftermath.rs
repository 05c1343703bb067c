//! What a daemon tells of a run's work after the run has ended: how the work fares in a merge queue,
//! and that its agent is to go on with it. That is true of the work whichever run came after, so a
//! newer fence does not refuse it. Pure.

use super::{Sender, Verdict, draft, usage_of};
use crate::change::Change;
use hayward_shared::event::{Actor, Kind, MAX_TEXT, bounded};
use hayward_shared::id::RunId;
use hayward_shared::protocol::FromDaemon;
use hayward_shared::task::{FollowUp, Status};
use hayward_shared::time::Timestamp;

/// The most bytes of what an agent is told when its task was sent back several times over: once for
/// each branch that its work was queued for, and few are.
const MAX_FOLLOW_UP: usize = 4 * MAX_TEXT;

/// Whether `message` is of this kind.
pub(super) fn is_part(message: &FromDaemon) -> bool {
    match message {
        FromDaemon::TaskFollowUp { .. } => true,
        FromDaemon::TaskEvent(event) => matches!(
            event.event,
            Kind::QueueWaiting
                | Kind::QueueTesting
                | Kind::QueueLanded
                | Kind::QueueConflict
                | Kind::QueueFailed
                | Kind::QueueRemoved
                | Kind::QueueRejected
        ),
        _ => false,
    }
}

/// What such a message of a run with the older fence `told` means, where the same daemon has had
/// a newer run of the task since.
pub(super) fn judge(
    mut change: Change,
    by: &Actor,
    (told, message): (u64, FromDaemon),
    now: Timestamp,
) -> Verdict {
    match message {
        FromDaemon::TaskFollowUp { follow_up, .. } => told_to_agent(change, by, follow_up, now),
        FromDaemon::TaskEvent(event) => {
            change.drafts.push(draft(event, by, told));
            Verdict::Apply(Box::new(change))
        }
        _ => Verdict::Stale(told),
    }
}

/// What any other message of a run with the older fence `told` means, whose daemon need not have the
/// task any more: it is refused, and what the run used was used.
pub(super) fn late_usage(
    mut change: Change,
    from: Sender,
    (told, message): (u64, FromDaemon),
) -> Verdict {
    let FromDaemon::TaskEvent(event) = message else { return Verdict::Stale(told) };
    let Some(usage) = usage_of(&event) else { return Verdict::Stale(told) };
    let run = event.run_id;
    change.drafts.push(draft(event, &from.actor(), told));
    Verdict::Late(Box::new(change), told, (run, usage))
}

/// The present run's work is to be gone on with.
pub(super) fn sent_back(
    change: Change,
    by: &Actor,
    (run, follow_up): (RunId, FollowUp),
    now: Timestamp,
) -> Verdict {
    let holding = &change.row.task.holding;
    if holding.run_id != Some(run) {
        return Verdict::Stale(holding.lease_epoch);
    }
    if change.row.task.status.is_held() {
        return Verdict::Pass("only a task that has ended is sent back");
    }
    told_to_agent(change, by, follow_up, now)
}

/// A completed task goes back to the queue, and from there to the daemon that has its agent's
/// session. Words for one that waits there already are added to those it goes on with; words for
/// one whose agent is at work again are kept until it has completed.
fn told_to_agent(mut change: Change, by: &Actor, follow_up: FollowUp, now: Timestamp) -> Verdict {
    let text = bounded(&follow_up.text, MAX_TEXT).0.to_owned();
    let words = FollowUp { text, ..follow_up };
    let task = &mut change.row.task;
    let under_way = task.holding.follow_up.as_ref();
    if under_way.is_some_and(|known| known.id == words.id || known.text.contains(&words.text)) {
        // the same words may come again
        return Verdict::Pass("its agent is told of it already");
    }
    let place = match task.status {
        Status::Queued | Status::Deferred if under_way.is_some() => &mut task.holding.follow_up,
        status if status.is_held() => &mut task.holding.next_follow_up,
        _ => {
            change.go_on_with(words, by, now);
            return Verdict::Apply(Box::new(change));
        }
    };
    let joined = match place.as_ref() {
        Some(known) if known.text.contains(&words.text) => {
            return Verdict::Pass("its agent is told of it already");
        }
        Some(known) => format!("{}\n{}", known.text, words.text),
        None => words.text.clone(),
    };
    let is_enough = joined.len() > MAX_FOLLOW_UP;
    if !is_enough {
        place.get_or_insert_with(|| words.clone()).text = joined;
        task.version += 1;
    }
    let undelivered = is_enough.then_some("its agent is told of enough already");
    change.say_words(&words, undelivered, by, now);
    Verdict::Apply(Box::new(change))
}
