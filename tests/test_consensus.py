"""Voices against all pairs, and the throttle against its own promise."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.consensus import _voices
from kardam.throttle import Throttle
from tests.strategies import evidence

N, F = 10, 3


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_voices_are_what_all_pairs_say(seed: int, copies: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((N, 40)).astype(np.float32)
    rows[1 : 1 + copies] = rows[0]
    apart = np.array([[float(np.linalg.norm(a - b)) for b in rows] for a in rows])
    nearest = np.median((apart + np.diag([np.inf] * N)).min(1))
    twins = ((apart < 0.5 * nearest) | np.eye(N, dtype=bool)).sum(1)
    assert _voices(rows, 0.5) == pytest.approx(1 / twins)


@given(st.lists(st.sampled_from([0, 0, 0, 1, 1, *range(N)]), max_size=400))
def test_f_who_flood_own_no_more_than_factor_times_the_next(arrivals: list[int]) -> None:
    stage, owned = Throttle(N, F, rounds=100), Counter[int]()
    for worker in arrivals:
        bound = 1.5 * sorted((owned[w] for w in range(N)), reverse=True)[F] + 2
        refused = stage.judge(evidence(worker)) is not None
        assert refused == (owned[worker] >= bound)
        if not refused:
            stage.admit(evidence(worker))
            owned[worker] += 1
