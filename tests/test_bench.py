"""What benchmarks compute beside what they measure: bounds, medians, and which rate is the best."""

import math

import pytest

from bench import dampening, knob
from kardam.filters import Growth


@pytest.mark.parametrize(("n", "f"), [(4, 1), (10, 3), (20, 3), (20, 6)])
def test_the_knobs_bounds_are_the_theorems_where_as_many_lie_as_are_assumed(n: int, f: int) -> None:
    theorem = Growth(n, f, "middle").slowdown()
    assert theorem is not None
    assert knob.bounds(n, f, f) == pytest.approx((theorem.low, theorem.high))
    assert knob.bounds(n, f, 0) == pytest.approx((theorem.without, theorem.without))


def one(rate: float, seconds: float, accuracy: float = 0.9) -> dampening.Trial:
    return dampening.Trial(
        "equal speeds", "none", "constant", rate, 0, accuracy, 0.9, seconds, 1.0, 9.0
    )


def test_the_best_rate_reaches_the_target_first_in_the_median() -> None:
    slow, lucky = [one(0.1, s) for s in (50, 60, 70)], [one(0.4, s) for s in (10, 90, math.inf)]
    assert dampening.best([*slow, *lucky]) == slow


def test_where_no_rate_reaches_the_target_the_best_is_the_most_accurate() -> None:
    low, high = one(0.1, math.inf, 0.7), one(0.4, math.inf, 0.8)
    assert dampening.best([low, high]) == [high]
    assert dampening.cell([high]) == "0.800 (0.800-0.800), never"
