//! Errors of git and journal as faults of the wire. Pure.

use crate::git::land::LandError;
use crate::git::merge::PreviewError;
use crate::git::repo::{OpenError, ResolveError};
use crate::journal::JournalError;
use crate::task::chain;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::RequestId;
use hayward_shared::protocol::{FromDaemon, Reply, ToDaemon};

/// Something that failed and that nobody can help by asking differently.
pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::Failed, chain(error))
}

pub(super) fn journal(error: JournalError) -> Fault {
    failed(&error)
}

pub(super) fn open(error: OpenError) -> Fault {
    let code = match &error {
        OpenError::NotARepository(_) => Code::NotFound,
        OpenError::NoCommits(_) => Code::Conflict,
        OpenError::NotTrusted(_) => Code::Refused,
        OpenError::Unreadable { .. } => Code::Failed,
    };
    Fault::new(code, chain(&error))
}

pub(super) fn resolve(error: ResolveError) -> Fault {
    let code = match &error {
        ResolveError::Unknown { .. } => Code::NotFound,
        ResolveError::Unreadable { .. } => Code::Failed,
    };
    Fault::new(code, chain(&error))
}

pub(super) fn preview(error: PreviewError) -> Fault {
    let code = match &error {
        PreviewError::Unrelated { .. } => Code::Conflict,
        _ => Code::Failed,
    };
    Fault::new(code, chain(&error))
}

pub(super) fn land(error: LandError) -> Fault {
    let code = match &error {
        LandError::NoBranch(_) => Code::NotFound,
        LandError::Moved { .. }
        | LandError::NotForward { .. }
        | LandError::Gone { .. }
        | LandError::InTheWay { .. }
        | LandError::InProgress { .. }
        | LandError::Twice { .. }
        | LandError::IndexLocked(_) => Code::Conflict,
        LandError::DiskFull { .. }
        | LandError::Git { .. }
        | LandError::Parse { .. }
        | LandError::Stopped { .. }
        | LandError::Unreadable { .. } => Code::Failed,
        LandError::Closed(_) => Code::Unavailable,
    };
    Fault::new(code, chain(&error))
}

/// How a command that was refused is answered: in its own type where that can tell of a failure,
/// else by a `reply`, or by an `error` where the command did not ask for a reply.
pub(super) fn refusal(command: &ToDaemon, request: Option<RequestId>, fault: Fault) -> FromDaemon {
    match command.answer() {
        Some((task_id, "mergeResult")) => FromDaemon::MergeResult {
            task_id,
            success: false,
            message: fault.message.clone(),
            commit_sha: None,
            conflicts: None,
            error: Some(fault),
        },
        _ if request.is_some() => FromDaemon::Reply(Reply::refused(fault)),
        _ => FromDaemon::Error { code: fault.code.name().to_owned(), message: fault.message },
    }
}
