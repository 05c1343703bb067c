//! Where the programs under test are, and how they are run.

use crate::must;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// No command of a test lasts longer; one that follows a task may wait for its end.
const PATIENCE: Duration = Duration::from_secs(270);

/// Output that is still open this long after its command ended is held by somebody who should
/// have closed it.
const CLOSED: Duration = Duration::from_secs(30);

/// The binary under test: `HAYWARD_BIN`, else the one beside the test's own build.
#[must_use]
pub fn hayward() -> PathBuf {
    named("HAYWARD_BIN", "hayward", "cargo build --workspace")
}

/// The build with fault points: `HAYWARD_FAULT_BIN`; none when it is not set.
#[must_use]
pub fn fault_program() -> Option<PathBuf> {
    std::env::var_os("HAYWARD_FAULT_BIN")?;
    Some(named("HAYWARD_FAULT_BIN", "hayward", "scripts/test builds it"))
}

/// The scripted agent.
#[must_use]
pub fn fake_agent() -> PathBuf {
    named("HAYWARD_FAKE_AGENT", "fake-agent", "cargo build -p hayward-tests")
}

fn named(variable: &str, name: &str, remedy: &str) -> PathBuf {
    let path = match std::env::var_os(variable) {
        Some(path) => must("find the program", std::path::absolute(path)),
        None => beside(name),
    };
    assert!(path.is_file(), "{} is not there: {remedy}", path.display());
    path
}

fn beside(name: &str) -> PathBuf {
    let own = must("find this test", std::env::current_exe());
    // target/<profile>/deps/<test>
    let folder = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    folder.join(name)
}

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; −1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Its standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard output as one JSON value.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let what = format!("read one JSON value from {:?} (stderr: {})", self.text(), self.stderr);
        must(&what, serde_json::from_slice(&self.stdout))
    }

    /// Itself, when it ended with `code`; panics with all that it said otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

/// Runs a command to its end with nothing to read, through pipes, as scripts do.
///
/// Panics when it does not end in time, or when somebody it started keeps its pipes open.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let begin = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = must(&format!("start {command:?}"), command.spawn());
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    let Some(status) = wait(&mut child, PATIENCE) else {
        drop(child.kill());
        let said = stderr.recv_timeout(CLOSED).unwrap_or_default();
        let printed = stdout.recv_timeout(CLOSED).unwrap_or_default();
        let said = [String::from_utf8_lossy(&printed), String::from_utf8_lossy(&said)].join("\n");
        unfinished(command, &said);
    };
    let took = begin.elapsed();
    let what = format!("{command:?}: its pipes are still held by a process that it started");
    let stdout = must(&what, stdout.recv_timeout(CLOSED));
    let stderr = must(&what, stderr.recv_timeout(CLOSED));
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Ran { code: status, stdout, stderr, took }
}

fn unfinished(command: &Command, said: &str) -> ! {
    panic!("{command:?} did not end within {PATIENCE:?}; it said: {said}")
}

/// Waits for a child; none when it does not end within `patience`. −1 stands for a signal.
pub fn wait(child: &mut Child, patience: Duration) -> Option<i32> {
    let begin = Instant::now();
    loop {
        if let Some(status) = must("wait for a child", child.try_wait()) {
            return Some(status.code().unwrap_or(-1));
        }
        if begin.elapsed() > patience {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn gather(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut all));
        }
        drop(sender.send(all));
    });
    receiver
}
