//! Which work trees have a branch checked out, or are in the middle of something on it.

use std::fs;
use std::path::{Path, PathBuf};

/// A work tree that has a branch checked out.
pub(super) struct Holder {
    pub(super) path: PathBuf,
    /// What of the branch is under way there.
    pub(super) busy: Option<&'static str>,
}

/// All work trees that have the branch checked out, or that are rebasing or bisecting it.
pub(super) fn holders(common: &Path, branch: &str) -> Vec<Holder> {
    let wanted = format!("refs/heads/{branch}");
    let mut found = Vec::new();
    if let Some(path) = main_checkout(common) {
        found.extend(holds(common, path, &wanted));
    }
    for entry in fs::read_dir(common.join("worktrees")).into_iter().flatten().flatten() {
        let admin = entry.path();
        let Ok(dot_git) = fs::read_to_string(admin.join("gitdir")) else { continue };
        let Some(path) = Path::new(dot_git.trim_end()).parent().map(Path::to_owned) else {
            continue;
        };
        // an entry whose folder is gone holds nothing
        if path.is_dir() {
            found.extend(holds(&admin, path, &wanted));
        }
    }
    found
}

/// The main checkout, none for a bare repository. One whose shared configuration was set to bare
/// behind its back still has its index.
fn main_checkout(common: &Path) -> Option<PathBuf> {
    let repository = git2::Repository::open(common).ok();
    let told = repository.as_ref().and_then(|one| one.workdir()).map(Path::to_owned);
    told.or_else(|| {
        let hidden = common.ends_with(".git") && common.join("index").exists();
        hidden.then(|| common.parent().map(Path::to_owned)).flatten()
    })
}

fn holds(git_dir: &Path, path: PathBuf, wanted: &str) -> Option<Holder> {
    let says = |file: &str, prefix: &str| {
        fs::read_to_string(git_dir.join(file))
            .is_ok_and(|text| text.trim_end().strip_prefix(prefix) == Some(wanted))
    };
    if says("rebase-merge/head-name", "") || says("rebase-apply/head-name", "") {
        return Some(Holder { path, busy: Some("rebase") });
    }
    let short = wanted.strip_prefix("refs/heads/").unwrap_or(wanted);
    let bisected =
        fs::read_to_string(git_dir.join("BISECT_START")).is_ok_and(|from| from.trim_end() == short);
    if bisected {
        return Some(Holder { path, busy: Some("bisect") });
    }
    says("HEAD", "ref: ").then_some(Holder { path, busy: None })
}
