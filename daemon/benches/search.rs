//! Search of one session's output, in process, against `rg` as a whole process on the same clean
//! text, and against tmux's capture piped to grep; every match with two lines of context. Rounds
//! alternate; the median of the ratios of one run is what counts. Beside them stands what no search
//! that reads the same bytes can go below: two threads that read them and look for one byte.
//!
//! `HAYWARD_BENCH_LINES` sets the corpora (5000,100000,1000000), `HAYWARD_BENCH_ROUNDS` the rounds
//! (7), 5 of them at the most with tmux. Each result is a line `RESULT`, what, figure, limit and
//! verdict, parted by tabs.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use hayward_daemon::terminal::pattern::{Pattern, Reading};
use hayward_daemon::terminal::ring::RingWriter;
use hayward_daemon::terminal::search::{Found, Order, Query, Sink, search};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Name, pattern, small and large letters alike.
type Asked = (&'static str, &'static str, bool);

const PATTERNS: [Asked; 6] = [
    ("literal, rare", "needle-in-the-output", false),
    ("literal, common", "src/", false),
    ("letters alike", "warning", true),
    ("alternatives", "panicked|deadlock|segfault|OOM-killed", false),
    ("expression", r"error.*line \d+", false),
    ("(a+)+$", "(a+)+$", false),
];

fn main() {
    let sizes = std::env::var("HAYWARD_BENCH_LINES").unwrap_or("5000,100000,1000000".to_owned());
    let rounds = std::env::var("HAYWARD_BENCH_ROUNDS").map_or(7, |text| text.parse().unwrap());
    for lines in sizes.split(',').map(|size| size.trim().parse().unwrap()) {
        Scene::build(lines).measure(rounds);
    }
}

fn result(what: &str, figure: &str, limit: &str, holds: bool) {
    println!("RESULT\t{what}\t{figure}\t{limit}\t{}", if holds { "holds" } else { "MISSED" });
}

struct Scene {
    lines: usize,
    folder: tempfile::TempDir,
    raw: Vec<u8>,
}

impl Scene {
    fn build(lines: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("hayward-bench-").tempdir().unwrap();
        let (raw, text) = output(lines);
        std::fs::write(folder.path().join("text"), &text).unwrap();
        let began = Instant::now();
        let mut ring = RingWriter::open(&folder.path().join("ring"), 1 << 30).unwrap();
        // as a terminal hands it out
        raw.chunks(4095).for_each(|part| ring.append(part).unwrap());
        ring.settle();
        let rate = raw.len() as f64 / 1e6 / began.elapsed().as_secs_f64();
        let (raw_mb, text_mb) = (raw.len() as f64 / 1e6, text.len() as f64 / 1e6);
        println!(
            "{lines} lines: {raw_mb:.1} MB, {text_mb:.1} MB clean; into the ring {rate:.0} MB/s"
        );
        Self { lines, folder, raw }
    }

    fn measure(&self, rounds: usize) {
        let mut twice = 0;
        for asked in PATTERNS {
            let pairs = Pairs::take(rounds, || self.ours(asked, None), || self.rg(asked));
            let ratio = pairs.ratio();
            twice += usize::from(ratio >= 2.0);
            let (name, (ours, theirs), (found, printed)) = (asked.0, pairs.medians(), pairs.said);
            println!(
                "  {name}: {found} matches, {ours:.2} ms; rg {theirs:.2} ms ({printed} bytes)"
            );
            let what = format!("search, {} lines, {name} / rg", self.lines);
            result(&what, &format!("{ratio:.2}x"), ">= 1x", ratio >= 1.0);
        }
        let what = format!("search, {} lines, patterns at 2x of rg", self.lines);
        result(&what, &format!("{twice} of 6"), ">= 5", twice >= 5);
        let bare = Pairs::take(rounds, || self.read(), || self.rg(PATTERNS[0]));
        let what = format!("search, {} lines, only reading / rg, {}", self.lines, PATTERNS[0].0);
        println!("  only reading: {:.2} ms", bare.medians().0);
        println!("RESULT\t{what}\t{:.2}x\t-\tno limit", bare.ratio());
        if self.lines >= 1_000_000 {
            let ours = || self.ours(PATTERNS[1], Some(50));
            let first = Pairs::take(rounds, ours, || self.rg(PATTERNS[1]));
            let ratio = 1.0 / first.ratio();
            println!("  first 50: {:.2} ms", first.medians().0);
            let what = format!("search, {} lines, first 50 / all of rg", self.lines);
            result(&what, &format!("{ratio:.4}x"), "<= 0.02x", ratio <= 0.02);
        }
        self.tmux(rounds.min(5));
    }

    /// Searches in process, up to so many matches; how many there were.
    fn ours(&self, (_, pattern, alike): Asked, most: Option<usize>) -> usize {
        let reading = Reading { literal: false, ignore_case: alike };
        let pattern = Pattern::new(pattern, reading).unwrap();
        let query = Query { pattern, context: 2, order: Order::OldestFirst };
        let mut count = Count { most, ..Count::default() };
        search(&self.folder.path().join("ring"), &query, &mut count).unwrap();
        count.matches
    }

    /// Searches with `rg`; how many bytes it printed.
    fn rg(&self, (_, pattern, alike): Asked) -> usize {
        let mut command = Command::new("rg");
        command.args(["--no-config", "--color", "never", "-a", "-n", "-C2"]);
        if alike {
            command.arg("-i");
        }
        command.arg("--").arg(pattern).arg(self.folder.path().join("text"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (mut buffer, mut read) = (vec![0; 1 << 18], 0);
        loop {
            match out.read(&mut buffer).unwrap() {
                0 => break,
                len => read += len,
            }
        }
        child.wait().unwrap();
        read
    }

    /// Reads the clean text as a search does, and looks for a byte that is not there; how many files.
    fn read(&self) -> usize {
        let files = std::fs::read_dir(self.folder.path().join("ring")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let files: Vec<_> =
            files.filter(|file| file.extension() == Some("text".as_ref())).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut buffer = vec![0; 256 << 10];
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut file = File::open(file).unwrap();
                while let len @ 1.. = file.read(&mut buffer).unwrap() {
                    assert_eq!(memchr::memchr(0, &buffer[..len]), None);
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(work);
            work();
        });
        files.len()
    }

    /// The same lines in a tmux window of their width: what its capture holds, through grep.
    fn tmux(&self, rounds: usize) {
        let Ok(version) = Command::new("tmux").arg("-V").output() else {
            return println!("  skipped: no tmux here");
        };
        assert!(version.status.success());
        let socket = self.folder.path().join("tmux");
        let raw = self.folder.path().join("raw");
        std::fs::write(&raw, &self.raw).unwrap();
        let tmux = |words: &[&str]| {
            let mut command = Command::new("tmux");
            command.arg("-f").arg("/dev/null").arg("-S").arg(&socket).args(words);
            command.env_remove("TMUX").output().unwrap()
        };
        let history = (self.lines + 1000).to_string();
        let show = format!(
            "cat '{}'; tmux -S '{}' wait-for -S done; cat",
            raw.display(),
            socket.display()
        );
        let size = "new-session -d -x 400 -y 50 -s";
        let limit =
            format!("{size} empty cat ; set-option -g history-limit {history} ; {size} bench");
        tmux(&limit.split(' ').chain([&show[..]]).collect::<Vec<_>>());
        tmux(&["wait-for", "done"]);
        let mut ratios = Vec::new();
        for asked @ (name, pattern, alike) in PATTERNS {
            let flags = if alike { "-niE" } else { "-nE" };
            let script = format!(
                "tmux -S '{}' capture-pane -p -t bench -S - | grep {flags} -C2 -- '{}'",
                socket.display(),
                pattern.replace(r"\d", "[0-9]")
            );
            let theirs = || Command::new("sh").args(["-c", &script]).output().unwrap().stdout.len();
            let pairs = Pairs::take(rounds, || self.ours(asked, None), theirs);
            println!("  tmux, {name}: {:.1} ms, {} bytes", pairs.medians().1, pairs.said.1);
            ratios.push(pairs.ratio());
        }
        tmux(&["kill-server"]);
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let what = format!("search, {} lines, the least of six / tmux and grep", self.lines);
        result(&what, &format!("{least:.0}x"), ">= 20x", least >= 20.0);
    }
}

#[derive(Default)]
struct Count {
    matches: usize,
    bytes: usize,
    most: Option<usize>,
}

impl Sink for Count {
    fn wants(&self) -> bool {
        true
    }

    fn found(&mut self, found: &Found<'_>) {
        self.matches += 1;
        let around = found.before.iter().chain(found.after);
        self.bytes += found.content.len() + around.map(|line| line.len()).sum::<usize>();
    }

    fn stop(&mut self) -> bool {
        self.most.is_some_and(|most| self.matches >= most)
    }
}

/// What agents print: paths, test results, diffs, colours, progress; and the same without escapes.
fn output(lines: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut raw, mut text) = (Vec::new(), Vec::new());
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    for line in 0..lines {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let (colour, words) = match dice % 1000 {
            0..200 => (
                32,
                format!(
                    "   Compiling module src/part{}/file{}.rs (step {line})",
                    dice % 97,
                    dice % 1009
                ),
            ),
            200..240 => (
                33,
                format!(
                    "Warning: unused variable `value_{}` in function handler_{}",
                    dice % 331,
                    dice % 53
                ),
            ),
            240..243 => (
                31,
                format!(
                    "error[E0308]: mismatched types at line {} column {}",
                    dice % 4000,
                    dice % 120
                ),
            ),
            243..246 => (
                31,
                format!("thread 'worker-{}' panicked at the assertion left == right", dice % 17),
            ),
            _ => (
                0,
                format!(
                    "test case_{:05} checks that the value {:016x} is kept when it is read again",
                    dice % 99_991,
                    dice
                ),
            ),
        };
        let rare = if line % 10_000 == 9_999 { " needle-in-the-output" } else { "" };
        let tail = format!(" | {:>6} ms, {} of {} done{rare}", dice % 10_007, line % 1000, 1000);
        match colour {
            0 => write!(raw, "{words}{tail}\r\n").unwrap(),
            colour => write!(raw, "\x1b[1;{colour}m{words}\x1b[0m{tail}\r\n").unwrap(),
        }
        writeln!(text, "{words}{tail}").unwrap();
    }
    (raw, text)
}

/// What two ways took, in turn.
struct Pairs {
    ours: Vec<Duration>,
    theirs: Vec<Duration>,
    /// What they said at last.
    said: (usize, usize),
}

impl Pairs {
    fn take(rounds: usize, ours: impl Fn() -> usize, theirs: impl Fn() -> usize) -> Self {
        let mut pairs = Self { ours: Vec::new(), theirs: Vec::new(), said: (0, 0) };
        for _ in 0..rounds {
            let began = Instant::now();
            pairs.said.0 = ours();
            pairs.ours.push(began.elapsed());
            let began = Instant::now();
            pairs.said.1 = theirs();
            pairs.theirs.push(began.elapsed());
        }
        pairs
    }

    /// Milliseconds.
    fn medians(&self) -> (f64, f64) {
        let of = |spans: &[Duration]| {
            median(spans.iter().map(|span| span.as_secs_f64() * 1e3).collect())
        };
        (of(&self.ours), of(&self.theirs))
    }

    /// How many times as long theirs takes: the median of what the pairs' ratios are.
    fn ratio(&self) -> f64 {
        let pairs = self.theirs.iter().zip(&self.ours);
        median(pairs.map(|(theirs, ours)| theirs.as_secs_f64() / ours.as_secs_f64()).collect())
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
