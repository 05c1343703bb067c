//! Odd repositories by stated policy: isolation, hooks, LFS, sparse and shallow ones, and what a
//! repository must never make the daemon run.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn text<'a>(task: &'a Value, field: &str) -> &'a str {
    assert!(task[field].is_string(), "no {field} in {task:#}");
    task[field].as_str().unwrap()
}

fn worktree(home: &Home, task: &Value) -> PathBuf {
    let events = home.events(task);
    let prepared = events.iter().find(|event| event["type"] == "run.prepared").unwrap();
    prepared["payload"]["path"].as_str().unwrap().into()
}

fn executable(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn isolated(home: &Home, repo: &ScratchRepo) {
    let folder = repo.path().display();
    home.configure(&format!("[repositories.\"{folder}\"]\nisolation = \"clone\"\n"));
}

#[test]
fn f17_what_an_agent_does_to_git_itself_stays_in_its_own_clone() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.in_use();
    isolated(&home, &repo);
    let before = repo.snapshot();
    let spoil = "git config core.bare true; git config core.fsmonitor /bin/false; \
                 git update-ref refs/heads/mine HEAD; git branch -f other HEAD; \
                 echo '#!/bin/sh' > \"$(git rev-parse --git-common-dir)/hooks-made\"; echo x > x";
    let words = ["run", "--json", "--", "sh", "-c", spoil];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    assert_eq!(repo.snapshot(), before);
    let branch = text(&task, "branch");
    assert_eq!(repo.git(&["rev-parse", branch]), text(&task, "headCommit"));
    assert_eq!(repo.git(&["show", &format!("{branch}:x")]), "x");
    assert_eq!(repo.git(&["fsck", "--strict"]), "");
    // the clone borrowed its objects, and they are kept from a clean-up meanwhile
    let common = worktree(&home, &task).join(".git");
    let link = fs::read_to_string(common).unwrap();
    let clone =
        Path::new(link.trim().strip_prefix("gitdir: ").unwrap()).ancestors().nth(2).unwrap();
    assert!(clone.join("objects/info/alternates").is_file(), "{clone:?}");
    assert_ne!(repo.git(&["for-each-ref", "refs/hayward/lent"]), "");
}

#[test]
fn an_isolated_task_can_be_merged_too() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    isolated(&home, &repo);
    let options = ["--on", "merge", "--target", "main"];
    let task =
        home.follow(repo.path(), &options, &Script::new().write("a", "a\n")).expect(0).json();
    assert_eq!(repo.git(&["rev-parse", "main"]), text(&task, "headCommit"));
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    let none = home.follow(repo.path(), &[], &Script::new()).expect(0).json();
    assert_eq!(none["outcome"], "no_changes");
}

#[test]
fn f17_a_nested_init_and_hooks_in_a_shared_worktree_leave_the_checkout_usable() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let seen = home.file("seen");
    executable(
        &repo.path().join(".git/hooks/pre-commit"),
        &format!("mkdir -p nested && git init -q nested; env | grep ^GIT_ >> {}", seen.display()),
    );
    let script = "git init -q nested && echo n > nested/n && echo x > x && \
                  env | grep ^GIT_ > git-env; git add x && git commit -qm mine; true";
    let words = ["run", "--json", "--", "sh", "-c", script];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    until_true("the checkout works again", LONG, || repo.git(&["config", "core.bare"]) == "false");
    assert!(repo.git(&["status", "--porcelain"]).is_empty());
    let branch = text(&task, "branch");
    let env = repo.git(&["show", &format!("{branch}:git-env")]);
    assert!(!env.contains("GIT_DIR") && !env.contains("GIT_INDEX_FILE"), "{env}");
    let withheld = task["withheldFiles"].to_string();
    assert!(withheld.contains("nested"), "{withheld}");
}

#[test]
fn f25_without_lfs_a_worktree_holds_pointers_and_says_so() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
                   oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
                   size 12345\n";
    repo.write("big.bin", pointer);
    repo.commit("a pointer");
    repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    repo.commit("stored through lfs");
    for (key, value) in [
        ("filter.lfs.smudge", "git-lfs-is-not-here smudge -- %f"),
        ("filter.lfs.clean", "git-lfs-is-not-here clean -- %f"),
        ("filter.lfs.process", "git-lfs-is-not-here filter-process"),
        ("filter.lfs.required", "true"),
    ] {
        repo.git(&["config", key, value]);
    }
    let script = "test \"$(head -c 7 big.bin)\" = version && echo x > x";
    let words = ["run", "--json", "--", "sh", "-c", script];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    let branch = text(&task, "branch");
    let changed = repo.git(&["diff", "--name-only", text(&task, "baseCommit"), branch]);
    assert_eq!(changed, "x");
    let events = home.events(&task);
    let prepared = events.iter().find(|event| event["type"] == "run.prepared").unwrap();
    assert!(prepared["payload"]["notes"].to_string().contains("lfs"), "{prepared:#}");
}

#[test]
fn f25_a_sparse_checkout_is_inherited() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    for path in ["in/a", "in/deep/b", "out/c", "top"] {
        repo.write(path, path);
    }
    repo.commit("folders");
    repo.git(&["sparse-checkout", "set", "--cone", "in"]);
    let before = repo.snapshot();
    let script = "ls -A > seen; ls in >> seen; echo changed > in/a";
    let words = ["run", "--json", "--", "sh", "-c", script];
    for _ in 0..2 {
        let task = home.run_in(repo.path(), &words).expect(0).json();
        let branch = text(&task, "branch");
        let seen = repo.git(&["show", &format!("{branch}:seen")]);
        assert!(seen.lines().any(|line| line == "in") && seen.contains("deep"), "{seen}");
        assert!(!seen.lines().any(|line| line == "out"), "{seen}");
        let changed = repo.git(&["diff", "--name-status", text(&task, "baseCommit"), branch]);
        assert_eq!(changed, "M\tin/a\nA\tseen", "what is not checked out is not deleted");
        assert_eq!(repo.snapshot(), before);
    }
}

#[test]
fn f25_a_shallow_clone_serves() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.write("b", "b\n");
    repo.commit("second");
    let folder = home.file("shallow");
    let url = format!("file://{}", repo.path().display());
    let clone = git(&home.files()).args(["clone", "-q", "--depth", "1", &url, "shallow"]).status();
    assert!(clone.unwrap().success());
    let words = ["run", "--json", "--on", "merge", "--", "sh", "-c", "echo x > x"];
    let task = home.run_in(&folder, &words).expect(0).json();
    let tip = git(&folder).args(["rev-parse", "main"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tip.stdout).trim(), text(&task, "headCommit"));
    let shallow = git(&folder).args(["rev-parse", "--is-shallow-repository"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shallow.stdout).trim(), "true");
}

#[test]
fn f26_a_relative_hooks_path_is_reported_when_inert_and_works_when_it_runs() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    executable(&repo.path().join(".husky/commit-msg"), "echo wrong words >&2; exit 1");
    repo.git(&["config", "core.hooksPath", ".husky"]);
    repo.git(&["add", "-f", ".husky"]);
    repo.git(&["-c", "core.hooksPath=/dev/null", "commit", "-qm", "hooks"]);
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    let shown = home.run(&["task", "show", id(&task)]).expect(0).text();
    let events = home.events(&task);
    let committed = events.iter().find(|event| event["type"] == "work.committed").unwrap();
    assert_eq!(committed["payload"]["inertHooks"], serde_json::json!(["commit-msg"]), "{shown}");
    home.run(&["down"]).expect(0);
    home.configure(&format!("[repositories.\"{}\"]\nhooks = \"run\"\n", repo.path().display()));
    let task = home.follow(repo.path(), &[], &script).expect(7).json();
    assert!(text(&task, "errorMessage").contains("wrong words"), "{task:#}");
}

#[test]
fn f43_canaries_set_from_inside_a_task_never_fire_from_the_daemon() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let fired = home.file("fired");
    let canary = home.bin().join("canary");
    executable(&canary, &format!("echo \"$0 $@\" >> {}; cat", fired.display()));
    let canary = canary.display();
    let plant = format!(
        "git config core.fsmonitor {canary}; git config core.hooksPath $PWD/hooks; \
         git config core.sshCommand {canary}; git config diff.external {canary}; \
         git config filter.x.clean {canary}; git config filter.x.smudge {canary}; \
         git config diff.x.textconv {canary}; git config merge.x.driver {canary}; \
         git config core.editor {canary}; git config gpg.program {canary}; \
         git config core.pager {canary}; git config core.alternateRefsCommand {canary}; \
         printf '* diff=x merge=x\\n*.fx filter=x\\n' > .gitattributes; echo f > a.fx; echo more >> README"
    );
    let words = ["run", "--json", "--", "sh", "-c", &plant];
    let first = home.run_in(repo.path(), &words).expect(0).json();
    let base = ["--base", text(&first, "branch")];
    let script = Script::new().write("README", "other\n").write("x", "x\n");
    let second = home.follow(repo.path(), &base, &script).expect(0).json();
    for words in [
        vec!["task", "diff", id(&second)],
        vec!["merge", "preview", id(&second), "--target", "main"],
        vec!["merge", "branches", id(&second)],
        vec!["overlap"],
        vec!["complete", id(&second), "--action", "merge", "--target", "main"],
        vec!["complete", id(&second), "--undo"],
    ] {
        home.run(&words);
    }
    assert!(!fired.exists(), "{}", fs::read_to_string(&fired).unwrap());
}
