//! What a run costs against a shell script that does the same, and what an idle daemon weighs.
//! Pairs alternate; medians are compared; a limit that is broken fails the bench.
//!
//! `HAYWARD_BENCH_ROUNDS` sets the rounds (15).

use hayward_tests::home::Home;
use hayward_tests::must;
use hayward_tests::pattern;
use hayward_tests::process::{self, Process};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Files of the repository, and the bytes of each: what PERF measured worktrees with.
const FILES: usize = 1000;
const FILE_BYTES: usize = 13 * 1024;

/// One line of the table.
struct Line {
    what: &'static str,
    measured: f64,
    limit: f64,
    unit: &'static str,
}

fn main() -> ExitCode {
    let rounds = std::env::var("HAYWARD_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
    let mut table = vec![latency(rounds.unwrap_or(15))];
    table.extend(weights());
    table.push(version());
    table.push(ready());
    println!("{:<58} {:>9} {:>9}", "", "measured", "limit");
    for Line { what, measured, limit, unit } in &table {
        let verdict = if measured <= limit { "" } else { "  BROKEN" };
        println!("{what:<58} {measured:>9.2} {limit:>9.2} {unit}{verdict}");
    }
    ExitCode::from(u8::from(table.iter().any(|line| line.measured > line.limit)))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A bell that a process rings by writing a line to a named pipe.
struct Bell {
    path: PathBuf,
    pipe: File,
}

impl Bell {
    fn hang(path: PathBuf) -> Self {
        must("make a pipe", mkfifo(&path, Mode::S_IRWXU));
        // open for both, so that opening waits for nobody
        let pipe = OpenOptions::new().read(true).write(true).open(&path);
        Self { path, pipe: must("open the pipe", pipe) }
    }

    fn ring(&self) -> String {
        format!("echo > {}", self.path.display())
    }

    fn heard(&mut self, since: Instant) -> Duration {
        let mut one = [0];
        must("hear the bell", self.pipe.read_exact(&mut one));
        since.elapsed()
    }
}

/// From the request to the agent's process, against `git worktree add` and a spawn by a script.
fn latency(rounds: usize) -> Line {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    for number in 0..FILES {
        let bytes = pattern::lines(number as u64 + 1, FILE_BYTES);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        repo.write(&format!("folder{}/file{number}", number % 20), &text);
    }
    repo.commit("a thousand files");
    let daemon = home.up();
    let mut bell = Bell::hang(home.file("bell"));
    let (mut script, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for is_script in [round % 2 == 0, round % 2 == 1] {
            if is_script {
                script.push(millis(by_script(&home, &repo, &mut bell, round)));
            } else {
                ours.push(millis(by_run(&home, &daemon.told, &repo, &mut bell)));
            }
        }
    }
    let (script, ours) = (median(script), median(ours));
    println!("run: {ours:.1} ms from the request to the agent; script: {script:.1} ms");
    Line {
        what: "run of a command, 1 k files / git worktree add + spawn",
        measured: ours / script,
        limit: 1.5,
        unit: "x",
    }
}

fn by_script(home: &Home, repo: &ScratchRepo, bell: &mut Bell, round: usize) -> Duration {
    let tree = home.file(&format!("tree{round}"));
    let line = format!(
        "git worktree add -q --no-track -b bench-{round} {0} HEAD && cd {0} && exec sh -c '{1}'",
        tree.display(),
        bell.ring()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line]).current_dir(repo.path());
    let begin = Instant::now();
    let mut child = must("start the script", command.spawn());
    let took = bell.heard(begin);
    must("reap the script", child.wait());
    repo.git(&["worktree", "remove", "--force", &tree.to_string_lossy()]);
    took
}

fn by_run(home: &Home, told: &Value, repo: &ScratchRepo, bell: &mut Bell) -> Duration {
    let api =
        hayward_tests::http::Api::new(told["relay"].as_str().unwrap_or_default(), &home.token());
    let order = json!({
        "plan": "ring", "agent": "command", "command": ["sh", "-c", bell.ring()],
        "repositoryUrl": repo.path(), "wantedDaemonId": told["daemonId"], "maxAttempts": 1,
    });
    let begin = Instant::now();
    let task = api.post("/api/v1/tasks", &order).json();
    let took = bell.heard(begin);
    home.reaches(&task, "completed");
    took
}

/// Memory of an idle daemon with its relay, and of a keeper with its agent.
fn weights() -> Vec<Line> {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let script = Script::new().print("hello\n").wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    home.reaches(&task, "running");
    let keeper =
        until("there is a keeper", LONG, || process::keepers(&home.state()).first().copied());
    // what a process takes only to start is given back by then
    std::thread::sleep(Duration::from_secs(2));
    let mib = |kib: Option<u64>| kib.map_or(f64::NAN, |kib| kib as f64 / 1024.0);
    let weight = mib(keeper.proportional_kib());
    home.open_gate("gate");
    home.reaches(&task, "completed");
    std::thread::sleep(Duration::from_secs(2));
    let idle = mib(daemon.process.resident_kib());
    let line = |what, measured, limit| Line { what, measured, limit, unit: "MiB" };
    vec![
        line("idle daemon with embedded relay, resident", idle, 40.0),
        line("keeper, proportional (PSS)", weight, 6.0),
    ]
}

/// Processor time of `hayward version`.
fn version() -> Line {
    const RUNS: u32 = 100;
    let home = Home::new();
    let before = children_ticks();
    for _ in 0..RUNS {
        home.run(&["version"]).expect(0);
    }
    let ticks = children_ticks() - before;
    // a tick is 10 ms on every Linux that we run on
    let each = ticks as f64 * 10.0 / f64::from(RUNS);
    Line { what: "hayward version, processor time", measured: each, limit: 20.0, unit: "ms" }
}

/// Processor time of all reaped children, in clock ticks.
fn children_ticks() -> u64 {
    let text = must("read /proc/self/stat", std::fs::read_to_string(Path::new("/proc/self/stat")));
    let tail = text.rsplit_once(')').map_or("", |(_, tail)| tail);
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // fields 16 and 17 of the whole line; the first two are not in `fields`
    field(13) + field(14)
}

/// From the start of `up --detach` on a fresh state folder to its answer, which it gives when
/// daemon and relay serve.
fn ready() -> Line {
    let once = |_| {
        let home = Home::new();
        let begin = Instant::now();
        let daemon = home.up();
        let took = begin.elapsed();
        must("find the daemon", Process::of(daemon.process.pid).ok_or("it ended"));
        millis(took)
    };
    let measured = median((0..5).map(once).collect());
    Line { what: "up --detach until ready, fresh state folder", measured, limit: 500.0, unit: "ms" }
}
