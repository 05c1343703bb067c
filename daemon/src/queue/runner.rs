//! The work of a lane: merging in memory, checking in a scratch worktree, moving the target.

use super::ground::Ground;
use super::machine::{Built, Candidate, Check, Event, Work};
use super::record::Record;
use crate::chore::{ChoreError, end_leftovers};
use crate::clock;
use crate::fault::point;
use crate::git::join::Join;
use crate::git::land::{LandError, Landing};
use crate::git::merge::{PreviewError, Trial};
use crate::git::repo::{OpenError, ResolveError};
use crate::git::worktree::NewWorktree;
use crate::git::{CommitId, Repository};
use crate::task::{Shop, chain};
use hayward_shared::id::{EntryId, RunId};
use hayward_shared::merge::Relation;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use uuid::Uuid;

/// The characters of an id, at the end of a log's name.
const ID_DIGITS: usize = 36;

/// Where a lane works, and on what.
#[derive(Debug)]
pub(super) struct Site {
    /// The lane's own id: its scratch worktree and the processes of its checks bear it.
    pub(super) lane: Uuid,
    /// The folder that the repository's worktrees share.
    pub(super) repository: PathBuf,
    /// The branch that is merged into.
    pub(super) target: String,
    /// The entries.
    pub(super) records: BTreeMap<EntryId, Record>,
}

/// Tells that the work is no longer wanted.
pub(super) type Cancelled = oneshot::Receiver<()>;

/// Why a piece of work could not be done: in words, by nobody's fault.
pub(super) struct Trouble(String);

impl Trouble {
    /// The scratch worktree of a check could not be fitted out.
    pub(super) fn fitting(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(format!("no check can run: {}", chain(error)))
    }
}

impl<E: std::error::Error + 'static> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

/// Does a piece of work. One that is cancelled cleans up behind itself and ends soon.
pub(super) async fn perform(
    shop: &Shop,
    site: &Site,
    work: Work,
    mut cancelled: Cancelled,
) -> Event {
    let done = match work {
        Work::Build(members) => build(shop, site, &members).await.map(Event::Built),
        Work::Test { commit, tip, check } => {
            test(shop, site, (&commit, &tip), &check, &mut cancelled).await
        }
        Work::Land { from, to } => land(shop, site, &from, &to).await,
        Work::Rest { ms } => {
            let rest = tokio::time::timeout(Duration::from_millis(ms), &mut cancelled);
            // over or cancelled: which one, the lane knows
            drop(rest.await);
            Ok(Event::TimeUp)
        }
    };
    done.unwrap_or_else(|Trouble(why)| Event::Trouble(why))
}

/// Clears away what checks of a killed daemon left: processes and the scratch worktree.
pub(super) async fn clear(shop: &Shop, site: &Site) {
    if let Err(error) = end_leftovers(RunId(site.lane)) {
        tracing::warn!(%error, "a check of a former daemon may still run");
    }
    let scrapped = match shop.repositories.open(&site.repository).await {
        Ok(repository) => {
            repository.scrap(&scratch(shop, site)).await.map_err(|error| chain(&error))
        }
        Err(error) => Err(chain(&error)),
    };
    if let Err(error) = scrapped {
        tracing::warn!(error, "a scratch worktree may be left");
    }
}

/// Removes what the checks of lanes that are over wrote. Blocking.
pub(super) fn drop_old_logs(shop: &Shop, live: &BTreeSet<Uuid>) {
    for entry in fs::read_dir(shop.home.logs()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let lane = name.to_str().and_then(|name| name.strip_prefix("check-")?.strip_suffix(".log"));
        let lane = lane.and_then(|lane| lane.get(lane.len().checked_sub(ID_DIGITS)?..));
        if let Some(Ok(lane)) = lane.map(Uuid::parse_str)
            && !live.contains(&lane)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(%error, "what an old check wrote stays");
        }
    }
}

/// Where the lane's scratch worktree is, while there is one.
fn scratch(shop: &Shop, site: &Site) -> PathBuf {
    shop.home.worktrees().join(format!("queue-{}", site.lane.simple()))
}

/// Merges the members one after another onto the tip. Objects are written, nothing else.
async fn build(shop: &Shop, site: &Site, members: &[EntryId]) -> Result<Built, Trouble> {
    let repository = shop.repositories.open(&site.repository).await?;
    let tip = repository.resolve(&format!("refs/heads/{}", site.target)).await?;
    let mut at = tip.clone();
    let mut candidate = Candidate { from: tip.to_string(), joined: Vec::new() };
    let mut conflicts = Vec::new();
    for id in members {
        let Some(record) = site.records.get(id) else { continue };
        let head: CommitId = record.entry.wish.head_commit.parse()?;
        if !repository.has(&head).await? {
            conflicts.push((*id, None));
            continue;
        }
        match fit(&repository, &at, &head).await? {
            Fit::Held => {}
            Fit::Clean(tree) => at = repository.join(join(site, record, (&at, head, tree))).await?,
            Fit::Conflict(files) if at == tip => {
                conflicts.push((*id, Some(files)));
                continue;
            }
            Fit::Conflict(_) => match fit(&repository, &tip, &head).await? {
                Fit::Conflict(files) => {
                    conflicts.push((*id, Some(files)));
                    continue;
                }
                // with what comes before it alone: that has to land, or not, first
                Fit::Held | Fit::Clean(_) => break,
            },
        }
        candidate.joined.push((*id, at.to_string()));
    }
    point("queue.build.done")?;
    Ok(Built { candidate, conflicts })
}

/// How an entry fits onto a commit.
enum Fit {
    /// The commit has it already.
    Held,
    /// It merges to this tree.
    Clean(String),
    /// It conflicts in these files; in none where they share no history.
    Conflict(Vec<String>),
}

async fn fit(repository: &Repository, at: &CommitId, head: &CommitId) -> Result<Fit, Trouble> {
    let trial = match repository.try_merge(at, head).await {
        Ok(trial) => trial,
        Err(PreviewError::Unrelated { .. }) => return Ok(Fit::Conflict(Vec::new())),
        Err(error) => return Err(error.into()),
    };
    let Trial { relation, is_clean, tree, conflicts, .. } = trial;
    Ok(match relation {
        Relation::Identical | Relation::AlreadyMerged => Fit::Held,
        _ if is_clean => Fit::Clean(tree),
        _ => {
            let name = |path: PathBuf| path.to_string_lossy().into_owned();
            Fit::Conflict(conflicts.into_iter().map(|conflict| name(conflict.path)).collect())
        }
    })
}

/// Always a merge commit, also where the target could move forward: its history by first parents
/// then tells of one commit for each entry.
fn join(site: &Site, record: &Record, (at, head, tree): (&CommitId, CommitId, String)) -> Join {
    let (branch, task) = (&record.entry.wish.branch, record.entry.task_id);
    let (target, title) = (&site.target, &record.title);
    Join {
        ours: at.clone(),
        theirs: head,
        tree,
        settled: Vec::new(),
        message: format!(
            "Merge branch '{branch}' into {target}\n\n{title}\n\nHayward-Task: {task}"
        ),
        at: clock::now().millis() / 1000,
        sign: record.sign,
    }
}

/// Runs the check in a scratch worktree at the commit, which is gone afterwards.
async fn test(
    shop: &Shop,
    site: &Site,
    (commit, tip): (&str, &str),
    check: &Check,
    cancelled: &mut Cancelled,
) -> Result<Event, Trouble> {
    let repository = shop.repositories.open(&site.repository).await?;
    let path = scratch(shop, site);
    // one of a former check that could not be taken down then
    repository.scrap(&path).await?;
    let new = NewWorktree { path: path.clone(), commit: commit.parse()?, branch: None };
    repository.provide(new).await?;
    let event = in_scratch(shop, site, &repository, (&path, tip), check, cancelled).await;
    repository.scrap(&path).await?;
    point("queue.check.cleared")?;
    event
}

async fn in_scratch(
    shop: &Shop,
    site: &Site,
    repository: &Repository,
    (worktree, tip): (&Path, &str),
    check: &Check,
    cancelled: &mut Cancelled,
) -> Result<Event, Trouble> {
    let ground = Ground::new(shop, site, (worktree, tip)).await;
    let limit = Duration::from_secs(check.seconds);
    let checked = async {
        ground.fit_out(repository).await?;
        point("queue.check.placed")?;
        Ok::<_, Trouble>(ground.check(&check.command, limit).await)
    };
    let ended = tokio::select! {
        ended = checked => Some(ended),
        _ = cancelled => None,
    };
    if ended.is_none()
        && let Err(error) = end_leftovers(RunId(site.lane))
    {
        tracing::warn!(%error, "a check that is no longer wanted may still run");
    }
    ground.tear_down().await;
    let Some(ended) = ended else { return Ok(Event::TimeUp) };
    point("queue.check.done")?;
    match ended? {
        Ok(()) => Ok(Event::Passed),
        Err(ChoreError::Failed { status, tail, .. }) => {
            Ok(Event::Failed(format!("{status}\n{tail}").trim().to_owned()))
        }
        Err(ChoreError::TimedOut { limit, tail, .. }) => {
            let text = format!("it took over {} s and was ended\n{tail}", limit.as_secs());
            Ok(Event::Failed(text.trim().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

async fn land(shop: &Shop, site: &Site, from: &str, to: &str) -> Result<Event, Trouble> {
    let repository = match shop.repositories.open(&site.repository).await {
        Ok(repository) => repository,
        Err(error @ OpenError::NotARepository(_)) => return Ok(Event::Held(chain(&error))),
        Err(error) => return Err(error.into()),
    };
    let (from, to): (CommitId, CommitId) = (from.parse()?, to.parse()?);
    let landing = Landing { branch: site.target.clone(), from, to: to.clone() };
    let landed = repository.land(landing).await;
    point("queue.land.done")?;
    let Err(error) = landed else { return Ok(Event::Landed) };
    // whatever is in the way now, a daemon that was killed may have brought it there
    match repository.resolve(&format!("refs/heads/{}", site.target)).await {
        Ok(tip) if repository.descends(&tip, &to).await? => return Ok(Event::Landed),
        Ok(_) | Err(ResolveError::Unknown { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(match error {
        // what `git gc` took is made anew too
        LandError::Moved { .. } | LandError::NotForward { .. } | LandError::Gone { .. } => {
            Event::Moved
        }
        error => Event::Held(chain(&error)),
    })
}
