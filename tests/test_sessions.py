"""Both halves of the protocol on a fake wire: who is who, what may be sent when, what a death gives
back.
"""

import json
import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kardam import uploads
from kardam.exchange import Send
from kardam.link import FORGOTTEN, GREETING, SILENT, SILENT_ASKED, Lease, Reconnect, Welcomed
from kardam.messages import (
    Again,
    Beat,
    Books,
    Bye,
    Declared,
    Denied,
    Enrol,
    Enrolled,
    Gradient,
    Grant,
    Halt,
    Hello,
    Judged,
    Lent,
    Part,
    Pull,
    Push,
    Query,
    Report,
)
from kardam.places import VACANT
from kardam.plan import Until
from kardam.protocol import CHUNK_BYTES, PROTOCOL
from kardam.sessions import GONE, MISSING
from tests.town import Host, Town

# Two chunks and a bit; large enough that every upload asks first.
LARGE = 2 * CHUNK_BYTES // 4 + 5
ONE = np.ones(3, np.float32)


def large(value: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(LARGE, value, np.float32)


def ask(town: Town, host: Host, ticket: int) -> None:
    """Ask leave for an upload, and send nothing of it."""
    town.say(host, Push(ticket, None, None, 0.0, 1, None))


def lease(town: Town, host: Host) -> Lease:
    got = town.pull(host)
    assert got is not None
    return got


# --- the way of one gradient ---


def test_a_worker_is_welcomed_with_the_terms_and_the_manifest() -> None:
    town = Town(n=4, d=3)
    news = town.join(worker=2).last(Welcomed)
    assert (news.terms.worker, news.terms.n, news.terms.seed) == (2, 4, 5)
    assert (news.terms.task, news.terms.split, news.anew) == ("digits", "by_label", True)
    assert news.manifest == town.sessions.terms.manifest


def test_a_model_goes_down_and_a_gradient_up_to_the_bit() -> None:
    town = Town(d=LARGE)
    worker = town.join()
    x = np.random.default_rng(0).standard_normal(LARGE).astype(np.float32)
    town.sessions.descent.model = type(town.sessions.descent.model)(0, x)
    got = lease(town, worker)
    assert got.model.x.tobytes() == x.tobytes()
    judged = town.push(worker, got.ticket, x)
    assert judged is not None
    assert judged.admitted
    stepped = x - np.float32(0.1) * x
    assert town.sessions.descent.model.x.tobytes() == stepped.tobytes()


def test_a_version_that_the_worker_still_has_does_not_travel_again() -> None:
    town = Town(n=4)
    first, second = town.join(worker=0), town.join(worker=1)
    lease(town, first)
    town.sent.clear()
    again = lease(town, first)
    assert [type(m) for m in town.sent] == [Pull, Lent]
    assert again.model.version == 0
    town.answer(second, ONE)
    assert lease(town, second).model.version == 1


@pytest.mark.parametrize("d", [3, LARGE])
def test_the_first_gradient_is_asked_for_and_the_next_comes_at_once_on_credit(d: int) -> None:
    town = Town(d=d)
    worker = town.join()
    g = np.ones(d, np.float32)
    assert town.answer(worker, g) is not None
    assert any(isinstance(m, Grant) for m in town.sent)
    town.sent.clear()
    assert town.answer(worker, g) is not None
    assert not any(isinstance(m, Grant) for m in town.sent)
    assert town.sessions.descent.model.version == 2


@pytest.mark.parametrize("d", [3, LARGE])
def test_who_spends_a_credit_on_what_is_refused_asks_again(d: int) -> None:
    town = Town(d=d)
    worker = town.join()
    g = np.ones(d, np.float32)
    town.answer(worker, g)
    assert worker.last(Judged).credit
    town.push(worker, 77, g)
    assert worker.last(Judged).rule == "unasked"
    assert (worker.last(Judged).credit, town.sessions.reserved) == (False, 0)
    town.sent.clear()
    assert town.answer(worker, g) is not None
    assert any(isinstance(m, Grant) for m in town.sent)
    assert town.sessions.descent.model.version == 2


def test_credits_leave_half_of_the_budget_to_those_who_ask() -> None:
    town = Town(n=40, d=LARGE)
    for worker in town.everybody():
        town.answer(worker, large())
    credits = [m for m in town.sent if isinstance(m, Judged) and m.credit]
    assert len(credits) == town.sessions.exchange.uploads.budget // 2 // (4 * LARGE) < 40


@pytest.mark.parametrize("d", [3, LARGE])
def test_a_push_that_pulls_is_served_the_model_that_its_own_gradient_moved(d: int) -> None:
    town = Town(d=d)
    worker = town.join()
    got = lease(town, worker)
    for version in (1, 2):
        gradient = Gradient(0, got.ticket, np.ones(d, np.float32))
        town.act(worker, worker.link.push(gradient, town.now, pull=True))
        assert worker.last(Judged).admitted
        got = worker.last(Lease)
        assert got.model.version == version
        assert got.model.x.tobytes() == town.sessions.descent.model.x.tobytes()
    assert not any(isinstance(m, Pull) for m in town.sent[3:])


def test_in_rounds_a_push_that_pulls_hears_its_verdict_before_the_model_is_there() -> None:
    town = Town(n=4, gather="synchronous")
    workers = town.everybody()
    leases = [lease(town, worker) for worker in workers]
    for last, (worker, got) in enumerate(zip(workers[:3], leases, strict=False)):
        gradient = Gradient(0, got.ticket, ONE)
        town.act(worker, worker.link.push(gradient, town.now, pull=True))
        assert worker.last(Judged).admitted
        assert worker.heard(Lease) == (2 if last == 2 else 1)
    assert [worker.last(Lease).model.version for worker in workers[:3]] == [1, 1, 1]


def test_a_push_that_pulls_is_refused_and_served_all_the_same() -> None:
    town = Town()
    worker = town.join()
    lease(town, worker)
    town.act(worker, worker.link.push(Gradient(0, 77, ONE), town.now, pull=True))
    assert worker.last(Judged).rule == "unasked"
    assert worker.heard(Lease) == 2


@pytest.mark.parametrize("lost", [Judged, Part])
def test_a_push_that_pulls_survives_a_broken_line(lost: type) -> None:
    town = Town(d=LARGE)
    worker = town.join()
    got = lease(town, worker)
    worker.deaf = lost
    town.act(worker, worker.link.push(Gradient(0, got.ticket, large()), town.now, pull=True))
    assert worker.heard(Lease) == 1
    worker.deaf = None
    town.reconnect(worker)
    assert worker.last(Lease).model.version == 1
    assert worker.heard(Judged) == 1
    assert town.sessions.stats.total.admitted == 1


def test_a_push_that_pulls_pulls_from_the_server_that_took_the_place_of_the_old() -> None:
    town = Town()
    worker = town.join()
    got = lease(town, worker)
    town.restart()
    town.act(worker, worker.link.push(Gradient(0, got.ticket, ONE), town.now, pull=True))
    assert worker.last(Judged).rule == "restarted"
    assert worker.heard(Lease) == 2


def test_the_worker_is_told_the_rule_and_no_number() -> None:
    town = Town(n=4, quorum=1, preset="middle")
    worker = town.join()
    town.answer(worker, ONE)
    judged = town.answer(worker, ONE)
    assert judged == Judged(judged.ticket, False, "startup", 0, True, None, 0) if judged else False


def test_what_a_worker_declares_reaches_the_books() -> None:
    town = Town(n=4)
    worker = town.join(worker=3)
    town.push(worker, lease(town, worker).ticket, ONE, Declared(2.0, 1))
    assert town.sessions.stats.workers[3].tally.delivered == 1


# --- what is refused ---


def test_a_push_for_no_loan_is_refused_before_its_bytes_are_sent() -> None:
    town = Town(d=LARGE)
    worker = town.join()
    lease(town, worker)
    town.sent.clear()
    judged = town.push(worker, 99, large())
    assert judged is not None
    assert judged.rule == "unasked"
    assert [type(m) for m in town.sent] == [Push, Judged]


def test_an_answer_is_taken_once() -> None:
    town = Town()
    worker = town.join()
    got = lease(town, worker)
    town.push(worker, got.ticket, ONE)
    before = town.sessions.descent.model
    again = town.push(worker, got.ticket, ONE)
    assert again is not None
    assert again.rule == "unasked"
    assert town.sessions.descent.model is before


def test_a_body_without_a_credit_is_refused() -> None:
    town = Town()
    worker = town.join()
    got = lease(town, worker)
    town.say(worker, Push(got.ticket, None, None, 0.0, 1, None), ONE.tobytes())
    assert town.sessions.stats.total.refused == {"ungranted": 1}
    assert town.sessions.descent.model.version == 0


@pytest.mark.parametrize("size", [1, 11, 13, 4096])
def test_a_body_of_the_wrong_length_is_refused(size: int) -> None:
    town = Town(d=3)
    worker = town.join()
    town.answer(worker, ONE)
    got = lease(town, worker)
    town.say(worker, Push(got.ticket, None, None, 0.0, 1, None), bytes(size))
    assert town.sessions.stats.total.refused == {"malformed": 1}


@pytest.mark.parametrize(
    ("index", "size"), [(1, CHUNK_BYTES), (0, 10), (0, CHUNK_BYTES - 4), (2, 20)]
)
def test_a_part_out_of_order_or_of_the_wrong_length_ends_the_upload(index: int, size: int) -> None:
    town = Town(d=LARGE)
    worker = town.join()
    got = lease(town, worker)
    ask(town, worker, got.ticket)
    town.say(worker, Part(got.ticket, index), bytes(size))
    assert town.sessions.stats.total.refused == {"malformed": 1}
    # The loan is closed and nothing is reserved: the worker begins anew.
    assert town.answer(worker, large()) is not None


def test_a_part_that_nobody_granted_is_a_violation_and_no_more() -> None:
    town = Town()
    worker = town.join()
    got = lease(town, worker)
    town.say(worker, Part(got.ticket, 0), ONE.tobytes())
    assert town.sessions.stats.violations == 1
    assert town.push(worker, got.ticket, ONE) is not None


def test_at_most_two_models_are_lent_to_a_worker() -> None:
    town = Town()
    worker = town.join()
    lease(town, worker)
    lease(town, worker)
    assert town.pull(worker) is None
    assert town.sessions.stats.violations == 1


def test_loans_are_answered_in_order_so_a_later_answer_forfeits_the_earlier() -> None:
    town = Town()
    worker = town.join()
    first, second = lease(town, worker), lease(town, worker)
    judged = town.push(worker, second.ticket, ONE)
    assert judged is not None
    assert judged.admitted
    late = town.push(worker, first.ticket, ONE)
    assert late is not None
    assert late.rule == "unasked"


@pytest.mark.parametrize("role", ["worker", "evaluator"])
def test_only_an_operator_reads_the_books(role: str) -> None:
    town = Town()
    peer = town.join(role)  # type: ignore[arg-type]
    town.act(peer, peer.link.query(town.now))
    assert peer.heard(Books) == 0
    assert town.sessions.stats.violations == 1


@pytest.mark.parametrize("message", [Pull(-1), Push(1, None, None, 0.0, 1, None), Part(1, 0)])
def test_an_operator_gives_no_gradients(message: Pull | Push | Part) -> None:
    town = Town()
    operator = town.join("operator")
    town.say(operator, message)
    assert town.sessions.stats.violations == 1


def test_a_worker_reports_no_accuracy() -> None:
    town = Town()
    town.say(town.join(), Report(0, 0.0, 1.0))
    assert town.sessions.stats.held_out == []


# --- who is who ---


def test_an_unknown_token_and_a_token_of_another_role_are_denied_for_good() -> None:
    town = Town()
    for host in (
        town.join(token="guess"),
        town.join("operator", token=town.sessions.tokens.issue(0)),
        town.join("worker", token=town.sessions.tokens.operator),
    ):
        denied = host.last(Denied)
        assert denied.final
        assert "token" in denied.reason
        assert host.heard(Welcomed) == 0


def test_who_has_not_said_hello_is_asked_to() -> None:
    town = Town()
    worker = town.join()
    town.restart()
    town.sent.clear()
    town.say(worker, Beat())
    assert [type(m).__name__ for m in town.sent] == ["Beat", "Again", "Hello", "Welcome"]


def test_tokens_number_n_and_no_more() -> None:
    town = Town(n=2)
    enrol = Enrol(PROTOCOL, "", "", False)
    answers = [town.sessions.receive(b"x", enrol, b"", 0.0)[0] for _ in range(3)]
    assert [type(a.message) for a in answers if isinstance(a, Send)] == [Enrolled, Enrolled, Denied]


def test_who_left_makes_room_and_the_old_token_is_worth_nothing() -> None:
    town = Town(n=1)
    old = town.sessions.tokens.issue(0)
    worker = town.join(token=old)
    enrol = Enrol(PROTOCOL, "", "slow", False)
    assert isinstance(town.sessions.receive(b"x", enrol, b"", 0.0)[0].message, Denied)  # type: ignore[union-attr]
    town.act(worker, worker.link.bye())
    assert town.sessions.presence(0, town.now) == "left"
    enrolled = town.sessions.receive(b"x", enrol, b"", 0.0)[0].message  # type: ignore[union-attr]
    assert isinstance(enrolled, Enrolled)
    assert town.sessions.presence(0, town.now) == "expected"
    assert town.join(token=old).heard(Denied) == 1
    assert town.join(token=enrolled.token).heard(Welcomed) == 1


def test_who_is_only_gone_keeps_his_place_for_a_while() -> None:
    town = Town(n=1)
    worker = town.join()
    worker.up = False
    town.tick(GONE + 2)
    enrol = Enrol(PROTOCOL, "", "", False)
    assert isinstance(town.sessions.receive(b"x", enrol, b"", town.now)[0].message, Denied)  # type: ignore[union-attr]
    town.tick(VACANT)
    assert isinstance(town.sessions.receive(b"x", enrol, b"", town.now)[0].message, Enrolled)  # type: ignore[union-attr]


def test_after_a_restart_nobody_takes_the_place_of_who_is_on_his_way_back() -> None:
    town = Town(n=1)
    worker = town.join()
    town.restart()
    enrol = Enrol(PROTOCOL, "", "", False)
    assert isinstance(town.sessions.receive(b"x", enrol, b"", town.now)[0].message, Denied)  # type: ignore[union-attr]
    town.reconnect(worker)
    assert town.answer(worker, ONE) is not None


def test_one_live_session_a_token_and_the_newest_is_it() -> None:
    town = Town()
    token = town.sessions.tokens.issue(1)
    first, second = town.join(token=token), town.join(token=token)
    assert "somebody else" in first.last(Denied).reason
    assert town.answer(second, ONE) is not None


def test_an_evaluator_pulls_without_a_loan_and_reports() -> None:
    town = Town()
    evaluator, worker = town.join("evaluator"), town.join()
    got = lease(town, evaluator)
    assert (got.ticket, got.model.version) == (0, 0)
    town.answer(worker, ONE)
    assert lease(town, evaluator).model.version == 1
    town.act(evaluator, evaluator.link.report(1, 0.5, 0.9))
    assert town.sessions.stats.held_out == [(1, town.now, 0.5, 0.9)]


def test_the_books_are_json_with_every_workers_state() -> None:
    town = Town(n=4)
    town.answer(town.join(worker=1), ONE)
    operator = town.join("operator")
    town.act(operator, operator.link.query(town.now))
    assert operator.heard(Books) == 1
    books = json.loads(json.dumps(town.sessions.books(town.now)))
    assert [(row["worker"], row["state"]) for row in books["workers"]] == [(1, "alive")]


# --- credit, grants, budget ---


def test_no_more_is_granted_than_the_budget_and_who_waits_is_served_in_order() -> None:
    town = Town(n=40, d=LARGE)
    workers = town.everybody()
    leases = [lease(town, worker) for worker in workers]
    for worker, got in zip(workers, leases, strict=True):
        ask(town, worker, got.ticket)
    granted = [m.ticket for m in town.sent if isinstance(m, Grant)]
    most = town.sessions.exchange.uploads.budget // (4 * LARGE)
    assert len(granted) == most < 40
    assert town.sessions.reserved == most * 4 * LARGE
    # The first one sends its parts, and the first that waits takes its place.
    for index in range(3):
        part = large().tobytes()[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        town.say(workers[0], Part(leases[0].ticket, index), part)
    granted = [m.ticket for m in town.sent if isinstance(m, Grant)]
    assert granted == [got.ticket for got in leases[: most + 1]]


@pytest.mark.parametrize("how", ["bye", "gone", "hello", "late"])
def test_a_worker_that_dies_with_a_grant_gives_its_budget_back(how: str) -> None:
    town = Town(n=2, d=LARGE)
    worker = town.join(worker=0)
    got = lease(town, worker)
    ask(town, worker, got.ticket)
    assert town.sessions.reserved == 4 * LARGE
    match how:
        case "bye":
            town.act(worker, worker.link.bye())
        case "gone":
            worker.up = False
            town.tick(GONE + 1)
        case "hello":
            town.reconnect(worker)
        case _:
            town.tick(uploads.PATIENCE + 1)
            assert town.sessions.stats.total.refused == {"late": 1}
    assert town.sessions.reserved == 0


def test_a_server_that_was_stopped_holds_nobodys_silence_against_him() -> None:
    town = Town(n=3, d=LARGE)
    worker, other = town.join(worker=0), town.join(worker=1)
    got = lease(town, worker)
    ask(town, worker, got.ticket)
    town.tick(1.0)
    parts = [large().tobytes()[at : at + CHUNK_BYTES] for at in range(0, 4 * LARGE, CHUNK_BYTES)]
    town.say(worker, Part(got.ticket, 0), parts[0])
    town.now += 10 * GONE  # nobody looks, neither at the socket nor at the clock
    town.sessions.tick(town.now)
    assert town.sessions.reserved == 4 * LARGE
    for index, part in enumerate(parts[1:], 1):
        town.say(worker, Part(got.ticket, index), part)
    assert town.sessions.stats.total.admitted == 1
    assert [town.sessions.presence(at, town.now) for at in (0, 1)] == ["alive", "alive"]
    # From now on he who is silent is so again.
    other.up = False
    town.tick(GONE + 1)
    assert town.sessions.presence(1, town.now) == "gone"


def test_chunks_behind_an_upload_that_was_given_up_are_no_violation_once_each() -> None:
    town = Town(n=2, d=LARGE)
    worker = town.join()
    got = lease(town, worker)
    ask(town, worker, got.ticket)
    parts = [large().tobytes()[at : at + CHUNK_BYTES] for at in range(0, 4 * LARGE, CHUNK_BYTES)]
    town.say(worker, Part(got.ticket, 0), parts[0])
    town.tick(uploads.PATIENCE + 1)
    assert town.sessions.stats.total.refused == {"late": 1}
    for index, part in enumerate(parts[1:], 1):
        town.say(worker, Part(got.ticket, index), part)
    assert town.sessions.stats.violations == 0
    town.say(worker, Part(got.ticket, 1), parts[1])
    assert town.sessions.stats.violations == 1
    assert town.answer(worker, large()) is not None


def test_a_worker_that_dies_while_it_waits_for_a_grant_is_not_waited_for() -> None:
    town = Town(n=40, d=LARGE)
    workers = town.everybody()
    for worker in workers:
        ask(town, worker, lease(town, worker).ticket)
    waiting = [upload.worker for upload in town.sessions.exchange.uploads._asking]
    assert waiting
    for one in waiting:
        host = town.hosts[town.sessions._workers[one].peer]
        town.act(host, host.link.bye())
    assert not town.sessions.exchange.uploads._asking


def test_a_second_push_while_one_is_open_is_a_violation() -> None:
    town = Town(d=LARGE)
    worker = town.join()
    first, second = lease(town, worker), lease(town, worker)
    ask(town, worker, first.ticket)
    ask(town, worker, second.ticket)
    assert town.sessions.stats.violations == 1


# --- liveness ---


def test_a_silent_worker_is_missing_then_gone_and_heals_by_itself() -> None:
    town = Town(n=2)
    worker = town.join(worker=1)
    town.tick(2)
    assert town.sessions.presence(1, town.now) == "alive"
    worker.up = False
    town.tick(MISSING + 1)
    assert town.sessions.presence(1, town.now) == "missing"
    worker.up = True
    town.tick(2)
    assert town.sessions.presence(1, town.now) == "alive"
    worker.up = False
    town.tick(GONE + 1)
    assert town.sessions.presence(1, town.now) == "gone"
    worker.up = True
    town.tick(2)
    assert town.sessions.presence(1, town.now) == "alive"
    assert town.answer(worker, ONE) is not None


def test_a_busy_worker_beats_so_it_is_never_missing() -> None:
    town = Town()
    worker = town.join()
    lease(town, worker)
    for _ in range(60):
        town.tick(1)
        assert town.sessions.presence(0, town.now) == "alive"


def test_no_model_goes_out_before_a_quorum_is_there_and_then_to_all_who_asked() -> None:
    town = Town(n=4, quorum=3)
    early = [town.join(worker=0), town.join(worker=1)]
    assert [town.pull(worker) for worker in early] == [None, None]
    assert town.sessions.status() == "waiting (2 of 3)"
    town.join(worker=2)
    assert [worker.heard(Lease) for worker in early] == [1, 1]
    assert town.sessions.status() == "running"


def test_a_run_that_loses_its_quorum_waits_and_goes_on_when_it_is_back() -> None:
    town = Town(n=3, quorum=3)
    workers = town.everybody()
    town.act(workers[2], workers[2].link.bye())
    assert town.pull(workers[0]) is None
    assert town.sessions.status() == "waiting (2 of 3)"
    town.reconnect(workers[2])
    assert workers[0].heard(Lease) == 1


def test_in_rounds_who_has_answered_waits_for_the_update() -> None:
    town = Town(n=4, gather="synchronous")
    workers = town.everybody()
    for worker in workers[:2]:
        town.answer(worker, ONE)
        assert town.pull(worker) is None
    town.answer(workers[2], ONE)
    assert [worker.last(Lease).model.version for worker in workers[:2]] == [1, 1]
    assert [lease(town, worker).model.version for worker in workers[2:]] == [1, 1]


# --- lines that break, servers that restart ---


@pytest.mark.parametrize("d", [3, LARGE])
def test_after_a_broken_line_a_held_gradient_is_still_welcome(d: int) -> None:
    town = Town(d=d)
    worker = town.join()
    got = lease(town, worker)
    worker.up = False
    town.push(worker, got.ticket, np.ones(d, np.float32))
    town.reconnect(worker)
    judged = worker.last(Judged)
    assert (judged.ticket, judged.admitted) == (got.ticket, True)


@pytest.mark.parametrize("d", [3, LARGE])
@pytest.mark.parametrize(("seconds", "state"), [(MISSING + 2, "missing"), (GONE + 5, "gone")])
def test_who_vanishes_is_seen_to_and_comes_back_with_what_it_held(
    d: int, seconds: float, state: str
) -> None:
    town = Town(d=d)
    worker = town.join()
    got = lease(town, worker)
    town.act(worker, worker.link.vanish(seconds))
    town.sent.clear()
    town.tick(seconds - 1)
    assert town.sent == []
    assert town.sessions.presence(0, town.now) == state
    town.push(worker, got.ticket, np.ones(d, np.float32))  # it waits for the line
    town.tick(2)
    assert worker.last(Judged).admitted
    assert town.sessions.presence(0, town.now) == "alive"
    assert town.sessions.stats.violations == 0


def test_what_is_asked_between_a_hello_and_its_welcome_is_asked_once() -> None:
    town = Town()
    worker = town.join()
    hello = worker.link.connected(town.now)
    town.act(worker, [*hello, *worker.link.pull(town.now)])
    assert worker.heard(Lease) == 1
    assert worker.confused == 0
    assert sum(isinstance(message, Pull) for message in town.sent) == 1


def test_after_a_broken_line_a_pull_is_asked_again_and_the_lost_loan_is_forgotten() -> None:
    town = Town()
    worker = town.join()
    for _ in range(5):
        worker.up = False
        town.act(worker, worker.link.pull(town.now))
        town.reconnect(worker)
    assert worker.heard(Lease) == 5 - 3  # two are open, and the server lends no third


def test_a_restarted_server_is_noticed_by_its_epoch_and_the_answer_to_the_old_one_dropped() -> None:
    town = Town()
    worker = town.join()
    got = lease(town, worker)
    town.restart()
    town.push(worker, got.ticket, ONE)
    assert worker.last(Judged) == Judged(got.ticket, False, "restarted", 0, False, None, 0)
    assert worker.last(Welcomed).anew
    assert town.sessions.descent.model.version == 0
    assert town.answer(worker, ONE) is not None


def test_a_server_that_is_silent_is_given_up_and_sought_again() -> None:
    town = Town()
    worker = town.join()
    del town.hosts[worker.peer]
    actions = worker.link.tick(town.now + SILENT + 0.1)
    assert [type(action).__name__ for action in actions] == ["Reconnect"]


def test_a_beat_may_wait_behind_a_chunk_so_who_asked_bears_a_longer_silence() -> None:
    town = Town()
    worker = town.join()
    del town.hosts[worker.peer]
    worker.link.pull(town.now)
    actions = worker.link.tick(town.now + SILENT_ASKED - 0.1)
    assert not any(isinstance(action, Reconnect) for action in actions)
    (action,) = worker.link.tick(town.now + SILENT_ASKED + 0.1)
    assert isinstance(action, Reconnect)


def test_a_request_whose_answer_was_lost_is_asked_again_though_the_server_beats() -> None:
    town = Town()
    worker = town.join()
    town.hosts.pop(worker.peer)
    town.act(worker, worker.link.pull(town.now))  # the answer goes nowhere
    town.hosts[worker.peer] = worker
    town.tick(FORGOTTEN + 2)
    assert worker.heard(Lease) == 1


def test_a_hello_that_is_lost_is_said_again_and_not_only_after_a_minute() -> None:
    town = Town()
    worker = town.join()
    worker.link.connected(town.now)  # nobody hears it
    town.reconnect(worker)
    town.hosts[worker.peer] = worker
    town.sessions._drop(town.sessions._workers[0], "gone", town.now)
    worker.link.connected(town.now)  # nor this one
    town.act(worker, worker.link.pull(town.now))
    town.tick(GREETING + 3)  # its beats are answered: who are you?
    assert worker.heard(Lease) == 1
    assert worker.confused == 0


def test_f_workers_who_hold_their_grants_leave_room_for_the_others() -> None:
    town = Town(n=19, d=40, chunk=8)
    f = 6
    for liar in range(f):
        host = town.join(worker=liar)
        ask(town, host, lease(town, host).ticket)
    for worker in range(f, 19):
        assert town.answer(town.join(worker=worker), np.ones(40, np.float32)) is not None
    assert town.sessions.reserved <= town.sessions.exchange.uploads.budget


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, -math.inf])
def test_an_evaluator_that_finds_no_number_is_booked_as_one_that_knows_nothing(
    accuracy: float,
) -> None:
    town = Town()
    evaluator = town.join("evaluator")
    town.act(evaluator, evaluator.link.report(0, math.nan, accuracy))
    books = town.sessions.books(town.now)
    assert books["loss"] is None
    assert books["accuracy"] is None
    assert not Until(target=0.5).reached(town.sessions.stats, town.now)
    assert town.answer(town.join(), ONE) is not None


# --- the end ---


def test_draining_lends_nothing_and_lets_uploads_finish() -> None:
    town = Town(n=3, d=LARGE)
    worker, other = town.join(worker=0), town.join(worker=1)
    got = lease(town, worker)
    ask(town, worker, got.ticket)
    town.sessions.drain()
    assert not town.sessions.drained
    assert town.pull(other) is None
    assert town.join(worker=2).heard(Halt) == 1  # a worker that was away, and missed the end
    assert town.join("operator").heard(Denied) == 1
    for index in range(3):
        part = large().tobytes()[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        town.say(worker, Part(got.ticket, index), part)
    assert town.sessions.drained
    assert town.sessions.descent.model.version == 1


def test_where_the_run_will_go_on_workers_are_not_sent_away_and_watchers_are() -> None:
    town = Town(n=2)
    worker, operator = town.join(worker=0), town.join("operator")
    town.sessions.drain(over=False)
    told = [e.peer for e in town.sessions.halt("later") if isinstance(e, Send)]
    assert told == [operator.peer]
    late = town.join(worker=1)
    assert late.told == []
    town.restart()
    town.reconnect(worker)
    town.reconnect(late)
    assert worker.last(Welcomed).anew
    assert late.heard(Welcomed) == 1


def test_what_comes_after_the_end_moves_nothing() -> None:
    town = Town()
    worker = town.join()
    town.answer(worker, ONE)
    got = lease(town, worker)
    town.sessions.drain()
    assert town.push(worker, got.ticket, ONE) is None
    assert town.sessions.descent.model.version == 1
    assert town.sessions.stats.total.delivered == 1


def test_halting_tells_everybody() -> None:
    town = Town(n=3)
    workers = town.everybody()
    told = [e.peer for e in town.sessions.halt("enough") if isinstance(e, Send)]
    assert sorted(told) == sorted(worker.peer for worker in workers)
    assert all(e.message == Halt("enough") for e in town.sessions.halt("enough"))  # type: ignore[union-attr]


# --- anything, in any order ---

ROGUE = st.one_of(
    st.builds(Pull, st.integers(-1, 3)),
    st.builds(
        Push,
        *(st.integers(0, 9), st.none(), st.none(), st.just(0.0), st.just(1)),
        st.none() | st.integers(-1, 3),
    ),
    st.builds(Part, st.integers(0, 9), st.integers(0, 3)),
    st.builds(Report, st.integers(0, 3), st.just(0.0), st.just(0.0)),
    st.just(Query()),
    st.just(Beat()),
    st.just(Bye()),
    st.just(Hello(PROTOCOL, "", "worker", "guess", "", False, ())),
    st.just(Enrol(PROTOCOL, "", "", False)),
)


# So few numbers are a chunk there, for many conversations in little time.
FEW = 5


class AnyConversation(RuleBasedStateMachine):
    """Honest links, lines that break, servers that restart, and a rogue who says anything."""

    @initialize(d=st.sampled_from([3, 2 * FEW + 1]), preset=st.sampled_from(["none", "middle"]))
    def begin(self, d: int, preset: str) -> None:
        self.town = Town(n=4, d=d, preset=preset, chunk=4 * FEW)
        self.workers = [self.town.join(worker=worker) for worker in range(3)]
        self.rogue = self.town.join(worker=3)
        self.held: dict[int, list[int]] = {0: [], 1: [], 2: []}

    @rule(who=st.integers(0, 2))
    def work(self, who: int) -> None:
        worker = self.workers[who]
        if not worker.up:
            self.town.reconnect(worker)
        lease_ = self.town.pull(worker)
        if lease_ is not None:
            judged = self.town.push(worker, lease_.ticket, np.ones(self.town.d, np.float32))
            assert judged is not None
            assert judged.rule in ("", "startup", "unmeasured", "growth", "restarted")

    @rule(who=st.integers(0, 2))
    def break_line(self, who: int) -> None:
        self.workers[who].up = False

    @rule(message=ROGUE, body=st.sampled_from([b"", bytes(12), bytes(4 * FEW)]))
    def lie(self, message: Push | Part, body: bytes) -> None:
        body = body if isinstance(message, Push | Part) else b""
        self.town.say(self.rogue, message, body)

    @precondition(lambda self: self.town.now < VACANT - 40)  # later, strangers may take a place
    @rule(seconds=st.sampled_from([1, 5, 40]))
    def wait(self, seconds: int) -> None:
        self.town.tick(seconds)

    @rule()
    def restart(self) -> None:
        self.town.restart()

    @precondition(lambda self: hasattr(self, "town"))
    @invariant()
    def what_is_reserved_is_for_who_is_there_and_within_the_budget(self) -> None:
        sessions = self.town.sessions
        assert sessions.exchange.uploads._reserved <= sessions._workers.keys()
        assert sessions.reserved <= sessions.exchange.uploads.budget

    @precondition(lambda self: hasattr(self, "town"))
    @invariant()
    def no_honest_link_is_told_what_it_cannot_understand(self) -> None:
        assert not any(worker.confused for worker in self.workers)

    @precondition(lambda self: hasattr(self, "town"))
    @invariant()
    def the_books_add_up(self) -> None:
        total = self.town.sessions.stats.total
        refused = total.refused.total() - total.refused["unasked"]  # which is no delivery
        assert total.delivered == total.admitted + refused

    def teardown(self) -> None:
        """When the faults stop, everybody's work is received again."""
        for worker in self.workers:
            self.town.reconnect(worker)
        for worker in self.workers:
            before = worker.heard(Judged)
            lease_ = self.town.pull(worker)
            assert lease_ is not None
            self.town.push(worker, lease_.ticket, np.ones(self.town.d, np.float32))
            assert worker.heard(Judged) == before + 1


TestAnyConversation = AnyConversation.TestCase
TestAnyConversation.settings = settings(max_examples=60, stateful_step_count=25)


def test_again_is_answered_with_a_hello_that_says_what_is_held() -> None:
    town = Town()
    worker = town.join()
    got = lease(town, worker)
    (said,) = worker.link.receive(Again(), b"", town.now)
    assert getattr(said, "message", None) is not None
    assert said.message.holds == (got.ticket,)  # type: ignore[union-attr]
