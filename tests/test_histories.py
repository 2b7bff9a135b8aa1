"""Histories beside their definition, over every answer that is remembered."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.growth import Evidence
from kardam.histories import Histories
from kardam.messages import Vector, WorkerId
from tests.strategies import evidence

BETA = 0.8

answers = st.lists(
    st.tuples(st.integers(0, 2), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=30,
)


def drawn(seed: int) -> Vector:
    """A direction."""
    g = np.random.default_rng(seed).standard_normal(5).astype(np.float32)
    g /= np.linalg.norm(g)
    return g


def said(worker: WorkerId, length: float, seed: int) -> Evidence:
    return evidence(worker, norm=length)._replace(g=np.float32(length) * drawn(seed))


@given(answers)
def test_a_history_is_the_average_of_directions_and_of_the_logarithms_of_lengths(
    given_: list[tuple[int, float, int]],
) -> None:
    ours, all_of = Histories(BETA), dict[int, list[tuple[float, int]]]()
    for worker, length, seed in given_:
        ours.remember(said(worker, length, seed))
        all_of.setdefault(worker, []).append((length, seed))
    assert list(ours.workers) == list(all_of)
    for worker, its in all_of.items():
        weights = [BETA ** (len(its) - 1 - i) for i in range(len(its))]
        whole = sum(weights)
        h = sum(w * drawn(seed) for w, (_, seed) in zip(weights, its, strict=True)) / whole
        log = sum(w * math.log(length) for w, (length, _) in zip(weights, its, strict=True)) / whole
        np.testing.assert_allclose(ours.direction(worker), h, atol=1e-5)
        np.testing.assert_allclose(ours.directions([worker])[0], h, atol=1e-5)
        assert ours.lengths([worker]) == [pytest.approx(math.exp(log), rel=1e-4)]
        assert ours.variance(worker) == pytest.approx(sum(w * w for w in weights) / whole**2)


@given(answers, st.integers(0, 2), st.floats(1e-3, 1e3))
def test_what_is_taken_back_had_never_come(
    given_: list[tuple[int, float, int]], worker: int, length: float
) -> None:
    ours, other = Histories(BETA), Histories(BETA)
    for at, norm, seed in given_:
        for history in (ours, other):
            history.remember(said(at, norm, seed))
    ours.remember(said(worker, length, 1))
    ours.take_back()
    assert repr(ours.state()) == repr(other.state())
