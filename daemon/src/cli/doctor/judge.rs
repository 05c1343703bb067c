//! What facts of a machine mean. Pure.

use super::Finding;
use crate::cli::print::words::bytes;
use hayward_shared::fault::{Code, Fault};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// The oldest git that merges without a worktree (`merge-tree --write-tree`).
const OLDEST_GIT: (u32, u32) = (2, 38);

/// Open files that a daemon with fifty runs and their viewers may come to.
const FEWEST_FILES: u64 = 1_024;

/// Folders that can be watched in a few dozen worktrees of usual size; a quarter of them is used.
const FEWEST_WATCHES: u64 = 65_536;

/// A daemon needs one; editors and other tools of the same user take theirs from the same number.
const FEWEST_WATCHERS: u64 = 16;

/// Files that a few worktrees of twenty thousand need.
const FEWEST_FREE_FILES: u64 = 100_000;

/// Room that a database needs to write at all, its log included.
const FEWEST_BYTES: u64 = 256 << 20;

/// An answer that takes longer makes every request felt.
const SLOW: Duration = Duration::from_millis(50);

/// Clocks that are further apart show ages and times of retries that are wrong to the eye.
const MOST_APART_MS: u64 = 2_000;

/// The state folder and its disk; what could not be read is none.
pub(super) struct Folder {
    pub(super) path: String,
    /// Bytes.
    pub(super) free: Option<u64>,
    pub(super) free_files: Option<u64>,
}

/// What the system lets this user have; none where it does not tell.
pub(super) struct Limits {
    pub(super) open_files: Option<u64>,
    pub(super) watches: Option<u64>,
    pub(super) watchers: Option<u64>,
}

/// The daemon that runs here.
pub(super) struct Near {
    pub(super) pid: u32,
    pub(super) version: String,
    /// What it says of its link to the relay.
    pub(super) link: Result<Value, Fault>,
}

/// The relay, and its version where it let us in.
pub(super) struct Remote {
    pub(super) url: Option<String>,
    pub(super) answer: Result<String, Fault>,
}

/// What a relay works on.
pub(crate) struct Base {
    /// The database, without its password.
    pub(crate) at: String,
    /// What it answered, or why it did not.
    pub(crate) tables: Result<Tables, String>,
    /// How long the bus took to answer, or why it did not; none where there is to be none.
    pub(crate) bus: Option<Result<Duration, String>>,
    /// Files that open the bus, and that others may read.
    pub(crate) exposed: Vec<PathBuf>,
    /// The version of the relay that answers where this one would listen.
    pub(crate) served: Option<String>,
    /// Where a file of a database lies.
    pub(crate) disk: Option<PathBuf>,
}

/// How a database stands.
pub(crate) struct Tables {
    /// The version of its tables; none where there are none.
    pub(crate) version: Option<i64>,
    /// The version that this program's relay has.
    pub(crate) own: i64,
    pub(crate) took: Duration,
    /// Milliseconds that its clock is ahead of ours.
    pub(crate) ahead_ms: Option<i64>,
}

/// `told` is what `git --version` printed, or why it printed nothing.
pub(super) fn git(told: &Result<String, String>) -> Finding {
    let needed = format!("install git {}.{} or later", OLDEST_GIT.0, OLDEST_GIT.1);
    match told {
        Err(why) => Finding::failed("git", why.as_str(), needed),
        Ok(text) => match version(text) {
            Some(found) if found >= OLDEST_GIT => Finding::ok("git", text.as_str()),
            Some(_) => Finding::failed("git", format!("{text} is too old"), needed),
            None => Finding::failed("git", format!("'{text}' tells no version"), needed),
        },
    }
}

/// `git version 2.47.3 (…)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix("git version ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `floor` is how many bytes must be free for a task to be claimed.
pub(super) fn folder(folder: &Folder, floor: u64) -> Finding {
    let Folder { path, free, free_files } = folder;
    let check = "state folder";
    match (free, free_files) {
        (Some(free), _) if *free < floor => {
            let room = bytes(*free);
            let text = format!("{room} free for {path}: below {} no task is claimed", bytes(floor));
            let hint = "make room; hayward worktree prune --dry-run shows what can go";
            Finding::failed(check, text, hint)
        }
        (_, Some(files)) if *files < FEWEST_FREE_FILES => {
            let text = format!("the disk of {path} has room for {files} more files");
            let hint = "remove what has many small files, or name another disk with --home";
            Finding::warning(check, text, hint)
        }
        (free, _) => {
            let room = free.map_or(String::new(), |free| format!(", {} free", bytes(free)));
            Finding::ok(check, format!("{path}{room}"))
        }
    }
}

/// One finding for each limit that the system tells.
pub(super) fn limits(limits: &Limits) -> Vec<Finding> {
    let judged = [
        (
            "open files",
            limits.open_files,
            FEWEST_FILES,
            "raise it: ulimit -n, or LimitNOFILE= of the service",
        ),
        (
            "folders watched",
            limits.watches,
            FEWEST_WATCHES,
            "raise it: sysctl fs.inotify.max_user_watches=524288; what is not watched is polled",
        ),
        (
            "watchers",
            limits.watchers,
            FEWEST_WATCHERS,
            "raise it: sysctl fs.inotify.max_user_instances=128",
        ),
    ];
    let finding = |(check, allowed, fewest, hint): (&'static str, Option<u64>, u64, &str)| {
        let allowed = allowed?;
        let text = format!("{allowed} allowed");
        Some(if allowed < fewest {
            Finding::warning(check, text, hint)
        } else {
            Finding::ok(check, text)
        })
    };
    judged.into_iter().filter_map(finding).collect()
}

/// `own` is the version of this program.
pub(super) fn daemon(near: &Option<Near>, own: &str) -> Vec<Finding> {
    let Some(Near { pid, version, link }) = near else {
        return vec![Finding::warning(
            "daemon",
            "none runs on this folder",
            "start it: hayward up",
        )];
    };
    let told = format!("runs as process {pid}, version {version}");
    let running = if version == own {
        Finding::ok("daemon", told)
    } else {
        let hint = "hayward down, then hayward up; agents live on";
        Finding::warning("daemon", format!("{told}; this program is {own}"), hint)
    };
    vec![running, self::link(link)]
}

fn link(told: &Result<Value, Fault>) -> Finding {
    let again = "it goes on trying; hayward status tells more";
    let told = match told {
        Ok(told) => told,
        Err(fault) => {
            let hint = "see logs/daemon.log in the state folder; hayward down ends it";
            return Finding::failed("link", format!("the daemon tells nothing: {fault}"), hint);
        }
    };
    let error =
        told.get("error").and_then(|error| serde_json::from_value::<Fault>(error.clone()).ok());
    match (told.get("state").and_then(Value::as_str), error) {
        (Some("up"), _) => Finding::ok("link", "the daemon is linked to its relay"),
        (_, Some(fault)) => {
            let hint = fault.hint.unwrap_or_else(|| again.to_owned());
            Finding::failed(
                "link",
                format!("the relay refuses the daemon: {}", fault.message),
                hint,
            )
        }
        _ => Finding::warning("link", "the daemon does not reach its relay; its runs go on", again),
    }
}

/// Whether it answers, and lets this user in.
pub(super) fn relay(Remote { url, answer }: &Remote) -> Finding {
    let place = url.as_deref().unwrap_or("none");
    match answer {
        Ok(version) => Finding::ok("relay", format!("{place}, version {version}")),
        Err(fault) if url.is_none() => {
            let hint = fault.hint.clone().unwrap_or_else(|| "start one: hayward up".to_owned());
            Finding::warning("relay", fault.message.clone(), hint)
        }
        Err(fault) if matches!(fault.code, Code::Unauthorized | Code::Forbidden) => {
            let hint = "make a token on the relay's machine: hayward token create";
            Finding::failed(
                "relay",
                format!("{place} does not take this token: {}", fault.message),
                hint,
            )
        }
        Err(fault) => {
            let hint = fault.hint.clone();
            let hint = hint.unwrap_or_else(|| "see that it runs and can be reached".to_owned());
            Finding::failed("relay", fault.message.clone(), hint)
        }
    }
}

/// What a relay's database, its bus and the address that it would listen on mean.
pub(super) fn base(base: &Base) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &base.tables {
        Err(why) => {
            let hint = "see that it is there, that it may be reached, that the user may make tables, \
                and over TLS that who issued its certificate is known (sslrootcert=FILE in its \
                address)";
            findings.push(Finding::failed("database", format!("{}: {why}", base.at), hint));
        }
        Ok(tables) => findings.extend(judged(&base.at, tables)),
    }
    match &base.bus {
        None => {}
        Some(Ok(took)) => findings.push(answered("bus", "it", *took)),
        Some(Err(why)) => {
            let hint =
                "without it relays serve what is theirs, and daemons of others are unreachable";
            findings.push(Finding::failed("bus", why.as_str(), hint));
        }
    }
    for path in &base.exposed {
        let path = path.display();
        let hint = format!("chmod 600 {path}");
        findings.push(Finding::warning("bus keys", format!("others may read {path}"), hint));
    }
    findings.push(match &base.served {
        Some(version) => Finding::ok("relay", format!("one answers there, version {version}")),
        None => {
            let hint = "start it: hayward relay serve, with the same options";
            Finding::warning("relay", "none answers where it would listen", hint)
        }
    });
    findings
}

fn judged(at: &str, tables: &Tables) -> Vec<Finding> {
    let mut findings = vec![answered("database", at, tables.took)];
    findings.push(match tables.version {
        None => Finding::warning("tables", "there are none yet", "the first relay makes them"),
        Some(version) if version > tables.own => {
            let text = format!("they are of version {version}, this program knows {}", tables.own);
            Finding::failed("tables", text, "a newer relay used it: serve it by that version")
        }
        Some(version) if version < tables.own => {
            let text = format!(
                "they are of version {version}, this program brings them to {}",
                tables.own
            );
            Finding::warning("tables", text, "older relays beside it must be of the version before")
        }
        Some(version) => Finding::ok("tables", format!("version {version}")),
    });
    if let Some(ahead) = tables.ahead_ms {
        let text = format!("the database's clock is {ahead} ms ahead of this machine's");
        findings.push(if ahead.unsigned_abs() > MOST_APART_MS {
            Finding::warning(
                "clock",
                text,
                "let both keep time (NTP): ages and retries are told by it",
            )
        } else {
            Finding::ok("clock", text)
        });
    }
    findings
}

fn answered(check: &'static str, who: &str, took: Duration) -> Finding {
    let text = format!("{who} answers in {:.1} ms", took.as_secs_f64() * 1_000.0);
    if took > SLOW {
        return Finding::warning(check, text, "each request waits for several such answers");
    }
    Finding::ok(check, text)
}

/// `free` are the bytes free where the database's file lies.
pub(super) fn disk(free: u64) -> Finding {
    let text = format!("{} free", bytes(free));
    if free < FEWEST_BYTES {
        return Finding::failed("disk", text, "make room: what cannot be stored is refused");
    }
    Finding::ok("disk", text)
}

/// `silent` is why the shell told no PATH.
pub(super) fn login_shell(silent: Option<&str>) -> Finding {
    match silent {
        None => Finding::ok("login shell", "tells its PATH"),
        Some(why) => {
            let hint = "agents that only its files put on the PATH are not found, and each start of the \
                daemon waits for it: mend those files";
            Finding::warning("login shell", why, hint)
        }
    }
}

/// `able` are the agents that take a prompt and can be used.
pub(super) fn agents(able: Vec<&str>) -> Finding {
    if able.is_empty() {
        let text = "none here takes a prompt; commands can be run";
        return Finding::warning("agents", text, "hayward agent check says why of each");
    }
    Finding::ok("agents", able.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_git_is_judged_by_its_first_two_numbers() {
        let judged = |text: &str| git(&Ok(text.to_owned())).verdict;
        for good in ["git version 2.38.0", "git version 2.47.3 (Apple Git-1)", "git version 3.0.1"]
        {
            assert_eq!(judged(good), Verdict::Ok, "{good}");
        }
        for bad in
            ["git version 2.37.9", "git version 1.99.0", "", "git version two", "zsh: no git"]
        {
            assert_eq!(judged(bad), Verdict::Failed, "{bad}");
        }
        assert_eq!(git(&Err("gone".to_owned())).verdict, Verdict::Failed);
    }

    #[test]
    fn a_folder_has_room() {
        let judged = |free, free_files| {
            folder(&Folder { path: "/h".to_owned(), free, free_files }, 10).verdict
        };
        assert_eq!(judged(Some(10), Some(1 << 20)), Verdict::Ok);
        assert_eq!(judged(None, None), Verdict::Ok);
        assert_eq!(judged(Some(9), None), Verdict::Failed);
        assert_eq!(judged(Some(10), Some(9)), Verdict::Warning);
    }

    #[test]
    fn a_limit_that_is_not_told_is_no_finding() {
        let told = Limits { open_files: Some(1_023), watches: Some(65_536), watchers: None };
        let found: Vec<_> = limits(&told).iter().map(|one| (one.check, one.verdict)).collect();
        assert_eq!(found, [("open files", Verdict::Warning), ("folders watched", Verdict::Ok)]);
    }

    #[test]
    fn a_daemon_is_judged_by_its_version_and_its_link() {
        let judged = |version: &str, link: Result<Value, Fault>| {
            let near = Near { pid: 7, version: version.to_owned(), link };
            daemon(&Some(near), "2").iter().map(|one| one.verdict).collect::<Vec<_>>()
        };
        assert_eq!(judged("2", Ok(json!({"state": "up"}))), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(judged("1", Ok(json!({"state": "down"}))), [Verdict::Warning, Verdict::Warning]);
        let refused = json!({"state": "refused", "error": {
            "code": "unauthorized", "message": "no", "retryable": false, "hint": "do"
        }});
        assert_eq!(judged("2", Ok(refused)), [Verdict::Ok, Verdict::Failed]);
        let mute = Fault::new(Code::Unavailable, "it does not answer");
        assert_eq!(judged("2", Err(mute)), [Verdict::Ok, Verdict::Failed]);
        assert_eq!(daemon(&None, "2")[0].verdict, Verdict::Warning);
    }

    #[test]
    fn a_database_is_judged_by_its_answer_its_tables_and_its_clock() {
        let judged = |version, took, ahead_ms| {
            let tables = Tables { version, own: 8, took: Duration::from_millis(took), ahead_ms };
            let (at, tables) = ("db".to_owned(), Ok(tables));
            let (exposed, served) = (Vec::new(), Some("1".to_owned()));
            let found = Base { at, tables, bus: None, exposed, served, disk: None };
            base(&found).iter().map(|one| (one.check, one.verdict)).collect::<Vec<_>>()
        };
        let relay = ("relay", Verdict::Ok);
        assert_eq!(
            judged(Some(8), 1, None),
            [("database", Verdict::Ok), ("tables", Verdict::Ok), relay]
        );
        for (version, verdict) in
            [(None, Verdict::Warning), (Some(7), Verdict::Warning), (Some(9), Verdict::Failed)]
        {
            assert_eq!(judged(version, 1, None)[1].1, verdict, "{version:?}");
        }
        assert_eq!(judged(Some(8), 51, None)[0].1, Verdict::Warning);
        for (ahead, verdict) in [(-2_001, Verdict::Warning), (2_000, Verdict::Ok)] {
            assert_eq!(judged(Some(8), 1, Some(ahead))[2].1, verdict, "{ahead}");
        }
        let (at, why) = ("db".to_owned(), || Err("no".to_owned()));
        let (bus, exposed) = (Some(Err("no".to_owned())), vec!["relay.creds".into()]);
        let dead = Base { at, tables: why(), bus, exposed, served: None, disk: None };
        let found: Vec<_> = base(&dead).iter().map(|one| one.verdict).collect();
        assert_eq!(found, [Verdict::Failed, Verdict::Failed, Verdict::Warning, Verdict::Warning]);
        assert_eq!((disk(1).verdict, disk(1 << 30).verdict), (Verdict::Failed, Verdict::Ok));
    }

    #[test]
    fn a_relay_that_refuses_is_told_from_one_that_is_away() {
        let told = |code: Code| {
            let fault = Fault::new(code, "no");
            relay(&Remote { url: Some("http://r".to_owned()), answer: Err(fault) })
        };
        assert!(told(Code::Unauthorized).hint.unwrap().contains("token create"));
        assert!(told(Code::Unavailable).hint.unwrap().contains("reached"));
        let nowhere = Remote { url: None, answer: Err(Fault::new(Code::Unavailable, "none")) };
        assert_eq!(relay(&nowhere).verdict, Verdict::Warning);
        let good = Remote { url: Some("http://r".to_owned()), answer: Ok("2".to_owned()) };
        assert_eq!(relay(&good).verdict, Verdict::Ok);
    }
}
