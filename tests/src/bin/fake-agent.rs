//! An agent that does exactly what its script says: `fake-agent JSON` or `fake-agent FILE`.

use hayward_tests::pattern;
use hayward_tests::process::Process;
use hayward_tests::script::Step;
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, setsid};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

type Done = Result<(), Box<dyn Error>>;

/// How often a file is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A gate that stays shut this long means that the test is gone: no test lives as long.
const SHUT: Duration = Duration::from_secs(900);

/// What a child that outlives its agent lasts, when nobody ends it.
const CHILD: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_default();
    if first == "--version" {
        println!("fake-agent 1");
        return ExitCode::SUCCESS;
    }
    if first == "--child" {
        return outlive(arguments.next().as_deref() == Some("own-session"));
    }
    match steps(&first).and_then(|steps| steps.iter().try_for_each(play)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-agent: {error}");
            ExitCode::from(97)
        }
    }
}

fn steps(argument: &str) -> Result<Vec<Step>, Box<dyn Error>> {
    let text = match argument.starts_with('[') {
        true => argument.to_owned(),
        false => fs::read_to_string(argument)?,
    };
    Ok(serde_json::from_str(&text)?)
}

fn outlive(own_session: bool) -> ExitCode {
    if own_session && setsid().is_err() {
        return ExitCode::FAILURE;
    }
    sleep(CHILD);
    ExitCode::SUCCESS
}

fn play(step: &Step) -> Done {
    match step {
        Step::Sign { ledger } => {
            let own = i32::try_from(std::process::id())?;
            let own = Process::of(own).ok_or("no such process")?;
            append(ledger, &format!("start {} {}\n", own.pid, own.start))
        }
        Step::Print { text } => say(text.as_bytes(), text.len()),
        Step::Lines { seed, count, chunk } => say(&pattern::lines(*seed, *count), *chunk),
        Step::Odd { times, chunk } => say(&pattern::ODD.repeat(*times), *chunk),
        Step::Stream { ledger, until } => stream(ledger, until),
        Step::Await { file } => wait_for(file),
        Step::Linger { ms } => {
            sleep(Duration::from_millis(*ms));
            Ok(())
        }
        Step::Write { path, text } => write(path, text.as_bytes()),
        Step::Blob { path, bytes } => write(path, &pattern::lines(*bytes as u64, *bytes)),
        Step::Append { path, text } => append(path, text),
        Step::Delete { path } => Ok(fs::remove_file(path)?),
        Step::Commit { message } => {
            shell("git add -A")?;
            let done = Command::new("git").args(["commit", "-q", "-m", message]).status()?;
            if done.success() { Ok(()) } else { std::process::exit(98) }
        }
        Step::Shell { line } => shell(line),
        Step::Children { count, own_session, ledger } => children(*count, *own_session, ledger),
        Step::Stubborn => stubborn(),
        Step::Raw => raw(),
        Step::Read { count, file } => read(*count, file),
        Step::Environment { file } => {
            let all: BTreeMap<String, String> = std::env::vars().collect();
            write(file, serde_json::to_string(&all)?.as_bytes())
        }
        Step::Exit { code } => std::process::exit(*code),
        Step::Die { signal } => {
            let signal = Signal::try_from(*signal)?;
            raise(signal)?;
            // a stop is survived
            Ok(())
        }
    }
}

fn say(bytes: &[u8], chunk: usize) -> Done {
    let mut out = File::from(stdout()?);
    for part in bytes.chunks(chunk.max(1)) {
        out.write_all(part)?;
    }
    Ok(())
}

/// Standard output without the buffer that would join what is printed apart.
fn stdout() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    io::stdout().as_fd().try_clone_to_owned()
}

fn stream(ledger: &Path, until: &Path) -> Done {
    let begin = Instant::now();
    let mut ledger = OpenOptions::new().create(true).append(true).open(ledger)?;
    for number in 0_u64.. {
        let line = format!("{number:08} of {}\n", std::process::id());
        ledger.write_all(line.as_bytes())?;
        say(line.as_bytes(), 7)?;
        if until.exists() || begin.elapsed() > SHUT {
            break;
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn wait_for(file: &Path) -> Done {
    let begin = Instant::now();
    while !file.exists() {
        if begin.elapsed() > SHUT {
            std::process::exit(99);
        }
        sleep(LOOK);
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Done {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, bytes)?)
}

/// One write for one line, so that the lines of several agents do not mix.
fn append(path: &Path, text: &str) -> Done {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

fn shell(line: &str) -> Done {
    let done = Command::new("sh").args(["-c", line]).status()?;
    if done.success() { Ok(()) } else { std::process::exit(98) }
}

fn children(count: u32, own_session: u32, ledger: &Path) -> Done {
    for number in 0..count {
        let how = if number < own_session { "own-session" } else { "same" };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--child", how]).stdin(Stdio::null());
        let pid = i32::try_from(command.spawn()?.id())?;
        if number < own_session {
            let left = || nix::unistd::getsid(Some(Pid::from_raw(pid))) == Ok(Pid::from_raw(pid));
            let begin = Instant::now();
            while !left() && begin.elapsed() < SHUT {
                sleep(LOOK);
            }
        }
        let child = Process::of(pid).ok_or("the child is gone")?;
        append(ledger, &format!("start {} {}\n", child.pid, child.start))?;
    }
    Ok(())
}

/// Blocks what asks a process to end. A blocked signal stays pending and does nothing.
fn stubborn() -> Done {
    use nix::sys::signal::SigSet;
    let mut set = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        set.add(signal);
    }
    Ok(set.thread_block()?)
}

fn raw() -> Done {
    let input = io::stdin();
    let mut mode = tcgetattr(&input)?;
    cfmakeraw(&mut mode);
    Ok(tcsetattr(&input, SetArg::TCSANOW, &mode)?)
}

fn read(count: usize, file: &Path) -> Done {
    let mut all = Vec::new();
    let mut input = File::from(std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?);
    let mut part = [0; 4096];
    while all.len() < count {
        let got = input.read(&mut part)?;
        if got == 0 {
            break;
        }
        all.extend_from_slice(&part[..got]);
    }
    write(file, &all)
}
