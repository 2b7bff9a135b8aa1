"""Who may come to which server: on loopback anybody, elsewhere who is enrolled, and everybody where
that is asked for by name, which is said aloud.
"""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kardam.client import Client
from kardam.daemon import outward, running
from kardam.errors import UsageError
from kardam.exchange import Send
from kardam.keys import Pass, published
from kardam.kits import Folder
from kardam.link import Lease
from kardam.messages import Again, Beat, Bye, Hello, Lent, Manifest, Pull, Push, Role
from kardam.plan import Every, Plan, Until, is_public
from kardam.protocol import PROTOCOL
from kardam.recipe import Recipe
from kardam.verbs.printing import _admission, announce
from tests.test_cli import Kardam, kardam
from tests.test_probation import ALICE, BOB, CAROL, ONE, keyed
from tests.test_readme import block
from tests.town import Town

__all__ = ["kardam"]  # the fixture


@pytest.mark.parametrize(
    ("bind", "public"),
    [
        ("tcp://127.0.0.1:0", False),
        ("tcp://127.1.2.3:5", False),
        ("tcp://localhost:5", False),
        ("tcp://[::1]:5", False),
        ("tcp://0.0.0.0:5", True),
        ("tcp://*:5", True),
        ("tcp://10.0.0.5:5", True),
        ("tcp://[::]:5", True),
        ("tcp://127.example.org.:5", True),
    ],
)
def test_an_endpoint_is_public_unless_it_is_surely_of_this_machine(bind: str, public: bool) -> None:
    assert is_public(bind) is public


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("", None),
        ("--keys elsewhere", "elsewhere"),
        ("--bind tcp://0.0.0.0:0", "run/keys"),
        ("--bind tcp://0.0.0.0:0 --keys elsewhere", "elsewhere"),
        ("--bind tcp://0.0.0.0:0 --insecure", None),
    ],
)
def test_a_server_that_others_reach_has_keys_unless_told_otherwise(
    kardam: Kardam, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, keys: str | None
) -> None:
    plans: list[Plan] = []

    async def serve(plan: Plan) -> None:
        plans.append(plan)
        raise UsageError("enough")

    monkeypatch.setattr("workers.verbs.serve._serve_task", serve)
    monkeypatch.chdir(tmp_path)
    kardam("serve", "--task", "digits", "--out", "run", *words.split())
    assert plans[0].keys == (Path(keys) if keys else None)


def test_an_open_door_is_said_aloud() -> None:
    run: Any = SimpleNamespace(endpoint="tcp://10.0.0.5:5")
    plan = a_plan(Path("nowhere"), bind="tcp://0.0.0.0:5")
    (said,) = _admission(run, plan, "")
    assert "INSECURE:  whoever reaches tcp://10.0.0.5:5 may join, and read what travels" in said
    assert _admission(run, a_plan(Path("nowhere")), "") == []


def test_who_listens_everywhere_is_named_by_an_address_that_others_reach() -> None:
    assert outward("tcp://127.0.0.1:5") == "tcp://127.0.0.1:5"
    assert re.fullmatch(r"tcp://(?!0\.0\.0\.0)\d+\.\d+\.\d+\.\d+:5", outward("tcp://0.0.0.0:5"))


def a_plan(out: Path, bind: str = "tcp://127.0.0.1:0", keys: Path | None = None) -> Plan:
    return Plan(
        recipe=Recipe.of(n=4),
        bind=bind,
        until=Until(),
        every=Every(),
        keep=1,
        seed=0,
        task="",
        split="iid",
        experiment="",
        out=out,
        keys=keys,
    )


def test_a_server_with_keys_gives_them_to_its_own_and_prints_its_public_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    plan = a_plan(tmp_path / "run", keys=tmp_path / "run" / "keys")

    def comes(endpoint: str, role: Role, shows: Pass | None) -> int:
        assert shows is not None
        assert shows.keys is not None
        with Client(endpoint, role, keys=shows.keys) as client:
            return client.terms.worker

    async def run() -> None:
        x = np.zeros(3, np.float32)
        async with running(plan, Manifest((("x", (3,)),)), x) as it:
            announce(it, plan)
            said = capsys.readouterr().err
            key = Folder(tmp_path / "run" / "keys").pair.public
            assert f"kardam work {it.endpoint} --server-key {key}\n" in said
            assert "0 are enrolled in" in said
            worker = it.worker(2, "slow", False)
            for role, shows, place in (
                ("worker", worker, 2),
                ("evaluator", it.evaluator(), -1),
                ("operator", published(it.endpoint), -1),
            ):
                came = await asyncio.to_thread(comes, it.endpoint, role, shows)  # type: ignore[arg-type]
                assert came == place
            assert Folder.of(tmp_path / "run").endpoint == it.endpoint
            assert list(Folder.of(tmp_path / "run").enrolled()) == []

    asyncio.run(run())


# --- nobody is another ---


@pytest.mark.parametrize(
    "message",
    [
        Hello(PROTOCOL, "", "worker", "", "", False, ()),
        Pull(-1),
        Push(1, None, None, 0.0, 1, None),
        Beat(),
        Bye(),
    ],
)
def test_nothing_is_said_for_another_even_under_its_own_peers_name(message: Any) -> None:
    """A raw peer may call itself what another connection was called; its key it can not choose."""
    town = keyed(ALICE, BOB)
    alice, _ = town.join(key=ALICE), town.join(key=BOB)
    got = town.pull(alice)
    assert got is not None
    before = repr(town.sessions.state())
    assert town.sessions.receive(alice.peer, message, b"", town.now, BOB) == []
    stats = town.sessions.stats
    assert stats.violations == stats.workers[1].violations == 1
    assert town.sessions.presence(0, town.now) == "alive"
    stats.violations = stats.workers[1].violations = 0
    assert repr(town.sessions.state()) == before
    assert town.push(alice, got.ticket, ONE) is not None


def test_a_loan_is_its_own_keys_alone() -> None:
    town = keyed(ALICE, BOB)
    alice, bob = town.join(key=ALICE), town.join(key=BOB)
    hers = town.pull(alice)
    assert hers is not None
    taken = town.push(bob, hers.ticket, ONE)
    assert taken is not None
    assert taken.rule == "unasked"
    assert town.sessions.stats.workers[1].tally.refused == {"unasked": 1}
    assert town.push(alice, hers.ticket, ONE) is not None


def test_who_is_not_in_the_ring_is_not_heard_at_all() -> None:
    town = keyed(ALICE)
    for message in (Hello(PROTOCOL, "", "worker", "", "", False, ()), Pull(-1)):
        assert town.sessions.receive(b"x", message, b"", 0.0, CAROL) == []
    (again,) = town.sessions.receive(b"x", Pull(-1), b"", 0.0, ALICE)
    assert isinstance(again, Send)
    assert isinstance(again.message, Again)


def test_a_token_is_worth_nothing_where_there_are_keys_and_no_key_is_worth_a_token() -> None:
    town = keyed(ALICE)
    town.join(token=town.sessions.tokens.operator, role="operator", key=ALICE)
    assert not town.sessions.peers
    plain = Town()
    plain.join(token="guess")
    assert not plain.sessions.peers


def test_a_reply_goes_to_the_connection_that_asked_and_to_no_other_of_the_key() -> None:
    town = keyed(ALICE)
    first = town.join(key=ALICE)
    second = town.join(key=ALICE)
    town.sent.clear()
    assert town.pull(second) is not None
    assert first.heard(Lease) == 0
    assert sum(isinstance(message, Lent) for message in town.sent) == 1


# --- what the README says ---


def test_the_readmes_lines_for_keys_are_what_there_is(
    kardam: Kardam, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    serve, *kits = block("keys: serve").splitlines()
    assert kardam(*serve.split()[1:], "--dry-run")[0] == 0
    Folder(Path("runs/open/keys")).make("tcp://127.0.0.1:1")
    for line in kits:
        assert kardam(*line.split()[1:])[0] == 0
    # There is no server, but the kits are found.
    for line in block("keys: work").splitlines():
        code, _, err = kardam(*line.split()[1:])
        assert (code, "tcp://127.0.0.1:1: nobody listens there" in err) == (5, True)
