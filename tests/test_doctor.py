"""What the doctor sees is there, in the order in which it fails, and nothing is left behind."""

import asyncio
import importlib.metadata
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop
import zmq

from kardam.doctor import endpoint, machine
from kardam.doctor.finding import Finding
from kardam.errors import UsageError
from kardam.keys import Keys
from kardam.kits import Kit, new_pair, write_kit
from kardam.protocol import PROTOCOL
from kardam.server import serve
from tests.test_cli import Kardam, kardam
from tests.test_gate import lodge
from tests.test_run import ran
from tests.test_server import ANY_PORT, on_both_loops, sessions, until

__all__ = ["kardam"]  # the fixture


# --- this machine ---


def test_the_libraries_are_those_that_kardam_itself_asks_for() -> None:
    first, second = machine.libraries()
    assert (first.state, second.state) == ("ok", "ok")
    assert all(f"{name} {importlib.metadata.version(name)}" in second.told for name in machine.TOLD)


def test_what_only_an_extra_needs_is_not_needed() -> None:
    lines = ["numpy>=2.0", "playwright>=1.49; extra == 'browser'", "prometheus_client>=0.21"]
    assert machine.needed(lines) == {"numpy": "2.0", "prometheus_client": "0.21"}


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9", "2.13.0+cpu"), ("26.3", "26.4"), ("1.2", "1.2.1")]
)
def test_versions_are_compared_as_numbers(older: str, newer: str) -> None:
    assert machine.numbers(older) < machine.numbers(newer)


def test_a_library_that_is_old_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    true = importlib.metadata.version

    def version(name: str) -> str:
        if name == "uvloop":
            raise importlib.metadata.PackageNotFoundError(name)
        return "25.1.0" if name == "pyzmq" else true(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    _, found = machine.libraries()
    assert (found.state, found.code) == ("fail", 2)
    assert "pyzmq 25.1.0 is older than 26.4" in found.told
    assert "uvloop is not installed" in found.told


def test_more_than_one_compute_thread_a_process_is_a_warning() -> None:
    assert machine.threads({"OMP_NUM_THREADS": "1"}).state == "ok"
    found = machine.threads({"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "1"})
    assert found.state == "warn"
    assert "unset OMP_NUM_THREADS:" in found.advice


def test_the_place_for_tokens_is_this_users_alone_and_empty_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert machine.token().state == "ok"
    (folder,) = tmp_path.iterdir()
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    assert "755" in machine.token().told
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    assert (machine.token().state, "XDG_RUNTIME_DIR" in machine.token().advice) == ("warn", True)


class Room(NamedTuple):
    free: int


@pytest.mark.parametrize(("free", "state"), [(2**40, "ok"), (2**28, "warn"), (2**20, "fail")])
def test_the_disk_is_written_to_and_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Room(free))
    monkeypatch.setattr(machine, "SLOW_FSYNC_SECONDS", 1e9)
    found = machine.disk(tmp_path / "runs")
    assert (found.state, found.code) == (state, 7 if state == "fail" else 0)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written_to_is_a_failure() -> None:
    found = machine.disk(Path("/proc"))
    assert (found.state, found.code) == ("fail", 7)


def test_the_loop_that_is_measured_is_the_one_it_runs_in() -> None:
    assert machine.port().state == "ok"
    assert uvloop.run(machine.loop()).told.startswith("uvloop wakes")
    assert asyncio.run(machine.loop()).told.startswith("asyncio wakes")


def test_a_healthy_machine_plays_a_real_run_and_keeps_nothing(tmp_path: Path) -> None:
    code, out, err = ran("doctor", "--json", cwd=tmp_path)
    found = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert list(found) == [
        *("kardam", "libraries", "threads", "port", "token", "loop", "disk", "self-test")
    ]
    assert (code, found["self-test"]["state"]) == (0, "ok"), err
    assert os.listdir(tmp_path) == []


# --- a server, from afar ---


def states(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, finding.state) for finding in found]


@on_both_loops
async def test_a_server_is_looked_at_by_name_port_key_and_version_and_does_not_notice() -> None:
    async with serve(sessions(), ANY_PORT, lambda verdict, took: None) as server:
        there = server.endpoint.replace("127.0.0.1", "localhost")
        found = await asyncio.to_thread(lambda: list(endpoint.look(there)))
        assert states(found) == [(name, "ok") for name in ("name", "tcp", "key", "version")]
        await until(lambda: not server.sessions.peers)
        assert server.sessions.stats.total.delivered == 0


@on_both_loops
async def test_a_server_of_another_version_says_so() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "PROTOCOL", PROTOCOL + 1)
        async with serve(sessions(), ANY_PORT, lambda verdict, took: None) as server:
            *_, found = await asyncio.to_thread(lambda: list(endpoint.look(server.endpoint)))
    assert (found.name, found.state, found.code) == ("version", "fail", 6)
    assert f"expected protocol {PROTOCOL}, got {PROTOCOL + 1}" in found.told


@contextmanager
def answering(words: bytes) -> Iterator[str]:
    """Something else that listens, and says the same to everybody; its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            for _ in range(2):  # the connection that only knocks, and the one that speaks
                line, _ = door.accept()
                with line:
                    line.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{door.getsockname()[1]}"
        thread.join()


def test_what_is_no_zeromq_is_quoted() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as there:
        found = list(endpoint.look(there))
    assert states(found) == [("name", "ok"), ("tcp", "ok"), ("key", "fail")]
    assert "it says b'SSH-2.0" in found[-1].told


def test_a_line_that_asks_for_a_key_is_known_by_its_greeting() -> None:
    greeting = endpoint.GREETING.replace(b"NULL\0", b"PLAIN")
    with answering(greeting) as there:
        *_, found = endpoint.look(there)
    assert (found.name, found.code, "asks for PLAIN" in found.told) == ("key", 6, True)


def test_a_line_under_keys_is_one_that_works_for_who_has_one() -> None:
    with answering(endpoint.GREETING.replace(b"NULL\0", b"CURVE")) as there:
        *_, found = endpoint.look(there)
    assert (found.name, found.state) == ("key", "warn")
    assert "lets in only whose key is enrolled" in found.told


@on_both_loops
async def test_a_server_with_keys_is_seen_to_the_end_by_a_kit_that_it_lets_in() -> None:
    async with lodge() as there:
        served = there.server.endpoint
        worker = await there.enrolled("alice")

        async def found(where: str) -> list[Finding]:
            return await asyncio.to_thread(lambda: list(endpoint.look(where)))

        async def by_kit(name: str, keys: Keys) -> list[Finding]:
            path = there.folder.path / name
            write_kit(path, Kit(served, "worker", keys))
            return await found(str(path))

        assert states(await found(served))[-1] == ("key", "warn")
        seen = await by_kit("alice.kit", worker)
        assert states(seen) == [
            (name, "ok") for name in ("name", "tcp", "key", "kit", "version")
        ], seen
        # Nobody has come to work by that.
        assert not there.server.sessions._workers
        *_, last = await by_kit("mallory.kit", there.stranger())
        assert (last.name, last.state, last.code) == ("kit", "fail", 6)
        assert "does not know this key" in last.told
        wrong = Keys(new_pair().public, worker.public, worker.secret)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kardam.line.HANGS_UP", 1)
            *_, last = await by_kit("old.kit", wrong)
        assert (last.name, last.state, last.code) == ("kit", "fail", 5)
        assert "has another key" in last.told


def test_a_zeromq_that_is_no_kardam_server_is_waited_for_and_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", 0.2)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        silent.bind(ANY_PORT)
        *_, found = endpoint.look(silent.get_string(zmq.LAST_ENDPOINT))
    assert (found.name, found.state, found.code) == ("version", "fail", 5)


@pytest.mark.parametrize(
    ("there", "last", "words"),
    [
        ("tcp://nowhere.invalid:1", "name", "no such host 'nowhere.invalid'"),
        ("tcp://127.0.0.1:1", "tcp", "nobody listens at port 1"),
    ],
)
def test_the_first_failure_is_the_last_line_and_the_exit_code(
    kardam: Kardam, there: str, last: str, words: str
) -> None:
    code, out, _ = kardam("doctor", there, "--json")
    *_, found = json.loads(out)["findings"]
    assert (code, found["name"], found["state"]) == (5, last, "fail")
    assert words in found["told"]
    assert found["advice"] in kardam("doctor", there)[1]


def test_what_is_no_endpoint_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="expected an endpoint like"):
        list(endpoint.look("127.0.0.1:5555"))
