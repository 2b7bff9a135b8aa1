"""The algorithm: whatever workers send, in whatever order, only an admitted gradient moves the
model.
"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kardam.descent import LOANS_MAX, Descent
from kardam.filters import Frequency
from kardam.messages import Declared, Gradient, Vector, Verdict
from kardam.rates import constant as rate_of
from kardam.recipe import PRESETS, Recipe
from tests.strategies import any_float, vectors
from tests.worlds import world

N, F, D = 7, 2, 3
GATHERS = ["arrival", "arrival:m=3", "buffered", "buffered:m=2", "synchronous"]
ROBUST = [name for name in PRESETS if name != "none"]


def descent(preset: str = "none", **rest: Any) -> Descent:
    return Recipe.of(n=N, preset=preset, rate="constant:gamma=0.5", **rest).descent(
        np.zeros(D, np.float32)
    )


def exactly(*v: float) -> Vector:
    return np.array(v, np.float32)


def answer(to: Descent, worker: int, g: Vector) -> Verdict:
    return to.receive(Gradient(worker, to.lend(worker).ticket, g))


class AnyOrder(RuleBasedStateMachine):
    """Hand-outs, answers and every kind of wrong answer, in any order that hypothesis invents."""

    @initialize(preset=st.sampled_from(sorted(PRESETS)), gather=st.sampled_from(GATHERS))
    def begin(self, preset: str, gather: str) -> None:
        self.descent = descent(preset, gather=gather)
        self.robust = preset != "none"
        self.open: dict[int, list[int]] = {worker: [] for worker in range(N)}
        self.answered: list[tuple[int, int]] = []
        self.owners: list[int] = []
        self.version = 0

    def refused(self, gradient: Gradient, rule_: str | None = None) -> None:
        before = self.descent.model
        verdict = self.descent.receive(gradient)
        assert not verdict.admitted
        assert self.descent.model is before
        assert rule_ is None or verdict.rule == rule_

    @rule(worker=st.integers(0, N - 1))
    def lend(self, worker: int) -> None:
        assert self.descent.may_lend(worker) == (len(self.open[worker]) < LOANS_MAX)
        if self.descent.may_lend(worker):
            loan = self.descent.lend(worker)
            assert loan.model is self.descent.model
            self.open[worker].append(loan.ticket)
        else:
            with pytest.raises(ValueError, match="to answer already"):
                self.descent.lend(worker)

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), g=vectors(D), growth=st.none() | any_float)
    def deliver(self, data: st.DataObject, g: Vector, growth: float | None) -> None:
        worker = data.draw(st.sampled_from([w for w, loans in self.open.items() if loans]))
        ticket = data.draw(st.sampled_from(self.open[worker]))
        declared = None if growth is None else Declared(growth, since=data.draw(st.integers(0, 9)))
        before = self.descent.model
        verdict = self.descent.receive(Gradient(worker, ticket, g, declared))
        self.closed(worker, ticket)
        assert verdict.staleness == before.version - verdict.version >= 0
        assert verdict.updates == self.descent.model.version
        if not verdict.admitted:
            assert self.descent.model is before
        if verdict.admitted and verdict.rule == "":
            self.owners.append(worker)

    @precondition(lambda self: any(self.open.values()))
    @rule(
        data=st.data(),
        bad=st.sampled_from([math.nan, math.inf, -math.inf, 3e38]),
        at=st.integers(0, D - 1),
    )
    def deliver_what_is_not_finite(self, data: st.DataObject, bad: float, at: int) -> None:
        worker = data.draw(st.sampled_from([w for w, loans in self.open.items() if loans]))
        ticket = self.open[worker][0]
        g = np.zeros(D, np.float32)
        g[at] = bad
        self.refused(Gradient(worker, ticket, g), "nonfinite")
        self.closed(worker, ticket)

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), size=st.integers(0, 9).filter(lambda size: size != D))
    def deliver_the_wrong_length(self, data: st.DataObject, size: int) -> None:
        worker = data.draw(st.sampled_from([w for w, loans in self.open.items() if loans]))
        ticket = self.open[worker][0]
        self.refused(Gradient(worker, ticket, np.zeros(size, np.float32)), "malformed")
        self.closed(worker, ticket)

    @rule(worker=st.integers(0, N - 1), g=vectors(D), ahead=st.integers(1, 99))
    def deliver_unasked(self, worker: int, g: Vector, ahead: int) -> None:
        self.refused(Gradient(worker, 10**6 + ahead, g), "unasked")

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), g=vectors(D))
    def deliver_again(self, data: st.DataObject, g: Vector) -> None:
        worker, ticket = data.draw(st.sampled_from(self.answered))
        self.refused(Gradient(worker, ticket, g), "unasked")

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), g=vectors(D))
    def deliver_for_somebody_else(self, data: st.DataObject, g: Vector) -> None:
        worker = data.draw(st.sampled_from([w for w, loans in self.open.items() if loans]))
        other = data.draw(st.sampled_from([w for w in range(N) if w != worker]))
        self.refused(Gradient(other, self.open[worker][0], g), "unasked")

    @rule(worker=st.integers(0, N - 1))
    def forget(self, worker: int) -> None:
        kept = tuple(self.open[worker][-1:])
        self.descent.forget(worker, but=kept)
        self.open[worker] = list(kept)

    def closed(self, worker: int, ticket: int) -> None:
        self.answered += [(worker, t) for t in self.open[worker] if t <= ticket]
        self.open[worker] = [t for t in self.open[worker] if t > ticket]

    @invariant()
    def the_model_is_finite_and_sealed_and_never_goes_back(self) -> None:
        if hasattr(self, "descent"):
            model = self.descent.model
            assert np.isfinite(model.x).all()
            assert not model.x.flags.writeable
            assert model.version >= self.version
            self.version = model.version

    @invariant()
    def frequency_holds_where_it_is_in_the_chain(self) -> None:
        stages = getattr(self.descent.filter, "stages", ()) if hasattr(self, "descent") else ()
        if any(isinstance(stage, Frequency) for stage in stages):
            window = self.owners[-(2 * F + 1) :]
            assert len(set(window)) == len(window)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40)


# --- plain SGD ---


def test_without_a_filter_it_is_asynchronous_sgd_bit_for_bit() -> None:
    ours, x = descent("none"), np.zeros(D, np.float32)
    chance = np.random.default_rng(0)
    for _ in range(50):
        g = chance.standard_normal(D).astype(np.float32)
        assert answer(ours, int(chance.integers(N)), g).admitted
        x = x - np.float32(0.5) * g
        assert ours.model.x.tobytes() == x.tobytes()


def test_m_gradients_make_one_update_with_their_mean() -> None:
    ours = descent("none", gather="arrival:m=2")
    answer(ours, 0, exactly(2, 0, 0))
    assert ours.model.version == 0
    answer(ours, 1, exactly(0, 4, 0))
    assert ours.model.version == 1
    assert ours.model.x.tolist() == [-0.5, -1.0, 0.0]


def test_dampening_scales_the_step_of_a_stale_gradient() -> None:
    ours = descent("none", dampening="inverse")
    stale = ours.lend(0)
    answer(ours, 1, exactly(0, 0, 0))
    before = ours.model.x
    verdict = ours.receive(Gradient(0, stale.ticket, exactly(4, 0, 0)))
    assert (verdict.staleness, verdict.weight) == (1, 0.5)
    assert (ours.model.x - before).tolist() == [-1.0, 0.0, 0.0]


def test_the_rate_is_asked_for_each_version() -> None:
    asked: list[int] = []
    ours = descent("none")
    ours.rate = lambda t: (asked.append(t), rate_of(0.1)(t))[1]  # type: ignore[func-returns-value]
    for worker in range(3):
        answer(ours, worker, exactly(1, 1, 1))
    assert asked == [0, 1, 2]


# --- start-up ---


def grown_up(preset: str, chance: np.random.Generator) -> Descent:
    """Two quorums of everybody: all growths are known."""
    ours = descent(preset)
    for _ in range(3 * N):
        for worker in range(N):
            answer(ours, worker, chance.standard_normal(D).astype(np.float32))
            if ours.filter.ready:
                return ours
    raise AssertionError("start-up did not end")


@pytest.mark.parametrize("preset", ROBUST)
def test_start_up_ends_where_f_are_silent_from_the_start(preset: str) -> None:
    ours, chance = descent(preset), np.random.default_rng(0)
    for _ in range(4):
        for worker in range(F, N):
            answer(ours, worker, chance.standard_normal(D).astype(np.float32))
    assert ours.filter.ready


@pytest.mark.parametrize("preset", ROBUST)
@pytest.mark.parametrize("lie", [1e3, -1e6, 1e15])
def test_a_coalition_of_f_that_comes_first_moves_the_start_no_further_than_honest_work(
    preset: str, lie: float
) -> None:
    ours, chance = descent(preset), np.random.default_rng(0)
    for _ in range(3):
        for worker in range(N):
            # The liars are the first of every round, and push all one way.
            honest = chance.uniform(-1, 1, D).astype(np.float32)
            verdict = answer(ours, worker, np.full(D, lie, np.float32) if worker < F else honest)
            if ours.filter.ready:
                break
            assert verdict.rule == "startup"
            assert np.abs(ours.model.x).max() <= 0.5 * ours.model.version
    assert ours.model.version > 0


@pytest.mark.parametrize("preset", ROBUST)
def test_a_start_up_update_is_the_clipped_median_of_n_minus_f_distinct_workers(preset: str) -> None:
    ours = descent(preset)
    for worker in range(N - F):
        assert ours.model.version == 0
        answer(ours, worker, exactly(worker, 1, -worker))
        assert answer(ours, worker, exactly(9, 9, 9)).rule == "startup" or worker == N - F - 1
    assert ours.model.version == 1
    assert ours.model.x.tolist() == pytest.approx([-1.0, -0.5, 1.0])


@pytest.mark.parametrize("preset", ROBUST)
def test_a_second_answer_in_one_quorum_is_refused_and_not_counted(preset: str) -> None:
    ours = descent(preset)
    assert answer(ours, 0, exactly(1, 0, 0)).admitted
    again = answer(ours, 0, exactly(1, 0, 0))
    assert (again.admitted, again.rule) == (False, "startup")


def test_a_newcomer_after_start_up_is_remembered_and_then_judged() -> None:
    ours, chance = descent("middle"), np.random.default_rng(0)
    while not ours.filter.ready:
        for worker in range(N - F):
            answer(ours, worker, chance.standard_normal(D).astype(np.float32))
    first = answer(ours, N - 1, exactly(1, 0, 0))
    assert (first.admitted, first.rule) == (False, "unmeasured")
    while answer(ours, 0, chance.standard_normal(D).astype(np.float32)).admitted is False:
        pass
    assert answer(ours, N - 1, exactly(1, 1, 0)).rule != "unmeasured"


# --- liars ---


@pytest.mark.parametrize("preset", ["paper", "middle"])
def test_no_vector_of_f_workers_moves_the_model_by_more_than_an_honest_growth_allows(
    preset: str,
) -> None:
    chance = np.random.default_rng(5)
    ours = grown_up(preset, chance)
    for _ in range(200):
        for worker in range(N):
            before = ours.model.x
            lie = chance.standard_normal(D) * 10.0 ** chance.integers(3, 9)
            g = lie if worker < F else chance.standard_normal(D)
            answer(ours, worker, g.astype(np.float32))
            assert np.abs(ours.model.x - before).max() < 5


def test_clip_bounds_each_step_by_the_median_norm() -> None:
    chance = np.random.default_rng(5)
    ours = grown_up("middle", chance)
    for _ in range(100):
        for worker in range(N):
            before = ours.model.x
            verdict = answer(ours, worker, chance.standard_normal(D).astype(np.float32))
            moved = float(np.linalg.norm(ours.model.x - before))
            assert moved == pytest.approx(0.5 * verdict.weight * verdict.norm, abs=1e-5)
            assert verdict.weight <= 1


def test_an_unwritten_vector_stays_unwritten() -> None:
    ours, g = descent("none"), exactly(1, 2, 3)
    lent = ours.lend(0)
    x = lent.model.x.copy()
    answer(ours, 1, g)
    assert (lent.model.x == x).all()
    assert g.tolist() == [1, 2, 3]


def test_every_verdict_tells_what_the_filter_compared_and_the_band_then_in_force() -> None:
    told = world(400, byzantine=2, recipe={"preset": "middle"}).verdicts
    read = [verdict for verdict in told if not math.isnan(verdict.band_low)]
    assert {verdict.admitted for verdict in read} == {True, False}
    for verdict in read:
        inside = verdict.band_low <= verdict.reading <= verdict.band_high
        assert inside == (verdict.admitted or verdict.rule != "growth")
        if verdict.rule == "growth":
            seen = verdict.value, verdict.low, verdict.high
            assert seen == (verdict.reading, verdict.band_low, verdict.band_high)
    # Before there is a band, nobody is held against one.
    assert all(verdict.rule in ("startup", "unmeasured") for verdict in told[: told.index(read[0])])
