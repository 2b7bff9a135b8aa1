"""The throttle against its own promise."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.throttle import ABSENT, Throttle
from tests.strategies import evidence

N, F = 10, 3


def admitted(stage: Throttle, worker: int) -> bool:
    if stage.judge(evidence(worker)) is not None:
        return False
    stage.admit(evidence(worker))
    return True


@pytest.mark.parametrize("rounds", [1, 100])
@given(st.lists(st.sampled_from([0, 0, 0, 1, 1, *range(N)]), max_size=400))
def test_nobody_owns_more_than_factor_times_the_next_who_may_not_lie(
    rounds: int, arrivals: list[int]
) -> None:
    stage, owners = Throttle(N, F, factor=2, rounds=rounds), list[int]()
    for worker in arrivals:
        recent, long = owners[-rounds * N :], owners[-ABSENT * rounds * N :]
        full = len(long) == ABSENT * rounds * N
        absent = N - len(set(long)) if full else 0
        owned = Counter(recent)
        ranked = sorted((owned[w] for w in range(N)), reverse=True)
        used = admitted(stage, worker)
        assert used == (owned[worker] < 2 * ranked[max(F - absent, 0)] + 2)
        owners += [worker] * used


def test_who_is_fast_is_held_to_nobody_slower_for_those_who_are_absent() -> None:
    """The f are absent, so nobody who answers lies."""
    stage, used = Throttle(N, F), list[bool]()
    for turn in range(200):
        for worker in range(F, N):
            used += [admitted(stage, worker)] * (worker == F and turn >= 100)
            if worker == F:
                used += [admitted(stage, F) for _ in range(4)] * (turn >= 100)
    assert all(used)
    # But once they are there again, he may be one of them.
    for worker in range(F):
        assert admitted(stage, worker)
    assert not all(admitted(stage, F) for _ in range(10))


@pytest.mark.parametrize("factor", [0.5, float("inf"), float("nan")])
def test_a_factor_that_limits_nobody_or_everybody_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=f"expected a finite factor >= 1, got {factor}"):
        Throttle(N, F, factor=factor)
