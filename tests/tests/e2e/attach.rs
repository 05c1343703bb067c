//! `hayward attach` in real terminals: full-screen programs, several viewers, what is typed, what
//! is asked of the terminal, and breaks.

use futures_util::{SinkExt, StreamExt};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::{Body, Frame, Shape};
use hayward_tests::cable::Cable;
use hayward_tests::home::{Home, id};
use hayward_tests::process::{Process, keepers};
use hayward_tests::program::{fault_program, hayward};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::skip;
use hayward_tests::tmux::Tmux;
use hayward_tests::wait::{LONG, holds, until, until_true};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Starts a command in a terminal of its own, as a task that changes nothing.
fn start(home: &Home, repo: &ScratchRepo, command: &[&str]) -> Value {
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let task = home.submit_command(repo.path(), &["--on", "none"], &command);
    home.reaches(&task, "running")
}

/// Whether attach tells that the task is completed; one that had to wait over 3 s for its end may
/// tell how it stood by then.
pub(crate) fn tells_the_end(text: &str, since: Instant) -> bool {
    let is_late = since.elapsed() > Duration::from_secs(3);
    text.contains("the task is completed") || is_late && text.contains("the task is ")
}

fn numbered(path: &Path, count: u32) {
    let lines: String = (1..=count).map(|number| format!("line {number} of the file\n")).collect();
    fs::write(path, lines).unwrap();
}

/// The rows of what `less` shows from this line on, in so many rows.
fn page(from: u32, rows: u32) -> String {
    let lines = (from..from + rows - 1).map(|number| format!("line {number} of the file\n"));
    lines.chain([":\n".to_owned()]).collect()
}

#[test]
fn less_is_right_after_attach_after_resize_and_after_detach_and_attach_again() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("less in attach", &home, &["less"]) else { return };
    let (_daemon, repo, file) = (home.up(), ScratchRepo::new(), home.file("text"));
    numbered(&file, 300);
    let task = start(&home, &repo, &["less", &file.to_string_lossy()]);
    let attach = format!("attach {}", id(&task));
    tmux.open("a", 80, 24);
    tmux.hayward("a", &attach);
    tmux.shows("a", "the first page", |text| text == page(1, 24));
    assert_eq!(tmux.tell("a", "#{alternate_on} #{cursor_x},#{cursor_y}"), "1 1,23");
    tmux.keys("a", &["Space"]);
    tmux.shows("a", "the second page", |text| text == page(24, 24));
    tmux.resize("a", 60, 12);
    tmux.shows("a", "it smaller", |text| text == page(24, 12));
    tmux.resize("a", 100, 30);
    tmux.shows("a", "it larger", |text| text == page(24, 30));
    tmux.keys("a", &["C-\\", "C-\\"]);
    let text = tmux.shows("a", "the shell", |text| text.contains("code=0"));
    assert!(text.contains("detached") && tmux.tell("a", "#{alternate_on}") == "0", "{text}");
    tmux.hayward("a", &attach);
    tmux.shows("a", "it again", |text| text == page(24, 30));
    let quit = Instant::now();
    tmux.keys("a", &["q"]);
    let text = tmux.shows("a", "the end", |text| text.contains("code=0"));
    assert!(text.contains("has ended; ") && tells_the_end(&text, quit), "{text}");
    home.reaches(&task, "completed");
}

#[test]
fn f09_two_viewers_of_different_sizes_and_the_owners_counts() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("two viewers", &home, &["vim"]) else { return };
    let (_daemon, repo, file) = (home.up(), ScratchRepo::new(), home.file("text"));
    numbered(&file, 100);
    let editor = ["vim", "-u", "NONE", "-c", "set nomore", &file.to_string_lossy()];
    let task = start(&home, &repo, &editor);
    tmux.open("large", 100, 40);
    tmux.hayward("large", &format!("attach {}", id(&task)));
    tmux.shows("large", "39 lines", |text| text.contains("line 39 of the file"));
    tmux.open("small", 20, 5);
    tmux.hayward("small", &format!("attach {}", id(&task)));
    tmux.showed("small", 0, "another viewer");
    tmux.keys("small", &["G", "o", "typed by the small", "Escape"]);
    let whole =
        tmux.shows("large", "what the small one typed", |text| text.contains("typed by the small"));
    assert!(whole.contains("line 65 of the file"), "not 40 rows:\n{whole}");
    tmux.shows("small", "the part with the cursor", |text| {
        text.starts_with("line 97 of the file\n") && text.contains("typed by the small\n")
    });
    tmux.open("reader", 90, 30);
    tmux.hayward("reader", &format!("attach --read-only {}", id(&task)));
    tmux.shows("reader", "it too", |text| text.contains("typed by the small"));
    tmux.keys("reader", &["d", "d"]);
    tmux.showed("reader", 0, "read-only: nothing is typed");
    assert!(tmux.text("large").contains("typed by the small"));
    tmux.keys("large", &["C-\\", "C-\\"]);
    tmux.shows("small", "its own size", |text| {
        !text.contains("line 95") && text.contains("typed by")
    });
    tmux.shows("reader", "the size of the small one", |text| {
        text.contains("typed by the small")
            && text.lines().skip(6).all(|line| line.is_empty() || line.contains("read-only"))
    });
}

#[test]
fn f07_a_paste_of_100_kib_arrives_whole_also_at_who_reads_late() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("paste", &home, &[]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let (sent, got) = (home.file("sent"), home.file("got"));
    let text: String = (0..1600)
        .map(|number| {
            format!("{number:07} the quick brown fox jumps over the lazy dog, and again\n")
        })
        .collect();
    fs::write(&sent, text.repeat(2).get(..100 * 1024).unwrap()).unwrap();
    let line = format!("sleep 1; stty raw -echo; echo ready; cat > {}", got.display());
    let task = start(&home, &repo, &["sh", "-c", &line]);
    tmux.open("a", 80, 24);
    tmux.hayward("a", &format!("attach {}", id(&task)));
    until_true("attach has the terminal", LONG, || tmux.tell("a", "#{alternate_on}") == "1");
    tmux.paste("a", &sent);
    let all = || fs::read(&got).unwrap_or_default();
    until_true("all of it is there", LONG, || all().len() >= 100 * 1024);
    assert!(all() == fs::read(&sent).unwrap(), "other bytes than were pasted");
}

#[test]
fn f07_what_an_agent_never_reads_is_told_and_the_terminal_lives_on() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("paste unread", &home, &[]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let task = start(&home, &repo, &["sh", "-c", "stty raw -echo; echo ready; sleep 1000"]);
    let sent = home.file("sent");
    fs::write(&sent, "x".repeat(200 * 1024)).unwrap();
    tmux.open("a", 100, 10);
    tmux.hayward("a", &format!("attach {}", id(&task)));
    tmux.shows("a", "the agent's word", |text| text.starts_with("ready"));
    tmux.paste("a", &sent);
    tmux.showed("a", 0, "not typed, up to");
    tmux.keys("a", &["C-\\", "C-\\"]);
    tmux.shows("a", "the shell", |text| text.contains("code=0"));
}

#[test]
fn f10_each_query_is_answered_once_with_0_1_and_2_viewers_and_never_again() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("queries", &home, &[]) else { return };
    let daemon = home.up();
    let (repo, got) = (ScratchRepo::new(), home.file("got"));
    // asks whenever a gate opens; the last query stands at the end of the output
    let line = format!(
        "stty raw -echo; exec 3<&0; cat <&3 > {} & for gate in 0 1 2 3 4; do \
         until [ -e {}/gate$gate ]; do sleep 0.05; done; printf '\\033[6n'; done; wait",
        got.display(),
        home.files().display(),
    );
    let task = start(&home, &repo, &["sh", "-c", &line]);
    let answers = || home.read("got").matches("\x1b[1;1R").count();
    let exactly = |count: usize| {
        until_true("an answer came", LONG, || answers() >= count);
        holds("no other one comes", Duration::from_millis(700), || answers() == count);
        assert_eq!(home.read("got").len(), 6 * count, "{:?}", home.read("got"));
    };
    home.open_gate("gate0");
    exactly(1);
    for (number, terminal) in ["a", "b"].into_iter().enumerate() {
        tmux.open(terminal, 80, 24);
        tmux.hayward(terminal, &format!("attach {}", id(&task)));
        until_true("attach has the terminal", LONG, || {
            tmux.tell(terminal, "#{alternate_on}") == "1"
        });
        home.open_gate(&format!("gate{}", number + 1));
        exactly(number + 2);
    }
    daemon.crash();
    let daemon = home.up();
    holds("what was answered is not answered again", Duration::from_secs(2), || answers() == 3);
    daemon.crash();
    home.open_gate("gate3");
    holds("nobody is there to answer", Duration::from_millis(500), || answers() == 3);
    home.up();
    exactly(4);
    home.open_gate("gate4");
    exactly(5);
}

#[test]
fn f49_nothing_but_the_screen_reaches_the_users_terminal() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("escapes", &home, &[]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let line = "printf '\\033]0;evil title\\007\\033]52;c;ZXZpbA==\\007\\033[8;5;5t\\033[31mred\\n'; \
                while :; do sleep 1; printf '\\033]2;evil title\\007'; done";
    let task = start(&home, &repo, &["sh", "-c", line]);
    tmux.open("a", 80, 24);
    let before = tmux.tell("a", "#{pane_title} #{window_width}");
    tmux.hayward("a", &format!("attach {}", id(&task)));
    tmux.shows("a", "the text", |text| text.starts_with("red\n"));
    holds("the title stays", Duration::from_secs(2), || {
        tmux.tell("a", "#{pane_title} #{window_width}") == before
    });
}

/// The process of the `attach` that runs in this home.
fn attached(home: &Home) -> i32 {
    until("the attach is found", LONG, || {
        let found = std::process::Command::new("pgrep").args(["-f", "hayward attach"]).output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        let ours = |pid: &i32| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                let home = home.state().to_string_lossy().into_owned();
                String::from_utf8_lossy(&environment).contains(&home)
            }) && fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.ends_with("hayward"))
        };
        found.lines().filter_map(|line| line.parse().ok()).find(ours)
    })
}

#[test]
fn the_users_terminal_is_given_back_on_a_signal_and_outlives_the_daemons_death() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("given back", &home, &["pgrep"]) else { return };
    let daemon = home.up();
    let (repo, got) = (ScratchRepo::new(), home.file("got"));
    let line = format!("stty -echo; echo ready; cat > {}", got.display());
    let task = start(&home, &repo, &["sh", "-c", &line]);
    let keeper = keepers(&home.state())[0];
    let before = sockets(keeper);
    tmux.open("a", 80, 24);
    tmux.keys("a", &["stty -a > before", "Enter"]);
    tmux.hayward("a", &format!("attach {}", id(&task)));
    tmux.shows("a", "the agent's word", |text| text.starts_with("ready"));
    until_true("attach is at the keeper", LONG, || sockets(keeper) > before);
    daemon.crash();
    // it goes on meanwhile, and hides nothing of the agent's
    tmux.shows("a", "the agent's word alone", |text| text.trim() == "ready");
    home.up();
    tmux.shows("a", "the agent's word alone", |text| text.trim() == "ready");
    tmux.keys("a", &["after", "Enter"]);
    until_true("typing goes on", LONG, || home.read("got") == "after\n");
    for signal in ["TERM", "HUP", "INT"] {
        let pid = attached(&home).to_string();
        std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        tmux.shows("a", "the shell", |text| text.contains("code=130"));
        assert_eq!(tmux.tell("a", "#{alternate_on}"), "0");
        tmux.hayward("a", &format!("attach {}", id(&task)));
        tmux.shows("a", "the agent's word", |text| text.starts_with("ready"));
    }
    tmux.keys("a", &["C-\\", "C-\\"]);
    tmux.shows("a", "the shell", |text| text.contains("code=0"));
    tmux.keys("a", &["stty -a > after; cmp before after && echo as before", "Enter"]);
    tmux.shows("a", "the modes as before", |text| text.contains("\nas before"));
}

#[test]
fn f07_keys_their_echo_and_a_paste_need_no_daemon_on_the_same_machine() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("daemon stands still", &home, &[]) else { return };
    let daemon = home.up();
    let (repo, sent) = (ScratchRepo::new(), home.file("sent"));
    let got = home.file("got");
    let line = format!("stty -icanon -echo -icrnl; echo ready; tee {}", got.display());
    let task = start(&home, &repo, &["sh", "-c", &line]);
    let keeper = keepers(&home.state())[0];
    let before = sockets(keeper);
    tmux.open("a", 80, 24);
    tmux.hayward("a", &format!("attach {}", id(&task)));
    tmux.shows("a", "the agent's word", |text| text.starts_with("ready"));
    // from there on it needs no word of the daemon
    until_true("attach is at the keeper", LONG, || sockets(keeper) > before);
    daemon.process.signal(Signal::SIGSTOP);
    let word = "typed while the daemon stands still";
    word.chars().for_each(|key| tmux.keys("a", &["-l", &key.to_string()]));
    tmux.shows("a", "what was typed", |text| text.contains(word));
    let lines: String = (0..2000).map(|number| format!("line {number} of a paste\n")).collect();
    fs::write(&sent, &lines).unwrap();
    tmux.paste("a", &sent);
    let all = || home.read("got");
    until_true("the paste is there", LONG, || all().len() >= word.len() + lines.len());
    assert!(all() == format!("{word}{lines}"), "other bytes than were typed");
    tmux.shows("a", "the end of it", |text| text.contains("line 1999 of a paste"));
    daemon.process.signal(Signal::SIGCONT);
    tmux.keys("a", &["C-\\", "C-\\"]);
    tmux.shows("a", "the shell", |text| text.contains("code=0"));
}

/// How many sockets a process has open.
fn sockets(process: Process) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap().flatten();
    let names = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
}

/// A viewer by hand at this machine's daemon, which has its output elsewhere until it grants more.
struct Aside {
    socket: WebSocketStream<UnixStream>,
    watch: WatchId,
}

impl Aside {
    /// Shows a terminal of 24 by 80; the screen is there when this returns.
    async fn attach(home: &Home, task: &Value) -> Self {
        let stream = UnixStream::connect(home.state().join("daemon.sock")).await.unwrap();
        let (socket, _) = client_async("ws://daemon/api/v1/ws/client", stream).await.unwrap();
        let mut aside = Self { socket, watch: WatchId::fresh() };
        let wish = json!({
            "type": "attachTerminal", "watchId": aside.watch, "taskId": id(task),
            "rows": 24, "cols": 80, "readOnly": false, "grant": 0,
        });
        aside.say(&wish).await;
        aside.sized().await;
        aside
    }

    async fn say(&mut self, word: &Value) {
        self.socket.send(Message::text(word.to_string())).await.unwrap();
    }

    /// The next size that it is told of, other than with a screen.
    async fn sized(&mut self) -> Shape {
        loop {
            let message = timeout(LONG, self.socket.next()).await.unwrap();
            let Message::Binary(frame) = message.unwrap().unwrap() else { continue };
            if let Body::Resized(shape) = Frame::decode(&frame).unwrap().body {
                return shape;
            }
        }
    }
}

#[tokio::test]
async fn f09_who_goes_on_at_the_daemon_is_told_of_a_size_that_changed_before() {
    let home = Home::new();
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let task = start(&home, &repo, &["sh", "-c", "stty -echo; echo ready; cat"]);
    let mut one = Aside::attach(&home, &task).await;
    let mut other = Aside::attach(&home, &task).await;
    let watch = other.watch;
    other.say(&json!({"type": "resizeTerminal", "watchId": watch, "rows": 30, "cols": 90})).await;
    other.say(&json!({"type": "takeTerminal", "watchId": watch})).await;
    // who has its output elsewhere hears there how large it is by then
    assert!(!one.sized().await.owner);
    one.say(&json!({"type": "grant", "watchId": one.watch, "upTo": 1 << 20})).await;
    let told = one.sized().await;
    assert_eq!((told.rows, told.cols, told.owner), (30, 90, false));
}

#[test]
fn f09_a_takeover_reaches_who_is_shown_by_the_keeper() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("takeover", &home, &[]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let line = "stty -echo; echo ready; while read x; do stty size; done";
    let task = start(&home, &repo, &["sh", "-c", line]);
    tmux.open("first", 100, 20);
    tmux.hayward("first", &format!("attach {}", id(&task)));
    tmux.shows("first", "the agent's word", |text| text.starts_with("ready"));
    tmux.open("second", 70, 12);
    tmux.hayward("second", &format!("attach --take {}", id(&task)));
    tmux.showed("first", 0, "another viewer decides");
    tmux.keys("second", &["Enter"]);
    for viewer in ["first", "second"] {
        tmux.shows(viewer, "the size of the second", |text| text.contains("12 70"));
    }
    tmux.keys("second", &["C-\\", "C-\\"]);
    tmux.shows("second", "the shell", |text| text.contains("code=0"));
    tmux.showed("first", 0, "your size now");
    tmux.keys("first", &["Enter"]);
    tmux.shows("first", "its own size", |text| text.contains("20 100"));
}

#[test]
fn f32_a_viewer_that_stands_still_holds_up_nobody_and_shows_the_present_when_it_goes_on() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("viewer stands still", &home, &["pgrep"]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let line = "stty -echo; echo ready; read x; seq 1 5000000; echo over; read x; echo end; read x";
    let task = start(&home, &repo, &["sh", "-c", line]);
    tmux.open("still", 80, 24);
    // or the shell would take its terminal back from who stands still
    let within = format!("clear; sh -c '{} attach {}; true'", hayward().display(), id(&task));
    tmux.keys("still", &[&within, "Enter"]);
    tmux.shows("still", "the agent's word", |text| text.starts_with("ready"));
    let still = Process::of(attached(&home)).unwrap();
    tmux.open("keen", 80, 24);
    tmux.hayward("keen", &format!("attach {}", id(&task)));
    tmux.shows("keen", "the agent's word", |text| text.starts_with("ready"));
    still.signal(Signal::SIGSTOP);
    tmux.keys("keen", &["Enter"]);
    tmux.shows("keen", "all of it", |text| text.contains("5000000\nover"));
    still.signal(Signal::SIGCONT);
    tmux.shows("still", "the present", |text| text.contains("5000000\nover"));
    tmux.keys("still", &["Enter"]);
    for viewer in ["still", "keen"] {
        tmux.shows(viewer, "what comes then", |text| text.contains("over\nend"));
    }
}

#[test]
fn the_users_terminal_is_given_back_when_attach_panics() {
    let test = "panic in attach";
    let Some(program) = fault_program() else {
        return skip(test, "HAYWARD_FAULT_BIN names no build with fault points");
    };
    let home = Home::new();
    let Some(tmux) = Tmux::start(test, &home, &[]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    // a program that changes all that a viewer's terminal follows
    let line = "printf '\\033[?1h\\033[?1002h\\033[?1006h\\033[?2004h\\033[?25lready'; while :; do sleep 1; printf x; done";
    let task = start(&home, &repo, &["sh", "-c", line]);
    tmux.open("a", 100, 24);
    let state = "#{alternate_on} #{cursor_flag} #{keypad_cursor_flag} #{mouse_any_flag}";
    let before = tmux.tell("a", state);
    tmux.keys("a", &["stty -a > before", "Enter"]);
    for passing in [1, 2] {
        // by the second, the first screen and all its modes are out
        let point = format!("attach.screen.drawn:{passing}=panic");
        let attach = format!("{} attach {}", program.display(), id(&task));
        tmux.keys(
            "a",
            &[&format!("clear; HAYWARD_FAULT={point} {attach}; echo {passing}:$?"), "Enter"],
        );
        let ended = format!("\n{passing}:101\n");
        let text = tmux.shows("a", "the shell", |text| text.contains(&ended));
        assert!(text.contains("a test made attach.screen.drawn panic"), "{text}");
        assert_eq!(tmux.tell("a", state), before);
    }
    tmux.keys("a", &["clear; stty -a > after; cmp before after && echo as before", "Enter"]);
    tmux.shows("a", "the modes as before", |text| text.lines().any(|line| line == "as before"));
}

#[test]
fn attach_refuses_what_it_cannot_show_and_says_what_can() {
    let home = Home::new();
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let task = home.submit_command(repo.path(), &["--on", "none"], &["true".to_owned()]);
    home.reaches(&task, "completed");
    let ran = home.run(&["attach", id(&task)]).expect(2);
    assert!(ran.stderr.contains("terminal") && ran.stderr.contains("hayward logs -f"), "{ran:?}");
    let Some(tmux) = Tmux::start("refusals of attach", &home, &[]) else { return };
    tmux.open("a", 100, 24);
    tmux.hayward("a", &format!("attach {}", id(&task)));
    let text = tmux.shows("a", "the refusal", |text| text.contains("code=4"));
    assert!(text.contains("runs no more") && text.contains("hayward logs"), "{text}");
    tmux.hayward("a", "attach 00000000");
    tmux.shows("a", "that there is none", |text| text.contains("code=3"));
}

#[test]
fn who_may_only_read_may_only_look() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("viewer attaches", &home, &[]) else { return };
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let task = start(&home, &repo, &["sh", "-c", "stty -echo; echo ready; cat"]);
    let token = home.json(&["token", "create", "--kind", "user", "--role", "viewer"]);
    let attach = format!("--token {} attach {}", token["token"].as_str().unwrap(), id(&task));
    tmux.open("a", 100, 10);
    tmux.hayward("a", &attach);
    tmux.shows("a", "the refusal", |text| text.contains("code=5"));
    tmux.hayward("a", &format!("{attach} --read-only"));
    tmux.shows("a", "the agent's word", |text| text.starts_with("ready"));
    tmux.keys("a", &["typed", "Enter"]);
    tmux.showed("a", 0, "read-only: nothing is typed");
    assert!(!String::from_utf8_lossy(&home.output(&task)).contains("typed"));
}

#[test]
fn an_agent_on_pipes_has_no_terminal_and_logs_is_named() {
    let home = Home::new();
    let Some(tmux) = Tmux::start("attach to pipes", &home, &[]) else { return };
    let claude = home.bin().join("claude");
    let script = "#!/bin/sh\ncase \"$*\" in *--version*) echo '2.1.0 (Claude Code)' ;; \
                  *) exec sleep 1000 ;; esac\n";
    fs::write(&claude, script).unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
    let (_daemon, repo) = (home.up(), ScratchRepo::new());
    let order = ["--json", "run", "--detach", "--agent", "claude", "wait"];
    let task = home.run_in(repo.path(), &order).expect(0).json();
    home.reaches(&task, "running");
    tmux.open("a", 100, 24);
    tmux.hayward("a", &format!("attach {}", id(&task)));
    let text = tmux.shows("a", "the refusal", |text| text.contains("code=4"));
    assert!(text.contains("over pipes") && text.contains("hayward logs -f"), "{text}");
}

#[test]
fn f32_bytes_are_the_same_over_100_cuts_of_the_line_and_the_screen_is_right_after_them() {
    let home = Home::new();
    let daemon = home.up();
    let repo = ScratchRepo::new();
    let relay = daemon.told["relay"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let cable = Cable::to(&relay);
    let size = 50 * 1024 * 1024;
    let numbers: String = (1..9_000_000u64).map(|number| format!("{number}\n")).collect();
    let expected = format!("{}\r\nlast line", &numbers[..size]);
    let line = format!("stty raw; seq 1 9000000 | head -c {size}; printf '\\r\\nlast line'; cat");
    let task = start(&home, &repo, &["sh", "-c", &line]);
    let tmux = Tmux::start("attach over cuts", &home, &[]);
    if let Some(tmux) = &tmux {
        tmux.open("a", 80, 24);
        tmux.hayward("a", &format!("--relay {} attach {}", cable.url(), id(&task)));
        until_true("attach has the terminal", LONG, || tmux.tell("a", "#{alternate_on}") == "1");
    }
    let logs = ["--relay", &cable.url(), "logs", "-f", "--raw", id(&task)];
    let mut follower = home.spawn("logs", &home.user(), &logs);
    let read = || fs::metadata(home.file("logs.out")).is_ok_and(|file| file.len() > 0);
    until_true("the follower reads", LONG, read);
    for cut in 0..100u64 {
        // not a wait for anything: cuts fall at moments that differ
        std::thread::sleep(Duration::from_millis(20 + 37 * (cut % 5)));
        cable.jolt();
    }
    if let Some(tmux) = &tmux {
        let text = until("the end is shown, without a notice", LONG * 3, || {
            let is_it =
                |text: &String| text.contains("last line") && !text.contains("connecting again");
            Some(tmux.text("a")).filter(is_it)
        });
        let last = expected.lines().rev().nth(2).unwrap();
        assert!(text.replace(['\n', ' '], "").contains(last), "no {last}:\n{text}");
        tmux.keys("a", &["C-\\", "C-\\"]);
    }
    home.run(&["task", "cancel", id(&task)]).expect(0);
    until_true("the follower ends", LONG * 2, || follower.try_wait().unwrap().is_some());
    let got = fs::read(home.file("logs.out")).unwrap();
    let same = got.iter().zip(expected.as_bytes()).take_while(|(one, other)| one == other).count();
    let told = fs::read_to_string(home.file("logs.err")).unwrap();
    assert!(got == expected.as_bytes(), "{} bytes, the same up to {same}: {told}", got.len());
    assert!(!told.contains("not kept"), "{told}");
}
