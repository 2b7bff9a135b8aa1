"""Whatever a worker does that the protocol does not have is refused, is counted in its own row, and
changes nothing for anybody else.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from kardam.link import Lease
from kardam.messages import Denied, Hello, Part, Pull, Push, Query, Report, Up
from kardam.protocol import CHUNK_BYTES, PROTOCOL
from kardam.uploads import PATIENCE
from tests.town import Host, Town

# Two chunks and a bit.
D = 2 * CHUNK_BYTES // 4 + 5
WHOLE = bytes(CHUNK_BYTES)
REST = bytes(20)


class Liar:
    """Worker 1 of a town, holding a model; what it says is up to the test."""

    def __init__(self, town: Town, host: Host, lease: Lease, honest: Lease) -> None:
        self.town, self.host = town, host
        self.ticket = lease.ticket
        self.version = lease.model.version
        # That of worker 0.
        self.anothers = honest.ticket

    def says(self, message: Up, body: bytes = b"") -> None:
        self.town.say(self.host, message, body)

    def asks(self, ticket: int | None = None, have: int | None = None) -> None:
        """Leave to answer, which is granted at once where there is something to answer."""
        self.says(Push(self.ticket if ticket is None else ticket, None, None, 0.0, 1, have))

    def sends(self, *chunks: tuple[int, bytes], ticket: int | None = None) -> None:
        for index, body in chunks:
            self.says(Part(self.ticket if ticket is None else ticket, index), body)

    def answers(self) -> None:
        self.asks()
        self.sends((0, WHOLE), (1, WHOLE), (2, REST))


def replays_an_answer(liar: Liar) -> None:
    liar.answers()
    liar.asks()


def replays_the_chunks_of_an_answer(liar: Liar) -> None:
    liar.answers()
    liar.sends((0, WHOLE), (1, WHOLE), (2, REST))


def answers_a_loan_of_another_worker(liar: Liar) -> None:
    liar.asks(liar.anothers)


def answers_a_loan_that_there_never_was(liar: Liar) -> None:
    liar.asks(10**9)


def answers_an_old_loan_after_a_newer_one(liar: Liar) -> None:
    second = liar.town.pull(liar.host)
    assert second is not None
    old, liar.ticket = liar.ticket, second.ticket
    liar.answers()
    liar.asks(old)


def sends_a_gradient_that_nobody_granted(liar: Liar) -> None:
    liar.says(Push(liar.ticket, None, None, 0.0, 1, None), WHOLE)


def sends_chunks_that_nobody_granted(liar: Liar) -> None:
    liar.sends((0, WHOLE))


def sends_chunks_under_another_ticket_than_was_granted(liar: Liar) -> None:
    liar.asks()
    liar.sends((0, WHOLE), ticket=liar.anothers)


def asks_for_a_second_grant(liar: Liar) -> None:
    liar.asks()
    liar.asks()


def sends_a_chunk_twice(liar: Liar) -> None:
    liar.asks()
    liar.sends((0, WHOLE), (0, WHOLE))


def leaves_a_chunk_out(liar: Liar) -> None:
    liar.asks()
    liar.sends((0, WHOLE), (2, REST))


def begins_with_the_last_chunk(liar: Liar) -> None:
    liar.asks()
    liar.sends((2, REST))


def sends_a_chunk_too_short(liar: Liar) -> None:
    liar.asks()
    liar.sends((0, WHOLE[:-4]))


def sends_a_last_chunk_too_long(liar: Liar) -> None:
    liar.asks()
    liar.sends((0, WHOLE), (1, WHOLE), (2, WHOLE))


def holds_a_grant_and_sends_nothing(liar: Liar) -> None:
    liar.asks()
    liar.town.tick(PATIENCE + 1)


def takes_more_models_than_two(liar: Liar) -> None:
    liar.says(Pull(-1))
    liar.says(Pull(-1))


def reads_the_books(liar: Liar) -> None:
    liar.says(Query())


def reports_an_accuracy(liar: Liar) -> None:
    liar.says(Report(0, 0.0, 1.0))


def comes_back_with_another_model(liar: Liar) -> None:
    token = liar.town.sessions.tokens.issue(1)
    liar.says(Hello(PROTOCOL, "", "worker", token, "", False, (), digest="0" * 16))
    assert liar.host.last(Denied).reason == "the model that is trained here is another"


class Case(NamedTuple):
    """What a worker does, and as what it is counted: a verdict, or (no rule) a violation."""

    deed: Callable[[Liar], None]
    rule: str = ""
    admitted: int = 0


CASES = [
    Case(replays_an_answer, "unasked", admitted=1),
    Case(replays_the_chunks_of_an_answer, admitted=1),
    Case(answers_a_loan_of_another_worker, "unasked"),
    Case(answers_a_loan_that_there_never_was, "unasked"),
    Case(answers_an_old_loan_after_a_newer_one, "unasked", admitted=1),
    Case(sends_a_gradient_that_nobody_granted, "ungranted"),
    Case(sends_chunks_that_nobody_granted),
    Case(sends_chunks_under_another_ticket_than_was_granted),
    Case(asks_for_a_second_grant),
    Case(sends_a_chunk_twice, "malformed"),
    Case(leaves_a_chunk_out, "malformed"),
    Case(begins_with_the_last_chunk, "malformed"),
    Case(sends_a_chunk_too_short, "malformed"),
    Case(sends_a_last_chunk_too_long, "malformed"),
    Case(holds_a_grant_and_sends_nothing, "late"),
    Case(takes_more_models_than_two),
    Case(reads_the_books),
    Case(reports_an_accuracy),
    Case(comes_back_with_another_model),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.deed.__name__)
def test_it_is_refused_counted_in_its_own_row_and_nothing_else(case: Case) -> None:
    town = Town(n=4, d=D)
    honest, host = town.join(worker=0), town.join(worker=1)
    lent, taken = town.pull(honest), town.pull(host)
    assert lent is not None
    assert taken is not None
    case.deed(Liar(town, host, taken, lent))
    row, other = (town.sessions.stats.workers[worker] for worker in (1, 0))
    assert town.sessions.descent.model.version == case.admitted == row.tally.admitted
    assert row.tally.refused == ({case.rule: 1} if case.rule else {})
    assert (row.violations > 0) == (not case.rule)
    assert town.sessions.stats.violations == row.violations
    assert (other.tally.delivered, other.violations) == (0, 0)
    # The honest one has what it had, and room to answer it.
    judged = town.push(honest, lent.ticket, np.ones(D, np.float32))
    assert judged is not None
    assert judged.admitted


def test_of_what_version_an_answer_is_the_server_says_and_not_the_worker() -> None:
    town = Town(n=4)
    old, new = town.join(worker=0), town.join(worker=1)
    lease = town.pull(old)
    assert lease is not None
    for _ in range(3):
        town.answer(new, np.ones(3, np.float32))
    # Says that it has the newest model; there is nowhere to say what it answers but the ticket.
    town.say(old, Push(lease.ticket, None, None, 0.0, 1, town.sessions.descent.model.version))
    town.say(old, Part(lease.ticket, 0), np.ones(3, np.float32).tobytes())
    assert town.sessions.stats.workers[0].staleness == 3


def test_a_worker_that_comes_back_to_the_same_model_is_welcome() -> None:
    town = Town()
    host = town.join()
    town.restart()
    town.reconnect(host)
    assert host.heard(Denied) == 0
    assert town.answer(host, np.ones(3, np.float32)) is not None


def test_a_worker_that_comes_back_to_another_model_is_told_so() -> None:
    town = Town()
    host = town.join()
    town.d = 4
    town.restart()
    town.reconnect(host)
    assert host.last(Denied).reason == "the model that is trained here is another"
    assert town.sessions.stats.workers[0].violations == 1
