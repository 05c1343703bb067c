"""What a relay carries: its lanes, its idle links, its claims. Each bench starts the relay itself."""

import contextlib
import os
import resource
import shutil
import subprocess

from .house import ROOT, rows

WS = ROOT / "target/node-ws"
SERVICES = ROOT / "scripts/services"

# where the benches look for a server
NAMES = {"postgres": ("DATABASE_URL", "HAYWARD_TEST_POSTGRES"), "nats": ("NATS_URL", "HAYWARD_TEST_NATS")}


@contextlib.contextmanager
def server(name):
    """A throw-away server, unless there is one; nothing where it cannot be had."""
    told, wanted = NAMES[name]
    if wanted in os.environ:
        yield {}
        return
    running = ROOT / f"target/services/{name}.env"
    before = running.exists() and running.read_text()
    try:
        done = subprocess.run([SERVICES, "start", name], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300)
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        yield {wanted: found[told]} if told in found else {}
    finally:
        # one that ran before is told again in the same words, and is somebody else's
        if not before or not running.exists() or running.read_text() != before:
            subprocess.run([SERVICES, "stop", name], cwd=ROOT, check=False)


def node():
    """The folder that holds npm's ws; none where node or npm is away."""
    if not (WS / "node_modules/ws").exists():
        if not (shutil.which("node") and shutil.which("npm")):
            return {}
        WS.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", WS, "ws@8"]
        if subprocess.run(words, timeout=120, check=False).returncode:
            return {}
    return {"HAYWARD_BENCH_WS": str(WS)}


def lane():
    with server("nats") as given:
        rows("lane", "hayward-relay", {**given, **node()})


def state():
    with server("postgres") as given:
        rows("state", "hayward-relay", given)


def links():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows("links", "hayward-relay")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def claim():
    with server("postgres") as given:
        rows("claim", "hayward-relay", given)
