"""Peers that speak ZeroMQ by hand and mean no good, on real sockets: what must not hurt.

The README's table of that name has a line for each; bench.rogues has the peers.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench import rogues
from kardam import memory
from kardam.client import Client
from kardam.complaints import INTERVAL, Complaints
from kardam.memory import SLACK, Watch
from kardam.messages import Gradient
from kardam.router import FRAMES_BUDGET
from kardam.server import Server, serve
from tests.test_run import kardam, lines, started
from tests.test_server import ANY_PORT, SECONDS, answer, sessions, until, worker

MIB = 2**20
ONE = np.ones(3, np.float32)


def bounded(test: Callable[..., Any]) -> Callable[..., None]:
    """On an event loop, with a bound on its time."""

    async def in_time() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    def run() -> None:
        asyncio.run(in_time())

    run.__doc__ = test.__doc__
    return run


@contextlib.asynccontextmanager
async def working(**rest: Any) -> AsyncIterator[tuple[Server, Client]]:
    """A server and its honest worker."""
    async with serve(sessions(), ANY_PORT, **rest) as server, worker(server) as client:
        yield server, client


async def admitted(client: Client, times: int = 3) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(answer, client, ONE) == "admitted"


@bounded
async def test_a_message_that_does_not_end_is_let_go_and_the_honest_come_back() -> None:
    limit = memory.resident() + 96 * MIB
    async with working(memory_limit=limit) as (server, client):
        await admitted(client)
        lease = await asyncio.to_thread(client.pull)
        taken = await asyncio.to_thread(rogues.endless, server.endpoint, 2**31)
        assert 96 * MIB < taken < 2**31  # it was cut off
        await until(lambda: server.relieved == 1)
        # The connection was another, and the worker is the same, with what it held.
        late = Gradient(0, lease.ticket, ONE)
        assert (await asyncio.to_thread(client.push, late)).admitted
        await admitted(client)
        assert memory.resident() < limit


@bounded
async def test_two_hundred_thousand_empty_frames_are_one_violation_and_block_no_other_task() -> (
    None
):
    async with working() as (server, client):
        turns = 0
        await asyncio.to_thread(rogues.many_frames, server.endpoint, 1, 200_000)
        while server.sessions.stats.violations == 0:
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 200_000 // FRAMES_BUDGET
        await admitted(client)


@bounded
async def test_who_sends_such_messages_again_and_again_is_cut_off_with_all_that_waits() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kardam.server.JUNK_MAX", 20_000)
        async with working() as (server, client):
            await admitted(client)
            await asyncio.to_thread(rogues.many_frames, server.endpoint, 100, 10_000)
            await until(lambda: server.relieved > 0)
            await admitted(client)
            assert server.sessions.stats.violations < 100


@bounded
async def test_a_frame_over_the_limit_is_hung_up_on() -> None:
    async with working() as (server, client):
        assert await asyncio.to_thread(rogues.oversized, server.endpoint)
        await admitted(client)


@bounded
async def test_half_a_message_and_then_silence_holds_up_nobody() -> None:
    async with working() as (server, client):
        with rogues.half(server.endpoint):
            await admitted(client)


@bounded
async def test_who_greets_byte_by_byte_holds_up_nobody_and_is_hung_up_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kardam.router.HANDSHAKE_MS", 300)
        async with working() as (server, client):
            slow = asyncio.to_thread(rogues.loris, server.endpoint, SECONDS, 0.05)
            await asyncio.gather(slow, admitted(client))  # `slow` ends with its connection


@bounded
async def test_a_thousand_connections_that_say_nothing_hold_up_nobody() -> None:
    memory.raise_files()
    async with working() as (server, client):
        with rogues.connections(server.endpoint, 1000) as peers:
            assert len(peers) == 1000
            await admitted(client)


@contextlib.contextmanager
def flood(endpoint: str) -> Iterator[None]:
    """Garbage from a thread, as fast as it is taken, until the block ends."""
    with contextlib.ExitStack() as ends, rogues.Raw(endpoint) as peer:
        loop = asyncio.get_running_loop()

        def send() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer.send(rogues.frame(b"\xc1") * 100)

        sending = loop.run_in_executor(None, send)
        ends.callback(sending.cancel)
        yield


@bounded
async def test_in_a_flood_of_garbage_the_honest_have_their_turn_and_the_log_one_line() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("kardam").addHandler(handler)
    try:
        async with working() as (server, client):
            with flood(server.endpoint):
                await admitted(client, 20)
                await until(lambda: server.sessions.stats.violations > 10_000 and bool(lines))
                await admitted(client, 20)
    finally:
        logging.getLogger("kardam").removeHandler(handler)
    assert len([line for line in lines if "against the protocol" in line]) == 1


# --- what the server says of it, and when it lets go ---


@pytest.mark.parametrize("limited", [True, False])
def test_with_a_memory_limit_a_server_lets_go_before_it_would_by_itself(
    tmp_path: Path, limited: bool
) -> None:
    save_file({"x": np.zeros(10, np.float32)}, tmp_path / "model.safetensors")
    words = ["serve", "model.safetensors", "--workers", "4", "--out", "run"]
    if limited:
        code, _, err = kardam(*words, "--memory-limit", "1", cwd=tmp_path)
        least = r"--memory-limit: expected at least (\d+) MiB for n=4 and 10 numbers, got 1"
        told = re.search(least, err)
        assert told is not None, err
        assert (code, (tmp_path / "run").exists()) == (2, False)
        words += ["--memory-limit", told[1]]
    with started(*words, cwd=tmp_path) as server:
        endpoint = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+)")[1]
        with rogues.Raw(endpoint) as peer:
            # Less than what nobody explains and is borne.
            with contextlib.suppress(OSError):
                for _ in range(SLACK // MIB * 7 // 8):
                    peer.send(rogues.frame(bytes(MIB), rogues.MORE))
            if limited:
                lines(server, "connections closed, since memory grew")
                assert peer.hung_up(SECONDS)
            else:
                assert not peer.hung_up(1.0)
        assert server.poll() is None


def test_a_kind_of_complaint_is_one_line_an_interval_with_its_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    complaints = Complaints()
    complaints.tell(0.0)
    for second in range(1, int(2.5 * INTERVAL)):
        complaints.add("peers that do not read", 10)
        complaints.tell(float(second))
    assert caplog.messages == [
        "peers that do not read: 10",
        "peers that do not read: 300 in 30 s",
        "peers that do not read: 300 in 30 s",
    ]


def test_memory_is_too_much_where_no_work_explains_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100 * MIB
    monkeypatch.setattr("kardam.memory.resident", lambda: now)
    monkeypatch.setattr("kardam.memory.trim", lambda: None)
    watch = Watch(explained=lambda: 500 * MIB)
    now = 100 * MIB + 500 * MIB + SLACK
    assert not watch.exceeded()
    now += MIB
    assert watch.exceeded()
    watch.relieved()  # of nothing: then it is of another kind, and not asked for again and again
    assert not watch.exceeded()
    limited = Watch(explained=lambda: 500 * MIB, limit=now - 1)
    assert limited.exceeded()
