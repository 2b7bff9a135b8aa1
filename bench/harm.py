"""What each kind of garbage does to honest workers: their share of what they do in calm, the
longest that one waited, and the most memory that the server took.

    python -m bench.harm

A server of a small model (`kardam serve`) and two honest workers without pause, on loopback; each
attack is another process. Calm and attack take turns, so that what else the machine does hits both.
"""

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np
from safetensors.numpy import save_file

from bench.havoc import Household, resident
from bench.rogues import ROGUES
from kardam.client import Client, enrol
from kardam.messages import Gradient

WORKERS = 2
D = 1000


class Window(NamedTuple):
    """So many cycles a second, the longest of them, and the server's most MiB meanwhile."""

    cycles: float
    longest: float
    mib: float


class Honest(threading.Thread):
    """Exchanges without pause."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self.cycles = 0
        self.longest = 0.0
        self.since = time.monotonic()

    def run(self) -> None:
        place = enrol(self._endpoint, "", False, 30.0)
        g = np.full(D, 1e-3, np.float32)
        with Client(self._endpoint, "worker", token=place.token) as client:
            lease = client.pull()
            while True:
                _, lease = client.exchange(Gradient(0, lease.ticket, g))
                now = time.monotonic()
                self.cycles += 1
                self.longest = max(self.longest, now - self.since)
                self.since = now


def window(workers: list[Honest], server: int, seconds: float) -> Window:
    """What they do from now on."""
    before = sum(worker.cycles for worker in workers)
    for worker in workers:
        worker.longest = 0.0
    began, peak = time.monotonic(), 0.0
    while time.monotonic() < began + seconds:
        peak = max(peak, resident(server))
        time.sleep(0.02)
    now = time.monotonic()
    cycles = sum(worker.cycles for worker in workers) - before
    longest = max(max(worker.longest, now - worker.since) for worker in workers)
    return Window(cycles / (now - began), longest, peak)


def measured(seconds: float, turns: int) -> dict[str, dict[str, float]]:
    """Each attack's figures: medians of the turns, and the worst of all."""
    folder = Path(tempfile.mkdtemp(prefix="kardam-harm-"))
    house = Household(folder)
    try:
        save_file({"x": np.zeros(D, np.float32)}, folder / "model.safetensors")
        words = ("serve", str(folder / "model.safetensors"), "--preset", "none", "--workers", "4")
        server = house.start("server", "kardam", *words, "--out", str(folder / "run"))
        endpoint = _endpoint(folder)
        workers = [Honest(endpoint) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        window(workers, server.pid, 1.0)
        found: dict[str, dict[str, float]] = {}
        for name in ROGUES:
            pairs = []
            for _ in range(turns):
                calm = window(workers, server.pid, seconds)
                house.start("rogue", "bench.rogues", endpoint, name)
                time.sleep(0.5)  # it is being loaded
                pairs.append((calm, window(workers, server.pid, seconds)))
                house.end("rogue", signal.SIGKILL)
                time.sleep(1.0)
            found[name] = {
                "share": round(median(b.cycles / a.cycles for a, b in pairs), 2),
                "longest_wait_seconds": round(max(b.longest for _, b in pairs), 2),
                "peak_mib": round(max(b.mib for _, b in pairs), 0),
                "calm_mib": round(median(a.mib for a, _ in pairs), 0),
            }
        return found
    finally:
        house.close()
        shutil.rmtree(folder)


def _endpoint(folder: Path) -> str:
    path = folder / "run" / "environment.json"
    until = time.monotonic() + 30
    while not path.is_file():
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.05)
    return str(json.loads(path.read_text())["endpoint"])


@click.command(help=__doc__)
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Of each window.")
@click.option("--turns", type=int, default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object in place of a table.")
def main(seconds: float, turns: int, as_json: bool) -> None:
    found: dict[str, Any] = measured(seconds, turns)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'attack':>12}  share  longest wait  peak MiB  in calm   ({os.cpu_count()} cores)")
    for name, figures in found.items():
        share, wait, peak, calm = figures.values()
        click.echo(f"{name:>12}  {share:5.2f}  {wait:10.2f} s  {peak:8.0f}  {calm:7.0f}")


if __name__ == "__main__":
    main()
