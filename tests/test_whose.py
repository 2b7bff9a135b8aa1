"""A verdict is of a place, and a place of a key: whose it was is told later, too."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kardam import checkpoint
from kardam.chronicle import holders
from kardam.client import Client
from kardam.daemon import Run, running
from kardam.explain import accounts, sentences
from kardam.keys import Keys
from kardam.kits import Folder, new_pair
from kardam.messages import Manifest
from kardam.recipe import Recipe
from kardam.ring import Entry, Holder
from tests.test_admission import a_plan
from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture
from tests.test_explain import line
from tests.test_garbage import bounded
from tests.test_server import answer, until

MANIFEST, X = Manifest((("x", (3,)),)), np.zeros(3, np.float32)
ONE, NONE = np.ones(3, np.float32), np.full(3, np.nan, np.float32)


async def enrolled(it: Run, folder: Folder, name: str) -> Keys:
    keys = Keys(folder.pair.public, *new_pair())
    folder.enroll(keys.public, Entry("worker", name))
    await until(lambda: keys.public in it.server.sessions.ring)
    return keys


async def says(it: Run, keys: Keys, g: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    client = Client(it.server.endpoint, "worker", keys=keys)
    await asyncio.to_thread(client.__enter__)
    said = await asyncio.to_thread(answer, client, g)
    await asyncio.to_thread(client.close)
    return said


def test_a_refusal_is_told_of_the_key_that_had_the_place_then(
    tmp_path: Path, kardam: Kardam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    recipe = Recipe.of(n=4, preset="none")
    out, other = tmp_path / "run", tmp_path / "other"
    plan = replace(a_plan(out, keys=out / "keys"), recipe=recipe)
    folder = Folder(out / "keys")
    came: list[str] = []

    @bounded
    async def first() -> None:
        async with running(plan, MANIFEST, X) as it:
            alice = await enrolled(it, folder, "alice")
            assert await says(it, alice, ONE) == "admitted"
            folder.revoke("alice")
            await until(lambda: not it.server.sessions.ring.taken)
            bob = await enrolled(it, folder, "bob")
            assert await says(it, bob, NONE) == "nonfinite"
            await it.scribe.end(it.server.now)
            came.extend([alice.public, "", bob.public])

    first()
    assert [(at.worker, at.key, at.name) for at in holders(out)] == [
        (0, came[0], "alice"),
        (0, "", ""),
        (0, came[2], "bob"),
    ]
    _, said, _ = kardam("explain", str(out), "--worker", "0")
    alices, bobs = said.strip().split("\n\n")
    assert alices.startswith(f"Worker 0 (alice, key {came[0][:8]}) answered 1 times, and 100")
    assert bobs.startswith(f"Worker 0 (bob, key {came[2][:8]}) answered 1 times, and 0 %")
    assert "Refused 1 time by nonfinite" in bobs
    for words in ((str(out),), (str(out / "keys"), "--run", str(out))):
        _, listed, _ = kardam("keys", "list", *words, "--json")
        row = {"worker": 0, "name": "bob", "role": "worker", "key": came[2]}
        assert json.loads(listed) == {"keys": [row]}

    # Who goes on elsewhere from a checkpoint knows whose its places are.
    newest = checkpoint.newest(out / "checkpoints")

    @bounded
    async def second() -> None:
        on = replace(plan, out=other, checkpoint=newest)
        async with running(on, MANIFEST, X) as it:
            await it.scribe.end(it.server.now)

    second()
    assert [(at.worker, at.key, at.name) for at in holders(other)] == [(0, came[2], "bob")]


def test_one_key_is_one_account_however_often_it_is_told_of() -> None:
    alice, bob = ("a" * 64, "alice"), ("b" * 64, "bob")
    turns = [Holder(0.0, 1, *alice), Holder(1.0, 1, *alice), Holder(2.0, 2, *bob)]
    found = accounts([line(1, 0.5), line(1, 1.5), line(2, 1.0), line(2, 3.0)], {}, turns)
    assert [(its.worker, its.name, its.delivered) for its in found] == [
        (1, "alice", 2),
        (2, "", 1),
        (2, "bob", 1),
    ]
    assert sentences(found[0])[0].startswith("Worker 1 (alice, key aaaaaaaa) answered 2 times")
