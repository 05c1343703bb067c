//! Branches that go on after their task let them go: completed as they stand, and told of.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

const TO_MAIN: [&str; 4] = ["--action", "merge", "--target", "main"];

fn text<'a>(task: &'a Value, field: &str) -> &'a str {
    assert!(task[field].is_string(), "no {field} in {task:#}");
    task[field].as_str().unwrap()
}

fn ended(home: &Home, repo: &ScratchRepo) -> Value {
    home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0).json()
}

/// A commit of the user's on the task's branch, the checkout back on main then.
fn go_on(repo: &ScratchRepo, branch: &str) -> String {
    repo.git(&["checkout", "-q", branch]);
    repo.write("mine", "mine\n");
    let mine = repo.commit("mine");
    repo.git(&["checkout", "-q", "main"]);
    mine
}

fn path_of(home: &Home, task: &Value) -> std::path::PathBuf {
    home.json(&["worktree", "path", id(task)])["path"].as_str().unwrap().into()
}

fn heard(home: &Home, task: &Value, head: &str) {
    until("the relay hears where the branch stands", LONG, || {
        Some(home.task(task)).filter(|task| task["headCommit"] == head)
    });
}

#[test]
fn a_branch_that_the_user_took_on_is_brought_as_it_stands() {
    for gone in [false, true] {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        let task = ended(&home, &repo);
        let mine = go_on(&repo, text(&task, "branch"));
        if gone {
            home.json(&["worktree", "prune"]);
        }
        let complete = [&["--json", "complete", id(&task)], &TO_MAIN[..]].concat();
        home.run_in(repo.path(), &complete).expect(0);
        assert_eq!(repo.git(&["rev-parse", "main"]), mine, "gone: {gone}");
        assert_eq!(repo.git(&["rev-parse", text(&task, "branch")]), mine);
        assert_eq!(fs::read_to_string(repo.path().join("mine")).unwrap(), "mine\n");
        heard(&home, &task, &mine);
    }
}

#[test]
fn a_branch_that_lost_what_the_task_made_or_left_changes_behind_is_refused_exactly() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let task = ended(&home, &repo);
    let branch = text(&task, "branch");
    let complete = |part: &str| {
        let words = [&["--json", "complete", id(&task)], &TO_MAIN[..]].concat();
        let refused = home.run_in(repo.path(), &words).expect(4).json();
        let message = refused["error"]["message"].to_string();
        assert!(message.contains(part) && message.contains(branch), "{message}");
    };
    let path = path_of(&home, &task);
    // it went on, and something lies in the worktree that it does not have
    go_on(&repo, branch);
    fs::write(path.join("late"), "late\n").unwrap();
    let before = repo.snapshot();
    complete("lie in");
    assert_eq!(repo.snapshot(), before);
    assert_eq!(fs::read_to_string(path.join("late")).unwrap(), "late\n");
    fs::remove_file(path.join("late")).unwrap();
    // it was pointed elsewhere
    repo.git(&["checkout", "-q", "-b", "side"]);
    repo.write("side", "side\n");
    let side = repo.commit("side");
    repo.git(&["checkout", "-q", "main"]);
    repo.git(&["branch", "-f", branch, &side]);
    let before = repo.snapshot();
    complete("rewritten");
    home.json(&["worktree", "prune", "--force"]);
    complete("rewritten");
    let mut after = repo.snapshot();
    let theirs = |line: &&str| !line.starts_with("refs/hayward/");
    after.refs = after.refs.lines().filter(theirs).collect::<Vec<_>>().join("\n");
    assert_eq!(after, before);
}

#[test]
fn a_branch_that_the_user_has_checked_out_is_completed_when_nothing_is_to_be_committed() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let task = ended(&home, &repo);
    repo.git(&["branch", "release"]);
    repo.git(&["checkout", "-q", text(&task, "branch")]);
    let before = repo.git(&["status", "--porcelain=v2", "--branch"]);
    let words = ["--json", "complete", id(&task), "--action", "merge", "--target", "release"];
    home.run_in(repo.path(), &words).expect(0);
    assert_eq!(repo.git(&["rev-parse", "release"]), text(&task, "headCommit"));
    assert_eq!(repo.git(&["status", "--porcelain=v2", "--branch"]), before);
}

#[test]
fn a_merge_command_moves_the_head_commit_of_its_task() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let parent = ended(&home, &repo);
    let part = home.follow(repo.path(), &[], &Script::new().write("b", "b\n")).expect(0).json();
    let done = home.json(&["merge", "start", id(&parent), text(&part, "branch")]);
    let tip = repo.git(&["rev-parse", text(&parent, "branch")]);
    assert_eq!(done["commitSha"], tip.as_str());
    assert_ne!(tip, text(&parent, "headCommit"));
    heard(&home, &parent, &tip);
    let told = home.events(&parent);
    let moved: Vec<_> = told.iter().filter(|one| one["type"] == "branch.moved").collect();
    assert_eq!(moved.len(), 1, "{told:#?}");
    assert_eq!(moved[0]["payload"]["headCommit"], tip.as_str());
}

#[test]
fn a_merge_whose_signer_takes_longer_than_a_usual_answer_is_answered_and_holds_no_look_up() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (slow, signing) = (home.file("slow"), home.file("signing"));
    let signer = home.bin().join("signer");
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\ntest -e {} && touch {} && sleep 20\n\
         echo '[GNUPG:] SIG_CREATED D 1 8 00 0 0' >&2\n\
         printf -- '-----BEGIN PGP SIGNATURE-----\\n\\nx\\n-----END PGP SIGNATURE-----\\n'\n",
        slow.display(),
        signing.display()
    );
    fs::write(&signer, script).unwrap();
    fs::set_permissions(&signer, fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("[gpg]\n\tprogram = {}\n", signer.display());
    fs::write(home.user().join(".gitconfig"), config).unwrap();
    home.configure(&format!("[repositories.\"{}\"]\nsign = true\n", repo.path().display()));
    let parent = ended(&home, &repo);
    let part = home.follow(repo.path(), &[], &Script::new().write("b", "b\n")).expect(0).json();
    fs::write(&slow, "").unwrap();
    let begun = Instant::now();
    let words = ["merge", "start", id(&parent), text(&part, "branch")];
    let done = thread::scope(|scope| {
        let merging = scope.spawn(|| home.json(&words));
        until_true("it is being signed", LONG, || signing.exists());
        let asked = Instant::now();
        let status = home.json(&["merge", "status", id(&parent)]);
        assert_eq!(status["type"], "mergeStatusResponse", "{status}");
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        assert!(!merging.is_finished());
        merging.join().unwrap()
    });
    assert!(begun.elapsed().as_secs() >= 20, "{:?}", begun.elapsed());
    let tip = repo.git(&["rev-parse", text(&parent, "branch")]);
    assert_eq!(done["commitSha"], tip.as_str());
    let written = repo.git(&["cat-file", "commit", &tip]);
    assert!(written.contains("gpgsig -----BEGIN PGP SIGNATURE-----"), "{written}");
}
