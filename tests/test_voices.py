"""Two ways to the same: neighbours among few rows and among many, histories alone and together."""

import math

import numpy as np
import pytest

from kardam.histories import Histories
from kardam.voices import NEIGHBOURS, _all_apart, _neighbours_apart
from tests.strategies import evidence


def test_where_all_are_neighbours_both_ways_find_the_same_to_the_bit() -> None:
    rows = np.random.default_rng(0).standard_normal((NEIGHBOURS + 1, 50)).astype(np.float32)
    apart, near = _all_apart(rows), _neighbours_apart(rows)
    assert np.isinf(np.diag(apart)).all()
    assert np.sort(apart, axis=0)[:-1].tobytes() == np.sort(near, axis=0)[:NEIGHBOURS].tobytes()


@pytest.mark.parametrize("answers", [1, 10, 400])
def test_a_history_is_the_average_direction_alone_and_among_others(answers: int) -> None:
    histories, chance = Histories(0.9), np.random.default_rng(0)
    directions = []
    for _ in range(answers):
        g = chance.standard_normal(20).astype(np.float32)
        norm = float(np.linalg.norm(g))
        directions.append(g / norm)
        for worker in (0, 1):
            histories.remember(evidence(worker, norm=norm)._replace(g=g))
    weights = 0.9 ** np.arange(answers)[::-1]
    expected = weights @ np.array(directions, np.float64) / math.fsum(weights)
    assert histories.direction(0) == pytest.approx(expected, abs=1e-5)
    for row in histories.directions([1, 0]):
        assert row.tobytes() == histories.direction(0).tobytes()
