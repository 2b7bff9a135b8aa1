"""Real sockets on loopback: ready inside the block, gone after it; no rogue stops the honest."""

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import uvloop
import zmq

from kardam import daemon
from kardam import server as server_module
from kardam.client import Client, Halted, check_endpoint, enrol, reach
from kardam.errors import Denied, Unreachable, UsageError
from kardam.keys import Pass, published
from kardam.messages import Gradient, Hello, Manifest, Part, Pull, Query
from kardam.protocol import CHUNK_BYTES, PROTOCOL, decode_down, encode
from kardam.recipe import Recipe
from kardam.router import BACKLOG_MAX
from kardam.server import Server, serve
from kardam.sessions import Sessions
from tests.puppet import Puppet

ANY_PORT = "tcp://127.0.0.1:0"
SECONDS = 20.0  # everything here ends by itself, or fails


def sessions(d: int = 3, n: int = 4) -> Sessions:
    recipe = Recipe.of(n=n, preset="none")
    return daemon.house(
        recipe, np.zeros(d, np.float32), Manifest((("x", (d,)),)), seed=1, task="digits"
    )


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[str], None]:
    """A test on asyncio's loop and on uvloop's, with a bound on its time."""

    async def bounded() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def run(loop: str) -> None:
        (asyncio if loop == "asyncio" else uvloop).run(bounded())

    run.__doc__ = test.__doc__
    return run


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that the event loop will bring about."""
    while not true():  # noqa: ASYNC110  # what it waits for sets no event
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def worker(server: Server, index: int = 0, **rest: Any) -> AsyncIterator[Client]:
    """A client in the role of a worker; its blocking calls belong in threads."""
    token = server.sessions.tokens.issue(index)
    client = Client(server.endpoint, "worker", token=token, **rest)
    await asyncio.to_thread(client.__enter__)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.close)


def answer(client: Client, g: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    judged = client.push(Gradient(0, client.pull().ticket, g))
    return "admitted" if judged.admitted else judged.rule


@contextlib.contextmanager
def rogue(server: Server) -> Any:
    """A raw peer. It is of this process: what lay read in it would be taken for the server's."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.set(zmq.LINGER, 0)
        peer.set(zmq.RCVHWM, 1)
        peer.connect(server.endpoint)
        yield peer


@on_both_loops
async def test_the_server_is_ready_inside_the_block_and_gone_after_it() -> None:
    async with serve(sessions(), ANY_PORT) as server:
        endpoint = server.endpoint
        reach(endpoint, 1.0)
    with pytest.raises(Unreachable, match="nobody listens there"):
        reach(endpoint, 1.0)
    async with serve(sessions(), endpoint) as again:
        assert again.endpoint == endpoint


@on_both_loops
async def test_a_gradient_travels_and_moves_the_model() -> None:
    async with serve(sessions(), ANY_PORT) as server, worker(server) as client:
        g = np.array([1, -2, 3], np.float32)
        assert await asyncio.to_thread(answer, client, g) == "admitted"
        lease = await asyncio.to_thread(client.pull)
        assert lease.model.x.tobytes() == (-np.float32(0.1) * g).tobytes()


@on_both_loops
async def test_a_model_of_many_chunks_travels_both_ways_to_the_bit() -> None:
    d = 3 * CHUNK_BYTES // 4 + 17
    async with serve(sessions(d), ANY_PORT) as server, worker(server) as client:
        g = np.random.default_rng(0).standard_normal(d).astype(np.float32)
        assert await asyncio.to_thread(answer, client, g) == "admitted"
        lease = await asyncio.to_thread(client.pull)
        assert lease.model.x.tobytes() == (-np.float32(0.1) * g).tobytes()


@on_both_loops
async def test_a_crash_inside_comes_out_of_the_block() -> None:
    def crash(verdict: object, took: float) -> None:
        raise ZeroDivisionError("a bug")

    async def run() -> None:
        async with serve(sessions(), ANY_PORT, crash) as server, worker(server) as client:
            await asyncio.to_thread(answer, client, np.ones(3, np.float32))

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await run()


@on_both_loops
async def test_the_blocks_own_error_comes_out_as_itself() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with serve(sessions(), ANY_PORT):
            raise KeyError("mine")


@on_both_loops
async def test_who_is_connected_at_the_end_is_told_that_it_is_over() -> None:
    async with serve(sessions(), ANY_PORT) as server:
        client = Client(server.endpoint, "worker", token=server.sessions.tokens.issue(0))
        await asyncio.to_thread(client.__enter__)
    with pytest.raises(Halted, match="the run is over"):
        await asyncio.to_thread(client.pull)
    await asyncio.to_thread(client.close)


@on_both_loops
async def test_who_waits_for_ever_hears_of_the_end_and_who_waits_a_little_does_not() -> None:
    async with serve(sessions(), ANY_PORT) as server:
        client = Client(server.endpoint, "worker", token=server.sessions.tokens.issue(0))
        await asyncio.to_thread(client.__enter__)
        await asyncio.to_thread(client.wait, 0.01)
        for_ever = asyncio.create_task(asyncio.to_thread(client.wait, math.inf))
    with pytest.raises(Halted, match="the run is over"):
        await for_ever
    await asyncio.to_thread(client.close)


@on_both_loops
async def test_three_thousand_random_messages_and_an_oversized_one_disturb_nobody() -> None:
    chance = np.random.default_rng(17)
    async with serve(sessions(), ANY_PORT) as server, worker(server) as client:
        with rogue(server) as peer:
            for _ in range(3000):
                frames = [
                    chance.bytes(int(chance.integers(40))) for _ in range(chance.integers(1, 6))
                ]
                await asyncio.to_thread(peer.send_multipart, frames)
            peer.send(bytes(2 * CHUNK_BYTES))
            await until(lambda: server.sessions.stats.violations >= 3000)
            for _ in range(5):
                said = await asyncio.to_thread(answer, client, np.ones(3, np.float32))
                assert said == "admitted"


@on_both_loops
async def test_a_message_of_very_many_frames_is_one_violation() -> None:
    async with serve(sessions(), ANY_PORT) as server, worker(server) as client:
        with rogue(server) as peer:
            peer.send_multipart([b""] * 10_000)
            await until(lambda: server.sessions.stats.violations == 1)
        assert await asyncio.to_thread(answer, client, np.ones(3, np.float32)) == "admitted"


@on_both_loops
async def test_a_peer_that_never_reads_holds_up_nobody_and_little_memory() -> None:
    d = CHUNK_BYTES // 4
    async with serve(sessions(d), ANY_PORT) as server, worker(server) as client:
        with rogue(server) as peer:
            token = server.sessions.tokens.evaluator
            peer.send_multipart(encode(Hello(PROTOCOL, "", "evaluator", token, "", False, ())))
            for _ in range(BACKLOG_MAX):
                await asyncio.to_thread(peer.send_multipart, encode(Pull(-1)))
            waiting = server._router._backlog
            await until(lambda: any(waiting.values()))
            g = np.ones(d, np.float32)
            assert await asyncio.to_thread(answer, client, g) == "admitted"
            assert all(len(messages) <= BACKLOG_MAX for messages in waiting.values())
            assert server.relieved == 0


@on_both_loops
async def test_others_have_their_turn_before_the_next_look_however_long_there_is_work() -> None:
    ticks = looks = 0
    with patch.object(server_module, "TICK", 0.0):
        async with serve(sessions(), ANY_PORT) as server:
            tick = server.sessions.tick

            def ticked(now: float) -> Any:
                nonlocal ticks
                ticks += 1
                return tick(now)

            def busy() -> bool:
                nonlocal looks
                looks += 1
                return True

            with (
                patch.object(server.sessions, "tick", ticked),
                patch.object(server._router, "look", busy),
            ):
                # Each of these finds that there is more to read than could be read.
                await until(lambda: ticks > 20)
                ticked_before, looked_before = ticks, looks
                for _ in range(100):
                    await asyncio.sleep(0)
                assert ticks > ticked_before
                assert 20 <= looks - looked_before <= 60


@on_both_loops
async def test_an_unknown_token_is_denied_with_a_reason() -> None:
    async with serve(sessions(), ANY_PORT) as server:
        client = Client(server.endpoint, "worker", token="guess")
        with pytest.raises(Denied, match="this token is no worker's here"):
            await asyncio.to_thread(client.__enter__)


@on_both_loops
async def test_another_version_is_denied_with_both_versions() -> None:
    async with serve(sessions(), ANY_PORT) as server:
        with rogue(server) as peer:
            hello = encode(Hello(PROTOCOL, "", "worker", "", "", False, ()))[0]
            peer.send(bytes(hello).replace(b"protocol" + bytes([PROTOCOL]), b"protocol\x07"))
            frames = await asyncio.to_thread(peer.recv_multipart)
            denied, _ = decode_down(frames)
            assert f"expected protocol {PROTOCOL}, got 7; the server is kardam" in str(denied)


@on_both_loops
async def test_strangers_on_this_machine_may_enrol_until_all_n_are_taken() -> None:
    async with serve(sessions(n=2), ANY_PORT) as server:
        places = [await asyncio.to_thread(enrol, server.endpoint, "", False, 5.0) for _ in range(2)]
        assert [place.worker for place in places] == [0, 1]
        assert (places[0].task, places[0].split) == ("digits", "iid")
        assert (places[0].seed, places[0].n) == (1, 2)
        with pytest.raises(Denied, match="all n=2 workers are taken"):
            await asyncio.to_thread(enrol, server.endpoint, "", False, 5.0)


@on_both_loops
async def test_who_leaves_at_once_says_goodbye_all_the_same() -> None:
    async with serve(sessions(n=1), ANY_PORT) as server:
        for _ in range(20):
            place = await asyncio.to_thread(enrol, server.endpoint, "", False, 5.0)
            client = Client(server.endpoint, "worker", token=place.token)
            await asyncio.to_thread(client.__enter__)
            client.close()
            await until(lambda: server.sessions.presence(0, server.now) == "left")


@on_both_loops
async def test_an_operator_reads_the_books_over_the_wire() -> None:
    async with serve(sessions(), ANY_PORT) as server, worker(server, 2, label="slow"):
        with daemon.published(server):
            shows = published(server.endpoint)
            assert shows == Pass(server.sessions.tokens.operator)
            client = Client(server.endpoint, "operator", token=shows.token)
            await asyncio.to_thread(client.__enter__)
            books = await asyncio.to_thread(client.query)
            await asyncio.to_thread(client.close)
        assert published(server.endpoint) is None
        assert [(row["worker"], row["label"]) for row in books["workers"]] == [(2, "slow")]


@on_both_loops
async def test_a_worker_beats_while_its_training_says_nothing() -> None:
    async with serve(sessions(), ANY_PORT) as server, worker(server):
        (session,) = server.sessions._workers.values()
        for _ in range(2):
            heard = session.heard
            await until(lambda before=heard: session.heard > before)  # type: ignore[misc]


@on_both_loops
async def test_who_vanishes_is_missing_and_comes_back_with_the_gradient_it_held() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kardam.sessions.BEAT", 0.1)
        patch.setattr("kardam.sessions.MISSING", 0.5)
        async with serve(sessions(), ANY_PORT) as server, worker(server, patience=1.0) as client:
            lease = await asyncio.to_thread(client.pull)
            away = asyncio.create_task(asyncio.to_thread(client.vanish, 1.5))
            await until(lambda: server.sessions.presence(0, server.now) == "missing")
            assert not away.done()
            await away
            late = Gradient(0, lease.ticket, np.ones(3, np.float32))
            assert (await asyncio.to_thread(client.push, late)).admitted
            assert server.sessions.presence(0, server.now) == "alive"
            assert server.sessions.stats.violations == 0


@on_both_loops
async def test_who_was_away_when_the_run_ended_is_told_at_its_return() -> None:
    async with serve(sessions(), ANY_PORT) as server, worker(server) as client:
        lease = await asyncio.to_thread(client.pull)
        away = asyncio.create_task(asyncio.to_thread(client.vanish, 0.3))
        await server.drain()
        await away
        with pytest.raises(Halted, match="the run is over"):
            await asyncio.to_thread(client.push, Gradient(0, lease.ticket, lease.model.x))


@on_both_loops
async def test_a_worker_comes_back_by_itself_to_a_server_that_was_restarted() -> None:
    first = sessions()
    async with serve(first, ANY_PORT) as server:
        endpoint = server.endpoint
        token = first.tokens.issue(0)
        client = Client(endpoint, "worker", token=token)
        await asyncio.to_thread(client.__enter__)
        lease = await asyncio.to_thread(client.pull)
        epoch = client.epoch
        server.sessions.halt = lambda reason: []  # type: ignore[method-assign]  # as if killed
    second = sessions()
    second._roll.tokens = first.tokens
    async with serve(second, endpoint):
        late = Gradient(0, lease.ticket, np.ones(3, np.float32))
        judged = await asyncio.to_thread(client.push, late)
        assert (judged.admitted, judged.rule) == (False, "restarted")
        assert client.epoch != epoch
        assert await asyncio.to_thread(answer, client, np.ones(3, np.float32)) == "admitted"
        await asyncio.to_thread(client.close)


@on_both_loops
async def test_two_servers_on_one_port_is_an_error_that_names_a_way_out() -> None:
    async with serve(sessions(), ANY_PORT) as server:
        with pytest.raises(Unreachable, match=r"Address already in use; tcp://127.0.0.1:0 takes"):
            async with serve(sessions(), server.endpoint):
                pass


@on_both_loops
async def test_draining_ends_when_the_last_upload_is_in() -> None:
    d = CHUNK_BYTES // 2
    async with serve(sessions(d), ANY_PORT) as server:
        puppet = Puppet(server.endpoint, server.sessions.tokens.issue(0))
        await asyncio.to_thread(puppet.reach, "mid-chunk")
        drain = asyncio.create_task(server.drain())
        await until(lambda: server.sessions.status() == "draining")
        puppet.finish()
        await drain
        puppet.close()
        assert server.sessions.status() == "ended"
        assert server.sessions.stats.total.admitted == 1


@on_both_loops
async def test_a_server_that_can_leave_no_token_for_its_user_serves_all_the_same() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
        async with serve(sessions(), ANY_PORT) as server:
            with daemon.published(server):
                assert published(server.endpoint) is None
                async with worker(server) as client:
                    assert (await asyncio.to_thread(client.pull)).model.version == 0


def test_a_silent_endpoint_is_given_up_after_ones_patience() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"nothing heard for 0\.5 s"):
            Client(endpoint, "worker", token="", patience=0.5).__enter__()


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "127.0.0.1:5", "tcp://127.0.0.1", "tcp://:5", "http://a:5", "tcp://a:b"),
        # Which ZeroMQ, or a name server, would choke on.
        *("tcp://a:5/", "tcp://me@a:5", "TCP://a:5", "tcp://[a:5"),
        *("tcp://a..b:5", f"tcp://{'a' * 64}:5"),
    ],
)
def test_what_is_no_endpoint_is_an_error_with_an_example(endpoint: str) -> None:
    with pytest.raises(UsageError, match=r"expected an endpoint like tcp://127.0.0.1:5555"):
        check_endpoint(endpoint)


def test_an_unknown_host_is_told_from_a_closed_port() -> None:
    with pytest.raises(Unreachable, match=r"no such host 'no\.such\.host\.invalid'"):
        reach("tcp://no.such.host.invalid:5555", 1.0)


def test_the_operators_token_is_for_this_user_alone(tmp_path: Any, monkeypatch: Any) -> None:
    from kardam.keys import publish

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = publish("tcp://127.0.0.1:5555", Pass("secret"))
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path.parent).st_mode & 0o777 == 0o700
    assert published("tcp://127.0.0.1:5555") == Pass("secret")
    assert published("tcp://127.0.0.1:5556") is None


def test_parts_and_queries_from_who_did_not_say_hello_are_answered_with_again() -> None:
    house = sessions()
    for message in (Part(1, 0), Query()):
        (effect,) = house.receive(b"stranger", message, b"", 0.0)
        assert type(effect.message).__name__ == "Again"  # type: ignore[union-attr]
