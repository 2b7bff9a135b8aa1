"""Histories beside their definition, over every answer that is remembered."""

from copy import deepcopy
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.growth import Evidence
from kardam.histories import LENGTHS, Histories
from kardam.messages import Vector, WorkerId
from tests.strategies import evidence

# From 33 answers on what fades is nothing, in float32.
BETA = 0.6

# Of whom, how long (not at all, now and then), and where to.
answers = st.lists(
    st.tuples(st.integers(0, 2), st.just(0.0) | st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=60,
)


def drawn(seed: int) -> Vector:
    """A direction."""
    g = np.random.default_rng(seed).standard_normal(5).astype(np.float32)
    g /= np.linalg.norm(g)
    return g


def said(worker: WorkerId, length: float, seed: int) -> Evidence:
    return evidence(worker, norm=length)._replace(g=np.float32(length) * drawn(seed))


@given(answers)
def test_a_history_is_the_average_of_directions_and_the_median_of_the_latest_lengths(
    given_: list[tuple[int, float, int]],
) -> None:
    ours, all_of = Histories(BETA), dict[int, list[tuple[float, int]]]()
    for worker, length, seed in given_:
        ours.remember(said(worker, length, seed))
        if length > 0:
            all_of.setdefault(worker, []).append((length, seed))
    assert list(ours.workers) == list(all_of)
    for worker, its in all_of.items():
        weights = [BETA ** (len(its) - 1 - i) for i in range(len(its))]
        whole = sum(weights)
        h = sum(w * drawn(seed) for w, (_, seed) in zip(weights, its, strict=True)) / whole
        np.testing.assert_allclose(ours.direction(worker), h, atol=1e-5)
        assert ours.directions([worker])[0].tobytes() == ours.direction(worker).tobytes()
        assert ours.lengths([worker]) == [median(length for length, _ in its[-LENGTHS:])]
        latest = sorted(length for length, _ in its[-LENGTHS:])
        usual = ours.usual(worker)
        assert usual in latest
        assert 3 * sum(length >= usual for length in latest) >= 2 * len(latest)
        assert ours.variance(worker) == pytest.approx(sum(w * w for w in weights) / whole**2)


@given(answers)
def test_a_history_outlives_its_process(given_: list[tuple[int, float, int]]) -> None:
    ours, later = Histories(BETA), Histories(BETA)
    for worker, length, seed in given_:
        ours.remember(said(worker, length, seed))
    later.restore(ours.state())
    for histories in (ours, later):
        histories.remember(said(0, 2.0, 7))
    assert repr(later.state()) == repr(ours.state())


@given(answers, answers)
def test_what_a_copy_hears_changes_nothing_of_the_original(
    before: list[tuple[int, float, int]], after: list[tuple[int, float, int]]
) -> None:
    ours = Histories(BETA)
    for at, norm, seed in before:
        ours.remember(said(at, norm, seed))
    known = repr(ours.state())
    other = deepcopy(ours)
    for at, norm, seed in after:
        other.remember(said(at, norm, seed))
    other.take_back()
    other.forget(0)
    assert repr(ours.state()) == known


@given(answers, st.integers(0, 2), st.just(0.0) | st.floats(1e-3, 1e3))
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
