"""The throttle against its own promise."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.throttle import ABSENT, Throttle
from tests.strategies import evidence

N, F = 10, 3

# Whose answers come: some three times as often.
speeds = st.sampled_from([0, 0, 0, 1, 1, *range(N)])


def admitted(stage: Throttle, worker: int) -> bool:
    if stage.judge(evidence(worker)) is not None:
        return False
    stage.admit(evidence(worker))
    return True


@pytest.mark.parametrize("rounds", [1, 100])
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 1, *range(N)]), st.booleans()), max_size=400)
)
def test_nobody_owns_more_than_factor_times_the_next_who_may_not_lie(
    rounds: int, arrivals: list[tuple[int, bool]]
) -> None:
    """Some of what passes here is refused by another rule."""
    stage, owners, heard = Throttle(N, F, factor=2, rounds=rounds), list[int](), dict[int, int]()
    for worker, elsewhere in arrivals:
        heard[worker] = len(owners)
        since = len(owners) - ABSENT * rounds * N
        absent = N - sum(at >= since for at in heard.values()) if since >= 0 else 0
        owned = Counter(owners[-rounds * N :])
        ranked = sorted((owned[w] for w in range(N)), reverse=True)
        refusal = stage.judge(evidence(worker))
        assert (refusal is None) == (owned[worker] < 2 * ranked[max(F - absent, 0)] + 2)
        if refusal is None and not elsewhere:
            stage.admit(evidence(worker))
            owners.append(worker)


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


def test_f_who_flood_gain_nothing_by_an_honest_worker_who_is_refused_elsewhere() -> None:
    """Or to frame one of them would leave the f who did it without a bound."""
    framed, others, liars = 0, range(1, N - F), range(N - F, N)
    stage, owners = Throttle(N, F), list[int]()
    for _ in range(100):
        stage.judge(evidence(framed))
        for worker in [*others, *liars, *[liar for liar in liars for _ in range(20)]]:
            owners += [worker] * admitted(stage, worker)
    late = Counter(owners[len(owners) // 2 :])
    assert max(late[liar] for liar in liars) <= 2.5 * max(late[other] for other in others)


@pytest.mark.parametrize("factor", [0.5, float("inf"), float("nan")])
def test_a_factor_that_limits_nobody_or_everybody_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=f"expected a finite factor >= 1, got {factor}"):
        Throttle(N, F, factor=factor)
