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
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HAYWARD = pathlib.Path(os.environ.get("HAYWARD_BIN", ROOT / "target/release/hayward"))
RESULTS = []


def result(what, value, limit, holds):
    RESULTS.append((what, value, limit, "holds" if holds else "MISSED"))


class House:
    """A state folder with a running daemon and its relay, gone at the end."""

    def __init__(self, config=""):
        self.config = config

    def prepare(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hayward-bench-"))
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        (self.state / "config.toml").write_text(self.config)
        keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = {**keep, "HAYWARD_HOME": str(self.state), "HOME": str(self.folder), "SHELL": "/bin/sh"}

    def __enter__(self):
        self.prepare()
        begin = time.monotonic()
        self.running = json.loads(self.run("up", "--detach", "--json"))
        self.ready_ms = (time.monotonic() - begin) * 1000
        return self

    def __exit__(self, *_):
        self.run("down")
        self.clear()

    def clear(self):
        """Ends the agents that outlived their daemon, and takes the folder away."""
        for keeper in keepers(self):
            os.kill(keeper, signal.SIGTERM)
        # one whose folder is gone could not record its end, and would try for ever
        begin = time.monotonic()
        while keepers(self) and time.monotonic() - begin < 10:
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words, cwd=None):
        """Runs hayward to its end; what it printed."""
        done = subprocess.run([HAYWARD, *words], env=self.environment, cwd=cwd, check=True, capture_output=True)
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
