//! Work brought home by merge or pull request, judged by the refs and trees that result.

use hayward_tests::home::{Home, id};
use hayward_tests::process::Process;
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

const MERGE: [&str; 4] = ["--on", "merge", "--target", "main"];

/// A bare repository that plays the forge's, and a user whose configuration leads there.
pub(crate) struct Forge {
    folder: tempfile::TempDir,
}

impl Forge {
    pub(crate) fn new(home: &Home, repo: &ScratchRepo) -> Self {
        let forge = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(forge.bare()).unwrap();
        forge.git(&["init", "-q", "--bare", "-b", "main"]);
        let config = format!(
            "[url \"{}/\"]\n\tinsteadOf = https://github.com/\n",
            forge.folder.path().display()
        );
        fs::write(home.user().join(".gitconfig"), config).unwrap();
        repo.git(&["push", "-q", forge.bare().to_str().unwrap(), "main"]);
        repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
        forge
    }

    fn bare(&self) -> PathBuf {
        self.folder.path().join("o/r.git")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = git(&self.bare()).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn branches(&self) -> String {
        self.git(&["for-each-ref", "--format=%(refname:short)", "refs/heads/hayward"])
    }
}

pub(crate) fn program(home: &Home, name: &str, script: &str) {
    let path = home.bin().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn text<'a>(task: &'a Value, field: &str) -> &'a str {
    assert!(task[field].is_string(), "no {field} in {task:#}");
    task[field].as_str().unwrap()
}

#[test]
fn a_merge_goes_into_the_clean_checkout_that_has_the_target() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let base = repo.git(&["rev-parse", "main"]);
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &MERGE, &script).expect(0).json();
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&task, "headCommit"));
    assert_eq!(repo.git(&["rev-parse", "main^"]), base);
    assert_eq!(fs::read_to_string(repo.path().join("new")).unwrap(), "new\n");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    // a second one, made at the same time as something else went in, makes a merge commit
    let gate = home.file("gate");
    let slow = Script::new().write("second", "2\n").wait_for(&gate);
    let running = home.submit(repo.path(), &MERGE, &slow);
    home.reaches(&running, "running");
    repo.write("mine", "mine\n");
    let mine = repo.commit("mine");
    home.open_gate("gate");
    let task = home.reaches(&running, "completed");
    let parents = repo.git(&["rev-list", "--parents", "-n1", "main"]);
    let parents: Vec<_> = parents.split(' ').skip(1).collect();
    assert_eq!(parents, [mine.as_str(), text(&task, "headCommit")]);
    assert_eq!(fs::read_to_string(repo.path().join("second")).unwrap(), "2\n");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    assert_eq!(repo.git(&["fsck", "--strict"]), "");
}

#[test]
fn f20_a_checkout_with_changes_is_never_merged_into() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.in_use();
    repo.write("new", "mine, untracked\n");
    let before = repo.snapshot();
    let script = Script::new().write("new", "theirs\n");
    let task = home.follow(repo.path(), &MERGE, &script).expect(7).json();
    assert_eq!((&task["status"], &task["reason"]), (&"failed".into(), &"target_in_the_way".into()));
    let message = text(&task, "errorMessage");
    assert!(message.contains("new") || message.contains("README"), "{message}");
    assert_eq!(repo.snapshot(), before);
    // the work is not lost
    let branch = text(&task, "branch");
    assert_eq!(repo.git(&["show", &format!("{branch}:new")]), "theirs");
}

#[test]
fn a_conflicting_merge_moves_nothing_and_names_the_files() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let gate = home.file("gate");
    let script = Script::new().write("README", "theirs\n").wait_for(&gate);
    let running = home.submit(repo.path(), &MERGE, &script);
    home.reaches(&running, "running");
    repo.write("README", "mine\n");
    repo.commit("mine");
    let before = repo.snapshot();
    home.open_gate("gate");
    let task = home.reaches(&running, "failed");
    assert_eq!(task["reason"], "merge_conflict");
    assert!(text(&task, "errorMessage").contains("README"));
    assert_eq!(repo.snapshot(), before);
    assert_eq!(repo.git(&["show", &format!("{}:README", text(&task, "branch"))]), "theirs");
    assert!(!repo.path().join(".git/MERGE_HEAD").exists());
}

#[test]
fn an_unknown_target_fails_by_its_name() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let script = Script::new().write("a", "a\n");
    let words = ["--on", "merge", "--target", "nowhere"];
    let task = home.follow(repo.path(), &words, &script).expect(7).json();
    assert_eq!(task["reason"], "target_not_found");
    assert!(text(&task, "errorMessage").contains("'nowhere'"), "{task:#}");
}

#[test]
fn a_pull_request_is_pushed_and_opened_once() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&home, &repo);
    let said = home.file("said");
    program(
        &home,
        "gh",
        &format!(
            "echo \"$@\" >> {0}\ncase \"$2\" in\nlist) grep -q 'pr create' {0} && \
             echo '[{{\"url\":\"https://github.com/o/r/pull/7\"}}]' || echo '[]';;\n\
             create) echo https://github.com/o/r/pull/7;;\nesac",
            said.display()
        ),
    );
    let before = repo.snapshot();
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &["--on", "pr"], &script).expect(0).json();
    assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7");
    let branch = text(&task, "branch");
    assert_eq!(forge.git(&["rev-parse", branch]), text(&task, "headCommit"));
    assert_eq!(repo.snapshot(), before, "no remote-tracking ref, no configuration");
    let said = fs::read_to_string(said).unwrap();
    assert!(said.contains("--base main") && said.contains(&format!("--head {branch}")), "{said}");
}

#[test]
fn f57_no_commit_no_push_and_no_pull_request_are_three_different_ends() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let work = Script::new().write("new", "new\n");
    let run = |options: &[&str], script: &Script| {
        let options = [&["--on", "pr"], options].concat();
        home.follow(repo.path(), &options, script).expect(7).json()
    };
    let none = run(&["--require-changes"], &Script::new());
    assert_eq!(none["reason"], "no_changes");
    let unpushed = run(&[], &work);
    assert_eq!(unpushed["reason"], "push_failed");
    assert!(text(&unpushed, "errorMessage").contains("no remote"), "{unpushed:#}");
    let forge = Forge::new(&home, &repo);
    let unopened = run(&[], &work);
    assert_eq!(unopened["reason"], "pull_request_failed");
    let message = text(&unopened, "errorMessage");
    assert!(message.contains("https://github.com/o/r/compare/main..."), "{message}");
    assert!(message.contains("gh pr create"), "{message}");
    assert_eq!(forge.branches(), text(&unopened, "branch"));
}

#[test]
fn f48_a_key_that_the_agent_committed_is_not_pushed_even_if_it_took_it_out_again() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&home, &repo);
    let key = "AKIAIOSFODNN7EXAMPLF";
    let command = format!(
        "printf 'aws_secret = \"{key}\"\\naws_key=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\\n' > conf; \
         printf -- '-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ==\\n-----END OPENSSH PRIVATE KEY-----\\n' > id; \
         git add -A; git commit -qm planted; git rm -q conf id; git commit -qm gone; echo x > x"
    );
    let words = ["run", "--json", "--on", "pr", "--", "sh", "-c", &command];
    let task = home.run_in(repo.path(), &words).expect(7).json();
    assert_eq!(task["reason"], "secrets_exposed", "{task:#}");
    assert!(text(&task, "errorMessage").contains("id"), "{task:#}");
    assert_eq!(forge.branches(), "");
    assert!(repo.git(&["rev-parse", text(&task, "branch")]).len() == 40);
}

#[test]
fn f52_an_absent_key_and_a_silent_host_fail_a_push_within_30_s_and_leave_no_process() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let pid = home.file("pid");
    // an ssh that waits for a passphrase that never comes
    program(&home, "ssh", &format!("echo $$ > {}; exec sleep 600", pid.display()));
    repo.git(&["remote", "add", "origin", "git@example.invalid:o/r.git"]);
    let begun = Instant::now();
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &["--on", "pr"], &script).expect(7).json();
    assert!(begun.elapsed().as_secs() < 45, "{:?}", begun.elapsed());
    assert_eq!(task["reason"], "push_failed");
    assert!(text(&task, "errorMessage").contains("30 s"), "{task:#}");
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "the ssh lives");
    program(&home, "ssh", "echo 'Permission denied (publickey).' >&2; exit 255");
    let task = home.follow(repo.path(), &["--on", "pr"], &script).expect(7).json();
    assert!(text(&task, "errorMessage").contains("Permission denied"), "{task:#}");
}

#[test]
fn f52_a_signer_that_never_answers_fails_the_commit_within_30_s() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let pid = home.file("pid");
    program(&home, "slow-gpg", &format!("echo $$ > {}; exec sleep 600", pid.display()));
    let config = format!("[gpg]\n\tprogram = {}\n", home.bin().join("slow-gpg").display());
    fs::write(home.user().join(".gitconfig"), config).unwrap();
    home.configure(&format!("[repositories.\"{}\"]\nsign = true\n", repo.path().display()));
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &[], &script).expect(7).json();
    assert_eq!(task["reason"], "commit_failed");
    assert!(text(&task, "errorMessage").contains("signed"), "{task:#}");
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "the signer lives");
}

#[test]
fn f43_a_signer_or_ssh_that_the_repository_names_never_runs() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&home, &repo);
    let fired = home.file("fired");
    program(&home, "canary", &format!("echo $0 >> {}; exit 1", fired.display()));
    let canary = home.bin().join("canary");
    let canary = canary.to_str().unwrap();
    for key in [
        "core.sshCommand",
        "credential.helper",
        "remote.origin.receivepack",
        "gpg.program",
        "core.askPass",
        "remote.origin.uploadpack",
        "core.gitProxy",
    ] {
        repo.git(&["config", key, canary]);
    }
    repo.git(&["config", "commit.gpgSign", "true"]);
    fs::create_dir_all(repo.path().join(".git/hooks")).unwrap();
    for hook in ["pre-push", "pre-commit", "post-commit", "reference-transaction", "post-merge"] {
        fs::copy(canary, repo.path().join(".git/hooks").join(hook)).unwrap();
    }
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &["--on", "pr"], &script).expect(7).json();
    assert_eq!(task["reason"], "pull_request_failed", "{task:#}");
    assert_eq!(forge.branches(), text(&task, "branch"));
    let script = Script::new().write("other", "other\n");
    home.follow(repo.path(), &MERGE, &script).expect(0);
    assert!(!fired.exists(), "{}", fs::read_to_string(&fired).unwrap());
}

#[test]
fn f26_inert_hooks_are_named_and_a_hook_that_runs_can_block_the_commit() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let hook = repo.path().join(".git/hooks/pre-commit");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, "#!/bin/sh\necho lint says no >&2\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    let events = home.events(&task);
    let committed = events.iter().find(|event| event["type"] == "work.committed").unwrap();
    assert_eq!(committed["payload"]["inertHooks"], serde_json::json!(["pre-commit"]));
    home.run(&["down"]).expect(0);
    home.configure(&format!("[repositories.\"{}\"]\nhooks = \"run\"\n", repo.path().display()));
    let task = home.follow(repo.path(), &[], &script).expect(7).json();
    assert_eq!(task["reason"], "commit_failed");
    assert!(text(&task, "errorMessage").contains("lint says no"), "{task:#}");
}

#[test]
fn a_finished_task_is_merged_by_request_and_taken_back() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let before = repo.git(&["rev-parse", "main"]);
    let task = home.follow(repo.path(), &[], &Script::new().write("new", "new\n")).expect(0);
    let task = task.json();
    let complete = |words: &[&str], code| {
        home.run_in(repo.path(), &[&["--json", "complete", id(&task)], words].concat()).expect(code)
    };
    // in the way: nothing moves
    repo.write("README", "edited\n");
    let held = repo.snapshot();
    let refused = complete(&["--action", "merge", "--target", "main"], 4).json();
    assert_eq!(refused["error"]["code"], "conflict");
    assert_eq!(repo.snapshot(), held);
    repo.git(&["checkout", "-q", "README"]);
    let done = complete(&["--action", "merge", "--target", "main"], 0).json();
    assert_eq!((&done["type"], &done["success"]), (&"completionActionResult".into(), &true.into()));
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&task, "headCommit"));
    assert!(repo.path().join("new").exists());
    // again: it is there already, nothing moves
    complete(&["--action", "merge", "--target", "main"], 0);
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&task, "headCommit"));
    let told = home.events(&task);
    assert!(told.iter().any(|event| event["type"] == "merge.result"), "{told:#?}");
    complete(&["--action", "merge", "--target", "nowhere"], 3);
    complete(&["--undo", "--action", "merge"], 2);
    let other = home.follow(repo.path(), &MERGE, &Script::new().write("b", "b\n")).expect(0).json();
    home.run_in(repo.path(), &["complete", id(&other), "--undo"]).expect(0);
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&task, "headCommit"));
    assert!(!repo.path().join("b").exists());
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    assert_ne!(repo.git(&["rev-parse", "main"]), before);
}

#[test]
fn a_merge_that_others_built_on_is_not_taken_back() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let script =
        Script::new().write("a", "a\n").shell("git add a && git commit -qm a").write("b", "b\n");
    let task = home.follow(repo.path(), &MERGE, &script).expect(0).json();
    repo.write("mine", "mine\n");
    let mine = repo.commit("mine");
    let refused = home.run_in(repo.path(), &["--json", "complete", id(&task), "--undo"]).expect(4);
    assert_eq!(repo.git(&["rev-parse", "main"]), mine);
    // what it advises takes back all of it: the landing was a fast-forward
    let refused = refused.json();
    let advice = text(&refused["error"], "message").split('`').nth(1).unwrap();
    let words: Vec<_> = advice.split(' ').skip(1).chain(["--no-edit"]).collect();
    repo.git(&words);
    assert_eq!(repo.git(&["ls-files"]), ".gitignore\nREADME\nmine", "{advice}");
}

#[test]
fn a_revision_is_no_target() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let before = repo.snapshot();
    let script = Script::new().sign(home.file("starts")).write("a", "a\n");
    let described = format!("main-0-g{}", repo.git(&["rev-parse", "--short", "main"]));
    for (action, target) in [("merge", "main~0"), ("merge", &described), ("pr", "main~0")] {
        let options = ["--on", action, "--target", target];
        let task = home.follow(repo.path(), &options, &script).expect(7).json();
        assert_eq!(task["reason"], "target_not_found", "{task:#}");
    }
    assert_eq!(home.starts("starts"), 0, "an agent worked in vain");
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    for target in ["main~0", described.as_str()] {
        let words = ["complete", id(&task), "--action", "merge", "--target", target];
        home.run_in(repo.path(), &words).expect(3);
        let words = ["merge", "queue", "add", id(&task), "--target", target, "--check", "true"];
        home.run_in(repo.path(), &words).expect(3);
    }
    assert_eq!(repo.snapshot(), before);
}

#[test]
fn work_of_a_task_that_failed_or_made_no_branch_is_brought_home_by_request() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    for (options, exit) in [(&["--on", "none"][..], 0), (&[][..], 1)] {
        let script = Script::new().write("late", &format!("{exit}\n")).exit(exit);
        let task = home.follow(repo.path(), options, &script).expect(if exit == 0 { 0 } else { 7 });
        let task = task.json();
        home.run_in(repo.path(), &["complete", id(&task), "--action", "branch"]).expect(0);
        let name = format!("refs/heads/hayward/*{}", &id(&task)[28..]);
        let branch = repo.git(&["for-each-ref", "--format=%(refname)", &name]);
        assert_eq!(repo.git(&["show", &format!("{branch}:late")]), exit.to_string(), "{branch}");
    }
}

#[test]
fn a_pushed_branch_is_taken_back_from_the_remote() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&home, &repo);
    let task = home.follow(repo.path(), &["--on", "pr"], &Script::new().write("a", "a\n"));
    let task = task.expect(7).json();
    assert_eq!(forge.branches(), text(&task, "branch"));
    // the program is there now: the same push is proven, not repeated, and the request opened
    program(
        &home,
        "gh",
        "case $2 in list) echo '[]';; *) echo https://github.com/o/r/pull/9;; esac",
    );
    let done = home.run_in(repo.path(), &["--json", "complete", id(&task), "--action", "pr"]);
    assert_eq!(done.expect(0).json()["prUrl"], "https://github.com/o/r/pull/9");
    assert_eq!(home.task(&task)["prUrl"], "https://github.com/o/r/pull/9");
    home.run_in(repo.path(), &["complete", id(&task), "--undo"]).expect(0);
    assert_eq!(forge.branches(), "");
}

/// Kills the daemon at a point of a completion, starts it again, and sees the work brought home
/// once: by one merge commit, or by one push.
fn killed_at(fault: &str, options: &[&str]) {
    let test = "f21_a_completion_killed_at_any_point_is_done_once";
    let Some(home) = Home::armed(test, fault) else { return };
    let repo = ScratchRepo::new();
    let forge = Forge::new(&home, &repo);
    let asked = home.file("asked");
    program(
        &home,
        "gh",
        &format!(
            "case $2 in list) test -e {0} && echo '[{{\"url\":\"https://github.com/o/r/pull/7\"}}]' \
             || echo '[]';; *) echo x >> {0}; echo https://github.com/o/r/pull/7;; esac",
            asked.display()
        ),
    );
    let gate = home.file("gate");
    let script = Script::new().write("theirs", "theirs\n").wait_for(&gate);
    let task = home.submit(repo.path(), options, &script);
    home.reaches(&task, "running");
    repo.write("mine", "mine\n");
    let mine = repo.commit("mine");
    let pid = home.json(&["up", "--detach"])["pid"].as_i64().unwrap();
    let daemon = Process::of(i32::try_from(pid).unwrap()).unwrap();
    home.open_gate("gate");
    until_true(fault, LONG, || home.was_hit() && !daemon.alive());
    let old = repo.git(&["rev-parse", "main"]);
    home.run(&["up", "--detach"]).expect(0);
    let task = home.reaches(&task, "completed");
    assert!(!repo.path().join(".git/MERGE_HEAD").exists(), "{fault}");
    let head = text(&task, "headCommit");
    if options.contains(&"merge") {
        let parents = repo.git(&["log", "-1", "--format=%P", "main"]);
        assert_eq!(parents, format!("{mine} {head}"), "{fault}");
        assert!(old == mine || old == repo.git(&["rev-parse", "main"]), "{fault}: half merged");
        assert_eq!(repo.git(&["status", "--porcelain"]), "", "{fault}");
        assert_eq!(forge.branches(), "");
    } else {
        assert_eq!(repo.git(&["rev-parse", "main"]), mine, "{fault}");
        assert_eq!(forge.git(&["rev-parse", text(&task, "branch")]), head, "{fault}");
        assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7", "{fault}");
        assert_eq!(fs::read_to_string(&asked).unwrap(), "x\n", "{fault}: asked twice");
    }
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "", "{fault}");
}

#[test]
fn f21_a_completion_killed_at_any_point_is_done_once() {
    for fault in
        ["complete.step.done", "complete.step.done:2", "merge.land.begun", "merge.land.moved"]
    {
        killed_at(fault, &MERGE);
    }
    for fault in
        ["complete.step.done", "complete.push.sent", "complete.step.done:2", "complete.step.done:3"]
    {
        killed_at(fault, &["--on", "pr"]);
    }
}

#[test]
fn f20_what_the_user_does_while_a_landing_waits_for_their_git_is_not_undone() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let task = home.follow(repo.path(), &MERGE, &Script::new().write("a", "a\n")).expect(0).json();
    let landed = repo.git(&["rev-parse", "main"]);
    let lock = repo.path().join(".git/index.lock");
    fs::write(&lock, "").unwrap();
    let mut undo = home.spawn("undo", repo.path(), &["complete", id(&task), "--undo"]);
    // whichever of the two looks first, the user's commit must stand; the daemon waits 5 s
    std::thread::sleep(std::time::Duration::from_secs(1));
    fs::remove_file(&lock).unwrap();
    repo.write("mine", "mine\n");
    let mine = repo.try_git(&["add", "mine"]).code == 0
        && repo.try_git(&["commit", "-qm", "USER WORK"]).code == 0;
    undo.wait().unwrap();
    let log = repo.git(&["log", "--format=%s", "main"]);
    assert!(!mine || log.contains("USER WORK"), "{log}");
    assert_eq!(fs::read_to_string(repo.path().join("mine")).unwrap(), "mine\n");
    if mine && repo.git(&["rev-parse", "main^"]) == landed {
        assert!(repo.path().join("a").exists(), "what was landed is still there");
    }
    let status = repo.git(&["status", "--porcelain"]);
    assert_eq!(status.replace("A  mine", "").replace("?? mine", ""), "");
}

#[test]
fn an_alias_of_a_branch_moves_the_branch_and_its_checkout() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.git(&["symbolic-ref", "refs/heads/master", "refs/heads/main"]);
    let options = ["--on", "merge", "--target", "master"];
    let task =
        home.follow(repo.path(), &options, &Script::new().write("a", "a\n")).expect(0).json();
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&task, "headCommit"));
    assert_eq!(repo.git(&["symbolic-ref", "refs/heads/master"]), "refs/heads/main");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    assert!(repo.path().join("a").exists());
}

#[test]
fn work_that_began_from_no_branch_is_merged_nowhere_unless_told() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.git(&["tag", "v1"]);
    let before = repo.snapshot();
    let script = Script::new().sign(home.file("starts")).write("a", "a\n");
    for action in ["merge", "pr"] {
        let options = ["--on", action, "--base", "v1"];
        let told = home.follow(repo.path(), &options, &script).expect(2).json();
        let message = told["error"]["message"].to_string();
        assert!(message.contains("v1") && message.contains("no branch"), "{message}");
    }
    repo.git(&["checkout", "-q", "--detach"]);
    home.follow(repo.path(), &["--on", "merge"], &script).expect(2);
    repo.git(&["checkout", "-q", "main"]);
    // what only the daemon can know ends the task before its agent starts
    let api = home.api(&home.up());
    let order = serde_json::json!({
        "plan": "x", "command": ["true"], "agent": "command", "completionAction": "merge",
        "repositoryUrl": repo.path(), "baseBranch": "v1",
    });
    let made = api.post("/api/v1/tasks", &order).json();
    let task = home.reaches(&made, "failed");
    assert_eq!((&task["reason"], &task["startedAt"]), (&"target_not_found".into(), &Value::Null));
    let options = ["--on", "merge", "--target", "nowhere"];
    let task = home.follow(repo.path(), &options, &script).expect(7).json();
    assert_eq!(task["reason"], "target_not_found");
    assert_eq!(home.starts("starts"), 0, "an agent worked in vain");
    let told =
        home.follow(repo.path(), &["--on", "merge", "--base", "v1", "--target", "main"], &script);
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&told.expect(0).json(), "headCommit"));
    assert_ne!(repo.snapshot(), before);
}

#[test]
fn a_merge_into_a_repository_named_by_its_url_is_refused_when_it_is_ordered() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let url = format!("file://{}", repo.path().display());
    let script = Script::new().sign(home.file("starts"));
    let refused = home.follow(Path::new("/"), &["--repo", &url, "--on", "merge"], &script);
    let refused = refused.expect(2).json();
    assert!(refused["error"]["message"].to_string().contains("URL"), "{refused:#}");
    let options = ["--repo", &url, "--on", "merge", "--target", "main"];
    let task = home.follow(Path::new("/"), &options, &script).expect(7).json();
    assert_eq!(task["reason"], "target_not_found");
    assert_eq!(home.starts("starts"), 0, "an agent worked in vain");
}

#[test]
fn f48_what_the_user_never_pushed_is_looked_through_and_a_merge_hides_nothing() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&home, &repo);
    let merge = "git checkout -q -b side && echo s > s && git add s && git commit -qm s && \
                 git checkout -q - && git merge -q --no-commit --no-ff side && \
                 printf 'KEY=1\\n' > .env && git add -f .env && git commit -qm merged";
    let words = ["run", "--json", "--on", "pr", "--", "sh", "-c", merge];
    let task = home.run_in(repo.path(), &words).expect(7).json();
    assert_eq!(task["reason"], "secrets_exposed", "{task:#}");
    repo.write(".env", "MINE=1\n");
    repo.git(&["add", "-f", ".env"]);
    repo.git(&["commit", "-qm", "local only"]);
    let task = home.follow(repo.path(), &["--on", "pr"], &Script::new().write("a", "a\n"));
    assert_eq!(task.expect(7).json()["reason"], "secrets_exposed");
    assert_eq!(forge.branches(), "");
}
