//! A preview of a merge of 50 and 50 files on 20,000, against `git merge-tree --write-tree` as a
//! process and against checkout plus merge in a ready work tree; medians of rounds in turn.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use hayward_daemon::git::{CommitId, Repositories};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: usize = 20_000;
const CHANGED: usize = 50;
const ROUNDS: usize = 41;

fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", folder).current_dir(folder);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

fn run(folder: &Path, words: &[&str]) -> String {
    let output = git(folder).args(words).output().unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Base, ours and theirs: each side changes lines of its own fifty files.
fn import(folder: &Path) {
    let mut stream = Vec::new();
    let name = |file: usize| format!("part{}/deep{}/file{file}.txt", file / 500, file / 50);
    let text = |file: usize, word: &str| -> String {
        (0..40).map(|line| format!("line {line} of {file} {word}\n")).collect()
    };
    let head = |branch: &str, mark: u8, from: &str| {
        format!(
            "commit refs/heads/{branch}\nmark :{mark}\ncommitter A <a@b> 1700000000 +0000\ndata 1\nc\n{from}"
        )
    };
    stream.extend_from_slice(head("main", 1, "").as_bytes());
    let put = |stream: &mut Vec<u8>, file: usize, word: &str| {
        let text = text(file, word);
        let line = format!("M 100644 inline {}\ndata {}\n{text}\n", name(file), text.len());
        stream.extend_from_slice(line.as_bytes());
    };
    (0..FILES).for_each(|file| put(&mut stream, file, "base"));
    for (branch, mark, first) in [("ours", 2, 0), ("theirs", 3, FILES / 2)] {
        stream.extend_from_slice(head(branch, mark, "from :1\n").as_bytes());
        (0..CHANGED).for_each(|file| put(&mut stream, first + file * 100, branch));
    }
    let mut child =
        git(folder).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&stream).unwrap();
    assert!(child.wait().unwrap().success());
}

fn median(mut spans: Vec<Duration>) -> f64 {
    spans.sort_unstable();
    spans[spans.len() / 2].as_secs_f64() * 1000.0
}

fn main() {
    let room = tempfile::tempdir().unwrap();
    let folder = room.path().join("repository");
    std::fs::create_dir(&folder).unwrap();
    run(&folder, &["init", "-q", "-b", "main"]);
    for (key, value) in [("user.name", "A"), ("user.email", "a@b")] {
        run(&folder, &["config", key, value]);
    }
    import(&folder);
    run(&folder, &["checkout", "-q", "--detach", "main"]);
    let tip = |name: &str| run(&folder, &["rev-parse", name]).parse::<CommitId>().unwrap();
    let (ours, theirs) = (tip("ours"), tip("theirs"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let repository = runtime.block_on(Repositories::default().open(&folder)).unwrap();
    let (mut previews, mut trees, mut merges) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begin = Instant::now();
        let preview = runtime.block_on(repository.preview(&ours, &theirs)).unwrap();
        previews.push(begin.elapsed());
        assert!(preview.trial.is_clean && preview.changed_files.len() == CHANGED);
        let begin = Instant::now();
        run(&folder, &["merge-tree", "--write-tree", ours.as_str(), theirs.as_str()]);
        trees.push(begin.elapsed());
        // the slow one needs fewer rounds
        if round % 4 == 0 {
            let begin = Instant::now();
            run(&folder, &["checkout", "-q", "--detach", ours.as_str()]);
            run(&folder, &["merge", "-q", "--no-edit", theirs.as_str()]);
            merges.push(begin.elapsed());
            run(&folder, &["checkout", "-q", "--detach", "main"]);
        }
    }
    let (preview, tree, merge) = (median(previews), median(trees), median(merges));
    println!("preview {preview:.2} ms, merge-tree {tree:.2} ms, checkout and merge {merge:.1} ms");
    println!("ratio to merge-tree {:.2}", preview / tree);
    println!("ratio to checkout and merge {:.3}", preview / merge);
}
