"""What is a cycle made of on the server, and on a worker, where no socket is in the way?

    python -m bench.cycle

One process plays both ends: what a worker's link says is encoded, and decoded by what a server
does with it (as kardam.server does), and back. Two workers in turn push a gradient of a pool, with
the next pull on it. Microseconds of processor time of this thread a cycle. `whole` is the mean,
with the lowest decile and the median of another run of as many cycles, in which nothing is timed
but the whole; of the parts each is what is left when the parts inside it are taken away, and of
the clock itself.
"""

import contextlib
import json
import os
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import click
import numpy as np

from bench.scale import table
from bench.wires import DEFAULT_WIDE, gradients, primed
from kardam import pages
from kardam.exchange import Judge, Send
from kardam.growth import History
from kardam.link import Action, Lease, Link, Say, Tell
from kardam.messages import Gradient
from kardam.protocol import Bytes, decode_down, decode_up, encode
from kardam.records import Records
from kardam.shared import SharedDesk, SharedShelf

WORKERS = 2
CHAINS = {"none": "none", "default": DEFAULT_WIDE}

# Cycles before any is counted, and between two writes of the journal.
WARM, FLUSH = 100, 500


class Parts:
    """Seconds by part, without what is a part of its own inside of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []
        began = time.thread_time()
        for _ in range(1000):
            time.thread_time()
        self._clock = (time.thread_time() - began) / 1000

    def watched(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*given: Any, **named: Any) -> Any:
            self._inside.append(0.0)
            began = time.thread_time()
            try:
                return call(*given, **named)
            finally:
                taken = time.thread_time() - began
                self.seconds[part] += taken - self._inside.pop() - self._clock
                if self._inside:
                    self._inside[-1] += taken + self._clock

        return timed


class Pair:
    """A server's cores and the links of its workers, who hear each other at once."""

    def __init__(self, d: int, filter: str, way: str, folder: Path) -> None:
        self.sessions = primed(d, WORKERS, filter)
        self.records = Records.create(folder, "", 1)
        self.sessions.descent.hear = lambda event, verdict: self.records.hear(event, verdict, 1.0)
        self.shelf = SharedShelf(d, WORKERS) if way == "shared" else None
        if self.shelf is not None:
            self.sessions.exchange.share(self.shelf)
        self.links = [self._link(worker) for worker in range(WORKERS)]
        self._pools = [gradients(worker, d) for worker in range(WORKERS)]
        self._tickets = [0] * WORKERS
        self.decode, self.encode = decode_up, encode
        for worker, link in enumerate(self.links):
            self._do(worker, link.connected(1.0))
            self._do(worker, link.pull(1.0))

    def _link(self, worker: int) -> Link:
        desk = None
        if self.shelf is not None:
            by, pair = self.shelf.admit(worker)
            desk = SharedDesk(by, pair)
            os.close(pair.slot)
        token = self.sessions.tokens.issue(worker)
        return Link("worker", token, lambda: 1.0, desk=desk)

    def cycle(self, turn: int) -> tuple[float, float]:
        """One of them: the seconds of the server and of the worker."""
        worker = turn % WORKERS
        g = self._pools[worker][turn // WORKERS % 2]
        began = time.thread_time()
        actions = self.links[worker].push(
            Gradient(worker, self._tickets[worker], g), 1.0, pull=True
        )
        at_work = time.thread_time() - began
        return self._do(worker, actions, at_work)

    def _do(self, worker: int, actions: list[Action], at_work: float = 0.0) -> tuple[float, float]:
        """What a link wants done, and what that leads to."""
        serving, pending = 0.0, deque(actions)
        while pending:
            match pending.popleft():
                case Say(message=message, body=body):
                    began = time.thread_time()
                    said = encode(message, body)
                    at_work += time.thread_time() - began
                    frames = _carried(said)
                    began = time.thread_time()
                    answers = self.serve(worker, frames)
                    serving += time.thread_time() - began
                    for answer in map(_carried, answers):
                        began = time.thread_time()
                        news = self.links[worker].receive(*decode_down(answer), 1.0)
                        at_work += time.thread_time() - began
                        pending += news
                case Tell(news=Lease(ticket=ticket)):
                    self._tickets[worker] = ticket
                case _:
                    pass
        return serving, at_work

    def serve(self, worker: int, frames: list[memoryview]) -> list[list[Bytes]]:
        """What the server answers to one message: see Server._deliver."""
        answers = []
        message, body = self.decode(frames)
        pending = deque(self.sessions.receive(b"%d" % worker, message, body, 1.0))
        while pending:
            match pending.popleft():
                case Send(message=answer, body=its):
                    answers.append(self.encode(answer, its))
                case Judge(gradient=gradient):
                    verdict = self.sessions.descent.receive(gradient)
                    pending.extend(self.sessions.judged(verdict, 1.0))
        return answers


def _carried(frames: list[Bytes]) -> list[memoryview]:
    """Frames as they arrive: in memory of their own."""
    return [memoryview(bytes(frame)) for frame in frames]


@contextlib.contextmanager
def watching(pair: Pair, parts: Parts) -> Iterator[None]:
    """While the block runs, the parts of this pair are timed."""
    descent, stats = pair.sessions.descent, pair.sessions.stats
    named: list[tuple[Any, str, str]] = [
        (pair, "decode", "decode a header"),
        (pair, "encode", "encode a header"),
        (pair.sessions, "receive", "sessions, exchange: before the verdict"),
        (pair.sessions, "judged", "exchange: after it, and the next model"),
        (stats, "record", "books"),
        (stats, "moved", "books"),
        (descent, "receive", "descent: all else"),
        (descent, "lend", "lend"),
        (descent, "_verdict", "the verdict's record"),
        (descent, "hear", "journal and fingerprint"),
        (descent._lens, "look", "norm and trace of g"),
        (descent._lens, "follow", "trace of the new model"),
        (descent.optimizer, "step", "step"),
    ]
    for stage in descent.filter.stages:  # type: ignore[attr-defined]
        part = f"{type(stage).__name__.lower()}: a verdict"
        named += [(stage, method, part) for method in ("judge", "scale", "admit")]
        if hasattr(stage, "_move"):
            named.append((stage, "_move", "consensus: its centre, every n verdicts"))
    if pair.shelf is not None:
        named += [(pair.shelf, "take", "copy g"), (descent, "_room", "a room for x")]
    with contextlib.ExitStack() as stack:
        for owner, method, part in named:
            timed = parts.watched(part, getattr(owner, method))
            stack.enter_context(patch.object(owner, method, timed))
        add = parts.watched("growth: two distances", History.add)
        stack.enter_context(patch.object(History, "add", lambda self, *given: add(self, *given)))
        yield


def row(d: int, chain: str, way: str, cycles: int) -> dict[str, Any]:
    """A column of the table."""
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(d, CHAINS[chain], way, Path(folder) / "run")
        turns, parts = iter(range(WARM + 2 * cycles)), Parts()

        def played(count: int) -> list[tuple[float, float]]:
            seconds = []
            for _ in range(count):
                turn = next(turns)
                seconds.append(pair.cycle(turn))
                if turn % FLUSH == 0:
                    pair.records.flush()
            return seconds

        with pair.records:
            played(WARM)
            serving, working = zip(*played(cycles), strict=True)
            with watching(pair, parts):
                played(cycles)
    us = {part: 1e6 * taken / cycles for part, taken in parts.seconds.items()}
    return {
        "d": d,
        "chain": chain,
        "way": way,
        "whole": [1e6 * f(serving) for f in (mean, lambda s: np.quantile(s, 0.1), median)],
        "worker": 1e6 * median(working),
        "parts": us,
    }


@click.command()
@click.option("--d", "sizes", type=int, multiple=True, help="[default: 10^4, 10^5]")
@click.option("--cycles", default=2000, show_default=True, help="Timed as a whole; and as parts.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/cycle.json"))
def main(sizes: tuple[int, ...], cycles: int, out: Path) -> None:
    """Microseconds of a cycle by part, on the server, without sockets."""
    pages.keep()
    ways = (("none", "tcp"), ("default", "tcp"), ("default", "shared"))
    rows = [row(d, *way, cycles) for d in sizes or (10**4, 10**5) for way in ways]
    parts = {part for row in rows for part in row["parts"]}

    def line(name: str, told: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
        return {"part": name, **{str(at): told(row) for at, row in enumerate(rows)}}

    lines = [
        line(part, lambda row, part=part: f"{row['parts'].get(part, 0.0):.0f}")  # type: ignore[misc]
        for part in sorted(parts, key=lambda part: -sum(r["parts"].get(part, 0.0) for r in rows))
    ]
    lines += [
        line("whole", lambda row: " / ".join(f"{value:.0f}" for value in row["whole"])),
        line("a worker's whole", lambda row: f"{row['worker']:.0f}"),
    ]
    print(table(["", *(f"{r['d']:,} {r['chain']}, {r['way']}" for r in rows)], lines))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
