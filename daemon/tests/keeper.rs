//! Real keepers, real terminals, real processes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what the tests share fails them as they do themselves"
)]

use bytes::Bytes;
use hayward_daemon::clock;
use hayward_daemon::keeper::folder::{Owner, RUN_VARIABLE, Record};
use hayward_daemon::keeper::wire::{self, Fault, FromKeeper, SOCKET_VERSION};
use hayward_daemon::keeper::{Exit, Fence, How, Launch, LaunchFault, Mode, RunFolder};
use hayward_daemon::process::{self, ProcessId};
use hayward_daemon::session::adopt::adopt;
use hayward_daemon::session::{End, Found, Lost, Session, SessionError, find, start};
use hayward_daemon::terminal::ring::{Read, RingReader};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::time::Timestamp;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PTY: Mode = Mode::Pty { rows: 24, cols: 80 };
const PROGRAM: &str = env!("CARGO_BIN_EXE_hayward");

/// A state folder of its own; whatever still runs of it is killed at the end.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn launch(&self, argv: &[&str], mode: Mode) -> (RunFolder, Launch) {
        let run = RunId::fresh();
        let mut env = BTreeMap::from([(RUN_VARIABLE.to_owned(), run.to_string())]);
        env.insert("PATH".to_owned(), std::env::var("PATH").unwrap());
        let launch = Launch {
            run,
            task: TaskId::fresh(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cwd: self.0.path().to_owned(),
            env,
            mode,
            ring_bytes: 8 << 20,
            fenced: false,
        };
        (RunFolder::new(self.0.path().join(run.to_string())), launch)
    }

    async fn start(&self, argv: &[&str], mode: Mode) -> Session {
        let (folder, launch) = self.launch(argv, mode);
        start(&folder, &launch, Path::new(PROGRAM)).await.unwrap()
    }

    async fn sh(&self, script: &str) -> Session {
        self.start(&["sh", "-c", script], PTY).await
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.path()).unwrap().flatten() {
            let folder = RunFolder::new(entry.path());
            if let Ok(Some(record)) = folder.read::<Record>() {
                let run = format!("{RUN_VARIABLE}={}", record.run);
                record.keeper.signal(Signal::SIGKILL).unwrap();
                for row in process::with_environment(&run, record.keeper.start).unwrap() {
                    row.id.signal(Signal::SIGKILL).unwrap();
                }
            }
        }
    }
}

/// Waits until `holds` says yes, ten seconds at most.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The session of a folder, also where its keeper does not answer at once.
async fn live(folder: &RunFolder) -> Session {
    let began = Instant::now();
    loop {
        match find(folder).await {
            Found::Live(session) => return session,
            Found::Unknown(doubt) => {
                assert!(began.elapsed() < Duration::from_secs(60), "not found again: {doubt}");
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn exit(session: &Session) -> Exit {
    match timeout(Duration::from_secs(20), session.exited()).await.expect("no end").unwrap() {
        End::Exited(exit) => exit,
        End::Lost(lost) => panic!("{lost:?}"),
    }
}

/// All that a ring holds, which must be without gaps.
fn all(mut ring: RingReader) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 100_000]);
    loop {
        match ring.read(bytes.len() as u64, &mut buffer).unwrap() {
            Read::Bytes { len, .. } => bytes.extend_from_slice(&buffer[..len]),
            Read::AtEnd => return bytes,
            gap @ Read::Gap { .. } => panic!("{gap:?}"),
        }
    }
}

fn text(session: &Session) -> String {
    String::from_utf8(all(session.ring())).unwrap()
}

async fn shows(session: &Session, wanted: &str) {
    until(wanted, || String::from_utf8_lossy(&all(session.ring())).contains(wanted)).await;
}

fn refusal(result: Result<(), SessionError>) -> Fault {
    match result {
        Err(SessionError::Refused(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

fn living(run: &Session) -> Vec<i32> {
    let record: Record = run.folder().read().unwrap().unwrap();
    let name = format!("{RUN_VARIABLE}={}", record.run);
    process::with_environment(&name, 0).unwrap().iter().map(|row| row.id.pid).collect()
}

#[test]
fn f01_sessions_outlive_their_daemon_and_are_found_again() {
    let home = Home::new();
    let daemon = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = daemon();
    let before: Vec<_> = first.block_on(async {
        let mut agents = Vec::new();
        for _ in 0..3 {
            let script = "for i in $(seq 50); do echo line $i; sleep 0.02; done; read x; echo $x";
            let session = home.sh(script).await;
            shows(&session, "line 1").await;
            agents.push((session.agent_pid().unwrap(), session.keeper_pid()));
        }
        agents
    });
    first.shutdown_background();
    daemon().block_on(async {
        let adopted = adopt(home.0.path()).await.unwrap();
        assert_eq!(adopted.len(), 3);
        let mut after = Vec::new();
        for one in adopted {
            let session = match one.found {
                Found::Live(session) => session,
                Found::Unknown(_) => live(&one.folder).await,
                other => panic!("{other:?}"),
            };
            after.push((session.agent_pid().unwrap(), session.keeper_pid()));
            shows(&session, "line 50").await;
            session.input(Bytes::from_static(b"bye\n")).await.unwrap();
            let exit = exit(&session).await;
            assert_eq!(exit.how, How::Exited { code: 0 });
            let lines: String = (1..=50).map(|i| format!("line {i}\r\n")).collect();
            assert_eq!(text(&session), format!("{lines}bye\r\nbye\r\n"));
            assert!(matches!(find(&one.folder).await, Found::Ended(again) if again == exit));
        }
        let sorted = |mut list: Vec<_>| {
            list.sort_unstable();
            list
        };
        assert_eq!(sorted(after), sorted(before));
    });
}

#[tokio::test]
async fn f02_a_silent_keeper_is_unknown_and_its_agent_lives() {
    let home = Home::new();
    let session = home.sh("read x; echo got $x").await;
    let agent = session.agent_pid().unwrap();
    session.keeper_pid().signal(Signal::SIGSTOP).unwrap();
    assert!(matches!(find(session.folder()).await, Found::Unknown(_)));
    assert!(agent.alive());
    session.keeper_pid().signal(Signal::SIGCONT).unwrap();
    let again = live(session.folder()).await;
    assert_eq!(again.agent_pid(), Some(agent));
    again.input(Bytes::from_static(b"it\n")).await.unwrap();
    exit(&session).await;
    assert!(text(&session).contains("got it"));
}

#[tokio::test]
async fn f03_a_stale_record_of_a_living_stranger_sends_no_signal() {
    let home = Home::new();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let real = ProcessId::of(i32::try_from(stranger.id()).unwrap()).unwrap().unwrap();
    let stale = ProcessId { start: real.start - 1, ..real };
    let (folder, launch) = home.launch(&["true"], PTY);
    folder.create().unwrap();
    folder.write(&launch).unwrap();
    let boot = process::boot().unwrap();
    folder.write(&Owner::Keeper { keeper: stale, boot: boot.clone() }).unwrap();
    let record = Record {
        version: SOCKET_VERSION,
        run: launch.run,
        keeper: stale,
        agent: Some(stale),
        boot,
        started_at: Timestamp::from_millis(0),
    };
    folder.write(&record).unwrap();
    let Found::Lost(lost) = find(&folder).await else { panic!("not lost") };
    assert_eq!((lost.ended, lost.left), (0, 0));
    // a signal of any kind would have ended or stopped it
    let state = fs::read_to_string(format!("/proc/{}/stat", real.pid)).unwrap();
    assert!(state.contains(") S ") && stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn f04_leftovers_are_gone_when_the_end_is_told() {
    let home = Home::new();
    let script = "sleep 600 & setsid sleep 601 & (trap '' TERM HUP; sleep 602; sleep 603) & \
                  sleep 0.2; exit 0";
    let session = home.sh(script).await;
    let began = Instant::now();
    let exit = exit(&session).await;
    assert_eq!(exit.how, How::Exited { code: 0 });
    assert!(exit.leftovers >= 3 && exit.drained, "{exit:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(living(&session), Vec::<i32>::new());
}

#[tokio::test]
async fn f05_a_grandchild_that_holds_the_terminal_does_not_hold_the_end() {
    let home = Home::new();
    for mode in [PTY, Mode::Pipe] {
        let mut took = Vec::new();
        // a machine that stands still makes one of them long, not all
        while took.len() < 5 && took.iter().all(|ms| *ms >= 2000) {
            let session = home.start(&["sh", "-c", "sleep 600 & echo hi"], mode).await;
            let exit = exit(&session).await;
            took.push(exit.recorded_at.since(exit.ended_at));
            assert_eq!(text(&session).trim_end(), "hi");
        }
        assert!(took.iter().any(|ms| *ms < 2000), "{took:?}");
    }
}

/// Prints 64 KiB and ends, `runs` times; how often that came byte for byte, the end last.
async fn exact_runs(runs: usize) -> usize {
    let home = Home::new();
    let wanted = "0123456789abcdef".repeat(4096).into_bytes();
    fs::write(home.0.path().join("wanted"), &wanted).unwrap();
    let mut exact = 0;
    for _ in 0..runs {
        let session = home.start(&["cat", "wanted"], PTY).await;
        let exit = exit(&session).await;
        let seen = *session.output().borrow();
        let right = all(session.ring()) == wanted && exit.drained && seen == 65536;
        exact += usize::from(right && exit.output_end == 65536);
        fs::remove_dir_all(session.folder().path()).unwrap();
    }
    exact
}

#[tokio::test]
async fn f06_the_last_bytes_come_before_the_end() {
    assert_eq!(exact_runs(50).await, 50);
}

/// The disk is one that takes a second and a half to open the file for the first bytes: a named pipe
/// that nobody reads yet. All has been printed by then, and there is nothing left to wait for.
#[tokio::test]
async fn f06_the_last_bytes_come_when_the_disk_holds_up_the_first() {
    const PRINTED: usize = 300_000;
    let home = Home::new();
    let script = "import fcntl, os, time\nfcntl.fcntl(1, 1031, 1 << 20)\n\
                  while not os.path.exists('gate'): time.sleep(0.01)\nos.write(1, b'x' * 300000)";
    let session = home.start(&["python3", "-c", script], Mode::Pipe).await;
    let disk = session.folder().ring().join(format!("{:020}", 0));
    nix::unistd::mkfifo(&disk, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let agent = session.agent_pid().unwrap().pid;
    session.keeper_pid().signal(Signal::SIGSTOP).unwrap();
    fs::write(home.0.path().join("gate"), "").unwrap();
    let has_ended = || fs::read_to_string(format!("/proc/{agent}/stat")).unwrap().contains(") Z ");
    until("the agent ends", has_ended).await;
    session.keeper_pid().signal(Signal::SIGCONT).unwrap();
    sleep(Duration::from_millis(1500)).await;
    let kept = tokio::task::spawn_blocking(move || fs::read(disk).unwrap());
    let exit = exit(&session).await;
    assert_eq!((exit.output_end, exit.drained), (PRINTED as u64, true));
    assert_eq!(kept.await.unwrap(), vec![b'x'; PRINTED]);
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn f06_a_thousand_runs() {
    let exact = exact_runs(1000).await;
    println!("{exact} of 1000 runs were byte-exact, the end last");
    assert_eq!(exact, 1000);
}

#[tokio::test]
async fn f07_a_long_prompt_waits_for_a_terminal_that_reads_keys() {
    let home = Home::new();
    let script = "import sys,time,tty,os\nprint('up',flush=True)\ntime.sleep(1)\ntty.setraw(0)\n\
                  n=b''\nwhile len(n)<102400: n+=os.read(0,65536)\n\
                  print('sum',len(n),n.count(b'x'),n.count(b'y'),flush=True)";
    let session = home.start(&["python3", "-c", script], PTY).await;
    shows(&session, "up").await;
    let prompt = [vec![b'x'; 100_000], vec![b'y'; 2400]].concat();
    session.input(prompt.into()).await.unwrap();
    exit(&session).await;
    assert!(text(&session).contains("sum 102400 100000 2400"));
}

#[tokio::test]
async fn f07_a_long_line_to_a_terminal_that_stays_cold_fails_and_types_nothing() {
    let home = Home::new();
    let session = home.sh("head -n1 | wc -c").await;
    let began = Instant::now();
    let fault = refusal(session.input(vec![b'x'; 8601].into()).await);
    assert_eq!(fault, Fault::LineTooLong { limit: 4095, taken: 0 });
    assert!(began.elapsed() < Duration::from_secs(30));
    let longest = [vec![b'x'; 4095], b"\n".to_vec()].concat();
    session.input(longest.into()).await.unwrap();
    exit(&session).await;
    assert!(text(&session).ends_with("4096\r\n"));
}

#[tokio::test]
async fn f07_a_reader_that_never_reads_is_an_error_and_output_goes_on() {
    let home = Home::new();
    for mode in [PTY, Mode::Pipe] {
        let script = "trap '' TERM; [ -t 0 ] && stty raw -echo; echo up; while :; do echo tick; sleep 0.1; done";
        let session = home.start(&["sh", "-c", script], mode).await;
        shows(&session, "up").await;
        let began = Instant::now();
        let fault = refusal(session.input(vec![b'x'; 1 << 20].into()).await);
        let Fault::Stalled { taken } = fault else { panic!("{fault:?}") };
        assert!(taken > 0 && taken < 1 << 20, "{taken}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        let ticks = || text(&session).matches("tick").count();
        let before = ticks();
        until("it goes on", || ticks() > before + 20).await;
        session.end(Duration::ZERO).await.unwrap();
        assert_eq!(exit(&session).await.how, How::Signalled { signal: 9 });
    }
}

#[tokio::test]
async fn f08_text_of_any_script_passes_a_live_terminal_byte_for_byte() {
    let home = Home::new();
    let line = "漢字かな交じり文 🐑🐕‍🦺👩🏽‍🌾 \u{1b}[38;5;196mrot\u{1b}[0m ｗｉｄｅ\n";
    let wanted = line.repeat(5000);
    fs::write(home.0.path().join("wanted"), &wanted).unwrap();
    let session = home.sh("cat wanted").await;
    exit(&session).await;
    assert_eq!(text(&session), wanted.replace('\n', "\r\n"));
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_both_and_the_agent_is_untouched() {
    let home = Home::new();
    let session = home.sh("read x").await;
    let dir = fs::File::open(session.folder().path()).unwrap();
    let socket = format!("/proc/self/fd/{}/socket", dir.as_raw_fd());
    for (sent, wanted) in [(wire::greeting(99), &wire::welcome(99)[..]), (*b"GET / HT", b"")] {
        let mut peer = UnixStream::connect(&socket).unwrap();
        peer.write_all(&sent).unwrap();
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, wanted);
    }
    assert!(session.agent_pid().unwrap().alive());
    session.resize(50, 132).await.unwrap();
}

#[tokio::test]
async fn a_keeper_of_another_version_is_left_alone() {
    let home = Home::new();
    let session = home.sh("read x").await;
    let mut record: Record = session.folder().read().unwrap().unwrap();
    record.version = 99;
    session.folder().write(&record).unwrap();
    assert!(matches!(find(session.folder()).await, Found::Foreign { version: 99 }));
    assert!(session.agent_pid().unwrap().alive());
}

#[tokio::test]
async fn a_killed_keeper_is_lost_and_its_agents_are_ended() {
    let home = Home::new();
    let session =
        home.sh("trap '' HUP TERM; setsid sleep 600 & echo up; sleep 601; sleep 602").await;
    shows(&session, "up").await;
    until("the agent's children", || living(&session).len() >= 3).await;
    session.keeper_pid().signal(Signal::SIGKILL).unwrap();
    let told = timeout(Duration::from_secs(60), session.exited()).await.unwrap().unwrap();
    let End::Lost(lost) = told else { panic!("{told:?}") };
    assert!(lost.ended >= 1 && lost.left == 0, "{lost:?}");
    assert_eq!(living(&session), Vec::<i32>::new());
    assert!(matches!(find(session.folder()).await, Found::Lost(again) if again.ended == 0));
    assert!(text(&session).contains("up"));
}

/// A session whose script says "up", and whose folder was removed since.
async fn without_records(home: &Home, script: &str) -> (Session, Record) {
    let session = home.sh(script).await;
    shows(&session, "up").await;
    let record = session.folder().read().unwrap().unwrap();
    fs::remove_dir_all(session.folder().path()).unwrap();
    (session, record)
}

/// How such a session is told to have ended, once nothing of it lives.
async fn lost_without_records(session: &Session, record: &Record) -> Lost {
    let told = timeout(Duration::from_secs(60), session.exited()).await.expect("it never ends");
    let End::Lost(lost) = told.unwrap() else { panic!("not lost") };
    let entry = format!("{RUN_VARIABLE}={}", record.run);
    until("the end of its processes", || {
        process::with_environment(&entry, 0).unwrap().is_empty() && !record.keeper.alive()
    })
    .await;
    lost
}

#[tokio::test]
async fn f29_a_session_whose_records_are_removed_ends_as_lost_with_its_keeper() {
    let home = Home::new();
    let script = "trap '' HUP TERM; echo up; sleep 603";
    let (session, record) = without_records(&home, script).await;
    record.keeper.signal(Signal::SIGKILL).unwrap();
    let lost = lost_without_records(&session, &record).await;
    assert!(lost.ended >= 1 && lost.left == 0, "{lost:?}");
}

#[tokio::test]
async fn f29_a_session_whose_records_are_removed_ends_as_lost_with_its_agent() {
    let home = Home::new();
    let (session, record) = without_records(&home, "echo up; read line").await;
    session.input(Bytes::from_static(b"go\r")).await.unwrap();
    let lost = lost_without_records(&session, &record).await;
    assert_eq!((lost.ended, lost.left), (0, 0));
}

/// A session that must be over `ms` from now unless that is written anew.
async fn fenced(home: &Home, script: &str, ms: u64) -> Session {
    let (folder, mut launch) = home.launch(&["sh", "-c", script], PTY);
    launch.fenced = true;
    folder.create().unwrap();
    folder.write(&Fence::after(clock::since_boot(), ms).unwrap()).unwrap();
    start(&folder, &launch, Path::new(PROGRAM)).await.unwrap()
}

#[tokio::test]
async fn f28_a_keeper_ends_its_session_by_itself_when_nobody_moves_its_time_on() {
    let home = Home::new();
    let script = "trap '' TERM HUP; setsid sh -c \"trap '' TERM; sleep 100\" & echo ready; \
                  while :; do sleep 1; done";
    let session = fenced(&home, script, 8_000).await;
    let began = Instant::now();
    shows(&session, "ready").await;
    let (agent, folder) = (session.agent_pid().unwrap(), session.folder().clone());
    // moved on as for beats that were acknowledged, once from another process than the keeper's
    for _ in 0..3 {
        sleep(Duration::from_millis(500)).await;
        folder.note(&Fence::after(clock::since_boot(), 8_000).unwrap()).unwrap();
    }
    // as a daemon that dies: nobody holds the session any more
    drop(session);
    until("the agent's end", || !agent.alive()).await;
    assert!(began.elapsed() >= Duration::from_millis(9_400), "{:?}", began.elapsed());
    until("the record of it", || folder.read::<Exit>().unwrap().is_some()).await;
    let exit = folder.read::<Exit>().unwrap().unwrap();
    assert!(exit.fenced && exit.is_fenced(), "{exit:?}");
    let name = format!("{RUN_VARIABLE}={}", exit.run);
    assert!(process::with_environment(&name, 0).unwrap().is_empty(), "some of it lives");
}

#[tokio::test]
async fn f28_no_agent_starts_once_its_time_is_over_or_where_nobody_says_when() {
    let home = Home::new();
    let marker = home.0.path().join("started");
    let script = format!("touch {}", marker.display());
    let exit = exit(&fenced(&home, &script, 0).await).await;
    assert_eq!(exit.how, How::NotStarted { cause: LaunchFault::Fenced });
    assert!(exit.is_fenced());
    let (folder, mut launch) = home.launch(&["sh", "-c", &script], PTY);
    launch.fenced = true;
    assert!(start(&folder, &launch, Path::new(PROGRAM)).await.is_err());
    assert!(!marker.exists());
}

#[tokio::test]
async fn f28_a_fenced_agent_dies_with_its_keeper_as_nobody_else_would_end_it_in_time() {
    let home = Home::new();
    for mode in [PTY, Mode::Pipe] {
        let (folder, mut launch) =
            home.launch(&["sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"], mode);
        launch.fenced = true;
        folder.create().unwrap();
        folder.write(&Fence::after(clock::since_boot(), 60_000).unwrap()).unwrap();
        let session = start(&folder, &launch, Path::new(PROGRAM)).await.unwrap();
        let (agent, keeper) = (session.agent_pid().unwrap(), session.keeper_pid());
        // no daemon looks after it
        drop(session);
        until("the agent's own program", || {
            let line = fs::read(format!("/proc/{}/cmdline", agent.pid)).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("while")
        })
        .await;
        keeper.signal(Signal::SIGKILL).unwrap();
        until("the agent's end", || !agent.alive()).await;
    }
}

#[tokio::test]
async fn an_agent_that_cannot_start_is_an_end_with_its_cause() {
    let home = Home::new();
    fs::write(home.0.path().join("plain"), "").unwrap();
    let plain = home.0.path().join("plain").display().to_string();
    let cause = |session: Session| async move {
        match exit(&session).await.how {
            How::NotStarted { cause } => cause,
            how => panic!("{how:?}"),
        }
    };
    let absent = cause(home.start(&["no-such-program"], PTY).await).await;
    assert_eq!(absent, LaunchFault::NoProgram { program: "no-such-program".into() });
    let refused = cause(home.start(&[&plain], Mode::Pipe).await).await;
    assert!(matches!(refused, LaunchFault::NotExecutable { .. }), "{refused:?}");
    let (folder, mut launch) = home.launch(&["true"], PTY);
    launch.cwd = home.0.path().join("absent");
    let nowhere = cause(start(&folder, &launch, Path::new(PROGRAM)).await.unwrap()).await;
    assert!(matches!(nowhere, LaunchFault::NoFolder { .. }), "{nowhere:?}");
    let (folder, mut launch) = home.launch(&["true"], PTY);
    launch.env.clear();
    let unnamed = cause(start(&folder, &launch, Path::new(PROGRAM)).await.unwrap()).await;
    assert!(matches!(unnamed, LaunchFault::BadLaunch { .. }), "{unnamed:?}");
    // what no process can be started with
    let large: BTreeMap<_, _> = (0..64).map(|i| (format!("V{i}"), "x".repeat(50_000))).collect();
    let long = BTreeMap::from([("LONG".to_owned(), "x".repeat(200_000))]);
    for (mode, env) in [(PTY, &long), (PTY, &large), (Mode::Pipe, &long), (Mode::Pipe, &large)] {
        let (folder, mut launch) = home.launch(&["true"], mode);
        launch.env.extend(env.clone());
        let excess = cause(start(&folder, &launch, Path::new(PROGRAM)).await.unwrap()).await;
        assert!(matches!(excess, LaunchFault::BadLaunch { .. }), "{excess:?}");
    }
    let (_, launch) = home.launch(&["true", &"x".repeat(200_000)], PTY);
    let folder = RunFolder::new(home.0.path().join("argument"));
    let excess = cause(start(&folder, &launch, Path::new(PROGRAM)).await.unwrap()).await;
    assert!(matches!(excess, LaunchFault::NotExecutable { .. }), "{excess:?}");
}

/// What the open descriptors of a process stand for.
fn descriptors(pid: i32) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut named: Vec<_> = all
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect();
    named.sort();
    named
}

#[tokio::test]
async fn f11_a_terminal_is_held_by_few_descriptors_and_handed_on_as_three() {
    let home = Home::new();
    let session = home.start(&["sleep", "60"], PTY).await;
    let (keeper, agent) = (session.keeper_pid().pid, session.agent_pid().unwrap().pid);
    until("the agent", || fs::read_to_string(format!("/proc/{agent}/comm")).unwrap() == "sleep\n")
        .await;
    let slave = &descriptors(agent)[0];
    assert!(slave.starts_with("/dev/pts/"), "{slave}");
    assert_eq!(descriptors(agent), vec![slave.clone(); 3]);
    let held = descriptors(keeper);
    let count = |wanted: &str| held.iter().filter(|name| name.as_str() == wanted).count();
    // one master to read, one to type, and the agent's end
    assert_eq!((count("/dev/ptmx") + count("/dev/pts/ptmx"), count(slave)), (2, 1), "{held:?}");
    for side in 1..=100 {
        session.resize(side, side).await.unwrap();
    }
    assert_eq!(descriptors(keeper), held);
    session.end(Duration::ZERO).await.unwrap();
    exit(&session).await;
    until("the keeper's end", || !session.keeper_pid().alive()).await;
}

/// How many terminals the machine has, those of others among them.
fn terminals() -> usize {
    fs::read_dir("/dev/pts").unwrap().count()
}

/// Starts so many sessions, every tenth of which has no program, eight at a time; what they took is
/// given back.
async fn f11_spawns(count: usize) {
    let home = Home::new();
    let of_us = || descriptors(i32::try_from(std::process::id()).unwrap()).len();
    // what the runtime itself opens is there from the first one on
    exit(&home.start(&["true"], PTY).await).await;
    let (own, machine) = (of_us(), terminals());
    for round in 0..count / 8 {
        let mut sessions = Vec::new();
        for number in round * 8..(round + 1) * 8 {
            let program = if number % 10 == 9 { "no-such-program" } else { "true" };
            sessions.push((number, home.start(&[program], PTY).await));
        }
        for (number, session) in sessions {
            let has_started = !matches!(exit(&session).await.how, How::NotStarted { .. });
            assert_eq!(has_started, number % 10 != 9, "session {number}");
            let keeper = session.keeper_pid();
            let folder = session.folder().path().to_owned();
            drop(session);
            until("the keeper's end", || !keeper.alive()).await;
            fs::remove_dir_all(folder).unwrap();
        }
    }
    until("our descriptors are those of before", || of_us() <= own).await;
    // others on this machine have terminals too, but not as many as would be left of these
    until("the terminals are given back", || terminals() < machine + count / 2).await;
}

#[tokio::test]
async fn f11_64_sessions_give_back_terminals_and_descriptors() {
    f11_spawns(64).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn f11_2000_sessions_give_back_terminals_and_descriptors() {
    f11_spawns(2000).await;
}

#[tokio::test]
async fn the_agent_leads_a_session_whose_terminal_is_its_own() {
    let home = Home::new();
    for (mode, has_terminal) in [(PTY, true), (Mode::Pipe, false)] {
        let session = home.start(&["cat", "/proc/self/stat"], mode).await;
        let agent = session.agent_pid().unwrap().pid;
        exit(&session).await;
        let stat = text(&session);
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<i64> =
            fields.split_ascii_whitespace().skip(2).take(4).map(|f| f.parse().unwrap()).collect();
        // its group, its session, its terminal, the group in the terminal's foreground
        let pid = i64::from(agent);
        assert_eq!((fields[0], fields[1]), (pid, pid));
        assert_eq!((fields[2] != 0, fields[3] == pid), (has_terminal, has_terminal));
    }
}

#[tokio::test]
async fn the_agents_environment_is_that_of_the_launch_record_and_no_more() {
    let home = Home::new();
    for (mode, shell) in [(PTY, None), (PTY, Some("/bin/mine")), (Mode::Pipe, None)] {
        let (folder, mut launch) = home.launch(&["env"], mode);
        launch.env.extend(shell.map(|shell| ("SHELL".to_owned(), shell.to_owned())));
        let session = start(&folder, &launch, Path::new(PROGRAM)).await.unwrap();
        assert_eq!(exit(&session).await.how, How::Exited { code: 0 });
        let seen = text(&session);
        let seen: BTreeMap<_, _> = seen.lines().filter_map(|line| line.split_once('=')).collect();
        let wanted = launch.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert_eq!(seen, wanted.collect());
    }
}

/// Whether any file of a run folder holds `secret`.
fn keeps(folder: &Path, secret: &str) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let kind = entry.file_type().unwrap();
        let holds = || String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).contains(secret);
        if kind.is_dir() { keeps(&entry.path(), secret) } else { kind.is_file() && holds() }
    })
}

#[tokio::test]
async fn an_agents_secrets_leave_the_disk_once_it_was_started() {
    const SECRET: &str = "hush-hush-hush";
    let home = Home::new();
    for mode in [PTY, Mode::Pipe] {
        let (folder, mut launch) =
            home.launch(&["sh", "-c", "echo ${#TOKEN}; read x; exit 4"], mode);
        launch.env.insert("TOKEN".into(), SECRET.into());
        let session = start(&folder, &launch, Path::new(PROGRAM)).await.unwrap();
        shows(&session, "14").await;
        assert!(!keeps(folder.path(), SECRET));
        let bare = Launch { env: BTreeMap::new(), ..launch };
        assert_eq!(folder.read().unwrap(), Some(bare));
        // what is left is enough to be found again, living and ended
        let again = live(&folder).await;
        again.input(Bytes::from_static(b"x\n")).await.unwrap();
        assert_eq!(exit(&session).await.how, How::Exited { code: 4 });
        assert!(matches!(find(&folder).await, Found::Ended(_)));
    }
    let with_secret = |argv: &[&str]| {
        let (folder, mut launch) = home.launch(argv, PTY);
        launch.env.insert("TOKEN".into(), SECRET.into());
        (folder, launch)
    };
    let (failed, launch) = with_secret(&["no-such-program"]);
    exit(&start(&failed, &launch, Path::new(PROGRAM)).await.unwrap()).await;
    assert!(!keeps(failed.path(), SECRET));
    let (never, launch) = with_secret(&["true"]);
    never.create().unwrap();
    never.write(&launch).unwrap();
    assert!(keeps(never.path(), SECRET));
    assert!(matches!(find(&never).await, Found::Never) && !keeps(never.path(), SECRET));
}

#[tokio::test]
async fn a_folder_without_a_keeper_is_barred_for_good() {
    let home = Home::new();
    let (folder, launch) = home.launch(&["true"], PTY);
    folder.create().unwrap();
    assert!(matches!(find(&folder).await, Found::Never));
    start(&folder, &launch, Path::new(PROGRAM)).await.unwrap_err();
    assert!(matches!(find(&folder).await, Found::Never));
    let log = fs::read_to_string(folder.log()).unwrap();
    assert!(log.contains("has an owner already"), "{log}");
}

#[tokio::test]
async fn codes_and_signals_are_told_apart() {
    let home = Home::new();
    assert_eq!(exit(&home.sh("exit 7").await).await.how, How::Exited { code: 7 });
    let killed = exit(&home.sh("kill -SEGV $$").await).await.how;
    assert_eq!(killed, How::Signalled { signal: 11 });
}

#[tokio::test]
async fn pipes_carry_input_output_and_errors_apart() {
    let home = Home::new();
    let session = home.start(&["sh", "-c", "cat; echo oops >&2"], Mode::Pipe).await;
    let large = vec![b'z'; 300_000];
    session.input(large.clone().into()).await.unwrap();
    session.close_input().await.unwrap();
    let exit = exit(&session).await;
    assert_eq!(all(session.ring()), large);
    assert_eq!(all(session.stderr()), b"oops\n");
    assert_eq!((exit.output_end, exit.stderr_end), (300_000, 5));
    assert!(matches!(session.input(Bytes::new()).await, Err(SessionError::Ended)));
}

#[tokio::test]
async fn f09_a_session_is_resized_within_bounds_paused_interrupted_and_ended() {
    let home = Home::new();
    let script = "trap 'echo int; stty size' INT; echo up; while :; do sleep 0.05; done";
    let session = home.sh(script).await;
    shows(&session, "up").await;
    for (rows, cols) in [(0, 0), (u16::MAX, u16::MAX), (0, 80), (24, 1001)] {
        assert_eq!(refusal(session.resize(rows, cols).await), Fault::BadSize { rows, cols });
    }
    session.resize(50, 132).await.unwrap();
    session.interrupt().await.unwrap();
    shows(&session, "50 132").await;
    let state = || {
        let stat = format!("/proc/{}/stat", session.agent_pid().unwrap().pid);
        fs::read_to_string(stat).unwrap().contains(") T ")
    };
    session.pause().await.unwrap();
    until("the pause", state).await;
    session.resume().await.unwrap();
    until("the resumption", || !state()).await;
    session.pause().await.unwrap();
    session.end(Duration::from_secs(5)).await.unwrap();
    assert_eq!(exit(&session).await.how, How::Signalled { signal: 15 });
    assert!(matches!(session.pause().await, Err(SessionError::Ended)));
}

#[tokio::test]
async fn several_clients_see_one_end_and_the_keeper_leaves() {
    let home = Home::new();
    let session = home.sh("read x; echo $x").await;
    let other = live(session.folder()).await;
    other.input(Bytes::from_static(b"together\n")).await.unwrap();
    assert_eq!(exit(&session).await, exit(&other).await);
    until("the keeper's end", || !session.keeper_pid().alive()).await;
    assert!(!session.folder().path().join("socket").exists());
}

#[tokio::test]
async fn a_keeper_that_is_asked_to_end_ends_its_session_in_order() {
    let home = Home::new();
    let session =
        home.sh("trap 'echo last words; exit 3' TERM; echo up; while :; do sleep 0.05; done").await;
    shows(&session, "up").await;
    session.keeper_pid().signal(Signal::SIGTERM).unwrap();
    assert_eq!(exit(&session).await.how, How::Exited { code: 3 });
    assert!(text(&session).ends_with("last words\r\n"));
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_and_harms_nobody() {
    let home = Home::new();
    let session = home.sh("read x").await;
    let dir = fs::File::open(session.folder().path()).unwrap();
    let mut peer =
        UnixStream::connect(format!("/proc/self/fd/{}/socket", dir.as_raw_fd())).unwrap();
    peer.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    peer.write_all(&wire::greeting(SOCKET_VERSION)).unwrap();
    let call = wire::Call { id: 1, request: wire::Request::Status };
    let many = wire::encode(&call).unwrap().repeat(100_000);
    let cut = peer.write_all(&many).unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::BrokenPipe);
    session.resize(30, 90).await.unwrap();
    assert!(session.agent_pid().unwrap().alive());
}

#[tokio::test]
async fn the_agent_gets_its_whole_environment_its_own_session_and_default_signals() {
    let home = Home::new();
    let folder_deep = home.0.path().join("d".repeat(120));
    let (_, mut launch) =
        home.launch(&["sh", "-c", "env; grep -E 'SigBlk|SigIgn' /proc/self/status"], PTY);
    launch.env.insert("ONLY".into(), "this".into());
    let folder = RunFolder::new(folder_deep);
    // a daemon that a script started in the background ignores interrupts
    folder.create().unwrap();
    folder.write(&launch).unwrap();
    let script = "trap '' INT QUIT HUP; \"$0\" keeper \"$1\" </dev/null >/dev/null 2>&1 &";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, PROGRAM]).arg(folder.path()).env("CANARY", "leaked");
    assert!(shell.status().unwrap().success());
    until("the end", || folder.read::<Exit>().unwrap().is_some()).await;
    let shown = String::from_utf8(all(RingReader::open(&folder.ring()))).unwrap();
    assert!(shown.contains("ONLY=this") && !shown.contains("CANARY"), "{shown}");
    assert!(shown.contains("SigBlk:\t0000000000000000"), "{shown}");
    let ignored = shown.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    // the two above 31 belong to the C library, and may be handed down by whoever runs the tests
    assert_eq!(ignored & 0x7fff_ffff, 0, "{shown}");
}

/// A client of a keeper by hand, which reads only when it is told to.
struct Peer {
    socket: UnixStream,
    inbox: Vec<u8>,
}

impl Peer {
    fn greet(session: &Session) -> Self {
        let dir = fs::File::open(session.folder().path()).unwrap();
        let mut socket =
            UnixStream::connect(format!("/proc/self/fd/{}/socket", dir.as_raw_fd())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(&wire::greeting(SOCKET_VERSION)).unwrap();
        socket.read_exact(&mut [0; wire::WELCOME]).unwrap();
        Self { socket, inbox: Vec::new() }
    }

    /// Asks to be shown what comes behind `from`.
    fn show(&mut self, from: u64) {
        let call = wire::Call { id: 1, request: wire::Request::Show { from } };
        self.socket.write_all(&wire::encode(&call).unwrap()).unwrap();
        assert_eq!(self.hear(), FromKeeper::Done { id: 1 });
    }

    fn hear(&mut self) -> FromKeeper {
        loop {
            if let Some((message, took)) = wire::decode_keeper(&self.inbox).unwrap() {
                self.inbox.drain(..took);
                return message;
            }
            let mut part = [0; 64 << 10];
            let len = self.socket.read(&mut part).unwrap();
            assert!(len > 0, "the keeper is gone");
            self.inbox.extend_from_slice(&part[..len]);
        }
    }

    /// Hears on until `done`, beginning behind `at`; what was shown, and how much was named as
    /// skipped. Fails where bytes come twice, or are missing without a word.
    fn shown(
        &mut self,
        mut at: u64,
        mut done: impl FnMut(u64, &FromKeeper) -> bool,
    ) -> (Vec<u8>, u64) {
        let (mut all, mut skipped) = (Vec::new(), 0);
        loop {
            let message = self.hear();
            match &message {
                FromKeeper::Bytes { offset, bytes } => {
                    assert_eq!(*offset, at, "a hole, or bytes that came before");
                    at += bytes.len() as u64;
                    all.extend_from_slice(bytes);
                }
                FromKeeper::Skipped { until } => {
                    assert!(*until > at, "nothing was skipped up to {until}");
                    skipped += until - at;
                    at = *until;
                }
                _ => {}
            }
            if done(at, &message) {
                return (all, skipped);
            }
        }
    }
}

#[tokio::test]
async fn a_key_typed_at_the_keeper_is_answered_with_its_echo_and_in_order() {
    let home = Home::new();
    let session = home.sh("stty raw -echo; echo up; cat").await;
    shows(&session, "up").await;
    let from = session.ring().end().unwrap();
    let mut peer = Peer::greet(&session);
    peer.show(from);
    assert_eq!(peer.hear(), FromKeeper::Resized { rows: 24, cols: 80 });
    // no more than may wait, as they may all come before the first is taken
    let keys: Vec<u8> = (0..60).map(|key| b'0' + key).collect();
    for (number, key) in (1000..).zip(&keys) {
        peer.socket.write_all(&wire::encode_input(number, 4500, &[*key]).unwrap()).unwrap();
    }
    let (mut answered, wanted) = (Vec::new(), from + keys.len() as u64);
    let (got, skipped) = peer.shown(from, |at, message| {
        if let FromKeeper::Done { id } = message {
            answered.push(*id);
        }
        at == wanted && answered.len() == keys.len()
    });
    assert_eq!((got, skipped), (keys, 0));
    assert!(answered.iter().copied().eq(1000..1060), "{answered:?}");
    session.resize(30, 90).await.unwrap();
    assert_eq!(peer.hear(), FromKeeper::Resized { rows: 30, cols: 90 });
    let all = all(session.ring());
    let mut late = Peer::greet(&session);
    late.show(2);
    // the size behind what was printed at another one
    assert_eq!(late.hear(), FromKeeper::Skipped { until: all.len() as u64 });
    assert_eq!(late.hear(), FromKeeper::Resized { rows: 30, cols: 90 });
}

#[tokio::test]
async fn f09_a_size_that_changes_while_a_client_is_behind_is_told_in_its_place() {
    let home = Home::new();
    let line = "stty raw -echo; echo up; read go; head -c 2000000 /dev/zero | tr '\\0' x; \
                read go; stty size";
    let session = home.sh(line).await;
    shows(&session, "up\n").await;
    let from = session.ring().end().unwrap();
    let mut peer = Peer::greet(&session);
    peer.show(from);
    session.input(Bytes::from_static(b"go\n")).await.unwrap();
    let before = from + 2_000_000;
    until("all of it is kept", || session.ring().end().unwrap() == before).await;
    session.resize(30, 90).await.unwrap();
    session.input(Bytes::from_static(b"go\n")).await.unwrap();
    let end = before + "30 90\n".len() as u64;
    until("what the size is", || session.ring().end().unwrap() == end).await;
    let mut sized = None;
    let (_, skipped) = peer.shown(from, |at, message| {
        if let FromKeeper::Resized { rows: 30, cols: 90 } = message {
            sized = Some(at);
        }
        at == end
    });
    assert!(skipped > 0, "it was not behind");
    assert_eq!(sized, Some(before));
}

#[tokio::test]
async fn f32_who_is_shown_and_takes_nothing_holds_up_nobody_and_is_told_what_it_missed() {
    const MUCH: u64 = 30_000_000;
    let home = Home::new();
    let line = format!(
        "stty raw -echo; echo up; read go; head -c {MUCH} /dev/zero | tr '\\0' x; echo over; read x"
    );
    let session = home.sh(&line).await;
    // a key that comes before would be echoed
    shows(&session, "up\n").await;
    let from = session.ring().end().unwrap();
    let (mut idle, mut keen) = (Peer::greet(&session), Peer::greet(&session));
    let mut idle_ones: Vec<Peer> = (0..8).map(|_| Peer::greet(&session)).collect();
    idle_ones.iter_mut().chain([&mut idle, &mut keen]).for_each(|peer| peer.show(from));
    session.input(Bytes::from_static(b"go\n")).await.unwrap();
    let end = from + MUCH + 5;
    let keen = tokio::task::spawn_blocking(move || keen.shown(from, |at, _| at >= end));
    let (got, skipped) = timeout(Duration::from_secs(60), keen).await.unwrap().unwrap();
    assert_eq!(from + got.len() as u64 + skipped, end);
    until("all of it is kept", || session.ring().end().unwrap() == end).await;
    let smaps = format!("/proc/{}/smaps_rollup", session.keeper_pid().pid);
    let smaps = fs::read_to_string(smaps).unwrap();
    let kib = smaps.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB"));
    let kib: u64 = kib.unwrap().trim().parse().unwrap();
    // a build with its assertions is much larger itself; the queues of ten without bound are 300 MB
    let most = if cfg!(debug_assertions) { 64 << 10 } else { 6 << 10 };
    println!("the keeper of ten viewers has {kib} KiB");
    assert!(kib < most, "the keeper has {kib} KiB");
    let (got, skipped) = idle.shown(from, |at, _| at == end);
    assert!(skipped > MUCH / 2 && got.iter().all(|byte| *byte == b'x'), "{skipped} skipped");
    session.input(Bytes::from_static(b"x\n")).await.unwrap();
    assert_eq!(exit(&session).await.output_end, end);
}
