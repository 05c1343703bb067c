//! What a worktree is given besides what git checks out: ignored files, submodules, setup, ports,
//! another task's work; and repositories that are elsewhere.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::script::Script;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sh(command: &str) -> Vec<&str> {
    vec!["run", "--json", "--", "sh", "-c", command]
}

fn worktree(home: &Home, task: &Value) -> PathBuf {
    let events = home.events(task);
    let prepared = events.iter().find(|event| event["type"] == "run.prepared").unwrap();
    prepared["payload"]["path"].as_str().unwrap().into()
}

fn notes(home: &Home, task: &Value) -> String {
    let events = home.events(task);
    let prepared = events.iter().find(|event| event["type"] == "run.prepared").unwrap();
    prepared["payload"]["notes"].to_string()
}

#[test]
fn f24_listed_ignored_files_come_along_and_stay_ignored() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.write(".gitignore", ".env\ndeps/\nbuild/\nlink\n");
    repo.write(
        ".worktreeinclude",
        "# what the tests need\n.env\ndeps/**\n!deps/huge\nlink\nREADME\n",
    );
    repo.commit("ignore");
    repo.write(".env", "KEY=value\n");
    repo.write("deps/a/b.txt", "dep\n");
    repo.write("deps/huge", "huge\n");
    repo.write("build/out", "out\n");
    let outside = home.file("outside");
    fs::write(&outside, "secret\n").unwrap();
    std::os::unix::fs::symlink(&outside, repo.path().join("link")).unwrap();
    let before = repo.snapshot();
    let task =
        home.run_in(repo.path(), &sh("cat .env deps/a/b.txt > got; ls -A > names")).expect(0);
    let task = task.json();
    assert_eq!(repo.snapshot(), before);
    let branch = task["branch"].as_str().unwrap();
    let show = |path: &str| repo.git(&["show", &format!("{branch}:{path}")]);
    assert_eq!(show("got"), "KEY=value\ndep");
    assert!(!show("names").lines().any(|name| name == "build" || name == "link"));
    let changed = repo.git(&["diff", "--name-only", task["baseCommit"].as_str().unwrap(), branch]);
    assert_eq!(changed, "got\nnames", "what was brought along is in no commit");
    assert!(!worktree(&home, &task).join("deps/huge").exists());
    let said = notes(&home, &task);
    assert!(said.contains("link was not copied"), "{said}");
    assert_eq!(fs::read_to_string(outside).unwrap(), "secret\n");
}

#[test]
fn f24_a_missing_required_file_stops_the_start_and_no_path_leads_out() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.write(".gitignore", "cache\n");
    repo.commit("ignore");
    let script = Script::new().sign(home.file("starts")).write("a", "a\n");
    let task = home.follow(repo.path(), &["--copy", "cache"], &script).expect(7).json();
    assert_eq!((&task["status"], &task["reason"]), (&"failed".into(), &"files_missing".into()));
    let message = task["errorMessage"].as_str().unwrap();
    assert!(message.contains("'cache'"), "{message}");
    for bad in ["../x", "/etc/passwd", "a/../../b", ".git/config"] {
        let ran = home.follow(repo.path(), &["--copy", bad], &script).expect(2);
        let text = ran.json()["error"]["message"].to_string();
        assert!(text.contains("inside the repository"), "{text}");
    }
    std::os::unix::fs::symlink("/etc", repo.path().join("cache")).unwrap();
    let task = home.follow(repo.path(), &["--copy", "cache/hostname"], &script).expect(7).json();
    assert_eq!(task["reason"], "files_missing", "{task:#}");
    assert_eq!(home.starts("starts"), 0, "an agent was started");
    assert_eq!(repo.git(&["for-each-ref", "refs/heads/hayward"]), "");
    fs::remove_file(repo.path().join("cache")).unwrap();
    repo.write("cache", "warm\n");
    let script = script.shell("test \"$(cat cache)\" = warm");
    home.follow(repo.path(), &["--copy", "cache"], &script).expect(0);
}

#[test]
fn f24_submodules_are_filled_without_a_network() {
    let (home, repo, library) = (Home::new(), ScratchRepo::new(), ScratchRepo::new());
    let url = library.path().to_str().unwrap();
    let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", url, "lib"];
    repo.git(&add);
    repo.commit("library");
    // the original is gone: only the checkout's own copy can serve
    let moved = home.file("moved");
    fs::rename(library.path(), &moved).unwrap();
    let before = repo.snapshot();
    let task = home.run_in(repo.path(), &sh("cp lib/README got; git -C lib status -sb > st"));
    let task = task.expect(0).json();
    assert_eq!(repo.snapshot(), before);
    let branch = task["branch"].as_str().unwrap();
    let changed = repo.git(&["diff", "--name-only", task["baseCommit"].as_str().unwrap(), branch]);
    assert_eq!(changed, "got\nst");
    let lib = worktree(&home, &task).join("lib");
    let config = git(&lib).args(["config", "remote.origin.url"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&config.stdout).trim(), url);
    fs::rename(&moved, library.path()).unwrap();
}

#[test]
fn f24_setup_runs_before_the_agent_and_teardown_after_it() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let down = home.file("down");
    home.configure(&format!(
        "[repositories.\"{}\"]\nsetup = \"echo ready > made-by-setup; echo $HAYWARD_TASK_ID\"\n\
         teardown = \"echo $COMPOSE_PROJECT_NAME >> {}\"\n",
        repo.path().display(),
        down.display()
    ));
    let task = home.run_in(repo.path(), &sh("test \"$(cat made-by-setup)\" = ready")).expect(0);
    let task = task.json();
    let project = format!("hayward-{}\n", &id(&task)[28..]);
    hayward_tests::wait::until_true("teardown ran", hayward_tests::wait::LONG, || {
        fs::read_to_string(&down).is_ok_and(|text| text == project)
    });
}

#[test]
fn f24_a_failing_setup_fails_the_task_with_its_words() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure(&format!(
        "[repositories.\"{}\"]\nsetup = \"echo no such registry >&2; exit 9\"\n",
        repo.path().display(),
    ));
    let script = Script::new().sign(home.file("starts"));
    let task = home.follow(repo.path(), &[], &script).expect(7).json();
    assert_eq!((&task["status"], &task["reason"]), (&"failed".into(), &"setup_failed".into()));
    let message = task["errorMessage"].as_str().unwrap();
    assert!(message.contains("no such registry") && message.contains('9'), "{message}");
    assert_eq!(home.starts("starts"), 0);
    assert_eq!(repo.git(&["for-each-ref", "refs/heads/hayward"]), "");
}

#[test]
fn f60_ten_runs_at_once_have_ports_and_compose_projects_of_their_own() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[daemon]\nmax_concurrent_tasks = 10\n");
    let files = home.files();
    let said = format!(
        "echo $HAYWARD_PORT $HAYWARD_PORT_COUNT $COMPOSE_PROJECT_NAME > {}/said-$HAYWARD_TASK_ID",
        files.display()
    );
    // each waits until all ten have said theirs, so that all live at once
    let script = Script::new().shell(&said).shell(&format!(
        "until [ $(ls {}/said-* | wc -l) = 10 ]; do sleep 0.05; done",
        files.display()
    ));
    let tasks: Vec<_> = (0..10).map(|_| home.submit(repo.path(), &[], &script)).collect();
    for task in &tasks {
        home.reaches(task, "completed");
    }
    let (mut ports, mut projects) = (BTreeSet::new(), BTreeSet::new());
    for task in &tasks {
        let text = fs::read_to_string(files.join(format!("said-{}", id(task)))).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        let (first, count): (u16, u16) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        ports.extend(first..first + count);
        projects.insert(words[2].to_owned());
        assert_eq!(count, 20);
    }
    assert_eq!((ports.len(), projects.len()), (200, 10));
}

#[test]
fn a_task_continues_where_another_stopped() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let first = home.run_in(
        repo.path(),
        &[
            "run",
            "--json",
            "--on",
            "none",
            "--",
            "sh",
            "-c",
            "echo committed > a; git add a; git commit -qm a; echo more > b; rm README; exit 0",
        ],
    );
    let first = first.expect(0).json();
    let command =
        "test \"$(cat a b)\" = \"$(printf 'committed\\nmore')\" && ! test -e README && echo c > c";
    let words = ["run", "--json", "--continue", id(&first), "--", "sh", "-c", command];
    let second = home.run_in(repo.path(), &words).expect(0).json();
    let head = git(&worktree(&home, &first)).args(["rev-parse", "HEAD"]).output().unwrap();
    assert_eq!(second["baseCommit"], String::from_utf8_lossy(&head.stdout).trim());
    let branch = second["branch"].as_str().unwrap();
    let changed =
        repo.git(&["diff", "--name-status", second["baseCommit"].as_str().unwrap(), branch]);
    assert_eq!(changed, "D\tREADME\nA\tb\nA\tc");
    // the first one's worktree is as it was
    assert!(worktree(&home, &first).join("b").exists());
    assert!(!worktree(&home, &first).join("c").exists());
    let unknown = ["run", "--json", "--continue", "0badcafe", "--", "true"];
    home.run_in(repo.path(), &unknown).expect(3);
}

#[test]
fn a_repository_elsewhere_is_cloned_once_and_fetched_anew_for_each_task() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let url = format!("file://{}", repo.path().display());
    let nowhere = Path::new("/");
    let run = |base: &[&str], command: &str| {
        let words =
            [&["run", "--json", "--repo", &url], base, &["--", "sh", "-c", command]].concat();
        home.run_in(nowhere, &words)
    };
    let before = repo.snapshot();
    let first = run(&[], "echo 1 > one").expect(0).json();
    assert_eq!(first["baseCommit"], repo.git(&["rev-parse", "HEAD"]).as_str());
    assert_eq!(repo.snapshot(), before);
    repo.write("later", "later\n");
    let later = repo.commit("later");
    let second = run(&["--base", "main"], "test -e later && echo 2 > two").expect(0).json();
    assert_eq!(second["baseCommit"], later.as_str());
    let clones: Vec<_> = fs::read_dir(home.state().join("repos")).unwrap().collect();
    assert_eq!(clones.len(), 1);
    let clone = clones.into_iter().next().unwrap().unwrap().path();
    for task in [&first, &second] {
        let branch = format!("refs/heads/{}", task["branch"].as_str().unwrap());
        let tip = git(&clone).args(["rev-parse", &branch]).output().unwrap();
        assert_eq!(task["headCommit"], String::from_utf8_lossy(&tip.stdout).trim());
    }
    let unknown = run(&["--base", "mian"], "true").expect(7).json();
    assert_eq!(unknown["reason"], "base_not_found", "{unknown:#}");
    let gone = format!("{url}-gone");
    let words = ["run", "--json", "--repo", &gone, "--", "true"];
    let task = home.run_in(nowhere, &words).expect(7).json();
    assert_eq!(task["reason"], "repository_unavailable", "{task:#}");
}
