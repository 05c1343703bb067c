//! The pieces that `scripts/bench` measures terminals with. Each call does one of them once, and
//! prints what it took; the script alternates them, and compares.
//!
//! `terminal corpus LINES FILE` writes what agents print.
//! `terminal bare FILE TIMES` reads that from a terminal and throws it away; seconds.
//! `terminal kept HAYWARD FILE TIMES` lets a keeper read it into a ring with text and index; seconds.
//! `terminal echo COUNT COMMAND...` types to a command in a terminal, one byte after the other has
//! shown up, and prints the microseconds of each.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]

use hayward_daemon::keeper::folder::RUN_VARIABLE;
use hayward_daemon::keeper::{Launch, Mode, RunFolder};
use hayward_daemon::session::{End, start};
use hayward_shared::id::{RunId, TaskId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// So wide that no line of the corpus is wrapped.
const WIDE: Winsize = Winsize { ws_row: 50, ws_col: 400, ws_xpixel: 0, ws_ypixel: 0 };

/// What people type in.
const USUAL: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// How long a command may print nothing before it is taken to be ready.
const QUIET: Duration = Duration::from_millis(700);

/// Between a key that has shown up and the next: faster than anybody types.
const PAUSE: Duration = Duration::from_millis(1);

/// A key that has not shown up by then never will.
const LOST: Duration = Duration::from_secs(5);

/// Keys that no escape sequence of an attached terminal holds. Their number does not divide the
/// columns, so no row is as the one before: what stands there already is not drawn again.
const KEYS: &[u8] = b"#%&+,{}";

/// All keys of a run stay on the screen: one that scrolls is drawn in ways that hide a key.
const MOST: usize = 1500;

fn main() {
    // the runner of benches adds a word of its own
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["corpus", lines, file] => corpus(lines.parse().unwrap(), Path::new(file)).unwrap(),
        ["bare", file, times] => seconds(bare(&producer(file, times))),
        ["kept", hayward, file, times] => seconds(kept(Path::new(hayward), producer(file, times))),
        ["echo", count, command @ ..] => echo(count.parse().unwrap(), command),
        // named alone by the runner of all benches
        [] => println!("run by scripts/bench"),
        other => panic!("no such piece: {other:?}"),
    }
}

fn seconds(took: Duration) {
    println!("{:.6}", took.as_secs_f64());
}

/// `cat`, with the same file so many times.
fn producer(file: &str, times: &str) -> Vec<String> {
    let mut argv = vec!["cat".to_owned()];
    argv.resize(1 + times.parse::<usize>().unwrap(), file.to_owned());
    argv
}

/// How many bytes a terminal makes of what is printed: each line feed becomes two.
fn printed(argv: &[String]) -> u64 {
    let bytes = std::fs::read(&argv[1]).unwrap();
    let lines = memchr::memchr_iter(b'\n', &bytes).count();
    (bytes.len() + lines) as u64 * (argv.len() as u64 - 1)
}

fn bare(argv: &[String]) -> Duration {
    let wanted = printed(argv);
    let began = Instant::now();
    let (terminal, mut child) = open(argv, WIDE);
    let (mut buffer, mut read) = (vec![0; 64 << 10], 0);
    while let Ok(len @ 1..) = nix::unistd::read(&terminal, &mut buffer) {
        read += len as u64;
    }
    child.wait().unwrap();
    assert_eq!(read, wanted, "bytes that the bare loop read");
    began.elapsed()
}

/// Runs a command in a terminal of its own; gives the other end.
fn open(argv: &[String], size: Winsize) -> (OwnedFd, Child) {
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).stdin(end()).stdout(end()).stderr(end());
    command.env("TERM", "xterm-256color").env_remove("TMUX");
    let child = command.spawn().unwrap();
    (pty.master, child)
}

fn kept(hayward: &Path, argv: Vec<String>) -> Duration {
    let wanted = printed(&argv);
    let home = tempfile::Builder::new().prefix("hayward-bench-").tempdir().unwrap();
    let run = RunId::fresh();
    let mut env = BTreeMap::from([(RUN_VARIABLE.to_owned(), run.to_string())]);
    env.insert("PATH".to_owned(), std::env::var("PATH").unwrap());
    let launch = Launch {
        run,
        task: TaskId::fresh(),
        argv,
        cwd: home.path().to_owned(),
        env,
        mode: Mode::Pty { rows: WIDE.ws_row, cols: WIDE.ws_col },
        ring_bytes: 64 << 20,
        fenced: false,
    };
    let folder = RunFolder::new(home.path().join(run.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    let end = runtime.block_on(async {
        let session = start(&folder, &launch, hayward).await.unwrap();
        session.exited().await
    });
    match end {
        Some(End::Exited(exit)) if exit.output_end == wanted && exit.drained => began.elapsed(),
        other => panic!("the session should have kept {wanted} bytes, and ended as {other:?}"),
    }
}

fn echo(count: usize, command: &[&str]) {
    assert!(count <= MOST, "at most {MOST} keys");
    let argv: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let (terminal, mut child) = open(&argv, USUAL);
    let mut buffer = vec![0; 64 << 10];
    while comes(&terminal, QUIET) {
        nix::unistd::read(&terminal, &mut buffer).unwrap();
    }
    let mut took = Vec::with_capacity(count);
    for key in KEYS.iter().copied().cycle().take(count) {
        let began = Instant::now();
        nix::unistd::write(&terminal, &[key]).unwrap();
        loop {
            assert!(comes(&terminal, LOST), "a key has not shown up, {} did", took.len());
            let len = nix::unistd::read(&terminal, &mut buffer).unwrap();
            if buffer[..len].contains(&key) {
                break;
            }
        }
        took.push(began.elapsed());
        // what a screen writes behind the key belongs to it
        while comes(&terminal, PAUSE) {
            nix::unistd::read(&terminal, &mut buffer).unwrap();
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for one in took {
        println!("{:.1}", one.as_secs_f64() * 1e6);
    }
}

/// Whether something can be read, at the latest after so long.
fn comes(terminal: &OwnedFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(within).unwrap()).unwrap() > 0
}

/// What agents print: paths, test results, colours, progress that is written over; cut to lines by
/// line feeds, of which a terminal makes two bytes.
fn corpus(lines: u64, file: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    for line in 0..lines {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let (part, name) = (dice % 97, dice % 1009);
        match dice % 1000 {
            0..200 => write!(
                out,
                "\x1b[1;32m   Compiling\x1b[0m module src/part{part}/file{name}.rs (step {line})"
            )?,
            200..240 => write!(
                out,
                "\x1b[1;33mWarning\x1b[0m: unused variable `value_{part}` in handler_{name}"
            )?,
            240..243 => write!(
                out,
                "\x1b[1;31merror[E0308]\x1b[0m: mismatched types at line {name} column {part}"
            )?,
            243..253 => {
                for done in (0..=100).step_by(10) {
                    write!(out, "\r\x1b[2K\x1b[36mdownloading\x1b[0m {done:>3}% of {name} files")?;
                }
            }
            _ => write!(
                out,
                "test case_{:05} checks that the value {dice:016x} is kept when it is read again",
                dice % 99_991
            )?,
        }
        let rare = if line % 10_000 == 9_999 { " needle-in-the-output" } else { "" };
        writeln!(out, " | {:>6} ms, {} of 1000 done{rare}", dice % 10_007, line % 1000)?;
    }
    out.flush()
}
