//! What git's configuration says, whatever the conditions of its includes.
//!
//! Git and libgit2 do not agree on which conditional includes apply (`hasconfig:` is git's alone).
//! Where something must not be missed, every file is read that git may read: each include is
//! followed, be its condition true or not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::User;

/// How deep includes are followed: git itself gives up after ten.
const MAX_DEPTH: usize = 10;

/// A configuration file of which it cannot be told what it names.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no configuration, or may not be read.
    #[error("{path} cannot be read as git configuration: mend it, or take its include away")]
    File {
        /// The file.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// An include names a place that only git itself knows.
    #[error("{path} includes '{include}', which Hayward cannot follow: write the path out")]
    Include {
        /// The file that includes.
        path: PathBuf,
        /// What it includes.
        include: String,
    },
}

/// Calls `see` with the key and value of every entry of every file that a git in `folder` may read.
/// `folder` is the top of a worktree, or a git directory. Blocking; about 0.1 ms where nothing is
/// included.
///
/// # Errors
/// [`Unreadable`] for a file that is there and cannot be read.
pub(super) fn each(folder: &Path, mut see: impl FnMut(&[u8], &[u8])) -> Result<(), Unreadable> {
    let mut level = tops(folder);
    let mut seen = BTreeSet::new();
    for _ in 0..=MAX_DEPTH {
        let mut next = Vec::new();
        for path in level {
            // a pipe would be waited for, and is no configuration of anybody's
            if path.is_file() && seen.insert(path.clone()) {
                next.extend(read(&path, &mut see)?);
            }
        }
        level = next;
    }
    Ok(())
}

/// The filters that the configuration seen from `folder` gives a program. Blocking.
///
/// # Errors
/// As [`each`].
pub(super) fn filters(folder: &Path) -> Result<BTreeSet<String>, Unreadable> {
    let mut all = BTreeSet::new();
    each(folder, |key, _| {
        let key = String::from_utf8_lossy(key);
        let inner = key.strip_prefix("filter.").and_then(|rest| rest.rsplit_once('.'));
        if let Some((name, "clean" | "process")) = inner {
            all.insert(name.to_owned());
        }
    })?;
    Ok(all)
}

/// The files that git reads on its own.
fn tops(folder: &Path) -> Vec<PathBuf> {
    let git_dir = git_dir(folder);
    let common = match fs::read(git_dir.join("commondir")) {
        Ok(text) => git_dir.join(path(text.trim_ascii_end())),
        Err(_) => git_dir.clone(),
    };
    let user = [git2::Config::find_system(), git2::Config::find_xdg(), git2::Config::find_global()];
    let mut all: Vec<_> = user.into_iter().flatten().collect();
    // libgit2 looks for the machine's in /etc alone
    all.extend(own_root().map(|root| root.join("etc/gitconfig")).filter(|it| it.is_file()));
    all.push(common.join("config"));
    all.push(common.join("config.worktree"));
    all.push(git_dir.join("config.worktree"));
    all
}

/// Where git may be installed to: what it says of attributes for the whole machine lies there in `etc`.
pub(super) fn installed() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["/", "/usr/local", "/opt/homebrew"].map(PathBuf::from).into();
    roots.extend(own_root());
    roots
}

/// Where the git that runs here is installed to, as far as its place tells.
fn own_root() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|folder| folder.join("git"));
    let git = all.find_map(|git| git.canonicalize().ok())?;
    let is_in_bin = git.parent().and_then(Path::file_name) == Some(OsStr::new("bin"));
    git.ancestors().nth(2).filter(|_| is_in_bin).map(Path::to_owned)
}

/// The git directory of the worktree at `folder`; `folder` itself when it is one.
fn git_dir(folder: &Path) -> PathBuf {
    let inside = folder.join(".git");
    if let Ok(text) = fs::read(&inside)
        && let Some(named) = text.strip_prefix(b"gitdir: ")
    {
        return folder.join(path(named.trim_ascii_end()));
    }
    if inside.is_dir() { inside } else { folder.to_owned() }
}

/// Reads one file; answers what it includes.
fn read(file: &Path, see: &mut impl FnMut(&[u8], &[u8])) -> Result<Vec<PathBuf>, Unreadable> {
    let failed = |source| Unreadable::File { path: file.to_owned(), source };
    let config = git2::Config::open(file).map_err(failed)?;
    let mut entries = config.entries(None).map_err(failed)?;
    let mut includes = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed)?;
        let key = entry.name_bytes();
        let value = if entry.has_value() { entry.value_bytes() } else { b"" };
        see(key, value);
        // what an included file includes is relative to that file, which is read by itself
        if entry.include_depth() == 0 && is_include(key) {
            includes.push(resolved(file, value)?);
        }
    }
    Ok(includes)
}

/// Whether the key names a file to include; libgit2 gives section and name in lower case.
fn is_include(key: &[u8]) -> bool {
    key == b"include.path" || (key.starts_with(b"includeif.") && key.ends_with(b".path"))
}

/// The file that an include in `file` names, as git resolves it.
fn resolved(file: &Path, named: &[u8]) -> Result<PathBuf, Unreadable> {
    let unknown = || Unreadable::Include {
        path: file.to_owned(),
        include: String::from_utf8_lossy(named).into_owned(),
    };
    if named.starts_with(b"%(") {
        return Err(unknown());
    }
    let Some(rest) = named.strip_prefix(b"~") else {
        return Ok(file.parent().unwrap_or(Path::new("/")).join(path(named)));
    };
    let (user, inside) = match rest.iter().position(|byte| *byte == b'/') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &b""[..]),
    };
    let home = match user {
        b"" => std::env::home_dir(),
        _ => str::from_utf8(user)
            .ok()
            .and_then(|name| User::from_name(name).ok().flatten())
            .map(|user| user.dir),
    };
    home.map(|home| home.join(path(inside))).ok_or_else(unknown)
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn keys(folder: &Path) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        each(folder, |key, _| all.extend([String::from_utf8_lossy(key).into_owned()])).unwrap();
        all
    }

    #[test]
    fn f43_every_include_is_followed_whatever_its_condition() {
        let room = tempfile::tempdir().unwrap();
        let top = room.path();
        fs::create_dir_all(top.join("more")).unwrap();
        let first = "[includeIf \"hasconfig:remote.*.url:x\"]\n\tpath = more/one\n\
                     [IncludeIf \"gitdir:/nowhere/\"]\n\tPath = more/two\n\
                     [include]\n\tpath = more/three\n\tpath = missing\n\tpath\n";
        fs::write(top.join("config"), first).unwrap();
        // relative to the file that includes, each once
        let one = "[includeIf \"onbranch:no\"]\npath = four\n[include]\npath = ../config\n";
        fs::write(top.join("more/one"), one).unwrap();
        fs::write(top.join("more/two"), "[filter \"two\"]\nclean = x\n").unwrap();
        fs::write(top.join("more/three"), "[filter \"three\"]\nclean = x\n").unwrap();
        fs::write(top.join("more/four"), "[filter \"four\"]\nclean = x\n").unwrap();
        let found = keys(top);
        for name in ["two", "three", "four"] {
            assert!(found.contains(&format!("filter.{name}.clean")), "{name}: {found:?}");
        }
    }

    #[test]
    fn f43_what_cannot_be_followed_is_refused_and_a_pipe_is_not_waited_for() {
        let room = tempfile::tempdir().unwrap();
        let config = room.path().join("config");
        fs::write(&config, "[includeIf \"gitdir:a\"]\npath = pipe\npath = ~/nothing\n").unwrap();
        nix::unistd::mkfifo(&room.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        keys(room.path());
        for bad in ["%(prefix)/x", "~nobody-of-that-name/x"] {
            fs::write(&config, format!("[includeIf \"gitdir:a\"]\npath = \"{bad}\"\n")).unwrap();
            let error = each(room.path(), |_, _| {}).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        fs::write(&config, "[includeIf \"gitdir:a\"]\npath = broken\n").unwrap();
        fs::write(room.path().join("broken"), "[filter\n").unwrap();
        let error = each(room.path(), |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn a_plain_worktree_is_read_in_half_a_millisecond() {
        let room = tempfile::tempdir().unwrap();
        git2::Repository::init(room.path()).unwrap();
        let (begun, mut best) = (Instant::now(), Duration::MAX);
        while best >= Duration::from_micros(500) && begun.elapsed() < Duration::from_secs(10) {
            let asked = Instant::now();
            assert!(keys(room.path()).contains("core.bare"));
            best = best.min(asked.elapsed());
        }
        assert!(best < Duration::from_micros(500), "{best:?}");
    }
}
