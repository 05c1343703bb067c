"""Fifty sessions at once that print 200 MB each, and what is kept of it."""

import json
import os
import pathlib
import time

from .house import House, result, rollup, status

SESSIONS = int(os.environ.get("HAYWARD_BENCH_SESSIONS", "50"))
# some 112 bytes each
LINES = int(os.environ.get("HAYWARD_BENCH_CROWD_LINES", "1750000"))
WITHIN = 330
# as many are read whole by `logs`: each is 64 MB of JSON
LOGS = min(5, SESSIONS)
RING = 64 << 20


class Ring:
    """The segments of one session's output."""

    def __init__(self, folder):
        self.run = folder.parent.name
        names = sorted(path for path in folder.iterdir() if len(path.name) == 20 and path.name.isdigit())
        self.segments = [(int(path.name), path) for path in names]

    def end(self):
        if not self.segments:
            return 0
        start, path = self.segments[-1]
        return start + path.stat().st_size

    def start(self):
        return self.segments[0][0] if self.segments else 0

    def holds(self, said):
        """Whether all from its start to its end is there, as it was said."""
        at = self.start()
        for start, path in self.segments:
            part = path.read_bytes()
            if start != at or part != said[at : at + len(part)]:
                return False
            at += len(part)
        return at == len(said)


def rings(house):
    return [Ring(path) for path in house.state.glob("runs/*/ring") if path.is_dir()]


def processor(pid):
    """Seconds of processor time that a process took."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Weights:
    """The most that each was seen to weigh, each time it was looked at."""

    def __init__(self, house, keepers):
        self.house, self.keepers = house, keepers
        self.anon, self.keeper, self.most = 0.0, 0.0, 0

    def look(self):
        self.anon = max(self.anon, status(self.house.running["pid"], "RssAnon"))
        living = self.keepers(self.house)
        self.most = max(self.most, len(living))
        for keeper in living:
            try:
                self.keeper = max(self.keeper, rollup(keeper, "Pss"))
            except (OSError, TypeError):
                continue


def tasks(house):
    return json.loads(house.run("task", "ls", "--json"))["tasks"]


def measure(piece, corpus, printed, keepers):
    config = f"[daemon]\nmax_concurrent_tasks = {SESSIONS}\nsibling_notes = false\n[worktree]\npool = 0\n"
    with corpus(piece, LINES) as file, House(config) as house:
        size, repository = printed(file), house.repository(10)
        weights = Weights(house, keepers)
        before, begin = processor(house.running["pid"]), time.monotonic()
        words = ["run", "--detach", "--json", "--count", str(SESSIONS), "--", "cat", str(file)]
        house.run(*words, cwd=repository)
        while True:
            weights.look()
            over = [task for task in tasks(house) if task["status"] in ("completed", "failed", "cancelled")]
            if len(over) == SESSIONS:
                break
            if time.monotonic() - begin > WITHIN:
                raise SystemExit(f"bench: {len(over)} of {SESSIONS} sessions ended within {WITHIN} s")
            time.sleep(1)
        took = time.monotonic() - begin
        spent = processor(house.running["pid"]) - before
        weights.look()
        said = file.read_bytes().replace(b"\n", b"\r\n")
        kept = [ring for ring in rings(house) if ring.end() == size and ring.holds(said)]
        kept = [ring for ring in kept if ring.end() - ring.start() >= min(size, RING * 15 // 16)]
        named, found = gaps(house, over[:LOGS], kept), numbered(house, over, said)
        # of its whole life: it may be heaviest between two looks, or as it answers
        peak = status(house.running["pid"], "VmHWM")
    total = size * SESSIONS / 1e6
    print(f"crowd: {SESSIONS} sessions, {total:.0f} MB in {took:.0f} s, {weights.most} keepers at once; "
          f"the daemon {spent:.0f} s of processor ({spent * 1000 / total:.1f} ms a MB), anonymous {weights.anon:.1f} MiB")
    print(f"  keepers at most {weights.keeper:.1f} MiB, as sampled")
    result(f"{SESSIONS} sessions of {size / 1e6:.0f} MB, daemon, most resident", f"{peak:.0f} MiB", "<= 150 MiB",
           peak <= 150)
    result("  the heaviest keeper, proportional, as sampled", f"{weights.keeper:.1f} MiB", "<= 6 MiB", weights.keeper <= 6)
    result("  whole up to the stated retention", f"{len(kept)} of {SESSIONS}", str(SESSIONS), len(kept) == SESSIONS)
    result("  its last marked line found by its number", f"{found} of {SESSIONS}", str(SESSIONS), found == SESSIONS)
    result("  the gap named exactly by `logs`", f"{named} of {LOGS}", str(LOGS), named == LOGS)


def gaps(house, over, kept):
    """In how many of the first sessions `logs` names exactly what is gone."""
    starts = {ring.run: ring.start() for ring in kept}
    good = 0
    for task in over:
        told = json.loads(house.run("logs", "--json", task["id"]))
        gone, start = [(gap["from"], gap["until"]) for gap in told["gaps"]], starts.get(task["runId"])
        good += start is not None and gone == ([(0, start)] if start else [])
    return good


def numbered(house, over, said):
    """In how many sessions search finds the last marked line under its number."""
    last = said.rfind(b"needle-in-the-output")
    line = said.count(b"\n", 0, last) + 1
    good = 0
    for task in over:
        words = ["search", "--json", "--newest", "--limit", "1", "needle-in-the-output", "--task", task["id"]]
        good += f'"line":{line},' in house.run(*words).replace(": ", ":")
    return good
