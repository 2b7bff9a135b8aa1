"""Growth is measured from a worker's latest answer on another version; ranks are exact, and lies do
not leak.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.growth import Change, History, Population, distance, norm
from kardam.messages import Vector
from tests.strategies import any_float, vectors

D = 3


def exactly(v: list[float]) -> Vector:
    return np.array(v, np.float32)


@given(a=vectors(D), b=vectors(D))
def test_norm_and_distance_agree_with_double_precision(a: Vector, b: Vector) -> None:
    assert norm(a) == pytest.approx(float(np.linalg.norm(a.astype(np.float64))), rel=1e-5)
    apart = float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))
    assert distance(a, b) == pytest.approx(apart, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_vector_that_is_not_finite_or_squares_to_infinity_has_an_infinite_norm(
    bad: float,
) -> None:
    assert norm(exactly([0, bad, 1])) == math.inf
    assert distance(exactly([0, bad, 1]), exactly([0, 0, 0])) == math.inf


def test_growth_is_the_change_of_the_gradient_over_that_of_the_model() -> None:
    history = History()
    assert history.add(1, 0, exactly([0, 0, 0]), exactly([0, 0, 0])) is None
    change = history.add(2, 1, exactly([3, 4, 0]), exactly([0, 0, 2]))
    assert change == Change(since=1, difference=5, displacement=2)
    assert change.growth == 2.5


def test_a_worker_served_the_same_version_again_keeps_its_pair() -> None:
    history = History()
    history.add(1, 0, exactly([1, 0, 0]), exactly([1, 0, 0]))
    history.add(2, 5, exactly([2, 0, 0]), exactly([2, 0, 0]))
    again = history.add(3, 5, exactly([9, 0, 0]), exactly([2, 0, 0]))
    assert again == Change(since=1, difference=8, displacement=1)


def test_no_displacement_is_no_pair() -> None:
    history = History()
    history.add(1, 0, exactly([1, 0, 0]), exactly([1, 0, 0]))
    assert history.add(2, 1, exactly([2, 0, 0]), exactly([1, 0, 0])) is None


@given(
    st.lists(st.tuples(st.integers(0, 3), vectors(D), vectors(D)), max_size=12).map(
        lambda answers: [(i, *answer) for i, answer in enumerate(answers)]
    )
)
def test_the_pair_is_what_a_search_through_all_answers_finds(
    answers: list[tuple[int, int, Vector, Vector]],
) -> None:
    models = {version: x for _, version, _, x in reversed(answers)}
    history = History()
    for i, version, g, _ in answers:
        earlier = [a for a in answers[:i] if a[1] != version]
        expected = None
        if earlier:
            since, before, g_before, _ = earlier[-1]
            apart = distance(models[version], models[before])
            if apart > 0:
                expected = Change(since, distance(g, g_before), apart)
        assert history.add(i, version, g, models[version]) == expected


@given(st.lists(st.tuples(st.integers(0, 6), any_float), min_size=1, max_size=40), st.data())
def test_ranks_are_those_of_a_sorted_list_of_what_was_shown(
    sets: list[tuple[int, float]], data: st.DataObject
) -> None:
    population, slow = Population(), dict[int, float]()
    for worker, value in sets:
        population[worker] = value
        slow[worker] = value if math.isfinite(value) else math.inf
        ranked = sorted(slow.values())
        k = data.draw(st.integers(1, len(ranked)))
        assert population.smallest(k) == ranked[k - 1]
        assert population.largest(k) == ranked[-k]
        assert population.get(worker) == slow[worker]
        assert len(population) == len(slow)
        assert population.median() == ranked[(len(ranked) - 1) // 2]


@pytest.mark.parametrize("k", [0, 2])
def test_a_rank_outside_the_population_is_an_error_with_the_range(k: int) -> None:
    population = Population()
    population[3] = 1.0
    with pytest.raises(ValueError, match=f"expected 1 <= k <= 1, got k={k}"):
        population.smallest(k)
