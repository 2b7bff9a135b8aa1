"""The throttle against its own promise."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.throttle import Throttle
from tests.strategies import evidence

N, F = 10, 3


@given(st.lists(st.sampled_from([0, 0, 0, 1, 1, *range(N)]), max_size=400))
def test_f_who_flood_own_no_more_than_factor_times_the_next(arrivals: list[int]) -> None:
    stage, owned = Throttle(N, F, rounds=100), Counter[int]()
    for worker in arrivals:
        bound = 2 * sorted((owned[w] for w in range(N)), reverse=True)[F] + 2
        refused = stage.judge(evidence(worker)) is not None
        assert refused == (owned[worker] >= bound)
        if not refused:
            stage.admit(evidence(worker))
            owned[worker] += 1


@pytest.mark.parametrize("factor", [0.5, float("inf"), float("nan")])
def test_a_factor_that_limits_nobody_or_everybody_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=f"expected a finite factor >= 1, got {factor}"):
        Throttle(N, F, factor=factor)
