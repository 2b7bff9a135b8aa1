"""One look at a crowd against the formula, worker by worker, in float64."""

import math
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kardam.centre import ROUNDING, Seen, look
from kardam.voices import voices, weighted_median

D = 12
KNOBS = {"echo": 0.5, "near": 0.55, "enough": 3.0}

Doubles = NDArray[np.float64]


def crowd(seed: int, n: int) -> tuple[NDArray[np.float32], Doubles, NDArray[np.float32]]:
    """Histories, their noise, and a centre: some are equal, and some have answered once."""
    chance = np.random.default_rng(seed)
    rows = (0.3 + chance.standard_normal((n, D)) * chance.uniform(0.1, 2, (n, 1))) / 5
    rows[chance.random(n) < 0.2] = rows[0]
    variances = np.where(chance.random(n) < 0.2, 1.0, chance.uniform(0.05, 0.9, n))
    z = chance.standard_normal(D) / 9
    return rows.astype(np.float32), variances, z.astype(np.float32)


def look_at(rows: NDArray[np.float32], variances: Doubles, z: NDArray[np.float32]) -> Seen:
    return look(rows, variances, z, **KNOBS)


def mean_of(pulls: Doubles, weights: Doubles, who: list[int]) -> Doubles:
    total = math.fsum(weights[q] for q in who)
    return sum((weights[q] / total * pulls[q] for q in who), np.zeros(D))


@given(st.integers(0, 2**32), st.integers(4, 14))
def test_the_centre_and_each_distance_are_those_of_the_formula(seed: int, n: int) -> None:
    rows, variances, z = crowd(seed, n)
    found = look_at(rows, variances, z)
    weights = voices((rows - z) / np.sqrt(variances).astype(np.float32)[:, None], KNOBS["echo"])
    assert found.weights.tolist() == weights.tolist()
    pulls = rows.astype(np.float64) - z
    far = np.linalg.norm(pulls, axis=1)
    pulls *= np.minimum(1, median(far) / far)[:, None]
    assert found.z == pytest.approx(z + mean_of(pulls, weights, list(range(n))), abs=1e-5)
    squares = []
    for p in range(n):
        others = z + mean_of(pulls, weights, [q for q in range(n) if q != p])
        assert found.without[p] == pytest.approx(others, abs=1e-5)
        squares.append(float(np.square(rows[p] - others).sum()))
    twice = [p for p in range(n) if variances[p] < 1]
    beyond = [min(max((squares[p] - variances[p]) / (1 - variances[p]), 0), 1) for p in twice]
    own = weighted_median(beyond, [float(weights[p]) for p in twice])
    assert found.own == pytest.approx(own if len(twice) >= KNOBS["enough"] else 1.0, abs=1e-4)
    expected = found.own + (1 - found.own) * variances
    assert found.distances == pytest.approx(np.sqrt(squares / expected), abs=1e-4)


@given(st.integers(0, 2**32), st.integers(4, 14))
def test_the_median_is_of_those_who_are_not_too_near(seed: int, n: int) -> None:
    found = look_at(*crowd(seed, n))
    distances, weights = found.distances.tolist(), found.weights.tolist()
    least = KNOBS["near"] * weighted_median(distances, weights)
    kept = [(far, weight) for far, weight in zip(distances, weights, strict=True) if far >= least]
    middle = weighted_median(*map(list, zip(*kept, strict=True)))
    assert found.median == max(middle, ROUNDING)


@given(st.integers(0, 2**32), st.permutations(range(9)))
def test_who_is_who_changes_nothing(seed: int, order: list[int]) -> None:
    rows, variances, z = crowd(seed, 9)
    one, other = look_at(rows, variances, z), look_at(rows[order], variances[order], z)
    assert other.z == pytest.approx(one.z, abs=1e-5)
    assert other.distances == pytest.approx(one.distances[order], rel=1e-3, abs=1e-5)
    assert other.median == pytest.approx(one.median, rel=1e-3)


def test_of_who_all_say_the_same_the_median_is_rounding_and_no_less() -> None:
    rows = np.full((5, D), 0.25, np.float32)
    assert look_at(rows, np.full(5, 0.1), rows[0]).median == ROUNDING
