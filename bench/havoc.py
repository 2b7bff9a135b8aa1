"""Everything at once on real processes and sockets: a server, honest workers and liars, peers that
speak garbage; SIGKILL and SIGSTOP of each now and then. It ends by itself, with its processes.

In the first half the server is killed, too, and sent messages that do not end; in the second it
lives on, and its memory is looked at.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import IO, Any

import click

from bench.rogues import ROGUES
from kardam.chronicle import read
from kardam.client import Client
from kardam.errors import KardamError
from kardam.keys import published
from kardam.messages import UNASKED

HOUSE = Path(__file__).parent.parent

# The least that a run trains to, and what a server's memory may grow by in its last quarter.
ACCURACY = 0.85
GROWTH_MIB = 32

# Seconds: until everybody works at the start, until all is well after the last fault, and until a
# process that was asked to end has.
START, CALM, END = 90.0, 90.0, 30.0

# Seconds between two faults, on average.
FAULT_EVERY = 4.0

N = 10
SERVE = ("serve", "--task", "digits", "--workers", str(N), "--resume", "auto", "--json")
HONEST = ("--latency", "lognormal:mean=0.1,sigma=0.5")
CREWS: dict[str, tuple[str, ...]] = {
    "honest": (*HONEST, "--count", "4"),
    "outages": (*HONEST, "--count", "3", "--outages", "every=20,seconds=3"),
    "liars": ("--count", "2", "--attack", "sign_flip:scale=10+flood:rho=100"),
}

# In a draw. Who is killed leaves its place empty for some ninety seconds.
FAULTS = (*["stop worker"] * 7, *["server"] * 3, "kill worker")


class Household:
    """Processes of ours by name, and every descendant that was ever seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[int] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        log = self._logs.setdefault(name, (self.folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(HOUSE)},
            stdin=subprocess.PIPE,
            stdout=(self.folder / f"{name}.out").open("wb"),
            stderr=log,
        )
        self._processes[name] = process
        return process

    def running(self, name: str) -> subprocess.Popen[bytes] | None:
        process = self._processes.get(name)
        return process if process is not None and process.poll() is None else None

    def look(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                self.seen |= descendants(process.pid)

    def left(self) -> set[int]:
        """Who of them is still there."""
        return {pid for pid in self.seen if state(pid) not in ("", "Z")}

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Ask it to end; its exit code, None where it had to be killed."""
        process = self._processes[name]
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END)
            return None

    def close(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is None:
                self.end(name, signal.SIGKILL)
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        for log in self._logs.values():
            log.close()


def _stat(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def state(pid: int) -> str:
    """R, S, T (stopped), Z (dead and not buried); empty where there is no such process."""
    stat = _stat(pid)
    return stat[0] if stat else ""


def resident(pid: int) -> float:
    """MiB."""
    with contextlib.suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def descendants(pid: int) -> set[int]:
    children: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        if stat := _stat(int(path.name)):
            children.setdefault(int(stat[1]), set()).add(int(path.name))
    found, todo = set[int](), [pid]
    while todo:
        new = children.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found | {pid}


class Havoc:
    """One soak."""

    def __init__(self, folder: Path, seconds: float, seed: int) -> None:
        self._chance = random.Random(seed)
        self._seconds = seconds
        self._out = folder / "run"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.house = Household(folder)
        self.faults: Counter[str] = Counter()
        self.memory: list[tuple[float, float]] = []
        self._asleep: dict[int, float] = {}
        self._serve_at = 0.0
        # Who is to be at work, and not to be started again before this second.
        self._crews = dict(CREWS)
        self._join_at: Counter[str] = Counter()

    def run(self) -> tuple[dict[str, Any], list[str]]:
        self._serve()
        self._until(lambda: published(self._endpoint) is not None, START)
        for name in CREWS:
            self._join(name)
        self._until(lambda: self.delivered() > 50, START)
        self._began = time.monotonic()
        self.house.start("rogues", "bench.rogues", self._endpoint)
        half = self._began + self._seconds / 2
        self._storm(half, early=True)
        self.house.end("rogues", signal.SIGKILL)
        # Memory that ZeroMQ once took is kept for the next; from now on there should be no more.
        rest = [name for name in ROGUES if name != "endless"]
        self.house.start("rogues", "bench.rogues", self._endpoint, *rest)
        self._storm(half + self._seconds / 2, early=False)
        return self._calm()

    # --- who there is ---

    def _serve(self) -> None:
        bind = ("--bind", self._endpoint, "--out", str(self._out))
        self.house.start("server", "workers", *SERVE, *bind, "--checkpoint-seconds", "2")

    def _join(self, name: str) -> None:
        self.house.start(name, "workers", "work", self._endpoint, *self._crews[name])

    def books(self) -> dict[str, Any]:
        """Empty while nobody answers."""
        try:
            shows = published(self._endpoint)
            if shows is None:
                return {}
            with Client(
                self._endpoint, "operator", token=shows.token, keys=shows.keys, patience=10.0
            ) as operator:
                return operator.query()
        except KardamError:
            return {}

    def delivered(self) -> int:
        return int(self.books().get("delivered", 0))

    def _until(self, true: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if true():
                return True
            time.sleep(0.5)
        return False

    # --- what happens to them ---

    def _storm(self, until: float, early: bool) -> None:
        next_fault = time.monotonic()
        while (now := time.monotonic()) < until:
            self._mend(now)
            if now >= next_fault:
                self._befall(now, early)
                next_fault = now + self._chance.expovariate(1 / FAULT_EVERY)
            self.house.look()
            if (server := self.house.running("server")) is not None:
                self.memory.append((now - self._began, resident(server.pid)))
            time.sleep(0.5)

    def _mend(self, now: float) -> None:
        """Start again what ended, as its owner would; wake who slept enough."""
        if self.house.running("server") is None and now >= self._serve_at:
            self._serve()
        for name in self._crews:
            if self.house.running(name) is None and now >= self._join_at[name]:
                self._join_at[name] = int(now) + 15
                self._join(name)
        for pid in [pid for pid, wakes in self._asleep.items() if now >= wakes]:
            self._wake(pid)

    def _wake(self, pid: int) -> None:
        del self._asleep[pid]
        if state(pid) == "T":
            os.kill(pid, signal.SIGCONT)

    def _befall(self, now: float, early: bool) -> None:
        kind = self._chance.choice(FAULTS)
        server = self.house.running("server")
        if kind == "server":
            if server is None:
                return
            kind = "kill server" if early and self._chance.random() < 0.5 else "stop server"
            victim = server.pid
        else:
            workers = self._workers()
            if not workers:
                return
            victim = self._chance.choice(workers)
        self.faults[kind] += 1
        if kind == "kill server":
            os.kill(victim, signal.SIGKILL)
            self._serve_at = now + self._chance.uniform(0.5, 3)
        elif kind == "kill worker":
            os.kill(victim, signal.SIGKILL)
            self._crews[f"another {self.faults[kind]}"] = (*HONEST, "--count", "1")
        else:
            os.kill(victim, signal.SIGSTOP)
            longest = 2.0 if kind == "stop server" else 8.0
            self._asleep[victim] = now + self._chance.uniform(0.2, longest)

    def _workers(self) -> list[int]:
        """The processes of workers: children of the nurseries of crews."""
        found: list[int] = []
        for name in self._crews:
            if (crew := self.house.running(name)) is not None:
                family = descendants(crew.pid)
                nurseries = [pid for pid in family if _parent(pid) == crew.pid]
                found += [pid for pid in family if _parent(pid) in nurseries]
        return found

    # --- what came of it ---

    def _calm(self) -> tuple[dict[str, Any], list[str]]:
        self.house.end("rogues", signal.SIGKILL)
        for pid in list(self._asleep):
            self._wake(pid)
        began = time.monotonic()
        if self.house.running("server") is None:
            self._serve()
        before = self.delivered()
        well = self._until(lambda: self.delivered() > before + 100, CALM)
        calm = time.monotonic() - began
        self.house.look()
        code = self.house.end("server")
        for name in self._crews:
            self.house.end(name)
        text = (self.house.folder / "server.out").read_text()
        books: dict[str, Any] = json.loads(text) if text.startswith("{") else {}
        self._until(lambda: not self.house.left(), END)
        return self._facts(books, calm), list(self._broken(books, well, code))

    def _facts(self, books: dict[str, Any], calm: float) -> dict[str, Any]:
        last = self._quarter(3)
        return {
            "seconds": self._seconds,
            "faults": dict(self.faults),
            "accuracy": books.get("accuracy"),
            "updates": books.get("updates"),
            "delivered": books.get("delivered"),
            "honest": books.get("honest"),
            "byzantine": books.get("byzantine"),
            "refused": books.get("refused"),
            "violations": books.get("violations"),
            "well_after_seconds": round(calm, 1),
            "server_mib_third_quarter": round(median(self._quarter(2) or [0.0]), 1),
            "server_mib_last_quarter": round(median(last or [0.0]), 1),
            "server_mib_peak": round(max([mib for _, mib in self.memory] or [0.0]), 1),
            "server_log_lines": len((self.house.folder / "server.log").read_bytes().splitlines()),
            "processes": len(self.house.seen),
            "orphans": len(self.house.left()),
        }

    def _quarter(self, number: int) -> list[float]:
        quarter = self._seconds / 4
        return [mib for at, mib in self.memory if number * quarter <= at < (number + 1) * quarter]

    def _broken(self, books: dict[str, Any], well: bool, code: int | None) -> Iterator[str]:
        if not well:
            yield f"{CALM:g} s after the last fault no hundred gradients more were delivered"
        if code != 0:
            yield f"the server ended with code {code}; see server.log"
        if not books:
            yield "the server told no books at its end"
            return
        if not (books["accuracy"] or 0) >= ACCURACY:
            yield f"accuracy {books['accuracy']}, expected at least {ACCURACY}"
        if "misdeclared" in books["refused"]:
            yield f"somebody was taken for one who lies about its growth: {books['refused']}"
        written = sum(rule != UNASKED for rule in read(self._out).journal.rule)
        if written != books["delivered"]:
            yield f"{written} lines in the journal, {books['delivered']} in the books"
        before, after = median(self._quarter(2) or [0.0]), median(self._quarter(3) or [0.0])
        if after > before + GROWTH_MIB:
            yield f"the server grew from {before:.0f} to {after:.0f} MiB"
        if left := self.house.left():
            yield f"processes outlived the run: {sorted(left)}"


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def soak(seconds: float, seed: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Facts, and the promises that were broken; then the folder with all logs stays."""
    folder = Path(tempfile.mkdtemp(prefix="kardam-soak-"))
    havoc = Havoc(folder, seconds, seed)
    # So that whoever ends it ends all of it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        facts, broken = havoc.run()
    finally:
        havoc.house.close()
    if broken:
        click.echo(f"logs: {folder}", err=True)
    else:
        shutil.rmtree(folder)
    return facts, broken
