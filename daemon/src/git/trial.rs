//! The overlap of snapshots, with a trial merge of each pair that overlaps.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside::Aside;
use super::command::{CommandError, Git};
use super::overlap::{Clash, clashes};
use super::parse::{self, ParseError};
use super::repo::{CommitId, Repository, read};
use super::snapshot::Snapshot;
use super::touched::{TouchedFile, between};

/// Two snapshots to compare, written to the same store.
pub type Pair = (Arc<Snapshot>, Arc<Snapshot>);

/// Why snapshots could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Git's data cannot be read.
    #[error("work under way in {repository} could not be compared: check it with `git fsck`")]
    Unreadable {
        /// The repository.
        repository: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// Git failed.
    #[error("merges of work under way could not be tried out")]
    Git(#[source] CommandError),
    /// Git wrote something unknown.
    #[error("the outcome of trial merges could not be read")]
    Parse(#[source] ParseError),
}

/// What is known of a pair before a merge is tried.
struct Compared {
    clashes: Vec<Clash>,
    /// Whether the two share a commit: else no merge can be tried, and each clash is a conflict.
    related: bool,
}

impl Repository {
    /// Where the two of each pair overlap, in the order of the pairs. A file counts that both
    /// changed against their own bases, and still differs on both sides from the commit where the
    /// two part; its lines are counted in that commit alone. One git process tries all merges.
    /// Objects are written aside, nothing else.
    ///
    /// # Errors
    /// [`TrialError`]; a missing object is one.
    pub async fn overlap(
        &self,
        aside: &Aside,
        pairs: Vec<Pair>,
    ) -> Result<Vec<Vec<Clash>>, TrialError> {
        let (common, store, held) = (self.common_dir().to_owned(), aside.clone(), pairs.clone());
        let mut compared = read(move || {
            let repository = git2::Repository::open(&common)?;
            store.lend(&repository)?;
            let mut parting = Parting { repository: &repository, known: HashMap::new() };
            held.iter().map(|pair| parting.compare(pair)).collect::<Result<Vec<_>, _>>()
        })
        .await
        .and_then(|compared| compared)
        .map_err(|source| TrialError::Unreadable {
            repository: self.common_dir().to_owned(),
            source,
        })?;
        let mut tried = Vec::new();
        for (pair, seen) in pairs.iter().zip(&mut compared) {
            if seen.related && !seen.clashes.is_empty() {
                tried.push((pair, seen));
            } else {
                seen.clashes.iter_mut().for_each(|clash| clash.conflict = true);
            }
        }
        if !tried.is_empty() {
            let asked: Vec<_> = tried.iter().map(|((a, b), _)| (&a.commit, &b.commit)).collect();
            let conflicts = try_merges(aside, &asked).await?;
            for ((_, seen), conflicts) in tried.into_iter().zip(conflicts) {
                for clash in &mut seen.clashes {
                    let mut names = clash.renamed_to.iter().chain([&clash.path]);
                    clash.conflict = names.any(|name| conflicts.contains(name));
                }
            }
        }
        Ok(compared.into_iter().map(|seen| seen.clashes).collect())
    }
}

/// The files in conflict of each merge.
async fn try_merges(
    aside: &Aside,
    pairs: &[(&CommitId, &CommitId)],
) -> Result<Vec<BTreeSet<PathBuf>>, TrialError> {
    let lines: String = pairs.iter().map(|(ours, theirs)| format!("{ours} {theirs}\n")).collect();
    let output = Git::on_repository(aside.path())
        // the store goes with the daemon: what a crash leaves of it is never read
        .config("core.fsync", "none")
        .args(["merge-tree", "--write-tree", "--stdin", "-z", "--no-messages"])
        .stdin(lines.into_bytes())
        .run()
        .await
        .map_err(TrialError::Git)?;
    let merged = parse::merge_trees(&output.stdout, pairs.len()).map_err(TrialError::Parse)?;
    let names = |merged: parse::Merged| merged.stages.into_iter().map(|staged| staged.path);
    Ok(merged.into_iter().map(|merged| names(merged).collect()).collect())
}

/// Where histories part, and what was changed since. Blocking; looks each thing up once.
struct Parting<'repository> {
    repository: &'repository git2::Repository,
    known: HashMap<(CommitId, CommitId), Option<CommitId>>,
}

impl Parting<'_> {
    fn compare(&mut self, (one, two): &Pair) -> Result<Compared, git2::Error> {
        let own: BTreeSet<&Path> = one.files.iter().map(|file| file.path.as_path()).collect();
        let beneath = |path: &Path| {
            let mut behind = own.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
            behind.next().is_some_and(|found| found.starts_with(path))
        };
        let shared = two
            .files
            .iter()
            .map(|file| file.path.as_path())
            .any(|path| path.ancestors().any(|above| own.contains(above)) || beneath(path));
        if !shared {
            return Ok(Compared { clashes: Vec::new(), related: true });
        }
        let Some(parted) = self.parted(&one.head, &two.head)? else {
            return Ok(Compared { clashes: clashes(&one.files, &two.files), related: false });
        };
        let ours = self.since(&parted, one)?;
        let theirs = self.since(&parted, two)?;
        Ok(Compared { clashes: clashes(&ours, &theirs), related: true })
    }

    fn parted(&mut self, one: &CommitId, two: &CommitId) -> Result<Option<CommitId>, git2::Error> {
        if one == two {
            return Ok(Some(one.clone()));
        }
        let key = (one.clone(), two.clone());
        if let Some(found) = self.known.get(&key) {
            return Ok(found.clone());
        }
        let found = match self.repository.merge_base(one.oid()?, two.oid()?) {
            Ok(id) => Some(CommitId::from(id)),
            Err(cause) if cause.code() == git2::ErrorCode::NotFound => None,
            Err(cause) => return Err(cause),
        };
        self.known.insert(key, found.clone());
        Ok(found)
    }

    /// What a task changed itself, told against the commit where the two part.
    fn since(&self, parted: &CommitId, own: &Snapshot) -> Result<Vec<TouchedFile>, git2::Error> {
        if own.base == *parted {
            return Ok(own.files.clone());
        }
        let before = self.repository.find_commit(parted.oid()?)?.tree()?;
        let after = self.repository.find_tree(git2::Oid::from_str(&own.tree)?)?;
        let mut all = between(self.repository, &before, &after, &own.files)?;
        all.retain(|file| own.files.binary_search_by(|one| one.path.cmp(&file.path)).is_ok());
        Ok(all)
    }
}
