//! Files written without git: copied from the user's checkout where its index vouches for them, and
//! unpacked where it does not. Whatever git would write otherwise is left to git.
//!
//! Most tests have the index lie: it vouches for a file that holds another text. Whether the lie
//! reaches the worktree tells whether the file was copied.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::farm::{Farm, contents, git, is_fresh};
use hayward_daemon::git::worktree::{NewWorktree, Worktree};
use hayward_daemon::git::{CommitId, Repository};
use nix::sys::stat::Mode;

const MINUTE: Duration = Duration::from_secs(60);

fn committed(name: &str) -> String {
    format!("{name} as it was committed\n")
}

/// As long as what was committed.
fn changed(name: &str) -> String {
    format!("{name} as it was CHANGED!!\n")
}

/// A farm with those files committed.
fn farm(names: &[&str]) -> Farm {
    let farm = Farm::new();
    for name in names {
        farm.write(name, &committed(name));
    }
    farm.commit("files");
    farm.settle();
    farm
}

fn age(file: &Path, by: Duration) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - by).unwrap();
}

/// Has the user's index vouch for whatever the file is now, as that of its object.
fn vouch(farm: &Farm, name: &str, change: impl Fn(&mut git2::IndexEntry)) {
    let mut index = git2::Index::open(&farm.user().join(".git/index")).unwrap();
    let mut entry = index.get_path(Path::new(name), 0).unwrap();
    let found = fs::metadata(farm.user().join(name)).unwrap();
    let time = |seconds: i64, rest: i64| {
        git2::IndexTime::new(i32::try_from(seconds).unwrap(), u32::try_from(rest).unwrap())
    };
    entry.mtime = time(found.mtime(), found.mtime_nsec());
    entry.ctime = time(found.ctime(), found.ctime_nsec());
    entry.ino = u32::try_from(found.ino() & 0xffff_ffff).unwrap();
    entry.file_size = u32::try_from(found.size()).unwrap();
    change(&mut entry);
    index.add(&entry).unwrap();
    index.write().unwrap();
}

/// Has the index vouch for a file that was changed.
fn lie(farm: &Farm, name: &str) {
    fs::write(farm.user().join(name), changed(name)).unwrap();
    age(&farm.user().join(name), MINUTE);
    vouch(farm, name, |_| {});
}

fn text(tree: &Worktree, name: &str) -> String {
    fs::read_to_string(tree.path.join(name)).unwrap()
}

/// Whether the files were written by the daemon itself: it has them a little older than the
/// worktree, so that git need not read them again.
fn is_written_here(tree: &Worktree, name: &str) -> bool {
    let modified = |name: &str| fs::metadata(tree.path.join(name)).unwrap().mtime();
    modified(name) + 2 <= modified(".git")
}

async fn made(farm: &Farm, name: &str) -> Worktree {
    let repository = farm.repositories(0).open(&farm.user()).await.unwrap();
    farm.task(&repository, name).await
}

async fn made_at(farm: &Farm, repository: &Repository, name: &str, at: &str) -> Worktree {
    let commit: CommitId = at.parse().unwrap();
    repository.provide(farm.wanted(name, &commit)).await.unwrap()
}

#[tokio::test]
async fn what_the_checkout_holds_is_copied_and_what_was_changed_is_not() {
    let names = ["same", "edited", "restored", "gone", "run", "deep/er/same"];
    let farm = farm(&names);
    fs::set_permissions(farm.user().join("run"), Permissions::from_mode(0o755)).unwrap();
    farm.commit("run");
    farm.settle();
    let write = |name: &str| fs::write(farm.user().join(name), changed(name)).unwrap();
    write("edited");
    fs::remove_file(farm.user().join("gone")).unwrap();
    // another text of the same length and age
    let old = fs::metadata(farm.user().join("restored")).unwrap().modified().unwrap();
    write("restored");
    let file = File::options().write(true).open(farm.user().join("restored")).unwrap();
    file.set_modified(old).unwrap();
    let before = (contents(&farm.user()), fs::read(farm.user().join(".git/index")).unwrap());
    let tree = made(&farm, "first").await;
    for name in names {
        assert_eq!(text(&tree, name), committed(name));
        assert!(is_written_here(&tree, name), "{name}");
    }
    // what is copied needs no object
    let id = farm.git(&["rev-parse", "HEAD:same"]);
    let object = farm.user().join(format!(".git/objects/{}/{}", &id[..2], &id[2..]));
    let kept = fs::read(&object).unwrap();
    fs::set_permissions(&object, Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, &kept[..kept.len() - 2]).unwrap();
    let second = made(&farm, "second").await;
    assert_eq!(text(&second, "same"), committed("same"));
    fs::write(&object, kept).unwrap();
    let after = (contents(&farm.user()), fs::read(farm.user().join(".git/index")).unwrap());
    assert!(before == after, "the checkout was written to");
    is_fresh(&farm, &tree);
    is_fresh(&farm, &second);
}

#[tokio::test]
async fn only_an_entry_that_git_trusts_is_copied() {
    let copied = ["plain", "linked", "private"];
    let refused = ["hidden", "skipped", "intended", "young", "longer", "link", "pipe", "d/moved"];
    let all = [&copied[..], &refused[..], &["unreadable"]].concat();
    let farm = farm(&all);
    let at = |name: &str| farm.user().join(name);
    for name in &all {
        lie(&farm, name);
    }
    let flag = |name: &str, flags: u16, extended: u16| {
        vouch(&farm, name, |entry| {
            entry.flags |= flags;
            entry.flags_extended |= extended;
        });
    };
    fs::hard_link(at("linked"), farm.room().join("beside")).unwrap();
    vouch(&farm, "linked", |_| {});
    fs::set_permissions(at("private"), Permissions::from_mode(0o600)).unwrap();
    vouch(&farm, "private", |_| {});
    fs::set_permissions(at("unreadable"), Permissions::from_mode(0o000)).unwrap();
    vouch(&farm, "unreadable", |_| {});
    flag("hidden", git2::IndexEntryFlag::VALID.bits(), 0);
    flag("skipped", 0, git2::IndexEntryExtendedFlag::SKIP_WORKTREE.bits());
    flag("intended", 0, git2::IndexEntryExtendedFlag::INTENT_TO_ADD.bits());
    fs::write(at("longer"), changed("longer").repeat(2)).unwrap();
    age(&at("longer"), MINUTE);
    vouch(&farm, "longer", |_| {});
    // the very file, by another way
    fs::rename(at("link"), farm.room().join("target")).unwrap();
    symlink(farm.room().join("target"), at("link")).unwrap();
    vouch(&farm, "link", |_| {});
    fs::rename(at("d"), farm.room().join("d")).unwrap();
    symlink(farm.room().join("d"), at("d")).unwrap();
    vouch(&farm, "d/moved", |_| {});
    fs::remove_file(at("pipe")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
    // changed in the second in which the index was written: time and size are the same
    loop {
        fs::write(at("young"), changed("young")).unwrap();
        vouch(&farm, "young", |_| {});
        let second = |name: &str| fs::metadata(at(name)).unwrap().mtime();
        if second("young") == second(".git/index") {
            break;
        }
    }
    let tree = tokio::time::timeout(MINUTE, made(&farm, "task")).await.unwrap();
    for name in copied {
        assert_eq!(text(&tree, name), changed(name), "{name}");
    }
    for name in refused {
        assert_eq!(text(&tree, name), committed(name), "{name}");
    }
    let is_root = nix::unistd::geteuid().is_root();
    let wanted = if is_root { changed("unreadable") } else { committed("unreadable") };
    assert_eq!(text(&tree, "unreadable"), wanted);
    let modes = all.iter().map(|name| fs::metadata(tree.path.join(name)).unwrap().mode());
    let plain = fs::metadata(tree.path.join("b.txt")).unwrap().mode();
    assert!(modes.into_iter().all(|mode| mode == plain));
}

#[tokio::test]
async fn of_another_commit_only_what_is_the_same_is_copied() {
    let farm = farm(&["same", "other", "run"]);
    let first = farm.git(&["rev-parse", "HEAD"]);
    farm.write("other", "of the second commit\n");
    farm.write("new", "n\n");
    fs::set_permissions(farm.user().join("run"), Permissions::from_mode(0o755)).unwrap();
    farm.commit("second");
    farm.settle();
    for name in ["same", "other", "run"] {
        lie(&farm, name);
    }
    let repository = farm.repositories(0).open(&farm.user()).await.unwrap();
    let tree = made_at(&farm, &repository, "task", &first).await;
    assert_eq!(text(&tree, "same"), changed("same"));
    assert_eq!(text(&tree, "other"), committed("other"));
    assert_eq!(text(&tree, "run"), committed("run"));
    assert!(!tree.path.join("new").exists());
    assert!(is_written_here(&tree, "other"));
}

#[tokio::test]
async fn links_submodules_and_odd_names_come_out_as_git_writes_them() {
    let farm = Farm::new();
    for name in
        ["a", "a.txt", "a-b/c", "a/b", "a0", "with\nline", "Case", "case", "\u{e9}", "e\u{301}"]
    {
        let name = if name == "a" { "z" } else { name };
        farm.write(name, &committed(name));
    }
    fs::write(farm.user().join(OsStr::from_bytes(b"not \xff utf-8")), "x").unwrap();
    farm.write("empty", "");
    farm.write("large", &"0123456789abcdef".repeat(1 << 16));
    for number in 0..200 {
        farm.write(&format!("flat/{number}"), &committed("flat"));
    }
    symlink("flat", farm.user().join("folder")).unwrap();
    symlink("../nowhere", farm.user().join("a/dangling")).unwrap();
    symlink("b", farm.user().join("only-links")).unwrap();
    fs::set_permissions(farm.user().join("a/b"), Permissions::from_mode(0o755)).unwrap();
    farm.commit("many");
    let commit = farm.git(&["rev-parse", "HEAD"]);
    farm.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},deep/module")]);
    farm.git(&["commit", "-q", "-m", "a submodule"]);
    farm.settle();
    farm.git(&["config", "core.ignoreCase", "true"]);
    farm.git(&["config", "core.precomposeUnicode", "true"]);
    farm.git(&["config", "core.fileMode", "false"]);
    let listed = farm.git(&["ls-tree", "-r", "HEAD"]);
    let tree = made(&farm, "first").await;
    farm.git(&["config", "core.ignoreCase", "false"]);
    assert!(is_written_here(&tree, "large"));
    assert_eq!(fs::read_dir(tree.path.join("deep/module")).unwrap().count(), 0);
    let staged = git(&tree.path, &["ls-files", "--stage"]);
    assert_eq!(staged.lines().count(), listed.lines().count());
    // every file is known by its times, and none is as young as the index
    let index = git(&tree.path, &["rev-parse", "--absolute-git-dir"]);
    let written = fs::metadata(Path::new(&index).join("index")).unwrap().mtime();
    let known = git2::Index::open(&Path::new(&index).join("index")).unwrap();
    for entry in known.iter().filter(|entry| matches!(entry.mode, 0o100_644 | 0o100_755)) {
        let found = fs::metadata(tree.path.join(OsStr::from_bytes(&entry.path))).unwrap();
        assert!(found.mtime() < written && i64::from(entry.mtime.seconds()) == found.mtime());
        assert_eq!(i64::from(entry.ctime.nanoseconds()), found.ctime_nsec());
    }
    is_fresh(&farm, &tree);
    // a repository without a checkout has nothing to copy: git unpacks its objects
    let bare = farm.room().join("bare.git");
    farm.git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    let repository = farm.repositories(0).open(&bare).await.unwrap();
    let second = farm.task(&repository, "second").await;
    assert!(!is_written_here(&second, "large"));
    assert_eq!(contents(&second.path), contents(&tree.path));
    assert_eq!(git(&second.path, &["status", "--porcelain"]), "");
}

/// Makes a repository one whose files git would write otherwise than they are stored.
type Setting = &'static dyn Fn(&Farm);

#[tokio::test]
async fn what_git_would_write_otherwise_is_left_to_git() {
    let settings: [(&str, Setting); 9] = [
        ("line ends by configuration", &|farm| {
            farm.git(&["config", "core.autocrlf", "true"]);
        }),
        ("line ends by attribute and configuration", &|farm| {
            farm.git(&["config", "core.eol", "crlf"]);
            farm.write(".gitattributes", "* text\n");
        }),
        ("line ends", &|farm| farm.write("inner/.gitattributes", "*.txt eol=crlf\n")),
        ("keywords", &|farm| farm.write(".gitattributes", "*.txt ident\n")),
        ("an encoding", &|farm| {
            farm.write(".gitattributes", "*.txt working-tree-encoding=UTF-16LE\n");
        }),
        ("attributes of this machine", &|farm| {
            fs::create_dir_all(farm.user().join(".git/info")).unwrap();
            fs::write(farm.user().join(".git/info/attributes"), "*.txt ident\n").unwrap();
        }),
        ("attributes elsewhere", &|farm| {
            fs::write(farm.room().join("attributes"), "*.txt ident\n").unwrap();
            let file = farm.room().join("attributes");
            farm.git(&["config", "core.attributesFile", file.to_str().unwrap()]);
        }),
        // its rule is in no commit, and what lies in the checkout is as long as what is stored
        ("a filter of what is stored", &|farm| {
            fs::create_dir_all(farm.user().join(".git/info")).unwrap();
            farm.git(&["config", "filter.redact.clean", "sed s/line/LINE/"]);
            fs::write(farm.user().join(".gitattributes"), "*.txt filter=redact\n").unwrap();
            fs::write(farm.user().join(".git/info/exclude"), ".gitattributes\n").unwrap();
            fs::write(farm.user().join("inner/a.txt"), "a line\n").unwrap();
        }),
        ("a sparse checkout", &|farm| {
            farm.git(&["sparse-checkout", "set", "inner"]);
        }),
    ];
    for (what, set) in settings {
        let farm = Farm::new();
        farm.write("inner/a.txt", "$Id$\nline\n");
        farm.write("plain", "plain\n");
        farm.commit("files");
        set(&farm);
        farm.commit(what);
        farm.settle();
        let tree = made(&farm, "task").await;
        is_fresh(&farm, &tree);
        assert!(!is_written_here(&tree, "inner/a.txt"), "{what}");
        let written = git(&tree.path, &["hash-object", "--no-filters", "inner/a.txt"]);
        let stored = written == git(&tree.path, &["rev-parse", "HEAD:inner/a.txt"]);
        let as_stored = ["a filter of what is stored", "a sparse checkout"];
        assert_eq!(stored, as_stored.contains(&what), "{what}");
    }
}

#[tokio::test]
async fn a_replaced_object_is_left_to_git() {
    let farm = farm(&["one", "two"]);
    let [old, new] = ["HEAD:one", "HEAD:two"].map(|name| farm.git(&["rev-parse", name]));
    farm.git(&["replace", &old, &new]);
    let tree = made(&farm, "task").await;
    assert_eq!(text(&tree, "one"), committed("two"));
    assert!(!is_written_here(&tree, "two"));
}

#[tokio::test]
async fn a_pipe_where_git_has_a_file_is_not_waited_for() {
    let farm = farm(&["one"]);
    let repository = farm.repositories(0).open(&farm.user()).await.unwrap();
    let index = farm.user().join(".git/index");
    fs::rename(&index, farm.room().join("index")).unwrap();
    nix::unistd::mkfifo(&index, Mode::S_IRWXU).unwrap();
    let made = tokio::time::timeout(MINUTE, farm.task(&repository, "task")).await;
    assert_eq!(text(&made.unwrap(), "one"), committed("one"));
    fs::remove_file(&index).unwrap();
    fs::rename(farm.room().join("index"), &index).unwrap();
}

#[tokio::test]
async fn links_that_are_to_be_files_are_left_to_git() {
    let farm = farm(&["file"]);
    symlink("file", farm.user().join("link")).unwrap();
    farm.commit("a link");
    farm.git(&["config", "core.symlinks", "false"]);
    let tree = made(&farm, "task").await;
    assert!(fs::symlink_metadata(tree.path.join("link")).unwrap().is_file());
    is_fresh(&farm, &tree);
}

#[tokio::test]
async fn a_checkout_that_is_somewhere_else_is_not_read() {
    let farm = farm(&["file"]);
    lie(&farm, "file");
    let other = farm.room().join("other");
    fs::create_dir(&other).unwrap();
    fs::rename(farm.user().join("file"), other.join("file")).unwrap();
    let git_dir = farm.user().join(".git");
    fs::write(other.join(".git"), format!("gitdir: {}\n", git_dir.display())).unwrap();
    farm.git(&["config", "core.worktree", other.to_str().unwrap()]);
    let repository = farm.repositories(0).open(&git_dir).await.unwrap();
    let tree = farm.task(&repository, "task").await;
    assert_eq!(text(&tree, "file"), committed("file"));
    assert!(!is_written_here(&tree, "file"));
}

#[tokio::test]
async fn a_file_that_the_user_writes_while_it_is_copied_comes_out_as_committed() {
    let farm = Farm::new();
    let whole = "0123456789abcdef".repeat(1 << 20);
    for name in ["one", "two", "three"] {
        farm.write(name, &whole);
    }
    farm.commit("large files");
    farm.settle();
    let yard = farm.yard();
    let user = farm.user();
    let writer = std::thread::spawn(move || {
        let begun = std::time::Instant::now();
        for name in ["one", "three", "two"] {
            let copy = yard.join("task").join(name);
            while fs::metadata(&copy).map_or(true, |found| found.size() == 0) {
                assert!(begun.elapsed() < MINUTE, "{name} was never written");
                std::hint::spin_loop();
            }
            let mut file = File::options().write(true).open(user.join(name)).unwrap();
            file.write_all("changed!".repeat(2 << 20).as_bytes()).unwrap();
        }
    });
    let tree = made(&farm, "task").await;
    writer.join().unwrap();
    for name in ["one", "two", "three"] {
        assert!(text(&tree, name) == whole, "{name} is not as it was committed");
    }
    assert_eq!(git(&tree.path, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn a_tree_that_leads_out_of_the_worktree_is_refused_as_git_refuses_it() {
    let farm = farm(&["f"]);
    let outside = farm.room().join("outside");
    fs::create_dir(&outside).unwrap();
    let store = |kind: &str, bytes: &[u8]| -> String {
        let mut child = Command::new("git")
            .args(["hash-object", "-w", "--literally", "--stdin", "-t", kind])
            .current_dir(farm.user())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let entry = |mode: &str, name: &str, id: &str| -> Vec<u8> {
        let mut entry = format!("{mode} {name}\0").into_bytes();
        entry.extend_from_slice(git2::Oid::from_str(id).unwrap().as_bytes());
        entry
    };
    let file = store("blob", b"out\n");
    let link = store("blob", outside.to_str().unwrap().as_bytes());
    let inner = store("tree", &entry("100644", "f", &file));
    let trees = [
        [entry("120000", "d", &link), entry("40000", "d", &inner)].concat(),
        [entry("120000", "d", &link), entry("100644", "d/f", &file)].concat(),
        entry("100644", "../outside/f", &file),
        entry("40000", "..", &inner),
        entry("40000", ".git", &inner),
        [entry("100644", "f", &file), entry("40000", "f", &inner)].concat(),
    ];
    let repository = farm.repositories(0).open(&farm.user()).await.unwrap();
    for (number, tree) in trees.iter().enumerate() {
        let tree = store("tree", tree);
        let commit = farm.git(&["commit-tree", "-m", "bad", &tree]).parse().unwrap();
        let new = NewWorktree { branch: None, ..farm.wanted(&format!("n{number}"), &commit) };
        let made = repository.provide(new).await;
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{number}");
        if let Ok(made) = made {
            assert!(fs::metadata(made.path.join(".git")).unwrap().is_file(), "{number}");
        }
    }
}
