//! How fast output passes a keeper into its ring, against a loop that reads a terminal and throws
//! everything away, and what the keeper weighs meanwhile. Pairs alternate; medians are compared.
//!
//! `HAYWARD_BENCH_BYTES` sets the bytes per run (1 GiB), `HAYWARD_BENCH_PAIRS` the pairs (5).

use hayward_daemon::keeper::folder::RUN_VARIABLE;
use hayward_daemon::keeper::{Launch, Mode, RunFolder};
use hayward_daemon::session::{End, start};
use hayward_shared::id::{RunId, TaskId};
use portable_pty::{CommandBuilder, NativePtySystem, PtySize, PtySystem};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let bytes = setting("HAYWARD_BENCH_BYTES", 1 << 30)?;
    let pairs = setting("HAYWARD_BENCH_PAIRS", 5)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut bare, mut kept, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // the order alternates, so that a machine that warms up favours neither
        for bare_turn in [pair % 2 == 0, pair % 2 == 1] {
            if bare_turn {
                bare.push(rate(bytes, read_bare(bytes)?));
            } else {
                let (took, weight) = runtime.block_on(read_kept(bytes))?;
                kept.push(rate(bytes, took));
                weights.push(weight);
            }
        }
    }
    let (bare, kept) = (median(bare), median(kept));
    println!("bare {bare:.1} MB/s, keeper and ring {kept:.1} MB/s, ratio {:.3}", kept / bare);
    println!("the keeper's PSS at most {} KiB", weights.iter().max().unwrap_or(&0));
    Ok(())
}

fn setting(name: &str, otherwise: u64) -> Outcome<u64> {
    Ok(std::env::var(name).map_or(Ok(otherwise), |text| text.parse())?)
}

fn producer(bytes: u64) -> [String; 4] {
    ["head".into(), "-c".into(), bytes.to_string(), "/dev/zero".into()]
}

fn read_bare(bytes: u64) -> Outcome<Duration> {
    let began = Instant::now();
    let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
    let pair = NativePtySystem::default().openpty(size)?;
    let mut reader = pair.master.try_clone_reader()?;
    let mut command = CommandBuilder::from_argv(producer(bytes).map(Into::into).to_vec());
    command.cwd("/");
    let mut child = pair.slave.spawn_command(command)?;
    drop(pair.slave);
    let (mut buffer, mut read) = (vec![0; 64 << 10], 0);
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            len => read += len as u64,
        }
    }
    child.wait()?;
    if read != bytes {
        return Err(format!("the bare loop read {read} bytes of {bytes}").into());
    }
    Ok(began.elapsed())
}

async fn read_kept(bytes: u64) -> Outcome<(Duration, u64)> {
    let home = tempfile::tempdir()?;
    let run = RunId::fresh();
    let mut env = BTreeMap::from([(RUN_VARIABLE.to_owned(), run.to_string())]);
    env.insert("PATH".to_owned(), std::env::var("PATH")?);
    let launch = Launch {
        run,
        task: TaskId::fresh(),
        argv: producer(bytes).to_vec(),
        cwd: home.path().to_owned(),
        env,
        mode: Mode::Pty { rows: 24, cols: 80 },
        ring_bytes: 64 << 20,
        fenced: false,
    };
    let folder = RunFolder::new(home.path().join(run.to_string()));
    let began = Instant::now();
    let session = start(&folder, &launch, Path::new(env!("CARGO_BIN_EXE_hayward"))).await?;
    let mut output = session.output();
    output.wait_for(|end| *end > bytes / 2).await?;
    let weight = weight(session.keeper_pid().pid)?;
    match session.exited().await {
        Some(End::Exited(exit)) if exit.output_end == bytes && exit.drained => {}
        other => return Err(format!("the session ended as {other:?}").into()),
    }
    Ok((began.elapsed(), weight))
}

/// The proportional set size of a process, in KiB.
fn weight(pid: i32) -> Outcome<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    Ok(pss.trim().trim_end_matches(" kB").parse()?)
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}
