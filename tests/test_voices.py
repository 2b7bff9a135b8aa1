"""Voices against all pairs, neighbours among few rows and among many, medians by weight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.voices import NEIGHBOURS, _all_apart, _neighbours_apart, voices, weighted_median


def test_where_all_are_neighbours_both_ways_find_the_same_to_the_bit() -> None:
    rows = np.random.default_rng(0).standard_normal((NEIGHBOURS + 1, 50)).astype(np.float32)
    apart, near = _all_apart(rows), _neighbours_apart(rows)
    assert np.isinf(np.diag(apart)).all()
    assert np.sort(apart, axis=0)[:-1].tobytes() == np.sort(near, axis=0)[:NEIGHBOURS].tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_voices_are_what_all_pairs_say(seed: int, copies: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((10, 40)).astype(np.float32)
    rows[1 : 1 + copies] = rows[0]
    apart = np.array([[float(np.linalg.norm(a - b)) for b in rows] for a in rows])
    nearest = np.median((apart + np.diag([np.inf] * 10)).min(1))
    twins = ((apart < 0.5 * nearest) | np.eye(10, dtype=bool)).sum(1)
    assert voices(rows, 0.5) == pytest.approx(1 / twins)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1))
def test_a_weighted_median_is_that_of_each_value_as_often_as_it_weighs(
    voiced: list[tuple[int, int]],
) -> None:
    each = sorted(value for value, weight in voiced for _ in range(weight))
    values, weights = ([float(its[at]) for its in voiced] for at in (0, 1))
    assert weighted_median(values, weights) == each[(len(each) - 1) // 2]
