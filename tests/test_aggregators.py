"""A median lies between the honest extremes; a mean is complete after M; a quorum is of distinct
workers.
"""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.aggregators import Mean, Quorum, clipped_median, coordinate_median
from kardam.growth import norm
from kardam.messages import Vector
from tests.strategies import vectors

D = 3


@given(st.lists(vectors(D), min_size=1, max_size=9))
def test_the_coordinate_median_is_the_median_of_each_coordinate(given_: list[Vector]) -> None:
    expected = [statistics.median(float(v[i]) for v in given_) for i in range(D)]
    assert coordinate_median(given_) == pytest.approx(expected, rel=1e-6)


@given(st.lists(vectors(D), min_size=4, max_size=6), st.lists(vectors(D), max_size=3))
def test_a_minority_cannot_move_the_median_out_of_the_honest_box(
    honest: list[Vector], liars: list[Vector]
) -> None:
    median = coordinate_median([*honest, *(lie * np.float32(1e30) for lie in liars)])
    assert (median >= np.min(honest, axis=0)).all()
    assert (median <= np.max(honest, axis=0)).all()


@given(st.lists(vectors(D), min_size=1, max_size=9))
def test_the_clipped_median_is_no_longer_than_the_median_norm(given_: list[Vector]) -> None:
    bound = statistics.median(map(norm, given_))
    assert norm(clipped_median(given_)) <= bound * (1 + 1e-5)


@given(
    st.lists(st.tuples(vectors(D), st.floats(0.01, 1)), min_size=1, max_size=20), st.integers(1, 5)
)
def test_a_mean_comes_with_every_mth_gradient(
    given_: list[tuple[Vector, float]], size: int
) -> None:
    mean = Mean(size)
    for count, (g, weight) in enumerate(given_, start=1):
        result = mean.add(g, weight)
        assert (result is not None) == (count % size == 0)
        if result is not None:
            last = given_[count - size : count]
            expected = sum(w * g.astype(np.float64) for g, w in last) / size
            assert result == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_mean_of_one_unweighted_gradient_is_that_gradient_to_the_bit() -> None:
    g = np.array([0.1, -3e-38, 7e20], np.float32)
    result = Mean().add(g, 1.0)
    assert result is not None
    assert result.tobytes() == g.tobytes()


def test_a_quorum_is_complete_with_its_kth_distinct_worker_and_begins_anew() -> None:
    quorum, zero = Quorum(3, coordinate_median), np.zeros(D, np.float32)
    for worker in (4, 7):
        assert quorum.add(worker, zero) is None
        assert quorum.has(worker)
    assert quorum.add(1, zero) is not None
    assert not any(quorum.has(worker) for worker in (4, 7, 1))
