"""What each kind of garbage, a flood and a slow disk do to honest workers: their share of what they
do in calm, the longest that one waited, and the most memory that the server took.

    python -m bench.harm

A server of a small model (`kardam serve`) and two honest workers without pause, on loopback; each
attack is another process. Calm and attack take turns, so that what else the machine does hits both.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np
from safetensors.numpy import save_file

from bench.havoc import Household, resident
from bench.rogues import ROGUES
from kardam.client import Client, enrol
from kardam.keys import Keys, published
from kardam.kits import Folder, new_pair
from kardam.messages import Gradient
from kardam.ring import Entry

WORKERS = 2
D = 1000

# Seconds between two answers of an honest worker, beside one that never rests.
PACE = 0.5

# Seconds that each write of a log, and each fsync, takes besides.
SLOW = {"slow writes": ("1", "0"), "slow fsyncs": ("0", "1")}

NAMES = (*ROGUES, "strangers", "flood", *SLOW)

# Figures that not every attack has.
COUNTED = ("handshakes_a_second", "times_as_many")


class Window(NamedTuple):
    """So many cycles a second, the longest of them, and the server's most MiB meanwhile."""

    cycles: float
    longest: float
    mib: float


class Honest(threading.Thread):
    """Exchanges, with so many seconds between two, until it is told that it is enough."""

    def __init__(self, endpoint: str, pace: float = 0.0, keys: Keys | None = None) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self._pace = pace
        self._keys = keys
        self.cycles = 0
        self.longest = 0.0
        self.since = time.monotonic()
        self.enough = threading.Event()

    def run(self) -> None:
        place = enrol(self._endpoint, "", False, 30.0, self._keys)
        g = np.full(D, 1e-3, np.float32)
        with Client(self._endpoint, "worker", token=place.token, keys=self._keys) as client:
            lease = client.pull()
            while not self.enough.is_set():
                _, lease = client.exchange(Gradient(0, lease.ticket, g))
                now = time.monotonic()
                self.cycles += 1
                self.longest = max(self.longest, now - self.since)
                self.since = now
                if self._pace:
                    client.wait(self._pace)


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


class Place(NamedTuple):
    """A server, and honest workers at work."""

    house: Household
    pid: int
    endpoint: str
    workers: list[Honest]
    key: str

    def window(self, seconds: float) -> Window:
        return window(self.workers, self.pid, seconds)

    def books(self) -> dict[str, Any]:
        shows = published(self.endpoint)
        assert shows is not None
        with Client(self.endpoint, "operator", token=shows.token, keys=shows.keys) as operator:
            return operator.query()

    def delivered(self) -> list[int]:
        """By each worker."""
        return [row["delivered"] for row in self.books()["workers"]]


@contextlib.contextmanager
def served(*how: str, pace: float = 0.0, locked: bool = False) -> Iterator[Place]:
    """Started by `how` (by default kardam), under CURVE where it is locked, with WORKERS."""
    folder = Path(tempfile.mkdtemp(prefix="kardam-harm-"))
    house = Household(folder)
    try:
        save_file({"x": np.zeros(D, np.float32)}, folder / "model.safetensors")
        words = ["serve", str(folder / "model.safetensors"), "--preset", "none", "--workers", "4"]
        words += ["--checkpoint-seconds", "1"]
        words += ["--keys", str(folder / "keys")] * locked
        how = how or ("kardam",)
        server = house.start("server", *how, *words, "--out", str(folder / "run"))
        endpoint = _endpoint(folder)
        keys: list[Keys | None] = [None] * WORKERS
        key = ""
        if locked:
            lodge = Folder(folder / "keys")
            key = lodge.pair.public
            keys = [Keys(key, *new_pair()) for _ in range(WORKERS)]
            for name, its in enumerate(keys):
                assert its is not None
                lodge.enroll(its.public, Entry("worker", str(name)))
            time.sleep(1.0)  # the server looks five times a second
        workers = [Honest(endpoint, pace, its) for its in keys]
        for worker in workers:
            worker.start()
        while min(worker.cycles for worker in workers) < 3:
            time.sleep(0.1)
        yield Place(house, server.pid, endpoint, workers, key)
        for worker in workers:
            worker.enough.set()
        for worker in workers:
            worker.join(30.0)
    finally:
        house.close()
        shutil.rmtree(folder)


def under(place: Place, seconds: float, turns: int, *rogue: str) -> dict[str, float]:
    """What this rogue does, in turn with calm."""
    pairs, asked = [], []
    for _ in range(turns):
        calm = place.window(seconds)
        place.house.start("rogue", *rogue)
        time.sleep(1.0)  # it is being loaded
        before = place.books()["strangers"]
        pairs.append((calm, place.window(seconds)))
        asked.append((place.books()["strangers"] - before) / seconds)
        place.house.end("rogue", signal.SIGKILL)
        time.sleep(1.0)
    return {**figures(pairs), "handshakes_a_second": round(median(asked))}


def figures(pairs: list[tuple[Window, Window]]) -> dict[str, float]:
    """Medians of the turns, and the worst of all."""
    return {
        "share": round(median(b.cycles / a.cycles for a, b in pairs), 2),
        "longest_wait_seconds": round(max(b.longest for _, b in pairs), 2),
        "peak_mib": round(max(b.mib for _, b in pairs), 0),
        "calm_mib": round(median(a.mib for a, _ in pairs), 0),
    }


def measured(seconds: float, turns: int, names: Collection[str]) -> dict[str, dict[str, float]]:
    """Each attack's figures."""
    found: dict[str, dict[str, float]] = {}
    if rogues := [name for name in ROGUES if name in names]:
        with served() as place:
            for name in rogues:
                words = ("bench.rogues", place.endpoint, name)
                found[name] = under(place, seconds, turns, *words)
    if "strangers" in names:
        with served(locked=True) as place:
            words = ("bench.floods", place.endpoint, place.key)
            found["strangers"] = under(place, seconds, turns, *words)
    if "flood" in names:
        found["flood"] = _flooded(3 * seconds, turns)
    for name, slow in SLOW.items():
        if name in names:
            pairs = []
            for _ in range(turns):
                with served() as calm:
                    before = calm.window(3 * seconds)
                with served("bench.slow_disk", *slow) as place:
                    pairs.append((before, place.window(3 * seconds)))
            found[name] = figures(pairs)
    return found


def _flooded(seconds: float, turns: int) -> dict[str, float]:
    """What a worker does that never rests, where others do: by turns it is stopped."""
    pairs, times = [], []
    with served(pace=PACE) as place:
        flood = place.house.start("rogue", "bench.floods", place.endpoint)
        while len(place.delivered()) <= WORKERS or place.delivered()[-1] == 0:
            time.sleep(0.1)
        for _ in range(turns):
            flood.send_signal(signal.SIGSTOP)
            calm = place.window(seconds)
            flood.send_signal(signal.SIGCONT)
            before = place.delivered()
            pairs.append((calm, place.window(seconds)))
            *honest, its = (b - a for a, b in zip(before, place.delivered(), strict=True))
            times.append(its / (sum(honest) / len(honest)))
    return {**figures(pairs), "times_as_many": round(median(times))}


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
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="These alone.")
@click.option("--json", "as_json", is_flag=True, help="One object in place of a table.")
def main(seconds: float, turns: int, only: tuple[str, ...], as_json: bool) -> None:
    found: dict[str, Any] = measured(seconds, turns, only or NAMES)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'attack':>12}  share  longest wait  peak MiB  in calm   ({os.cpu_count()} cores)")
    for name, its in found.items():
        more = "".join(f"   {what}: {its[what]:.0f}" for what in COUNTED if its.get(what))
        click.echo(
            f"{name:>12}  {its['share']:5.2f}  {its['longest_wait_seconds']:10.2f} s"
            f"  {its['peak_mib']:8.0f}  {its['calm_mib']:7.0f}{more}"
        )


if __name__ == "__main__":
    main()
