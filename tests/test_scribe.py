"""Every verdict is written down, whoever said it; and nobody fills the disk with nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

from kardam import checkpoint
from kardam.plan import Every
from kardam.records import Records
from kardam.scribe import MEASURE, UNASKED_MAX, Scribe
from tests.test_server import sessions


def test_what_sessions_refuse_is_in_the_journal_too_and_a_flood_of_it_is_not(
    tmp_path: Path,
) -> None:
    house = sessions()
    with Records.create(tmp_path, "", keep=1) as records:
        records.record({}, whole=True, durable=False)
        scribe = Scribe(house, records, Every(), lambda: 1.5)
        house.descent.hear = scribe.hear

        def refused(worker: int, ticket: int, rule: str) -> None:
            house.judged(house.descent.refuse(worker, ticket, rule), 1.5)

        ticket = house.descent.lend(1).ticket
        refused(1, ticket, "late")
        for _ in range(3 * UNASKED_MAX):
            refused(1, 0, "unasked")
        refused(2, 0, "unasked")
        refused(1, house.descent.lend(1).ticket, "late")
        records.flush()
        records.settle()
    lines: list[Any] = [
        json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()
    ]
    told = [(line["worker"], line["rule"]) for line in lines]
    assert told == [(1, "late"), *[(1, "unasked")] * UNASKED_MAX, (2, "unasked"), (1, "late")]
    assert house.stats.workers[1].tally.refused["unasked"] == 3 * UNASKED_MAX
    (segment,) = (tmp_path / "recording" / "0001").glob("*.tape")
    assert segment.read_bytes().count(b"unasked") == UNASKED_MAX + 1


def test_soon_after_a_key_has_got_its_place_there_is_a_checkpoint_that_knows_it(
    tmp_path: Path,
) -> None:
    house = sessions()
    with Records.create(tmp_path, "", keep=1) as records:
        scribe = Scribe(house, records, Every(), lambda: 1.5)
        assert not scribe.due(1.5 + MEASURE)
        house.ring.take("a" * 64)
        assert scribe.due(1.5 + MEASURE)


def test_who_joined_just_before_the_end_is_known_to_the_next_server(tmp_path: Path) -> None:
    house = sessions()
    with Records.create(tmp_path, "", keep=1) as records:
        scribe = Scribe(house, records, Every(), lambda: 1.5)
        asyncio.run(scribe.end(1.5))
        assert scribe.kept is None  # nothing is new
        token = house.tokens.issue(1)
        asyncio.run(scribe.end(1.6))
    assert scribe.kept is not None
    following = sessions()
    following.restore(checkpoint.restore(scribe.kept).state["sessions"], 1.6)
    assert following.tokens.identity(token) is not None
