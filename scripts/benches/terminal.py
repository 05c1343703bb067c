"""Terminals: output taken in, kept, searched and shown, against bare terminals and tmux."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
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
# fewer than a screen holds, so that none scrolls
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
        try:
            # a status line that changes would pass for the echo of a key
            self.run("new-session", "-d", "-s", "empty", "-x", "80", "-y", "24", "cat", ";",
                     "set-option", "-g", "history-limit", str(LINES + 1000), ";", "set-option", "-g", "status", "off")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            # it fails where there is no server any more
            with contextlib.suppress(subprocess.CalledProcessError):
                self.run("kill-server", within=20)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words, within=600):
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        command = ["tmux", "-f", "/dev/null", "-S", self.socket, *words]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=within).stdout

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
        size, against, bare, kept, theirs = printed(file), has_tmux("ingest"), [], [], []

        def other():
            with Tmux() as tmux:
                theirs.append(size / 1e6 / tmux.shows(file))

        turns = [
            lambda: bare.extend(run(piece, "bare", str(file), TIMES)),
            lambda: kept.extend(run(piece, "kept", str(HAYWARD), str(file), TIMES)),
            *([other] if against else []),
        ]
        for pair in range(PAIRS):
            for turn in turns if pair % 2 else turns[::-1]:
                turn()
    rates = [size * int(TIMES) / 1e6 / took for took in kept]
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
        super().__init__(daemon=True)
        self.path, self.done, self.ending = str(house.state / "daemon.sock"), 0, threading.Event()
        self.fault = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.end()

    def run(self):
        try:
            while not self.ending.is_set():
                self.once(self.PATTERNS[self.done % len(self.PATTERNS)])
                self.done += 1
        except BaseException as fault:
            self.fault = fault

    def once(self, pattern):
        words = urllib.parse.urlencode({"pattern": pattern, "limit": 50})
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(120)
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
        if self.fault is not None:
            raise self.fault
        if self.done == 0:
            raise SystemExit("bench: no search was done beside")


def beside():
    piece = driver()
    with corpus(piece) as file, House(LARGE) as house:
        session_of(house, file)
        alone, beside, searches, busy = [], [], 0, 0.0
        for pair in range(PAIRS):
            for is_searched in (True, False) if pair % 2 else (False, True):
                words = [piece, "kept", str(HAYWARD), str(file), TIMES]
                if not is_searched:
                    alone += run(*words)
                    continue
                with Searching(house) as searching:
                    took = run(*words)
                beside += took
                searches, busy = searches + searching.done, busy + took[0]
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
                held.append(sum(status(pid, anon) for pid in keepers(house)))
            if against:
                with Tmux() as tmux:
                    tmux.shows(file)
                    theirs.append(status(tmux.pid(), anon))
    print(f"memory: daemon {middle(ours):.1f} MiB (fresh {middle(fresh):.1f}), keeper {middle(held):.2f} MiB")
    if against:
        ratio = middle([(a + b) / c for a, b, c in zip(ours, held, theirs)])
        print(f"  tmux {middle(theirs):.0f} MiB; the keeper {middle([a / b for a, b in zip(held, theirs)]):.4f}x of it")
        result("memory of 1 M lines, daemon and keeper / tmux", f"{ratio:.3f}x", "<= 0.1x", ratio <= 0.1)


def ended(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


class Remote:
    """A relay of its own, and a daemon linked to it, as the commands of its owner see them."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.house = House(QUIET)
            self.house.prepare()
            stack.callback(self.house.clear)
            self.begin(stack)
            self.ending = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.ending.close()

    def begin(self, stack):
        environment = self.house.environment
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        database = str(self.house.folder / "relay.db")
        words = [HAYWARD, "relay", "serve", "--listen", address, "--database", database]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        stack.callback(ended, subprocess.Popen(words, env=environment, **quiet))
        token = self.house.folder / "owner.token"
        wait("token of the relay", 20, token.exists)
        time.sleep(0.2)
        environment |= {"HAYWARD_RELAY": f"http://{address}", "HAYWARD_TOKEN": token.read_text().strip()}
        issued = json.loads(self.house.run("token", "create", "--kind", "daemon", "--json"))["token"]
        words = [HAYWARD, "daemon", "run", "--relay", f"http://{address}", "--token", issued]
        own = {name: value for name, value in environment.items() if name not in ("HAYWARD_RELAY", "HAYWARD_TOKEN")}
        stack.callback(ended, subprocess.Popen(words, env=own, **quiet))
        wait("daemon online", 20, self.online)
        # and from now on as from another machine, whose state folder knows of no daemon
        self.away = environment | {"HAYWARD_HOME": str(self.house.folder / "elsewhere")}

    def online(self):
        daemons = json.loads(self.house.run("status", "--json"))["daemons"]
        return any(daemon["online"] for daemon in daemons)


@contextlib.contextmanager
def typing(house, environment, repository):
    """A fresh session that types back what is typed; the command that attaches to it."""
    id_ = json.loads(house.run("run", "--detach", "--json", "--", "sh", "-c", CAT, cwd=repository))["id"]
    wait("agent", 20, lambda: any(task["id"] == id_ and task["startedAt"] for task in crowds.tasks(house)))
    yield [str(HAYWARD), "attach", id_], environment
    house.run("task", "cancel", id_)
    wait("end of the agent", 20, lambda: not keepers(house))


@contextlib.contextmanager
def typing_tmux(tmux):
    tmux.run("new-session", "-d", "-s", "echo", "-x", "80", "-y", "24", CAT)
    yield ["tmux", "-S", tmux.socket, "attach", "-t", "echo"], None
    tmux.run("kill-session", "-t", "echo")


def centile(sorted_, share):
    return sorted_[min(len(sorted_) - 1, int(len(sorted_) * share))]


def between(command):
    """A shell's command in a terminal, with nothing but another terminal around it."""
    return ["script", "-q", "-c", command, "/dev/null"]


def echo():
    piece, against = driver(), has_tmux("echo")
    with contextlib.ExitStack() as stack:
        house, remote = stack.enter_context(House(QUIET)), stack.enter_context(Remote())
        here, there = house.repository(10), remote.house.repository(10)
        # each on an empty screen: a key that stands there already would not be drawn again
        ways = {
            "cat": lambda: contextlib.nullcontext((["sh", "-c", CAT], None)),
            "local": lambda: typing(house, house.environment, here),
            "relay": lambda: typing(remote.house, remote.away, there),
        }
        if shutil.which("script"):
            # what a process between costs on this machine, whatever it does: `attach` and its keeper are two
            ways["one between"] = lambda: contextlib.nullcontext((between(CAT), None))
            ways["two between"] = lambda: contextlib.nullcontext((between(shlex.join(between(CAT))), None))
        if against:
            tmux = stack.enter_context(Tmux())
            ways["tmux"] = lambda: typing_tmux(tmux)
        took = {name: [] for name in ways}
        for pair in range(PAIRS):
            for name, way in list(ways.items())[:: 1 if pair % 2 else -1]:
                with way() as (command, environment):
                    took[name].append(sorted(run(piece, "echo", str(KEYS), *command, env=environment)))
    half = {name: [centile(one, 0.5) for one in all_] for name, all_ in took.items()}
    most = {name: [centile(one, 0.99) for one in all_] for name, all_ in took.items()}
    for name in ways:
        print(f"echo, {name}: p50 {middle(half[name]):.0f} us, p99 {middle(most[name]):.0f} us")
    ratio = lambda over, under: middle([a / b for a, b in zip(over, under)])
    p50, far50 = ratio(half["local"], half["cat"]), ratio(half["relay"], half["cat"])
    result("echo through attach, local, p50 / cat", f"{p50:.2f}x", "<= 3x", p50 <= 3)
    for name in ("one between", "two between") if "one between" in ways else ():
        print(f"  ({name}, p50 / cat: {ratio(half[name], half['cat']):.2f}x; attach / it: {ratio(half['local'], half[name]):.2f}x)")
    if against:
        p99 = ratio(most["local"], most["tmux"])
        result("echo through attach, local, p99 / tmux", f"{p99:.2f}x", "<= 1x", p99 <= 1)
    result("echo through attach and a relay, p50 / cat", f"{far50:.2f}x", "<= 8x", far50 <= 8)


def crowd():
    crowds.measure(driver(), corpus, printed, keepers)
