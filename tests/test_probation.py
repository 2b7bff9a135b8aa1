"""Who comes into a run that is going on is heard, and counts once it has shown what it is; until
then the run is as if it were not there.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.descent import Descent
from kardam.events import Event
from kardam.filters import chain
from kardam.link import Lease
from kardam.messages import Denied, Gradient, Judged, Pull, Refusal, Verdict
from kardam.probation import ANSWERS, Probation
from kardam.replay import again
from kardam.tape import Kept, _decoded
from kardam.tape import said as said_of
from tests.strategies import evidence, growths
from tests.test_state import RECIPES, D, N, fresh
from tests.town import Host, Town

ONE = np.ones(3, np.float32)
ALICE, BOB, CAROL, DAVE, EVE = (f"{number:064x}" for number in range(5))


# --- the rule ---


@given(st.lists(st.integers(0, 9), max_size=40))
def test_so_many_answers_to_versions_that_are_newer_each_time_are_owed(versions: list[int]) -> None:
    probation = Probation()
    probation.begin(1)
    newest, given_ = -1, 0
    for version in versions:
        refusal = probation.answered(1, version)
        assert (refusal is None) == (given_ == ANSWERS)
        if refusal is not None:
            assert (refusal.rule, refusal.value, refusal.low) == ("probation", given_, ANSWERS)
        if version > newest and given_ < ANSWERS:
            newest, given_ = version, given_ + 1
        assert (1 in probation) == (given_ < ANSWERS)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=30))
def test_each_newcomer_owes_its_own_and_a_state_is_all_there_is_to_know(
    answers: list[tuple[int, int]],
) -> None:
    together = Probation()
    alone = {worker: Probation() for worker in range(3)}
    for worker in alone:
        together.begin(worker)
        alone[worker].begin(worker)
    for worker, version in answers:
        if worker in alone:
            assert together.answered(worker, version) == alone[worker].answered(worker, version)
        else:
            assert together.answered(worker, version) is None
        again = Probation()
        again.restore(together.state())
        together = again


# --- what it is to the others ---


class Crowd:
    """Established workers who answer one after the other: the same, whoever else is there."""

    def __init__(self, descent: Descent) -> None:
        self.descent = descent
        self._chance = np.random.default_rng(3)

    def turn(self) -> Verdict:
        worker = int(self._chance.integers(N - 1))
        g = self.descent.model.x + self._chance.standard_normal(D)
        scale = self._chance.choice([1.0, 1e3], p=[0.9, 0.1])
        loan = self.descent.lend(worker)
        return self.descent.receive(Gradient(worker, loan.ticket, (scale * g).astype(np.float32)))


def said(verdict: Verdict) -> str:
    """All of it but the ticket: loans to others are numbered, too."""
    return repr({name: getattr(verdict, name) for name in Verdict._fields if name != "ticket"})


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shout", [1.0, -1e6, np.nan])
def test_a_run_is_the_same_to_the_last_bit_with_and_without_a_newcomer(
    name: str, shout: float
) -> None:
    with_, without = (Crowd(fresh(**RECIPES[name])) for _ in range(2))
    for crowd in (with_, without):
        for _ in range(40):
            crowd.turn()
    with_.descent.begin(N - 1)
    if with_.descent.model.version == 0:
        return  # a rule that freezes has not begun
    chance = np.random.default_rng(5)
    for _ in range(60):
        if N - 1 in with_.descent.probation:
            loan = with_.descent.lend(N - 1)
            g = (shout * chance.standard_normal(D)).astype(np.float32)
            verdict = with_.descent.receive(Gradient(N - 1, loan.ticket, g))
            assert verdict.rule in ("probation", "nonfinite")
        if N - 1 in with_.descent.probation:
            assert said(with_.turn()) == said(without.turn())
            assert with_.descent.model.x.tobytes() == without.descent.model.x.tobytes()


@pytest.mark.parametrize("name", RECIPES)
def test_who_was_new_is_one_of_all_after_so_many_answers(name: str) -> None:
    crowd = Crowd(fresh(**RECIPES[name]))
    for _ in range(60):
        crowd.turn()
    descent = crowd.descent
    if descent.model.version == 0:
        return
    descent.begin(N - 1)
    versions: set[int] = set()
    for _ in range(200):
        crowd.turn()
        loan = descent.lend(N - 1)
        verdict = descent.receive(Gradient(N - 1, loan.ticket, descent.model.x.copy()))
        assert (verdict.rule == "probation") == (len(versions) < ANSWERS)
        versions.add(verdict.version)


@pytest.mark.parametrize("name", ["preset consensus", "preset middle", "dampening curvature"])
def test_a_recording_of_comings_and_goings_played_again_is_the_same_run(name: str) -> None:
    crowd, again_ = Crowd(fresh(**RECIPES[name])), fresh(**RECIPES[name])
    events: list[Event] = []
    crowd.descent.hear = lambda event, verdict: events.append(event)
    for turn in range(120):
        crowd.turn()
        for at, change in ((50, "begin"), (70, "vacate"), (80, "begin"), (85, "excuse")):
            if turn == at:
                getattr(crowd.descent, change)(N - 1)
        if turn > 50 and not 70 <= turn < 80:
            loan = crowd.descent.lend(N - 1)
            crowd.descent.receive(Gradient(N - 1, loan.ticket, np.ones(D, np.float32)))
    for event in events:
        # As a file has it.
        head, body = said_of(event, 0.0, "")
        copy, *_ = _decoded(json.loads(json.dumps(head)), np.frombuffer(body, np.float32))
        assert not isinstance(copy, Kept)
        again(again_, copy)
    assert again_.model.x.tobytes() == crowd.descent.model.x.tobytes()
    assert repr(again_.state()) == repr(crowd.descent.state())


def answers(data: st.DataObject, worker: int, counts: bool = True) -> Any:
    growth, norm = data.draw(st.tuples(growths, growths))
    return evidence(worker, growth, norm=norm, counts=counts)


@pytest.mark.parametrize(
    "text",
    ["growth:band=middle", "growth:band=relative,c=2,span=3", "growth:band=upper+clip", "clip"],
)
@given(data=st.data())
def test_who_is_struck_out_is_as_if_it_had_never_answered(text: str, data: st.DataObject) -> None:
    with_, without = (chain(text, n=7, f=2) for _ in range(2))
    for worker in data.draw(st.lists(st.integers(0, 6), min_size=20, max_size=40)):
        shown = answers(data, worker)
        with_.judge(shown)
        if worker != 6:
            without.judge(shown)
    with_.forget(6)
    shown = answers(data, 1)
    assert with_.judge(shown) == without.judge(shown)
    assert with_.ready == without.ready
    assert repr(with_.reading(shown)) == repr(without.reading(shown))
    if with_.ready:
        assert with_.scale(shown) == without.scale(shown)


@pytest.mark.parametrize("stage", ["frequency", "throttle"])
def test_what_one_owned_who_is_struck_out_is_nobodys(stage: str) -> None:
    rule = chain(stage, n=7, f=2)
    for _ in range(30):
        rule.admit(evidence(6))
    assert rule.judge(evidence(6)) is not None
    rule.forget(6)
    assert rule.judge(evidence(6)) is None
    again = chain(stage, n=7, f=2)
    again.restore(rule.state())
    for _ in range(80):
        for worker in range(3):
            rule.admit(evidence(worker))
            again.admit(evidence(worker))
    assert again.state() == rule.state()


# --- keys that take places ---


def keyed(*keys: str, n: int = 4, preset: str = "none", quorum: int = 1) -> Town:
    """A server where these may come."""
    town = Town(n=n, preset=preset, quorum=quorum)
    town.enroll(*keys)
    return town


def rules(town: Town, host: Host, times: int) -> list[str]:
    """What becomes of so many of its answers; admitted is empty."""
    judged = (town.answer(host, ONE) for _ in range(times))
    return [verdict.rule for verdict in judged if verdict is not None]


def test_whoever_is_there_before_the_first_update_counts_at_once() -> None:
    town = keyed(ALICE, BOB)
    alice, bob = town.join(key=ALICE), town.join(key=BOB)
    assert rules(town, alice, 1) == rules(town, bob, 1) == [""]


def test_who_comes_after_it_is_heard_and_counts_after_five_answers() -> None:
    town = keyed(ALICE, BOB)
    alice = town.join(key=ALICE)
    town.answer(alice, ONE)
    bob = town.join(key=BOB)
    assert town.sessions.presence(1, town.now) == "new"
    for _ in range(ANSWERS):
        version = town.sessions.descent.model.version
        assert rules(town, bob, 1) == ["probation"]
        assert town.sessions.descent.model.version == version
        town.answer(alice, ONE)
    assert rules(town, bob, 2) == ["", ""]
    assert town.sessions.presence(1, town.now) == "alive"
    assert town.sessions.stats.total.refused == {"probation": ANSWERS}


def test_it_is_the_same_after_a_reconnection_a_goodbye_and_a_restart() -> None:
    town = keyed(ALICE, BOB)
    alice = town.join(key=ALICE)
    town.answer(alice, ONE)
    bob = town.join(key=BOB)

    def answered() -> list[str]:
        town.answer(alice, ONE)
        return rules(town, bob, 1)

    assert answered() == ["probation"]
    town.reconnect(bob)
    assert answered() == ["probation"]
    town.act(bob, bob.link.bye())
    bob = town.join(key=BOB)
    assert answered() == ["probation"]
    state = town.sessions.state()
    town.restart()
    town.sessions.restore(state, town.now)
    town.enroll(ALICE, BOB)
    assert answered() == ["probation"]
    assert answered() == ["probation"]
    assert answered() == [""]


def test_the_run_does_not_wait_for_a_newcomer_that_it_needs() -> None:
    """Four are needed, one of whom left for good: the place is taken by one who counts at once."""
    town = keyed(ALICE, BOB, CAROL, DAVE, quorum=4)
    hosts = [town.join(key=key) for key in (ALICE, BOB, CAROL, DAVE)]
    town.answer(hosts[0], ONE)
    town.enroll(ALICE, BOB, CAROL, EVE)
    assert town.pull(hosts[0]) is None
    eve = town.join(key=EVE)
    assert hosts[0].heard(Lease) == 2
    assert rules(town, eve, 1) == [""]


@pytest.mark.parametrize("preset", ["middle", "consensus"])
def test_the_run_does_not_wait_for_a_newcomer_whom_the_filter_needs(preset: str) -> None:
    """Of four one is there and silent, and one is new: two known ones move nothing by themselves,
    and without a newer version the newcomer could never show what it owes.
    """
    town = Town(n=4, d=40, preset=preset)
    town.enroll(ALICE, BOB, CAROL, DAVE)
    alice, bob, carol, _ = (town.join(key=key) for key in (ALICE, BOB, CAROL, DAVE))
    chance = np.random.default_rng(0)

    def round_(*hosts: Host) -> int:
        for host in hosts:
            x = town.sessions.descent.model.x
            noise = 0.5 * chance.standard_normal(x.size)
            town.answer(host, (x - 1 + noise).astype(np.float32))
        return town.sessions.descent.model.version

    for _ in range(20):
        known = round_(alice, bob, carol)
    assert town.sessions.descent.filter.ready
    town.enroll(ALICE, BOB, DAVE, EVE)
    eve = town.join(key=EVE)
    for _ in range(20):
        later = round_(alice, bob, eve)
    assert later > known + 20


def test_who_is_revoked_is_told_and_its_place_begins_anew_for_the_next() -> None:
    town = keyed(ALICE, BOB, CAROL, EVE, preset="middle")
    _, bob, *_ = hosts = [town.join(key=key) for key in (ALICE, BOB, CAROL, EVE)]
    while not town.sessions.descent.filter.ready:
        for host in hosts:
            town.answer(host, ONE)
    assert 1 in town.sessions.descent._histories
    town.enroll(ALICE, CAROL, EVE, DAVE)
    assert bob.last(Denied).reason == "this key was revoked"
    assert 1 not in town.sessions.descent._histories
    heard = bob.heard(Judged)
    town.say(bob, Pull(-1))
    assert bob.heard(Judged) == heard
    assert town.sessions.stats.violations == 1
    dave = town.join(key=DAVE)
    assert town.sessions.presence(1, town.now) == "new"
    assert rules(town, dave, 1) == ["probation"]


def test_no_more_keys_work_than_there_are_places() -> None:
    town = keyed(ALICE, BOB, CAROL, n=2)
    town.join(key=ALICE)
    bob = town.join(key=BOB)
    town.act(bob, bob.link.bye())
    denied = town.join(key=CAROL).last(Denied)
    assert denied.reason == "all n=2 places belong to keys: serve more (--workers), or revoke one"
    town.enroll(ALICE, CAROL)
    assert town.join(key=CAROL).heard(Denied) == 0


def test_what_a_newcomer_shows_is_remembered_for_its_own_judgement() -> None:
    rule = chain("growth:band=middle,span=5", n=4, f=1)
    for worker in range(3):
        rule.judge(evidence(worker, 1.0))
    for _ in range(ANSWERS):
        rule.judge(evidence(3, 7.0, counts=False))
    assert rule.judge(evidence(3, 1.0)) == Refusal("growth", 7.0, 1.0, 1.0)
