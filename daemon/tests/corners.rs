//! Git's odd corners: submodules, lent repositories, files that take a folder's place. Judged by
//! refs, trees and files that git itself shows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkout;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use checkout::{git, init, write};
use hayward_daemon::git::bring::{Bring, bring};
use hayward_daemon::git::commit::{Hooks, Limits, Message, WorkOrder};
use hayward_daemon::git::lend::{LendError, lent};
use hayward_daemon::git::publish::PublishError;
use hayward_daemon::git::salvage::SalvageError;
use hayward_daemon::git::staging::Why;
use hayward_daemon::git::worktree::{NewWorktree, RemoveError};
use hayward_daemon::git::{BranchName, Repositories, Repository};
use tempfile::TempDir;

/// A user's checkout with a submodule `lib` that is set up in it, and room beside it.
struct Ground {
    folder: TempDir,
    all: Repositories,
    repository: Repository,
}

impl Ground {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let (library, user) = (top.join("library"), top.join("user"));
        init(&library);
        write(&library.join("l.txt"), "l\n");
        commit(&library, "library");
        init(&user);
        write(&user.join("a.txt"), "a\n");
        commit(&user, "first");
        git(&user, &["submodule", "--quiet", "add", library.to_str().unwrap(), "lib"]);
        commit(&user, "lib");
        let all = Repositories::default();
        let repository = all.open(&user).await.unwrap();
        Self { folder, all, repository }
    }

    fn room(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.room("user"), args)
    }

    /// A worktree of ours on a branch of its own, its submodules filled.
    async fn worktree(&self, name: &str) -> PathBuf {
        let commit = self.repository.resolve("main").await.unwrap();
        let path = self.room("yard").join(name);
        let branch = Some(BranchName::for_task(name, "0badcafe"));
        let new = NewWorktree { path: path.clone(), commit, branch };
        self.repository.provide(new).await.unwrap();
        let filled = self.repository.fill_submodules(&path).await.unwrap();
        assert_eq!(filled.filled, [PathBuf::from("lib")], "{filled:?}");
        path
    }

    /// All that is the user's own copy of the submodule.
    fn copy(&self) -> Vec<String> {
        let all =
            git(&self.room("user/lib"), &["for-each-ref", "--format=%(refname) %(objectname)"]);
        let objects = git(&self.room("user/lib"), &["count-objects", "-v"]);
        vec![all, objects, git(&self.room("user"), &["status", "--porcelain"])]
    }

    fn salvages(&self) -> Vec<String> {
        let named = self.git(&["for-each-ref", "--format=%(refname)", "refs/hayward/salvage"]);
        named.lines().map(str::to_owned).collect()
    }

    fn is_sound(&self) {
        self.git(&["fsck", "--strict", "--connectivity-only"]);
        self.git(&["-c", "gc.pruneExpire=now", "gc", "--quiet"]);
        self.git(&["fsck", "--full"]);
    }
}

fn commit(path: &Path, message: &str) -> String {
    git(path, &["add", "--all"]);
    git(path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", message]);
    git(path, &["rev-parse", "HEAD"])
}

/// Every file, link and folder with files below a worktree, with what it holds.
fn listing(top: &Path) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), vec![top.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            if path.ends_with(".git") {
                continue;
            }
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_symlink() {
                all.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if kind.is_dir() {
                open.push(path);
            } else {
                all.push(format!("{name}: {}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn f13_work_in_a_submodule_is_kept_when_its_worktree_goes() {
    let ground = Ground::new().await;
    let before = ground.copy();
    // nothing of its own: it goes like any other
    let clean = ground.worktree("clean").await;
    ground.repository.remove(&clean).await.unwrap();
    assert!(!clean.exists());

    let path = ground.worktree("work").await;
    let lib = path.join("lib");
    write(&lib.join("stashed.txt"), "stashed\n");
    git(&lib, &["add", "."]);
    git(&lib, &["-c", "user.name=A", "-c", "user.email=a@a", "stash", "-q"]);
    write(&lib.join("kept.txt"), "kept\n");
    let made = commit(&lib, "in the submodule");
    git(&lib, &["checkout", "-q", "-b", "side"]);
    write(&lib.join("other.txt"), "other\n");
    let side = commit(&lib, "on a side branch");
    git(&lib, &["checkout", "-q", &made]);
    write(&lib.join("dirty.txt"), "dirty\n");
    assert!(ground.repository.is_dirty(&path).await.unwrap());
    let refused = ground.repository.remove(&path).await.unwrap_err();
    assert!(
        matches!(&refused, RemoveError::Submodules { names, .. } if *names == [Path::new("lib")]),
        "{refused}"
    );
    let held = ground.repository.hold(&path).await;
    let kept = ground.repository.retire(&held, "work").await.unwrap().unwrap();
    assert!(!path.exists());
    assert_eq!(ground.salvages(), std::slice::from_ref(&kept.reference));
    ground.is_sound();
    let shown = |commit: &str, file: &str| ground.git(&["show", &format!("{commit}:{file}")]);
    assert_eq!(
        (shown(&made, "kept.txt"), shown(&side, "other.txt")),
        ("kept".into(), "other".into())
    );
    let parents = ground.git(&["rev-parse", &format!("{}^@", kept.reference)]);
    let files: Vec<String> = parents
        .lines()
        .map(|parent| ground.git(&["ls-tree", "--name-only", parent]).replace('\n', " "))
        .collect();
    for file in ["dirty.txt", "stashed.txt", "other.txt"] {
        assert!(files.iter().any(|names| names.contains(file)), "{file}: {files:?}");
    }
    assert!(ground.git(&["show", "-s", "--format=%B", &kept.reference]).contains("submodule lib"));
    assert_eq!(ground.copy(), before, "the user's own copy was touched");
}

#[tokio::test]
async fn f13_commits_that_a_submodule_moved_away_from_are_kept() {
    let ground = Ground::new().await;
    // amended after it was named
    let path = ground.worktree("amended").await;
    let lib = path.join("lib");
    write(&lib.join("one.txt"), "one\n");
    let one = commit(&lib, "one");
    commit(&path, "names one");
    write(&lib.join("two.txt"), "two\n");
    git(&lib, &["add", "."]);
    let user = ["-c", "user.name=A", "-c", "user.email=a@a"];
    git(&lib, &[&user[..], &["commit", "-q", "--amend", "-m", "two"]].concat());
    let two = git(&lib, &["rev-parse", "HEAD"]);
    commit(&path, "names two");
    let held = ground.repository.hold(&path).await;
    ground.repository.retire(&held, "amended").await.unwrap().unwrap();
    assert!(!path.exists());
    // named by another branch alone: nothing of it is in the worktree any more
    let path = ground.worktree("elsewhere").await;
    let lib = path.join("lib");
    let base = git(&lib, &["rev-parse", "HEAD"]);
    write(&lib.join("three.txt"), "three\n");
    let three = commit(&lib, "three");
    git(&path, &["checkout", "-q", "-b", "other"]);
    commit(&path, "names three");
    git(&path, &["checkout", "-q", "-"]);
    git(&lib, &["checkout", "-q", &base]);
    let refused = ground.repository.remove(&path).await.unwrap_err();
    assert!(matches!(refused, RemoveError::Submodules { .. }), "{refused}");
    let held = ground.repository.hold(&path).await;
    ground.repository.retire(&held, "elsewhere").await.unwrap().unwrap();
    ground.is_sound();
    let shown = |at: &str, file: &str| ground.git(&["show", &format!("{at}:{file}")]);
    assert_eq!((shown(&one, "one.txt"), shown(&two, "two.txt")), ("one".into(), "two".into()));
    assert_eq!(ground.git(&["rev-parse", "other:lib"]), three);
    assert_eq!(shown(&three, "three.txt"), "three");
}

#[tokio::test]
async fn f13_what_is_only_staged_in_a_submodule_is_kept() {
    let ground = Ground::new().await;
    let path = ground.worktree("staged").await;
    let lib = path.join("lib");
    write(&lib.join("l.txt"), "staged\n");
    git(&lib, &["add", "l.txt"]);
    write(&lib.join("l.txt"), "l\n");
    let refused = ground.repository.remove(&path).await.unwrap_err();
    assert!(matches!(refused, RemoveError::Submodules { .. }), "{refused}");
    let held = ground.repository.hold(&path).await;
    let kept = ground.repository.retire(&held, "staged").await.unwrap().unwrap();
    ground.is_sound();
    assert_eq!(ground.git(&["show", &format!("{}^2:l.txt", kept.reference)]), "staged");
}

#[tokio::test]
async fn f13_a_repository_that_an_agent_committed_as_a_gitlink_is_not_lost() {
    let ground = Ground::new().await;
    let path = ground.worktree("inner").await;
    let inner = path.join("inner");
    init(&inner);
    write(&inner.join("i.txt"), "i\n");
    let made = commit(&inner, "inner");
    git(&path, &["add", "inner"]);
    commit(&path, "a gitlink");
    // its worktree is clean and on its branch, and yet something would be lost
    let refused = ground.repository.remove(&path).await.unwrap_err();
    assert!(matches!(refused, RemoveError::Submodules { .. }), "{refused}");
    let held = ground.repository.hold(&path).await;
    ground.repository.retire(&held, "inner").await.unwrap().unwrap();
    assert_eq!(ground.git(&["show", &format!("{made}:i.txt")]), "i");
    ground.is_sound();
    // nothing of a shallow one can be held: it stays, and says why
    let path = ground.worktree("shallow").await;
    let url = format!("file://{}", ground.room("user").display());
    git(&path, &["clone", "-q", "--depth", "1", &url, "cut"]);
    write(&path.join("cut/c.txt"), "c\n");
    commit(&path.join("cut"), "on a stump");
    git(&path, &["add", "cut"]);
    commit(&path, "a stump");
    let held = ground.repository.hold(&path).await;
    let error = ground.repository.retire(&held, "shallow").await.unwrap_err();
    assert!(matches!(error, SalvageError::Unkept { .. }), "{error}");
    assert!(error.to_string().contains("shallow") && path.join("cut/c.txt").is_file(), "{error}");
}

#[tokio::test]
async fn a_gitlink_that_leads_nowhere_is_told_and_not_pushed() {
    let ground = Ground::new().await;
    let path = ground.worktree("links").await;
    let base = ground.repository.resolve("main").await.unwrap();
    let lib = path.join("lib");
    write(&lib.join("new.txt"), "new\n");
    let made = commit(&lib, "only here");
    write(&lib.join("dirty.txt"), "dirty\n");
    let order = WorkOrder {
        worktree: path.clone(),
        base: base.clone(),
        branch: Some("hayward/links-0badcafe".to_owned()),
        message: Message { subject: "Work".to_owned(), body: String::new() },
        limits: Limits::default(),
        hooks: Hooks::Inert,
        sign: false,
    };
    let work = ground.repository.commit_work(order).await.unwrap();
    let told: Vec<_> =
        work.withheld.iter().map(|one| (one.path.clone(), one.why.clone())).collect();
    let loose = Why::LooseLink { commit: made.clone() };
    assert_eq!(told, [("lib".into(), Why::InSubmodule), ("lib".into(), loose)]);
    assert_eq!(ground.git(&["rev-parse", &format!("{}:lib", work.head)]), made);
    let refuse = || ground.repository.refuse_loose(vec![base.clone()], &work.head);
    let refused = refuse().await.unwrap_err();
    assert!(matches!(&refused, PublishError::Loose(links) if links[0].names == made), "{refused}");
    // its remote has it
    git(&lib, &["push", "-q", "origin", "HEAD:refs/heads/shared"]);
    refuse().await.unwrap();
    git(&lib, &["update-ref", "-d", "refs/remotes/origin/shared"]);
    refuse().await.unwrap_err();
    // the checkout has it
    git(&ground.room("user/lib"), &["fetch", "-q"]);
    refuse().await.unwrap();
    git(&ground.room("user/lib"), &["update-ref", "-d", "refs/remotes/origin/shared"]);
    // the worktree is gone, and what it alone had is salvaged: still nobody could get it
    let held = ground.repository.hold(&path).await;
    ground.repository.retire(&held, "links").await.unwrap().unwrap();
    refuse().await.unwrap_err();
    // what was pushed before is nobody's business
    let published = vec![base.clone(), work.head.clone()];
    ground.repository.refuse_loose(published, &work.head).await.unwrap();
}

#[tokio::test]
async fn a_repository_lent_from_a_shallow_one_is_sound() {
    let ground = Ground::new().await;
    let url = format!("file://{}", ground.room("user").display());
    git(ground.folder.path(), &["clone", "-q", "--depth", "1", &url, "shallow"]);
    let shallow = ground.room("shallow");
    let repository = ground.all.open(&shallow).await.unwrap();
    let head = repository.resolve("HEAD").await.unwrap();
    let to = ground.room("lent/x-0.git");
    repository.lend(&head, &to, "x").await.unwrap();
    git(&to, &["fsck", "--full"]);
    let own = ground.all.open(&to).await.unwrap();
    let path = ground.room("yard/x");
    let branch = Some(BranchName::for_task("x", "0badcafe"));
    own.create(NewWorktree { path: path.clone(), commit: head, branch }).await.unwrap();
    write(&path.join("new.txt"), "new\n");
    let made = commit(&path, "work");
    assert_eq!(git(&path, &["rev-list", "--count", "HEAD"]), "2");
    repository.take_home(&to, "hayward/x-0badcafe").await.unwrap();
    assert_eq!(git(&shallow, &["rev-parse", "hayward/x-0badcafe"]), made);
    own.remove(&path).await.unwrap();
    repository.call_in(&to, "x").await.unwrap();
    git(&shallow, &["fsck", "--full"]);
    assert_eq!(git(&shallow, &["for-each-ref", "refs/hayward"]), "");
}

#[tokio::test]
async fn f13_a_lent_repository_goes_only_after_all_that_it_alone_holds_is_home() {
    let ground = Ground::new().await;
    let head = ground.repository.resolve("main").await.unwrap();
    let to = ground.room("lent/x-0.git");
    ground.repository.lend(&head, &to, "x").await.unwrap();
    assert_eq!(lent(&ground.room("lent")), [(to.clone(), ground.room("user/.git"))]);
    let own = ground.all.open(&to).await.unwrap();
    let path = ground.room("yard/x");
    let branch = Some(BranchName::for_task("x", "0badcafe"));
    own.create(NewWorktree { path: path.clone(), commit: head.clone(), branch }).await.unwrap();
    write(&path.join("stashed.txt"), "stashed\n");
    git(&path, &["add", "."]);
    git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "stash", "-q"]);
    write(&path.join("work.txt"), "work\n");
    let made = commit(&path, "work");
    git(&path, &["branch", "older", "HEAD~"]);
    // somebody may be at work there
    let refused = ground.repository.call_in(&to, "x").await.unwrap_err();
    assert!(matches!(refused, LendError::InUse(_)), "{refused}");
    write(&path.join("dirty.txt"), "dirty\n");
    let held = own.hold(&path).await;
    let salvage = own.retire(&held, "x").await.unwrap().unwrap();
    let kept = ground.repository.bring_home(&to, "x").await.unwrap();
    for name in ["x", "y"] {
        let again = ground.repository.bring_home(&to, name).await.unwrap();
        assert_eq!(kept, again, "doing it again");
    }
    ground.repository.call_in(&to, "x").await.unwrap();
    assert!(!to.exists() && lent(&ground.room("lent")).is_empty());
    assert_eq!(kept[0], "refs/hayward/salvage/x");
    assert_eq!(ground.git(&["rev-parse", &kept[0]]), salvage.commit.as_str());
    assert_eq!(ground.git(&["rev-parse", "refs/hayward/salvage/x^"]), made);
    assert_eq!(ground.git(&["show", "refs/hayward/salvage/x:dirty.txt"]), "dirty");
    assert_eq!(ground.git(&["show", "refs/hayward/salvage/x-2:stashed.txt"]), "stashed");
    assert_eq!(ground.salvages().len(), 2, "what a kept one stands on needs no name");
    assert_eq!(ground.git(&["for-each-ref", "refs/hayward/lent"]), "");
    ground.is_sound();
    ground.repository.call_in(&to, "x").await.unwrap();
    // half made: known by what it borrows, and cleared away
    let half = ground.room("lent/y-0.new/objects/info");
    fs::create_dir_all(&half).unwrap();
    fs::copy(ground.room("user/.git/HEAD"), half.join("other")).unwrap();
    write(&half.join("alternates"), &format!("{}\n", ground.room("user/.git/objects").display()));
    ground.git(&["update-ref", "refs/hayward/lent/y-0", "HEAD"]);
    let found = lent(&ground.room("lent"));
    assert_eq!(found, [(ground.room("lent/y-0.git"), ground.room("user/.git"))]);
    ground.repository.call_in(&found[0].0, "y").await.unwrap();
    assert!(!ground.room("lent/y-0.new").exists());
    assert_eq!(ground.git(&["for-each-ref", "refs/hayward/lent"]), "");
}

#[tokio::test]
async fn f13_commits_that_were_left_behind_in_a_lent_repository_come_home() {
    let ground = Ground::new().await;
    let head = ground.repository.resolve("main").await.unwrap();
    let to = ground.room("lent/x-0.git");
    ground.repository.lend(&head, &to, "x").await.unwrap();
    let own = ground.all.open(&to).await.unwrap();
    let path = ground.room("yard/x");
    let branch = Some(BranchName::for_task("x", "0badcafe"));
    own.create(NewWorktree { path: path.clone(), commit: head, branch }).await.unwrap();
    write(&path.join("left.txt"), "left\n");
    let left = commit(&path, "left");
    git(&path, &["reset", "-q", "--hard", "HEAD~"]);
    let refused = own.remove(&path).await.unwrap_err();
    assert!(
        matches!(&refused, RemoveError::Unreachable { head, .. } if head.as_str() == left),
        "{refused}"
    );
    let held = own.hold(&path).await;
    own.retire(&held, "x").await.unwrap().unwrap();
    ground.repository.call_in(&to, "x").await.unwrap();
    assert!(!to.exists());
    ground.is_sound();
    assert_eq!(ground.git(&["show", &format!("{left}:left.txt")]), "left");
    // in a worktree of the user's own repository git keeps it
    let path = ground.worktree("plain").await;
    write(&path.join("left.txt"), "left\n");
    commit(&path, "left");
    git(&path, &["reset", "-q", "--hard", "HEAD~"]);
    ground.repository.remove(&path).await.unwrap();
}

#[tokio::test]
async fn what_takes_anothers_place_is_brought_as_it_lies() {
    let ground = Ground::new().await;
    let user = ground.room("user");
    for file in ["file", "d/f", "d/deep/g", "e/f", "emptied/one", "stays/one"] {
        write(&user.join(file), "base\n");
    }
    symlink("e", user.join("link")).unwrap();
    write(&user.join(".gitignore"), "ignored\n");
    commit(&user, "kinds");
    type Change = fn(&Path);
    let changes: [(&str, Change); 8] = [
        ("a file became a folder", |at| {
            fs::remove_file(at.join("file")).unwrap();
            write(&at.join("file/in/it"), "new\n");
        }),
        ("a folder became a file", |at| {
            fs::remove_dir_all(at.join("d")).unwrap();
            write(&at.join("d"), "new\n");
        }),
        ("the same, staged", |at| {
            fs::remove_dir_all(at.join("d")).unwrap();
            write(&at.join("d"), "new\n");
            git(at, &["add", "--all"]);
        }),
        ("a folder became a link to another", |at| {
            fs::remove_dir_all(at.join("d")).unwrap();
            symlink("e", at.join("d")).unwrap();
        }),
        ("a link became a folder", |at| {
            fs::remove_file(at.join("link")).unwrap();
            write(&at.join("link/f"), "mine\n");
        }),
        ("a file became a link, staged", |at| {
            fs::remove_file(at.join("file")).unwrap();
            symlink("e/f", at.join("file")).unwrap();
            git(at, &["add", "--all"]);
        }),
        ("a folder is gone, and one is half gone", |at| {
            fs::remove_dir_all(at.join("emptied")).unwrap();
            fs::remove_dir_all(at.join("d/deep")).unwrap();
        }),
        ("a file became a folder with what is ignored", |at| {
            fs::remove_file(at.join("file")).unwrap();
            write(&at.join("file/seen"), "new\n");
        }),
    ];
    for (n, (what, change)) in changes.into_iter().enumerate() {
        let from = ground.worktree(&format!("from-{n}")).await;
        let to = ground.worktree(&format!("to-{n}")).await;
        change(&from);
        let wanted = listing(&from);
        write(&from.join("stays/ignored"), "ignored\n");
        if what.ends_with("ignored") {
            write(&from.join("file/ignored"), "ignored\n");
        }
        let order = Bring { from, required: Vec::new(), included: false, uncommitted: true };
        let brought = bring(order, to.clone()).await;
        let brought = brought.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(brought.skipped, [], "{what}");
        assert_eq!(listing(&to), wanted, "{what}");
    }
    // a link that leads out is left out, and what was there stays
    let (from, to) = (ground.worktree("out").await, ground.worktree("in").await);
    fs::remove_file(from.join("file")).unwrap();
    symlink("/etc/hostname", from.join("file")).unwrap();
    let before = listing(&to);
    let order = Bring { from, required: Vec::new(), included: false, uncommitted: true };
    assert_eq!(bring(order, to.clone()).await.unwrap().skipped.len(), 1);
    assert_eq!(listing(&to), before);
}
