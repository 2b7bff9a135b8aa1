"""SIGSTOP, and SIGCONT later, on real sockets and processes: who is stopped holds up nobody, and
nobody is held to have been silent while the other did not listen.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kardam.client import enrol
from kardam.protocol import CHUNK_BYTES
from kardam.server import Server, serve
from kardam.stats import Tally
from tests.proxy import Proxy
from tests.puppet import Puppet
from tests.test_garbage import bounded
from tests.test_run import SECONDS, lines, look
from tests.test_run import until as seen
from tests.test_server import ANY_PORT, answer, sessions, until, worker

HOUSE = Path(__file__).parents[1]

# A gradient that is not in the buffers of a connection as a whole.
D = 8 * CHUNK_BYTES // 4


@contextlib.contextmanager
def laborer(endpoint: str, token: str, patience: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-m", "tests.laborer", endpoint, token, str(patience)]
    with subprocess.Popen(program, cwd=HOUSE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pass_by(seconds: float) -> None:
    """Here alone time itself is what is tested."""
    threading.Event().wait(seconds)


def tally(server: Server, index: int) -> Tally:
    return server.sessions.stats.workers[index].tally


@pytest.mark.slow
@bounded
async def test_a_worker_that_is_stopped_mid_chunk_holds_up_nobody_and_comes_on_afterwards() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kardam.uploads.PATIENCE", 1.0)
        house = sessions(D, n=8)
        async with (
            serve(house, ANY_PORT) as server,
            Proxy(server.endpoint, rate=5e7) as proxy,
            worker(server, 1) as honest,
        ):
            with laborer(proxy.endpoint, house.tokens.issue(0)) as process:

                def received() -> int:
                    upload = house.exchange.uploads._uploads.get(0)
                    return upload._received if upload is not None else 0

                await until(lambda: received() > 0)
                with stopped(process.pid):
                    g = np.ones(D, np.float32)
                    for _ in range(3):
                        assert await asyncio.to_thread(answer, honest, g) == "admitted"
                    assert received() < 4 * D
                    await until(lambda: tally(server, 0).refused == {"late": 1})
                    assert not house.exchange.uploads
                    assert await asyncio.to_thread(answer, honest, g) == "admitted"
                before = tally(server, 0).admitted
                await until(lambda: tally(server, 0).admitted > before)
            # Its other chunks came for nothing, and are held against nobody.
            assert house.stats.violations == 0


@bounded
async def test_when_all_are_stopped_and_go_on_the_worker_has_patience_for_its_server() -> None:
    house = sessions()
    async with serve(house, ANY_PORT) as server:
        with laborer(server.endpoint, house.tokens.issue(0), patience=1.5) as process:
            await until(lambda: tally(server, 0).admitted > 0)
            # The server's loop stands still, too.
            pass_by(0.1)
            with stopped(process.pid):
                pass_by(2.0)
            pass_by(0.1)
            before = tally(server, 0).admitted
            await until(lambda: tally(server, 0).admitted > before + 10)
            assert process.poll() is None


# A server that waits three seconds for what it waits for half a minute.
HASTY = """
import kardam.sessions, kardam.uploads
kardam.sessions.GONE = kardam.sessions.MISSING = kardam.uploads.PATIENCE = 3.0
from kardam.__main__ import cli, entry
entry(cli)
"""


@pytest.mark.slow
def test_a_server_that_is_stopped_for_longer_than_it_waits_for_anybody_loses_nobody(
    tmp_path: Path,
) -> None:
    d = 3 * CHUNK_BYTES // 8
    save_file({"x": np.zeros(d, np.float32)}, tmp_path / "model.safetensors")
    words = ("serve", "model.safetensors", "--workers", "4", "--preset", "none", "--json")
    with subprocess.Popen(
        [sys.executable, "-c", HASTY, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HOUSE)},
    ) as server:  # fmt: skip
        try:
            endpoint = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+)")[1]
            tokens = [enrol(endpoint, "", False, SECONDS).token for _ in range(2)]
            with (
                contextlib.closing(Puppet(endpoint, tokens[0])) as puppet,
                laborer(endpoint, tokens[1]) as process,
            ):
                delivered = partial(delivered_by, endpoint)
                seen(lambda: delivered(1) > 5)
                puppet.reach("mid-chunk")
                with stopped(server.pid):
                    pass_by(4.5)
                puppet.finish()
                seen(lambda: delivered(0) == 1)
                before = delivered(1)
                seen(lambda: delivered(1) > before + 5)
                books = look(endpoint)
                assert process.poll() is None
            assert (books["refused"], books["violations"]) == ({}, 0)
        finally:
            server.kill()


def delivered_by(endpoint: str, index: int) -> int:
    rows = {row["worker"]: row["delivered"] for row in look(endpoint)["workers"]}
    return int(rows[index])
