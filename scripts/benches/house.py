"""What all benches share: a running daemon, the weight of a process, and the table of results."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HAYWARD = pathlib.Path(os.environ.get("HAYWARD_BIN", ROOT / "target/release/hayward"))
RESULTS = []

# who is told to end leaves nothing behind
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def result(what, value, limit, holds):
    RESULTS.append((what, value, limit, "holds" if holds else "MISSED"))


class House:
    """A state folder with a running daemon and its relay, gone at the end."""

    def __init__(self, config=""):
        self.config = config
        self.daemon = None

    def prepare(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hayward-bench-"))
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        (self.state / "config.toml").write_text(self.config)
        keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = {**keep, "HAYWARD_HOME": str(self.state), "HOME": str(self.folder), "SHELL": "/bin/sh"}

    def __enter__(self):
        self.prepare()
        try:
            begin = time.monotonic()
            self.running = json.loads(self.run("up", "--detach", "--json"))
            self.ready_ms = (time.monotonic() - begin) * 1000
            # no other process can come under this handle
            self.daemon = os.pidfd_open(self.running["pid"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.run("down", within=60)
        except BaseException:
            if self.daemon is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.daemon, signal.SIGKILL)
            raise
        finally:
            if self.daemon is not None:
                os.close(self.daemon)
            self.clear()

    def clear(self):
        """Ends the agents that outlived their daemon, and takes the folder away."""
        asked, begin = set(), time.monotonic()
        try:
            # one whose folder is gone could not record its end, and would try for ever
            while (living := set(keepers(self))) and time.monotonic() - begin < 15:
                send(living - asked, signal.SIGTERM)
                asked |= living
                time.sleep(0.05)
            send(living, signal.SIGKILL)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words, cwd=None, within=600):
        """Runs hayward to its end; what it printed."""
        command = [HAYWARD, *words]
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, check=True, capture_output=True, timeout=within
        )
        return done.stdout.decode()

    def repository(self, files, size=6_500):
        path = self.folder / "repository"
        path.mkdir()
        rng = random.Random(1)
        for n in range(files):
            folder = path / f"part{n // 50}"
            folder.mkdir(exist_ok=True)
            (folder / f"file{n}.txt").write_text(rng.randbytes(size).hex())
        identity = ["-c", "user.name=Bench", "-c", "user.email=bench@localhost"]
        for words in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "base"]):
            subprocess.run(["git", *words], cwd=path, env=self.environment, check=True)
        return path


def rows(name, package, given=None):
    """The results of a bench that prints them as lines of its own."""
    command = ["cargo", "bench", "--quiet", "-p", package, "--bench", name]
    environment = {**os.environ, **(given or {})}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as done:
        for line in done.stdout:
            if line.startswith("RESULT\t"):
                _, what, value, limit, verdict = line.strip().split("\t")
                RESULTS.append((what, value, limit, verdict))
            else:
                print(line.rstrip(), flush=True)
    if done.returncode:
        RESULTS.append((name, "broke off", "", "MISSED"))


def send(pids, what):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def keepers(house):
    """The keepers of a house, by their ids."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"keeper\0" + str(house.folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def rollup(pid, field):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) / 1024


def status(pid, field):
    """A field of a process's status, in MiB."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) / 1024
