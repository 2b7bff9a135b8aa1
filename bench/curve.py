"""What does CURVE cost a cycle?

    python -m bench.curve

One worker exchanges gradients of d numbers with a server in another process, without a filter:
with keys and without, in turns of SECONDS each, so that what else the machine does hits both. The
figures are medians of milliseconds a cycle, and of milliseconds of processor time, worker + server,
which other load disturbs less; each ratio is the median of those within a turn.
"""

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import numpy as np
import uvloop

from kardam import daemon, pages
from kardam.client import Client
from kardam.gate import Locked
from kardam.keys import Keys, Pass
from kardam.kits import Folder, new_pair
from kardam.messages import Gradient, Manifest, Vector
from kardam.recipe import Recipe
from kardam.ring import Entry
from kardam.server import serve

FORK = multiprocessing.get_context("fork")
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
SECONDS = 2.0


async def _serve(d: int, folder: Folder | None, ready: Connection) -> None:
    recipe = Recipe.of(n=1, preset="none")
    ours = daemon.house(recipe, np.zeros(d, np.float32), Manifest((("x", (d,)),)), seed=0, task="")
    locked = Locked(folder.pair.secret, folder.enrolled) if folder is not None else None
    async with serve(ours, "tcp://127.0.0.1:0", locked=locked) as server:
        ready.send((server.endpoint, ours.tokens.issue(0)))
        await asyncio.to_thread(ready.poll, None)


def _server(d: int, folder: Folder | None, ready: Connection) -> None:
    pages.keep()
    uvloop.run(_serve(d, folder, ready))


class Cost(NamedTuple):
    """Milliseconds of a cycle, and of processor time."""

    took: float
    worked: float


@contextlib.contextmanager
def connected(d: int, keyed: bool) -> Iterator[tuple[Client, int]]:
    """A worker's line to a server of its own, and the clock of that one's processor time."""
    with TemporaryDirectory() as path:
        folder = Folder(Path(path)) if keyed else None
        ours, theirs = FORK.Pipe()
        pair = new_pair()
        if folder is not None:
            folder.make()
            folder.enroll(pair.public, Entry("worker", "one"))
        process = FORK.Process(target=_server, args=(d, folder, theirs), daemon=True)
        process.start()
        endpoint, token = ours.recv()
        shows = Pass(token) if folder is None else Pass(keys=Keys(folder.pair.public, *pair))
        with Client(endpoint, "worker", token=shows.token, keys=shows.keys) as client:
            assert process.pid is not None
            yield client, (~process.pid << 3) | 2  # as Linux numbers the clock of a process
        ours.send("enough")
        process.join()


def cycle(client: Client, server: int, g: Vector) -> Cost:
    """What one costs, over SECONDS."""
    lease, cycles, began = client.pull(), 0, time.perf_counter()
    worked = -time.process_time() - time.clock_gettime(server)
    while (took := time.perf_counter() - began) < SECONDS:
        _, lease = client.exchange(Gradient(0, lease.ticket, g))
        cycles += 1
    worked += time.process_time() + time.clock_gettime(server)
    client.push(Gradient(0, lease.ticket, g))
    return Cost(1000 * took / cycles, 1000 * worked / cycles)


@click.command()
@click.option("--turns", default=5, show_default=True)
def main(turns: int) -> None:
    """Print a row a size."""
    print("| d | without keys | with keys | ratio | processor | with keys | ratio |")
    print("|---|---|---|---|---|---|---|")
    for d in SIZES:
        g = np.zeros(d, np.float32)
        with connected(d, keyed=False) as plain, connected(d, keyed=True) as keyed:
            pairs = [(cycle(*plain, g), cycle(*keyed, g)) for _ in range(turns + 1)][1:]
        cells = []
        for what in Cost._fields:
            costs = [(getattr(one, what), getattr(other, what)) for one, other in pairs]
            cells += [f"{median(side):.3g} ms" for side in zip(*costs, strict=True)]
            cells.append(f"{median(after / before for before, after in costs):.2f}")
        print(f"| {d:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
