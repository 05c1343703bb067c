//! Worktrees against the git command line and against plain writing: made, claimed, removed, ten at
//! once. Ours and the peer's turns alternate; the median of the ratios of one run is what counts.
//!
//! `HAYWARD_BENCH_SIZES` sets the numbers of files (1000,20000,90000), `HAYWARD_BENCH_ROUNDS` the
//! rounds (4, or 2 where they take long), `HAYWARD_BENCH_TENS` how often ten are made at once
//! (50). Each result is a line `RESULT`, what, figure, limit and verdict, parted by tabs.
//!
//! The user's checkout is one that stood for a while: git looked at it after its files were written,
//! so that its index is younger than they are. "Objects alone" is the same commit in a repository
//! without a checkout, where nothing can be copied.
//!
//! Nothing is removed before all is made: ext4 without a journal looks, one by one, at inodes that were
//! freed in the last six minutes before it passes them over, and who makes files then waits for that,
//! by turns this one or the other. So a size needs room for six copies of its files a round until the
//! end, and nothing large should have been deleted on the disk shortly before.

use hayward_daemon::git::pool::Terms;
use hayward_daemon::git::worktree::{NewWorktree, Yard};
use hayward_daemon::git::{BranchName, CommitId, Pool, Repositories, Repository};
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The files of one folder: what a package of a large repository holds.
const PER_FOLDER: usize = 50;

/// From this size on a ratio of claim and removal has a limit: below, git is quick itself.
const LARGE: usize = 20_000;

/// Once the rounds of a size took so long, no other begins, unless their number was asked for.
const PATIENCE: Duration = Duration::from_secs(90);

/// In which order a round takes its turns: each order is followed by the same one backwards, so that
/// a disk that tires, or memory that fills, favours none.
const ORDERS: [[u8; 5]; 4] = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [3, 1, 4, 0, 2]];

/// So long after its files were written an index that is written knows that they are older.
const SETTLED: Duration = Duration::from_millis(1_100);

fn main() -> Outcome<()> {
    let sizes = std::env::var("HAYWARD_BENCH_SIZES").unwrap_or("1000,20000,90000".to_owned());
    let asked = std::env::var_os("HAYWARD_BENCH_ROUNDS").is_some();
    let rounds = number("HAYWARD_BENCH_ROUNDS", ORDERS.len())?;
    let patience = if asked { Duration::MAX } else { PATIENCE };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut scenes = Vec::new();
    for size in sizes.split(',') {
        let files: usize = size.trim().parse()?;
        let scene = Scene::build(files)?;
        runtime.block_on(measure(&scene, rounds, patience))?;
        scenes.push(scene);
    }
    let tens = number("HAYWARD_BENCH_TENS", 50)?;
    for scene in scenes.iter().filter(|scene| scene.files < LARGE) {
        runtime.block_on(ten_at_once(scene, tens))?;
    }
    Ok(())
}

fn number(name: &str, otherwise: usize) -> Outcome<usize> {
    Ok(std::env::var(name).map_or(Ok(otherwise), |text| text.parse())?)
}

/// A generated repository and the yard beside it.
struct Scene {
    files: usize,
    folder: tempfile::TempDir,
    contents: Vec<(String, Vec<u8>)>,
}

impl Scene {
    fn build(files: usize) -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("hayward-bench-").tempdir()?;
        let mut dice = 0x2545_f491_4f6c_dd1d_u64;
        let contents: Vec<(String, Vec<u8>)> = (0..files)
            .map(|file| {
                let name = format!("part{}/file{file}.txt", file / PER_FOLDER);
                // between 1 and 25 KiB of text that packs to about half
                let length = 1_024 + (roll(&mut dice) % 24_576) as usize;
                let text = (0..length / 16).map(|_| format!("{:016x}", roll(&mut dice)));
                (name, text.collect::<String>().into_bytes())
            })
            .collect();
        let scene = Self { files, folder, contents };
        scene.write(&scene.user(), 0)?;
        fs::create_dir(scene.yard())?;
        let identity = ["-c", "user.name=Bench", "-c", "user.email=bench@localhost"];
        scene.git(&["init", "-q", "-b", "main"])?;
        // no clean-up of git's own begins in the middle of a measurement
        scene.git(&["config", "gc.auto", "0"])?;
        // straight into a pack: ninety thousand loose objects take minutes
        scene.git(&["-c", "core.bigFileThreshold=1", "add", "."])?;
        scene.git(&[&identity[..], &["commit", "-qm", "base"]].concat())?;
        // a large repository is packed, or git itself packs it on the first occasion; there is
        // nothing alike in these files, so it need not be looked for
        scene.git(&["-c", "pack.window=0", "gc", "-q"])?;
        let bare = scene.bare().to_string_lossy().into_owned();
        scene.git(&["clone", "-q", "--bare", "--local", ".", &bare])?;
        std::thread::sleep(SETTLED);
        scene.git(&["status", "--porcelain"])?;
        Ok(scene)
    }

    fn user(&self) -> PathBuf {
        self.folder.path().join("user")
    }

    fn bare(&self) -> PathBuf {
        self.folder.path().join("bare.git")
    }

    fn yard(&self) -> PathBuf {
        self.folder.path().join("yard")
    }

    fn git(&self, words: &[&str]) -> Outcome<()> {
        let done = Command::new("git").args(words).current_dir(self.user()).output()?;
        if done.status.success() {
            return Ok(());
        }
        Err(format!("git {words:?}: {}", String::from_utf8_lossy(&done.stderr)).into())
    }

    /// Writes the very files with so many threads beside this one.
    fn write(&self, to: &Path, threads: usize) -> Outcome<()> {
        fs::create_dir_all(to)?;
        for part in 0..self.files.div_ceil(PER_FOLDER) {
            fs::create_dir(to.join(format!("part{part}")))?;
        }
        let share = self.contents.len().div_ceil(threads + 1);
        std::thread::scope(|scope| {
            let writers: Vec<_> = self
                .contents
                .chunks(share)
                .map(|share| scope.spawn(move || write_all(to, share)))
                .collect();
            writers.into_iter().try_for_each(|writer| {
                writer.join().map_err(|_| "a writer broke")?.map_err(Into::into)
            })
        })
    }

    fn pool(&self, places: usize) -> Repositories {
        let yard = Yard::new(self.yard());
        Repositories::with_pool(Pool::new(Terms { yard, places, budget: u64::MAX }))
    }

    fn wanted(&self, name: &str, commit: &CommitId) -> NewWorktree {
        let branch = Some(BranchName::for_task(name, "0badcafe"));
        NewWorktree { path: self.yard().join(name), commit: commit.clone(), branch }
    }
}

fn write_all(to: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    files.iter().try_for_each(|(name, bytes)| fs::write(to.join(name), bytes))
}

fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

/// Times of one round.
#[derive(Default)]
struct Round {
    git: Duration,
    written: Duration,
    cold: Duration,
    unpacked: Duration,
    claim: Duration,
    git_removal: Duration,
    removal: Duration,
}

async fn measure(scene: &Scene, rounds: usize, patience: Duration) -> Outcome<()> {
    let all = scene.pool(1);
    let repository = all.open(&scene.user()).await?;
    let commit = repository.resolve("main").await?;
    // hot, and with a place ready
    repository.provide(scene.wanted("warm", &commit)).await?;
    let bare = all.open(&scene.bare()).await?;
    let mut measured = Vec::new();
    let begun = Instant::now();
    for round in 0..rounds {
        // never one order without the same backwards
        if round > 0 && round % 2 == 0 && begun.elapsed() > patience {
            break;
        }
        measured.push(made(scene, &all, [&repository, &bare], &commit, round).await?);
    }
    for (round, times) in measured.iter_mut().enumerate() {
        removed(scene, &repository, round, times).await?;
    }
    let files = scene.files;
    let ratio = |of: fn(&Round) -> f64| median(measured.iter().map(of).collect());
    println!("{files} files, {} rounds, ms (medians):", measured.len());
    let ms = |of: fn(&Round) -> Duration| {
        median(measured.iter().map(|round| of(round).as_secs_f64() * 1_000.0).collect())
    };
    println!(
        "  git worktree add {:.0}, two writers {:.0}, made {:.0}, of objects alone {:.0}, claimed {:.1}, \
         git worktree remove {:.0}, removed {:.1}",
        ms(|round| round.git),
        ms(|round| round.written),
        ms(|round| round.cold),
        ms(|round| round.unpacked),
        ms(|round| round.claim),
        ms(|round| round.git_removal),
        ms(|round| round.removal),
    );
    result(&format!("made / two writers, {files} files"), ratio(|r| over(r.cold, r.written)), 1.5);
    result(&format!("made / git worktree add, {files} files"), ratio(|r| over(r.cold, r.git)), 1.0);
    let unpacked = ratio(|r| over(r.unpacked, r.git));
    result(&format!("made of objects alone / git worktree add, {files} files"), unpacked, 1.0);
    if files >= LARGE {
        let claim = ratio(|r| over(r.claim, r.git));
        result(&format!("claimed / git worktree add, {files} files"), claim, 0.02);
        let removal = ratio(|r| over(r.removal, r.git_removal));
        result(&format!("removed / git worktree remove, {files} files"), removal, 0.1);
    }
    Ok(())
}

/// Where a round puts what is made by whom.
fn places(scene: &Scene, round: usize) -> [PathBuf; 5] {
    ["theirs", "plain", "made", "unpacked", "claimed"]
        .map(|whose| scene.yard().join(format!("{whose}-{round}")))
}

async fn made(
    scene: &Scene,
    all: &Repositories,
    [repository, bare]: [&Repository; 2],
    commit: &CommitId,
    round: usize,
) -> Outcome<Round> {
    let mut times = Round::default();
    let [theirs, plain, made, unpacked, claimed] = places(scene, round);
    let wanted = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        scene.wanted(&name, commit)
    };
    let branch = format!("peer/{round}");
    let path = theirs.to_string_lossy().into_owned();
    let add = ["worktree", "add", "-q", "--no-track", "-b", &branch, &path, "main"];
    all.refill().await;
    for step in ORDERS[round % ORDERS.len()] {
        nix::unistd::sync();
        let begun = Instant::now();
        match step {
            0 => {
                scene.git(&add)?;
                times.git = begun.elapsed();
            }
            1 => {
                scene.write(&plain, 1)?;
                times.written = begun.elapsed();
            }
            2 => {
                repository.create(wanted(made.clone())).await?;
                times.cold = begun.elapsed();
            }
            3 => {
                bare.create(wanted(unpacked.clone())).await?;
                times.unpacked = begun.elapsed();
            }
            _ => {
                repository.provide(wanted(claimed.clone())).await?;
                times.claim = begun.elapsed();
            }
        }
    }
    let claims = all.pool().report().repositories.first().map_or(0, |one| one.claims);
    if claims != round as u64 + 1 {
        return Err(format!("the pool was not used: {:?}", all.pool().report()).into());
    }
    Ok(times)
}

/// Removes what git made in a round, and what was made here.
async fn removed(
    scene: &Scene,
    repository: &Repository,
    round: usize,
    times: &mut Round,
) -> Outcome<()> {
    let [theirs, _, made, ..] = places(scene, round);
    nix::unistd::sync();
    let begun = Instant::now();
    scene.git(&["worktree", "remove", &theirs.to_string_lossy()])?;
    times.git_removal = begun.elapsed();
    let begun = Instant::now();
    repository.remove(&made).await?;
    times.removal = begun.elapsed();
    Ok(())
}

/// Ten made at once without the pool, against ten made by git one after the other.
async fn ten_at_once(scene: &Scene, tens: usize) -> Outcome<()> {
    let all = scene.pool(0);
    let repository = all.open(&scene.user()).await?;
    let commit = repository.resolve("main").await?;
    let trash = scene.pool(1);
    let (mut ratios, mut failures) = (Vec::new(), 0);
    for round in 0..tens {
        // the peer is slow: a few rounds of it are enough for the ratio
        let peer = if round < 5 { Some(ten_by_git(scene, round)?) } else { None };
        nix::unistd::sync();
        let begun = Instant::now();
        let mut making = tokio::task::JoinSet::new();
        for one in 0..10 {
            let (repository, name) = (repository.clone(), format!("ten-{round}-{one}"));
            let new = scene.wanted(&name, &commit);
            making.spawn(async move { repository.create(new).await });
        }
        let mut made = Vec::new();
        while let Some(one) = making.join_next().await {
            match one? {
                Ok(worktree) => made.push(worktree),
                Err(cause) => {
                    eprintln!("{cause}");
                    failures += 1;
                }
            }
        }
        let ours = begun.elapsed();
        ratios.extend(peer.map(|peer| over(ours, peer)));
        for worktree in made {
            repository.remove(&worktree.path).await?;
            if let Some(branch) = worktree.branch {
                repository.drop_branch(&branch.name, &commit).await?;
            }
        }
        trash.empty_trash().await;
    }
    let what = format!("ten at once / ten by git in turn, {} files", scene.files);
    result(&what, median(ratios), 0.75);
    let verdict = if failures == 0 { "holds" } else { "MISSED" };
    println!("RESULT\tfailures in {tens} rounds of ten at once\t{failures}\t0\t{verdict}");
    Ok(())
}

fn ten_by_git(scene: &Scene, round: usize) -> Outcome<Duration> {
    let names: Vec<(String, String)> = (0..10)
        .map(|one| {
            let path = scene.yard().join(format!("git-{one}")).to_string_lossy().into_owned();
            (path, format!("ten/{round}-{one}"))
        })
        .collect();
    nix::unistd::sync();
    let begun = Instant::now();
    for (path, branch) in &names {
        scene.git(&["worktree", "add", "-q", "--no-track", "-b", branch, path, "main"])?;
    }
    let took = begun.elapsed();
    for (path, _) in &names {
        scene.git(&["worktree", "remove", "--force", path])?;
    }
    Ok(took)
}

fn over(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn result(what: &str, ratio: f64, limit: f64) {
    let verdict = if ratio <= limit { "holds" } else { "MISSED" };
    println!("RESULT\t{what}\t{ratio:.4}x\t<= {limit}x\t{verdict}");
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let middle = |at: usize| all.get(at).copied().unwrap_or_default();
    (middle(all.len() / 2) + middle(all.len().saturating_sub(1) / 2)) / 2.0
}
