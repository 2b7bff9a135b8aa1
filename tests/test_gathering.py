"""An update comes with the M-th gradient, the M-th distinct worker, or the n-f-th of a round; and
what is admitted is used.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.aggregators import coordinate_median
from kardam.errors import UsageError
from kardam.gathering import GATHERINGS, Buffered, OnArrival, Synchronous
from kardam.messages import Gradient, Vector
from kardam.recipe import Recipe
from tests.strategies import vectors
from tests.worlds import World, network, start, world
from workers.crew import crew
from workers.simulation import hire, simulate

D = 3


def one(value: float) -> Vector:
    return np.full(D, value, np.float32)


@given(
    st.lists(st.tuples(vectors(D), st.floats(0.01, 1)), min_size=1, max_size=20), st.integers(1, 5)
)
def test_on_arrival_a_mean_comes_with_every_mth_gradient(
    given_: list[tuple[Vector, float]], size: int
) -> None:
    gathering = OnArrival(size)
    for count, (g, weight) in enumerate(given_, start=1):
        assert gathering.refuse(0, staleness=count) is None
        result = gathering.add(0, g, weight)
        assert (result is not None) == (count % size == 0)
        if result is not None:
            last = given_[count - size : count]
            expected = sum(w * g.astype(np.float64) for g, w in last) / size
            assert result == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_on_arrival_one_unweighted_gradient_is_itself_to_the_bit() -> None:
    g = np.array([0.1, -3e-38, 7e20], np.float32)
    result = OnArrival().add(0, g, 1.0)
    assert result is not None
    assert result.tobytes() == g.tobytes()


@given(st.lists(st.tuples(st.integers(0, 6), vectors(D), st.floats(0.01, 1)), max_size=40))
def test_a_buffer_is_complete_with_its_mth_distinct_worker_and_begins_anew(
    arrivals: list[tuple[int, Vector, float]],
) -> None:
    seen: list[list[Vector]] = []

    def rule(given_: Any) -> Vector:
        seen.append(list(given_))
        return coordinate_median(given_)

    buffer, owners = Buffered(3, rule), dict[int, Vector]()
    for worker, g, weight in arrivals:
        refusal = buffer.refuse(worker, staleness=5)
        assert (refusal is not None and refusal.rule == "twice") == (worker in owners)
        if refusal is not None:
            continue
        owners[worker] = g * np.float32(weight)
        result = buffer.add(worker, g, weight)
        assert (result is not None) == (len(owners) == 3)
        if result is not None:
            # In the order of workers, whichever came first.
            expected = [owners[owner].tolist() for owner in sorted(owners)]
            assert [g.tolist() for g in seen[-1]] == expected
            owners = {}


def test_a_round_takes_only_answers_to_the_newest_model() -> None:
    round_ = Synchronous(2, coordinate_median)
    late = round_.refuse(0, staleness=1)
    assert late is not None
    assert (late.rule, late.value, late.high) == ("stale", 1, 0)
    assert round_.refuse(0, staleness=0) is None
    assert round_.add(0, one(1), 1.0) is None
    twice = round_.refuse(0, staleness=0)
    assert twice is not None
    assert twice.rule == "twice"


# --- in a descent ---


def test_a_descent_steps_by_the_rule_over_the_buffer() -> None:
    ours = Recipe.of(n=5, f=1, preset="none", gather="buffered:m=3", aggregator="median").descent(
        one(0)
    )
    for worker, value in [(0, 1.0), (3, 1e6), (1, 3.0)]:
        assert ours.model.version == 0
        assert ours.receive(Gradient(worker, ours.lend(worker).ticket, one(value))).admitted
    assert ours.model.x == pytest.approx(one(-0.1 * 3))


def test_in_a_round_what_comes_late_or_twice_is_refused_and_moves_nothing() -> None:
    ours = Recipe.of(n=4, f=1, preset="none", gather="synchronous").descent(one(0))
    slow = ours.lend(3)
    for worker in (0, 0, 1, 2):
        verdict = ours.receive(Gradient(worker, ours.lend(worker).ticket, one(1)))
    assert ours.model.version == 1
    verdict = ours.receive(Gradient(3, slow.ticket, one(1)))
    assert (verdict.admitted, verdict.rule, verdict.value) == (False, "stale", 1)
    assert ours.due(0)
    first = ours.lend(0)
    assert not ours.due(0)
    again = ours.lend(0)
    assert ours.receive(Gradient(0, first.ticket, one(1))).admitted
    assert ours.receive(Gradient(0, again.ticket, one(1))).rule == "twice"
    assert not ours.due(0)
    assert ours.due(1)
    assert ours.model.version == 1


# The momentum of one that keeps it is another choice.
@pytest.mark.parametrize("gather", [*(g for g in GATHERINGS if g != "ctma"), "ctma:beta=0"])
def test_with_one_worker_every_gathering_is_plain_sgd_to_the_bit(gather: str) -> None:
    ours, x = Recipe.of(n=1, preset="none", gather=gather).descent(one(1)), one(1)
    chance = np.random.default_rng(0)
    for _ in range(20):
        g = chance.standard_normal(D).astype(np.float32)
        ours.receive(Gradient(0, ours.lend(0).ticket, g))
        x = x - np.float32(0.1) * g
        assert ours.model.x.tobytes() == x.tobytes()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"gather": "arrival:m=0"}, "--gather 'arrival:m=0': expected m >= 1, got m=0"),
        ({"gather": "buffered:m=11"}, "expected 1 <= m <= n = 10, got m=11"),
        ({"gather": "synchronous:m=11"}, "expected 1 <= m <= n = 10, got m=11"),
        ({"aggregator": "krum"}, "--aggregator krum: on arrival .* give --gather buffered"),
        ({"gather": "ctma", "aggregator": "krum"}, "krum: --gather ctma has a rule of its own"),
        ({"gather": "basgd:b=6"}, "expected 2f < b <= n, got b=6, f=3, n=10"),
        ({"gather": "ctma:share=0.5"}, "expected 0 <= share < 1/2, got 0.5"),
        ({"gather": "ctma:beta=1"}, "expected 0 <= beta < 1, got 1"),
        ({"gather": "throttle:q=1"}, "expected q > 1, got 1"),
        ({"gather": "throttle:clip=0"}, "expected clip > 0, got 0"),
        (
            {"gather": "synchronous", "aggregator": "krum"},
            r"--gather synchronous --aggregator 'krum': expected n >= 2f\+3 vectors, got n=7, f=3",
        ),
        (
            {"gather": "buffered:m=4", "aggregator": "krum", "f": 1},
            r"expected n >= 2f\+3 vectors, got n=4, f=1",
        ),
    ],
)
def test_what_cannot_be_gathered_is_an_error_that_says_why(
    recipe: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Recipe.of(n=10, **recipe)


def test_a_robust_rule_waits_for_n_minus_f_workers_as_a_filter_does() -> None:
    assert Recipe.of(n=10, preset="none").quorum == 1
    assert Recipe.of(n=10, preset="none", gather="buffered", aggregator="median").quorum == 7
    assert Recipe.of(n=10, preset="none", gather="buffered").quorum == 1
    assert Recipe.of(n=10, preset="none", gather="throttle").quorum == 7


# --- in a world with liars ---


def run(aggregator: str, **recipe: Any) -> World:
    """Two of ten send ten times the reversed gradient; no filter."""
    recipe = {"f": 2, "gather": "buffered", "rate": "constant:gamma=0.5", **recipe}
    recipe = {"preset": "none", "aggregator": aggregator, **recipe}
    return world(600, recipe=recipe, byzantine=2, attack="sign_flip:scale=10")


# Bulyan over eight would bear one.
@pytest.mark.parametrize(
    ("aggregator", "least"),
    [
        ("median", 0.6),
        ("trimmed_mean", 0.6),
        ("geometric_median", 0.7),
        ("krum", 0.7),
        ("multi_krum", 0.7),
        ("centered_clipping", 0.6),
    ],
)
def test_a_robust_rule_over_a_buffer_learns_among_liars(aggregator: str, least: float) -> None:
    assert run(aggregator).accuracy > least


def test_the_average_over_a_buffer_falls_to_chance_among_liars() -> None:
    assert run("average").accuracy < 0.2


def test_rounds_cost_one_arrival_a_worker_and_take_as_long_as_their_slowest_member() -> None:
    # Two stragglers of ten, and f = 2: no round waits for them, and they are always late.
    who: dict[str, Any] = {"stragglers": "2:factor=4", "latency": "constant:seconds=1"}
    recipe = {"preset": "none", "f": 2, "gather": "synchronous", "aggregator": "median"}
    ours = world(820, recipe=recipe, **who)
    assert ours.descent.model.version == 96
    assert ours.reasons.keys() == {"stale"}
    slow = {member.index for member in ours.members if member.factor > 1}
    assert {v.worker for v in ours.verdicts if not v.admitted} == slow


def test_a_round_may_be_of_all_workers_and_then_nobody_is_late() -> None:
    recipe = {"preset": "none", "f": 3, "gather": "synchronous:m=10", "aggregator": "krum"}
    ours = world(200, recipe=recipe, stragglers="2:factor=4")
    assert ours.descent.model.version == 20
    assert not ours.reasons


def test_a_simulated_round_that_can_not_be_completed_ends_the_run() -> None:
    members = crew(n=4)
    descent = Recipe.of(n=4, f=1, preset="none", gather="synchronous").descent(start())
    run = list(simulate(descent, hire(members, network(), 0)[:2]))
    assert [verdict.admitted for _, verdict in run] == [True, True]
