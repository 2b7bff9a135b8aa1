"""CURVE on real sockets: who is not enrolled gets in nowhere and is told what to do; a worker is
its key, wherever it comes from.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zmq

from bench import floods
from kardam.client import Client, enrol
from kardam.errors import Denied, Unreachable
from kardam.gate import (
    DOMAIN,
    ENDPOINT,
    NAMED_MAX,
    STRANGERS_A_SECOND,
    WAITING_MAX,
    Gate,
    Locked,
)
from kardam.keys import Keys
from kardam.kits import Folder, new_pair
from kardam.line import Line
from kardam.messages import Hello, Pull, Role
from kardam.protocol import CHUNK_BYTES, PROTOCOL, encode
from kardam.ring import Entry, Key
from kardam.server import Server, serve
from kardam.sessions import Sessions
from tests.test_server import ANY_PORT, answer, on_both_loops, sessions, until
from tests.town import Town

ONE = np.ones(3, np.float32)


class Lodge:
    """A server under CURVE, its folder of keys, and peers that are enrolled there."""

    def __init__(self, server: Server, folder: Folder) -> None:
        self.server = server
        self.folder = folder

    def stranger(self) -> Keys:
        """Keys that nobody has enrolled."""
        return Keys(self.folder.pair.public, *new_pair())

    async def enrolled(self, name: str, role: Role = "worker") -> Keys:
        keys = self.stranger()
        self.folder.enroll(keys.public, Entry(role, name))
        await until(lambda: keys.public in self.server.sessions.ring)
        return keys

    @contextlib.asynccontextmanager
    async def peer(self, keys: Keys, role: Role = "worker") -> AsyncIterator[Client]:
        client = Client(self.server.endpoint, role, keys=keys)
        await asyncio.to_thread(client.__enter__)
        try:
            yield client
        finally:
            await asyncio.to_thread(client.close)

    async def refusal(self, keys: Keys | None, role: Role = "worker") -> str:
        """What a client is told that is not let in."""
        client = Client(self.server.endpoint, role, keys=keys, patience=10.0)
        with pytest.raises((Denied, Unreachable)) as refused:
            await asyncio.to_thread(client.__enter__)
        return str(refused.value)


@contextlib.asynccontextmanager
async def lodge(
    ours: Sessions | None = None, path: Path | None = None, bind: str = ANY_PORT
) -> AsyncIterator[Lodge]:
    with TemporaryDirectory() as new:
        folder = Folder(path or Path(new))
        folder.make()
        locked = Locked(folder.pair.secret, folder.enrolled)
        async with serve(ours or sessions(), bind, locked=locked) as server:
            yield Lodge(server, folder)


@on_both_loops
async def test_who_is_enrolled_trains() -> None:
    async with lodge() as it, it.peer(await it.enrolled("alice")) as client:
        assert await asyncio.to_thread(answer, client, ONE) == "admitted"
        (session,) = it.server.sessions._workers.values()
        assert session.key == client._dealer._keys.public  # type: ignore[union-attr]


@on_both_loops
async def test_a_model_of_many_chunks_travels_both_ways_to_the_bit() -> None:
    d = 3 * CHUNK_BYTES // 4 + 17
    async with lodge(sessions(d)) as it, it.peer(await it.enrolled("alice")) as client:
        g = np.random.default_rng(0).standard_normal(d).astype(np.float32)
        assert await asyncio.to_thread(answer, client, g) == "admitted"
        lease = await asyncio.to_thread(client.pull)
        assert lease.model.x.tobytes() == (-np.float32(0.1) * g).tobytes()


@on_both_loops
async def test_an_unknown_key_is_told_whom_to_ask_for_what() -> None:
    async with lodge() as it, it.peer(await it.enrolled("alice")) as client:
        keys = it.stranger()
        said = await it.refusal(keys)
        assert (
            f"does not know this key: ask its operator for `kardam keys enroll ... {keys.public}`"
            in said
        )
        with pytest.raises(Denied, match="does not know this key"):
            await asyncio.to_thread(enrol, it.server.endpoint, "", False, 10.0, keys)
        # Whoever was cut off before it heard why has asked again.
        assert it.server.sessions.stats.strangers >= 2
        assert await asyncio.to_thread(answer, client, ONE) == "admitted"
        assert it.server.sessions.stats.violations == 0


@on_both_loops
async def test_who_has_no_key_or_another_servers_or_needs_none_is_told_so() -> None:
    async with lodge() as it:
        assert "takes nobody without a key: give a kit, or --server-key" in await it.refusal(None)
        with pytest.raises((Denied, Unreachable), match="takes nobody without a key"):
            await asyncio.to_thread(enrol, it.server.endpoint, "", False, 10.0)
        keys = await it.enrolled("alice")
        other = keys._replace(server=new_pair().public)
        assert f"or has another key than {other.server}" in await it.refusal(other)
    async with serve(sessions(), ANY_PORT) as plain:
        client = Client(plain.endpoint, "worker", keys=keys, patience=10.0)
        # It may hang up before it has said what it speaks.
        with pytest.raises((Denied, Unreachable), match=r"speaks without keys|has another key"):
            await asyncio.to_thread(client.__enter__)


@on_both_loops
async def test_who_is_refused_before_it_has_said_a_word_is_told_so_too() -> None:
    class Slow(Line):
        """It is held up for as long as a handshake takes to fail."""

        def __init__(self, *rest: Any) -> None:
            super().__init__(*rest)
            self.wait(10.0)
            while self.socket.poll(0, zmq.POLLOUT):
                pass

    async with lodge() as it:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kardam.client.Line", Slow)
            with pytest.raises(Denied, match="takes nobody without a key"):
                await asyncio.to_thread(enrol, it.server.endpoint, "", False, 10.0)


@on_both_loops
async def test_a_key_is_enrolled_and_revoked_while_the_server_runs() -> None:
    async with lodge() as it:
        keys = it.stranger()
        assert "does not know this key" in await it.refusal(keys)
        it.folder.enroll(keys.public, Entry("worker", "alice"))
        await until(lambda: keys.public in it.server.sessions.ring)
        async with it.peer(keys) as client:
            assert await asyncio.to_thread(answer, client, ONE) == "admitted"
            it.folder.revoke("alice")
            with pytest.raises(Denied, match="this key was revoked"):
                await asyncio.to_thread(client.wait, 10.0)
        assert it.server.sessions.presence(0, it.server.now) == "revoked"
        assert "does not know this key" in await it.refusal(keys)


@on_both_loops
async def test_who_is_revoked_and_stays_connected_is_not_heard() -> None:
    async with lodge() as it:
        keys = await it.enrolled("alice")
        with raw(it.server.endpoint, keys) as peer:
            await asyncio.to_thread(peer.send_multipart, hello("worker"))
            assert await asyncio.to_thread(peer.poll, 10_000)
            it.folder.revoke("alice")
            await until(lambda: it.server.sessions.presence(0, it.server.now) == "revoked")
            before = it.server.sessions.stats.violations
            for frames in (hello("worker"), encode(Pull(-1))):
                await asyncio.to_thread(peer.send_multipart, frames)
            await until(lambda: it.server.sessions.stats.violations == before + 2)
            assert not it.server.sessions.peers


@pytest.mark.parametrize("role", ["worker", "evaluator", "operator"])
def test_a_key_is_good_for_its_own_role_alone(role: Role) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), lodge() as it:
            keys = await it.enrolled("alice", role)
            for other in {"worker", "evaluator", "operator"} - {role}:
                said = await it.refusal(keys, other)  # type: ignore[arg-type]
                assert f"this key is enrolled as {role}, and not as {other}" in said
            async with it.peer(keys, role):
                assert len(it.server.sessions.peers) == 1

    asyncio.run(run())


@on_both_loops
async def test_a_worker_neither_reads_the_books_nor_reports() -> None:
    async with lodge() as it, it.peer(await it.enrolled("alice")) as client:
        await asyncio.to_thread(client.report, 0, 0.0, 1.0)
        await asyncio.to_thread(client._wish, client._link.query)
        await until(lambda: it.server.sessions.stats.violations == 2)
        assert it.server.sessions.stats.held_out == []


@on_both_loops
async def test_an_operators_key_reads_the_books() -> None:
    async with lodge() as it, it.peer(await it.enrolled("ops", "operator"), "operator") as client:
        assert (await asyncio.to_thread(client.query))["status"] == "waiting (0 of 1)"


@on_both_loops
async def test_one_live_session_a_key_and_the_newest_is_it() -> None:
    async with lodge() as it:
        keys = await it.enrolled("alice")
        async with it.peer(keys) as old, it.peer(keys) as new:
            assert new.terms.worker == old.terms.worker
            with pytest.raises(Denied, match="somebody else said hello with this key"):
                await asyncio.to_thread(old.wait, 10.0)
            assert await asyncio.to_thread(answer, new, ONE) == "admitted"
            assert len(it.server.sessions.peers) == 1


@on_both_loops
async def test_a_key_has_its_place_again_after_a_goodbye_and_after_a_restart() -> None:
    first = sessions()
    with TemporaryDirectory() as path:
        async with lodge(first, Path(path)) as it:
            alice, bob = await it.enrolled("alice"), await it.enrolled("bob")
            for keys, place in ((alice, 0), (bob, 1), (alice, 0)):
                async with it.peer(keys) as client:
                    assert client.terms.worker == place
        second = sessions()
        second.restore(first.state(), 0.0)
        async with lodge(second, Path(path)) as it:
            for keys, place in ((bob, 1), (alice, 0)):
                async with it.peer(keys) as client:
                    assert client.terms.worker == place
                    assert it.folder.pair.public == keys.server


@on_both_loops
async def test_a_worker_finds_its_server_again_by_itself() -> None:
    first = sessions()
    with TemporaryDirectory() as path:
        async with lodge(first, Path(path)) as it:
            keys, endpoint = await it.enrolled("alice"), it.server.endpoint
            client = Client(endpoint, "worker", keys=keys)
            await asyncio.to_thread(client.__enter__)
            assert await asyncio.to_thread(answer, client, ONE) == "admitted"
            first.halt = lambda reason: []  # type: ignore[method-assign]  # as if killed
        second = sessions()
        second.restore(first.state(), 0.0)
        async with lodge(second, Path(path), endpoint):
            assert await asyncio.to_thread(answer, client, ONE) == "admitted"
            assert second.stats.workers[0].tally.admitted == 2
            await asyncio.to_thread(client.close)


@on_both_loops
async def test_nobody_says_or_hears_anything_under_the_name_of_another_connection() -> None:
    """Routing ids are a peer's own choice; what it says under one that is taken goes nowhere."""
    async with lodge() as it:
        alice, mallory = await it.enrolled("alice"), await it.enrolled("mallory")
        with raw(it.server.endpoint, alice, b"alice") as first:
            await asyncio.to_thread(first.send_multipart, hello("worker"))
            assert await asyncio.to_thread(first.poll, 10_000)
            await asyncio.to_thread(first.recv_multipart)
            with raw(it.server.endpoint, mallory, b"alice") as second:
                await asyncio.to_thread(second.send_multipart, hello("worker"))
                await asyncio.to_thread(first.send_multipart, encode(Pull(-1)))
                assert await asyncio.to_thread(first.poll, 10_000)
                assert not second.poll(0)
        (session,) = it.server.sessions._sessions.values()
        assert session.key == alice.public


@contextlib.contextmanager
def raw(endpoint: str, keys: Keys, name: bytes = b"") -> Any:
    """A DEALER under CURVE that says what it is told to, and calls itself as it likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.set(zmq.LINGER, 0)
        if name:
            peer.set(zmq.ROUTING_ID, name)
        for option, key in (
            (zmq.CURVE_SERVERKEY, keys.server),
            (zmq.CURVE_PUBLICKEY, keys.public),
            (zmq.CURVE_SECRETKEY, keys.secret),
        ):
            peer.set(option, bytes.fromhex(key))
        peer.connect(endpoint)
        yield peer


def hello(role: Role) -> Any:
    return encode(Hello(PROTOCOL, "", role, "", "", False, ()))


def test_only_so_many_strangers_are_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    town = Town()
    with zmq.Context() as context:
        gate = Gate(context, town.sessions.knows)

        def knock(key: Key) -> None:
            rest = [b"1", DOMAIN, b"10.0.0.1", b"", b"CURVE", bytes.fromhex(key)]
            gate._answer([b"nobody", b"", b"1.0", *rest])

        for number in range(3 * NAMED_MAX):
            knock(f"{number:064x}")
        gate.close()
    assert town.sessions.stats.strangers == 3 * NAMED_MAX
    assert len(caplog.records) == NAMED_MAX


def test_strangers_are_told_a_few_a_second_and_the_enrolled_at_once() -> None:
    friend = "f" * 64
    with zmq.Context() as context, context.socket(zmq.DEALER) as asker:
        gate = Gate(context, lambda key: key == friend)
        asker.connect(ENDPOINT)

        def knock(*keys: Key) -> None:
            for key in keys:
                rest = [DOMAIN, b"10.0.0.1", b"", b"CURVE", bytes.fromhex(key)]
                asker.send_multipart([b"", b"1.0", key[:4].encode(), *rest])

        def told(now: float) -> list[str]:
            """Who is answered by this second, in order."""
            while gate.look(now):
                pass
            answers = []
            while asker.poll(0):
                _, _, who, status, *_ = asker.recv_multipart()
                answers.append(f"{who.decode()} {status.decode()}")
            return answers

        a_second = int(STRANGERS_A_SECOND)
        crowd = [f"{number:04x}" + "0" * 60 for number in range(3 * WAITING_MAX)]
        knock(*crowd, friend)
        first, rest = told(0.0), told(0.0)
        assert first == [*[f"{key[:4]} 400" for key in crowd[:a_second]], "ffff 200"]
        assert rest == []
        assert told(1.0) == [f"{key[:4]} 400" for key in crowd[a_second : 2 * a_second]]
        assert len(told(1000.0)) == a_second  # what was not used is not saved
        later = [answer for second in range(1001, 1100) for answer in told(float(second))]
        assert len(later) == WAITING_MAX - 2 * a_second  # ZeroMQ hangs up on all the others
        gate.close()


@on_both_loops
async def test_a_flood_of_unknown_keys_finishes_few_handshakes_and_holds_up_nobody() -> None:
    async with lodge() as it, it.peer(await it.enrolled("alice")) as client:
        began = it.server.now
        with floods.strangers(it.server.endpoint, it.folder.pair.public, 300) as refused:
            await until(lambda: it.server.sessions.stats.strangers >= 300)
            for _ in range(100):
                assert await asyncio.to_thread(answer, client, ONE) == "admitted"
            # Who is enrolled comes in meanwhile, and is new.
            async with it.peer(await it.enrolled("bob")) as bob:
                assert await asyncio.to_thread(answer, bob, ONE) == "probation"
            assert 0 < refused() <= STRANGERS_A_SECOND * (1 + it.server.now - began)
