"""Terminals: output taken in, kept, searched and shown, against bare terminals and tmux."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse

from . import crowd as crowds
from .house import HAYWARD, ROOT, House, keepers, result, status

PAIRS = int(os.environ.get("HAYWARD_BENCH_PAIRS", "5"))
LINES = 1_000_000
# of the corpus, one after the other: a run is long enough that its beginning and end do not count
TIMES = os.environ.get("HAYWARD_BENCH_TIMES", "4")
KEYS = 500
# nothing is made ready beside what is measured
QUIET = "[worktree]\npool = 0\n"
LARGE = QUIET + "[terminal]\nring_bytes = 268435456\n"
# what is typed comes back, by the program alone
CAT = "stty raw -echo; exec cat"


def driver():
    """The program that does the pieces."""
    words = ["cargo", "bench", "--quiet", "-p", "hayward", "--bench", "terminal", "--no-run", "--message-format=json"]
    said = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    built = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [one["executable"] for one in built if one.get("executable") and one["target"]["name"] == "terminal"][0]


def run(*words, env=None):
    done = subprocess.run(words, env=env, check=True, capture_output=True, text=True, timeout=600)
    return [float(line) for line in done.stdout.split()]


@contextlib.contextmanager
def corpus(piece, lines=LINES):
    with tempfile.TemporaryDirectory(prefix="hayward-bench-") as folder:
        path = pathlib.Path(folder) / "corpus"
        run(piece, "corpus", str(lines), str(path))
        yield path


def printed(path):
    """How many bytes a terminal makes of a file: each line feed becomes two."""
    size, lines = 0, 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            size, lines = size + len(part), lines + part.count(b"\n")
    return size + lines


def middle(ratios):
    return statistics.median(ratios)


class Tmux:
    """A tmux server of our own with a large history, gone at the end."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="hayward-bench-")
        self.socket = f"{self.folder}/tmux"
        self.run("new-session", "-d", "-s", "empty", "-x", "80", "-y", "24", "cat", ";",
                 "set-option", "-g", "history-limit", str(LINES + 1000))
        return self

    def __exit__(self, *_):
        self.run("kill-server")
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words):
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        command = ["tmux", "-f", "/dev/null", "-S", self.socket, *words]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def shows(self, file):
        """Seconds until a file was printed to a window that wraps no line of it."""
        begin = time.monotonic()
        script = f"cat '{file}'; tmux -S '{self.socket}' wait-for -S done; exec cat"
        self.run("new-session", "-d", "-s", "bench", "-x", "400", "-y", "50", script)
        self.run("wait-for", "done")
        return time.monotonic() - begin

    def pid(self):
        return int(self.run("display-message", "-p", "#{pid}"))


def has_tmux(what):
    if shutil.which("tmux"):
        return True
    print(f"{what}: skipped against tmux, there is none here")
    return False


def ingest():
    piece = driver()
    with corpus(piece) as file:
        size, bare, kept, rates, theirs = printed(file), [], [], [], []
        for pair in range(PAIRS):
            turns = [(bare, ["bare"]), (kept, ["kept", str(HAYWARD)])]
            for seconds, words in turns if pair % 2 else turns[::-1]:
                seconds += run(piece, *words, str(file), TIMES)
            rates.append(size * int(TIMES) / 1e6 / kept[-1])
        against = has_tmux("ingest")
        for _ in range(PAIRS if against else 0):
            with Tmux() as tmux:
                theirs.append(size / 1e6 / tmux.shows(file))
    ratio = middle([a / b for a, b in zip(bare, kept)])
    print(f"ingest: {size * int(TIMES) / 1e6:.0f} MB, kept {middle(rates):.1f} MB/s, bare "
          f"{size * int(TIMES) / 1e6 / middle(bare):.1f}, pairs {' '.join(f'{a / b:.2f}' for a, b in zip(bare, kept))}")
    result("ingest, text and index / bare terminal loop", f"{ratio:.2f}x", ">= 0.95x", ratio >= 0.95)
    if against:
        ratio = middle([a / b for a, b in zip(rates, theirs)])
        print(f"  tmux {middle(theirs):.1f} MB/s")
        result("ingest, text and index / tmux", f"{ratio:.1f}x", ">= 4x", ratio >= 4)


def wait(what, within, is_so):
    begin = time.monotonic()
    while not is_so():
        if time.monotonic() - begin > within:
            raise SystemExit(f"bench: no {what} within {within} s")
        time.sleep(0.05)


def session_of(house, file):
    """A session that has printed a file and lives on; its ring keeps all of it."""
    repository = house.repository(10)
    wanted = printed(file)
    house.run("run", "--detach", "--json", "--", "sh", "-c", f"cat '{file}'; exec sleep 3600", cwd=repository)
    wait("whole output", 300, lambda: any(ring.end() >= wanted for ring in crowds.rings(house)))


class Searching(threading.Thread):
    """Searches of a daemon's own interface, one after the other, until it is told to end."""

    # each reads all of the text
    PATTERNS = ("panicked|deadlock|segfault|OOM-killed", r"error.*line \d+999", "(a+)+$")

    def __init__(self, house):
        super().__init__()
        self.path, self.done, self.ending = str(house.state / "daemon.sock"), 0, threading.Event()

    def run(self):
        while not self.ending.is_set():
            self.once(self.PATTERNS[self.done % len(self.PATTERNS)])
            self.done += 1

    def once(self, pattern):
        words = urllib.parse.urlencode({"pattern": pattern, "limit": 50})
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(self.path)
            door.sendall(f"GET /api/v1/search?{words} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := door.recv(1 << 16):
                answer += part
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"bench: the search answered {answer[:400]!r}")

    def end(self):
        self.ending.set()
        self.join()


def beside():
    piece = driver()
    with corpus(piece) as file, House(LARGE) as house:
        session_of(house, file)
        alone, beside, searches, busy = [], [], 0, 0.0
        for pair in range(PAIRS):
            for is_searched in (True, False) if pair % 2 else (False, True):
                searching = Searching(house) if is_searched else None
                if searching:
                    searching.start()
                took = run(piece, "kept", str(HAYWARD), str(file), TIMES)
                if searching:
                    searching.end()
                    searches, busy = searches + searching.done, busy + took[0]
                    beside += took
                else:
                    alone += took
    ratio = middle([a / b for a, b in zip(alone, beside)])
    print(f"beside: {searches} searches in {busy:.0f} s, pairs {' '.join(f'{a / b:.2f}' for a, b in zip(alone, beside))}")
    result("ingest with a search beside / without", f"{ratio:.2f}x", ">= 0.9x", ratio >= 0.9)


def memory():
    piece, anon = driver(), "RssAnon"
    ours, held, fresh, theirs = [], [], [], []
    with corpus(piece) as file:
        against = has_tmux("memory")
        for _ in range(PAIRS):
            with House(LARGE) as house:
                fresh.append(status(house.running["pid"], anon))
                session_of(house, file)
                house.run("search", "--json", "src/", "--context", "2", "--limit", "500")
                Searching(house).once(r"error.*line \d+")
                ours.append(status(house.running["pid"], anon))
                held.append(max(status(pid, anon) for pid in keepers(house)))
            if against:
                with Tmux() as tmux:
                    tmux.shows(file)
                    theirs.append(status(tmux.pid(), anon))
    print(f"memory: daemon {middle(ours):.1f} MiB (fresh {middle(fresh):.1f}), keeper {middle(held):.2f} MiB")
    if against:
        ratio = middle([a / b for a, b in zip(ours, theirs)])
        print(f"  tmux {middle(theirs):.0f} MiB; the keeper {middle([a / b for a, b in zip(held, theirs)]):.4f}x of it")
        result("memory of 1 M lines, daemon / tmux", f"{ratio:.3f}x", "<= 0.1x", ratio <= 0.1)


class Remote:
    """A relay of its own, and a daemon linked to it, as the commands of its owner see them."""

    def __enter__(self):
        self.house = House(QUIET)
        self.house.prepare()
        environment, relay_home = self.house.environment, self.house.folder / "relay"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        database = str(self.house.folder / "relay.db")
        words = [HAYWARD, "relay", "serve", "--listen", address, "--database", database]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes = [subprocess.Popen(words, env=environment, **quiet)]
        token = self.house.folder / "owner.token"
        wait("token of the relay", 20, token.exists)
        time.sleep(0.2)
        environment |= {"HAYWARD_RELAY": f"http://{address}", "HAYWARD_TOKEN": token.read_text().strip()}
        issued = json.loads(self.house.run("token", "create", "--kind", "daemon", "--json"))["token"]
        words = [HAYWARD, "daemon", "run", "--relay", f"http://{address}", "--token", issued]
        own = {name: value for name, value in environment.items() if name not in ("HAYWARD_RELAY", "HAYWARD_TOKEN")}
        self.processes.append(subprocess.Popen(words, env=own, **quiet))
        wait("daemon online", 20, self.online)
        # and from now on as from another machine, whose state folder knows of no daemon
        self.local = dict(environment)
        self.away = environment | {"HAYWARD_HOME": str(self.house.folder / "elsewhere")}
        return self

    def online(self):
        daemons = json.loads(self.house.run("status", "--json"))["daemons"]
        return any(daemon["online"] for daemon in daemons)

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        self.house.clear()


def typing(house, environment):
    """A session that types back what is typed; the command that attaches to it."""
    repository = house.repository(10)
    task = json.loads(house.run("run", "--detach", "--json", "--", "sh", "-c", CAT, cwd=repository))
    wait("agent", 20, lambda: bool(keepers(house)))
    return [str(HAYWARD), "attach", task["id"]], environment, task["id"]


def centile(sorted_, share):
    return sorted_[min(len(sorted_) - 1, int(len(sorted_) * share))]


def echo():
    piece, against = driver(), has_tmux("echo")
    with contextlib.ExitStack() as stack:
        house, remote = stack.enter_context(House(QUIET)), stack.enter_context(Remote())
        local, local_environment, local_task = typing(house, house.environment)
        far, far_environment, far_task = typing(remote.house, remote.away)
        ways = {"cat": (["sh", "-c", CAT], None), "local": (local, local_environment), "relay": (far, far_environment)}
        if against:
            tmux = stack.enter_context(Tmux())
            tmux.run("new-session", "-d", "-s", "echo", "-x", "80", "-y", "24", CAT)
            ways["tmux"] = (["tmux", "-S", tmux.socket, "attach", "-t", "echo"], None)
        took = {name: [] for name in ways}
        for pair in range(PAIRS):
            for name, (command, environment) in list(ways.items())[:: 1 if pair % 2 else -1]:
                took[name].append(sorted(run(piece, "echo", str(KEYS), *command, env=environment)))
        house.run("task", "cancel", local_task)
        remote.house.run("task", "cancel", far_task)
    half = {name: [centile(one, 0.5) for one in all_] for name, all_ in took.items()}
    most = {name: [centile(one, 0.99) for one in all_] for name, all_ in took.items()}
    for name in ways:
        print(f"echo, {name}: p50 {middle(half[name]):.0f} us, p99 {middle(most[name]):.0f} us")
    ratio = lambda over, under: middle([a / b for a, b in zip(over, under)])
    p50, far50 = ratio(half["local"], half["cat"]), ratio(half["relay"], half["cat"])
    result("echo through attach, local, p50 / cat", f"{p50:.2f}x", "<= 3x", p50 <= 3)
    if against:
        p99 = ratio(most["local"], most["tmux"])
        result("echo through attach, local, p99 / tmux", f"{p99:.2f}x", "<= 1x", p99 <= 1)
    result("echo through attach and a relay, p50 / cat", f"{far50:.2f}x", "<= 8x", far50 <= 8)


def crowd():
    crowds.measure(driver(), corpus, printed, keepers)
