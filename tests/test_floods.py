"""A worker that answers a hundred times as often as another takes nothing of its turn."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from kardam.server import serve
from tests.test_garbage import bounded
from tests.test_server import ANY_PORT, answer, sessions, until, worker

HOUSE = Path(__file__).parents[1]
ONE = np.ones(3, np.float32)

# Of the one that floods, to one of the other.
TIMES = 100


@contextlib.contextmanager
def flood(endpoint: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "bench.floods", endpoint], cwd=HOUSE) as process:
        try:
            yield
        finally:
            process.kill()


@bounded
async def test_a_worker_that_floods_at_a_hundred_times_the_rate_of_others_leaves_their_turn() -> (
    None
):
    house = sessions()
    async with serve(house, ANY_PORT) as server, worker(server, 1) as honest:
        with flood(server.endpoint):
            its = house.stats.workers[0].tally
            meanwhile: list[int] = []
            for turn in range(20):
                await until(lambda turn=turn: its.delivered >= TIMES * (turn + 1))  # type: ignore[misc]
                before = its.delivered
                assert await asyncio.to_thread(answer, honest, ONE) == "admitted"
                meanwhile.append(its.delivered - before)
        # There and back, twice: a turn of the flood each, and what the machine makes of it.
        assert median(meanwhile) < TIMES / 2
        assert house.stats.violations == 0
