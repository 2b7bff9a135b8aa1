"""A fresh gradient weighs 1, a staler one never more; off is a value like any other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kardam.dampening import DAMPENINGS, Curvature, Dampening
from kardam.errors import UsageError
from kardam.growth import Evidence
from kardam.spec import build
from tests.strategies import evidence

N, F = 10, 3
SPECS = ["constant", "inverse", "exponential", "exponential:alpha=1.475,beta=5", "curvature"]


def made(text: str) -> Dampening:
    return build(text, DAMPENINGS, "--dampening", n=N, f=F)


def answer(worker: int, x: float, g: float) -> Evidence:
    """A gradient of one number, computed on the current model."""
    here = np.array([x], np.float32)
    return evidence(worker, norm=abs(g))._replace(g=np.array([g], np.float32), x=here, now=here)


def seasoned(text: str) -> Dampening:
    """Shown enough answers of everybody that whatever it learns is learned: a curvature of 2, and
    gradients of length 4.
    """
    dampening = made(text)
    for round_ in range(1, 10):
        for worker in range(N):
            shown = answer(worker, x=float(round_), g=2.0 * round_)
            dampening.weigh(shown._replace(norm=4.0))
    return dampening


def test_every_dampening_of_the_table_is_in_the_battery() -> None:
    assert {text.partition(":")[0] for text in SPECS} == set(DAMPENINGS)


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("growth", [None, 0.0, 1.0, math.inf])
def test_a_fresh_gradient_weighs_one(text: str, growth: float | None) -> None:
    assert seasoned(text).weigh(evidence(0, growth)) == 1.0


@given(st.integers(0, 500), st.integers(1, 500))
@pytest.mark.parametrize("text", SPECS)
def test_a_staler_gradient_never_weighs_more(text: str, fresh: int, more: int) -> None:
    one, other = seasoned(text), seasoned(text)
    lighter = other.weigh(evidence(0, 2.0, staleness=fresh + more, drift=0.01 * (fresh + more)))
    assert 0 <= lighter <= one.weigh(evidence(0, 2.0, staleness=fresh, drift=0.01 * fresh)) <= 1


@pytest.mark.parametrize(
    ("text", "tau", "weight"),
    [
        ("constant", 100, 1.0),
        ("inverse", 3, 1 / 4),
        ("exponential", 5, math.exp(-1)),
        ("exponential:alpha=0.5,beta=2", 16, math.exp(-2)),
    ],
)
def test_the_papers_functions_have_the_papers_values(text: str, tau: int, weight: float) -> None:
    assert made(text).weigh(evidence(0, staleness=tau)) == pytest.approx(weight)


# --- curvature ---


@pytest.mark.parametrize(
    ("drift", "weight"),
    [(1.0, 1.0), (2.0, 1.0), (4.0, 1 / 4), (20.0, 1 / 100)],
)
def test_curvature_counts_an_error_beyond_the_length_of_a_gradient(
    drift: float, weight: float
) -> None:
    # e = K drift = 2 drift, beside a length of 4.
    shown = evidence(0, norm=4.0, drift=drift)
    assert seasoned("curvature").weigh(shown) == pytest.approx(weight, rel=1e-4)


def test_the_length_is_that_of_all_and_not_of_the_gradient_that_is_weighed() -> None:
    # One that was computed where the loss was steep is long and stale: none the better for it.
    long = evidence(0, norm=1e6, drift=20.0)
    assert seasoned("curvature").weigh(long) == pytest.approx(1 / 100, rel=1e-4)


class Bowl:
    """Workers who take turns on a model that walks at random, each an answer behind: gradients of
    the quadratic with this Hessian, and noise of length sigma on each.
    """

    def __init__(self, hessian: NDArray[np.float64], sigma: float) -> None:
        self.hessian, self.sigma = hessian, sigma
        self.chance = np.random.default_rng(5)
        self.x = np.zeros(len(hessian))

    def run(self, dampening: Dampening, rounds: int, scale: float = 1.0) -> list[float]:
        d = len(self.x)
        held = [self.x] * N
        weights = []
        for at in range(rounds * N):
            worker, x = at % N, held[at % N]
            noise = self.chance.standard_normal(d) * self.sigma / math.sqrt(d)
            g = (scale * (self.hessian @ x + noise)).astype(np.float32)
            shown = evidence(worker, staleness=N - 1, norm=float(np.linalg.norm(g)))._replace(
                g=g, x=x.astype(np.float32), now=self.x.astype(np.float32)
            )
            weights.append(dampening.weigh(shown))
            held[worker] = self.x
            self.x = self.x + 0.1 * self.chance.standard_normal(d) / math.sqrt(d)
        return weights


def test_curvature_is_the_hessians_where_growth_is_mostly_noise() -> None:
    curvature, d = 3.0, 400
    dampening = Curvature(N, F)
    squares = []
    bowl = Bowl(curvature * np.eye(d), sigma=3.0)
    for _ in range(40):
        bowl.run(dampening, rounds=2 * F + 1)
        squares.append(dampening.squares.median())
    assert dampening.growths.median() > 4 * curvature
    assert np.mean(squares[1:]) ** 0.5 == pytest.approx(curvature, rel=0.15)


def test_curvature_lies_between_the_least_and_the_largest_of_the_hessian() -> None:
    dampening = Curvature(N, F)
    Bowl(np.diag(np.linspace(1.0, 4.0, 50)), sigma=0.1).run(dampening, rounds=20)
    assert 1.0 < dampening.curvature < 4.0


def test_noise_without_curvature_is_not_damped() -> None:
    dampening = Curvature(N, F)
    bowl = Bowl(np.zeros((100, 100)), sigma=1.0)
    bowl.run(dampening, rounds=10)
    assert bowl.run(dampening, rounds=10) == [1.0] * 100


def test_the_unit_of_the_loss_does_not_matter() -> None:
    hessian = np.diag(np.linspace(1.0, 4.0, 20))
    one, other = (
        Bowl(hessian, sigma=0.1).run(Curvature(N, F), rounds=20, scale=scale)
        for scale in (1.0, 1024.0)
    )
    assert one == other
    assert min(one) < 1


def test_until_noise_can_be_told_growth_counts_as_curvature() -> None:
    dampening = Curvature(N, F)
    for worker in range(2 * F):
        for x in (0.0, 1.0):
            dampening.weigh(answer(worker, x, 2.0 * x))
        assert dampening.curvature == 0.0
    for x in (0.0, 1.0):
        dampening.weigh(answer(2 * F, x, 2.0 * x))
    assert len(dampening.squares) < 2 * F + 1
    assert dampening.curvature == 2.0


@settings(max_examples=30)
@given(
    lies=st.lists(st.floats(-1e30, 1e30), min_size=8, max_size=8),
    haste=st.integers(1, 9),
)
def test_f_liars_move_curvature_no_further_than_honest_workers_do(
    lies: list[float], haste: int
) -> None:
    # Honest ones between 1 and 2, with no noise; liars answer `haste` times as often.
    dampening = Curvature(N, F)
    honest = {worker: 1 + worker / (N - F - 1) for worker in range(N - F)}
    for round_ in range(1, 11):
        for worker, curvature in honest.items():
            dampening.weigh(answer(worker, float(round_), curvature * round_))
        for turn in range(haste):
            for liar in range(N - F, N):
                x = round_ + turn / haste
                dampening.weigh(answer(liar, x, lies[(round_ + turn + liar) % len(lies)]))
        if len(dampening.growths) > 2 * F:
            assert dampening.curvature * (1 + 1e-5) >= 1.0
            assert dampening.curvature <= 2.0 * (1 + 1e-5)
    assert len(dampening.squares) >= 2 * F + 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exponential:alpha=-1", "expected alpha >= 0, got -1.0"),
        ("exponential:beta=0", "expected beta > 0, got 0.0"),
        ("inverse:alpha=1", "unknown key 'alpha'"),
    ],
)
def test_what_cannot_be_a_dampening_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(text)
