"""A bad network between a worker and its server, on real sockets: late, narrow, and cut."""

import asyncio

import numpy as np
import pytest

from kardam.client import Client
from kardam.messages import Gradient
from kardam.protocol import CHUNK_BYTES
from kardam.server import serve
from tests.proxy import Proxy
from tests.test_garbage import bounded
from tests.test_server import ANY_PORT, answer, sessions, until

ONE = np.ones(3, np.float32)


def far(proxy: Proxy, token: str) -> Client:
    """A worker on the other side of the proxy."""
    return Client(proxy.endpoint, "worker", token=token)


@bounded
async def test_a_worker_whose_line_is_cut_again_and_again_loses_no_answer() -> None:
    async with serve(sessions(), ANY_PORT) as server, Proxy(server.endpoint) as proxy:
        client = far(proxy, server.sessions.tokens.issue(0))
        await asyncio.to_thread(client.__enter__)
        for _ in range(3):
            lease = await asyncio.to_thread(client.pull)
            proxy.cut()
            late = Gradient(0, lease.ticket, ONE)
            assert (await asyncio.to_thread(client.push, late)).admitted
        assert server.sessions.stats.total.refused == {}
        await asyncio.to_thread(client.close)


@bounded
async def test_a_push_that_is_cut_midway_is_answered_all_the_same() -> None:
    d = 3 * CHUNK_BYTES // 4
    async with serve(sessions(d), ANY_PORT) as server, Proxy(server.endpoint) as proxy:
        client = far(proxy, server.sessions.tokens.issue(0))
        await asyncio.to_thread(client.__enter__)
        lease = await asyncio.to_thread(client.pull)
        before = proxy.carried
        gradient = Gradient(0, lease.ticket, np.ones(d, np.float32))
        pushing = asyncio.create_task(asyncio.to_thread(client.push, gradient))
        await until(lambda: proxy.carried > before + CHUNK_BYTES)
        proxy.cut()
        assert (await pushing).admitted
        await asyncio.to_thread(client.close)


@pytest.mark.parametrize(("delay", "rate"), [(0.1, 0.0), (0.0, 8e6)], ids=["late", "narrow"])
def test_a_late_or_narrow_line_is_slow_and_no_more(delay: float, rate: float) -> None:
    @bounded
    async def test() -> None:
        d = CHUNK_BYTES // 4 if rate else 3
        async with (
            serve(sessions(d), ANY_PORT) as server,
            Proxy(server.endpoint, delay, rate) as proxy,
        ):
            client = far(proxy, server.sessions.tokens.issue(0))
            await asyncio.to_thread(client.__enter__)
            for _ in range(2):
                said = await asyncio.to_thread(answer, client, np.ones(d, np.float32))
                assert said == "admitted"
            assert server.sessions.stats.violations == 0
            await asyncio.to_thread(client.close)

    test()


@bounded
async def test_a_clock_that_jumps_by_a_day_is_nobodys_clock() -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with serve(sessions(), ANY_PORT) as server:
            client = Client(server.endpoint, "worker", token=server.sessions.tokens.issue(0))
            await asyncio.to_thread(client.__enter__)
            for day in (1e5, -1e5):
                patch.setattr("time.time", lambda day=day: 1.7e9 + day)
                assert await asyncio.to_thread(answer, client, ONE) == "admitted"
            assert 0 < server.now < 60
            await asyncio.to_thread(client.close)
