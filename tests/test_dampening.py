"""A fresh gradient weighs 1, a staler one never more; off is a value like any other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.dampening import DAMPENINGS, Curvature, Dampening
from kardam.errors import UsageError
from kardam.spec import build
from tests.strategies import evidence

N, F = 10, 3
SPECS = ["constant", "inverse", "exponential", "exponential:alpha=1.475,beta=5", "curvature"]


def made(text: str) -> Dampening:
    return build(text, DAMPENINGS, "--dampening", n=N, f=F)


def seasoned(text: str) -> Dampening:
    """Shown enough answers of everybody that whatever it learns is learned: a curvature of 2."""
    dampening = made(text)
    for round_ in range(1, 20):
        for worker in range(N):
            dampening.weigh(evidence(worker, 2.0, displacement=float(round_)))
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


def test_curvature_is_one_over_one_plus_how_wrong_the_gradient_is() -> None:
    shown = evidence(0, 2.0, norm=4.0, displacement=20.0, drift=6.0)
    assert seasoned("curvature").weigh(shown) == pytest.approx(1 / (1 + 2 * 6 / 4), rel=1e-3)


def test_curvature_takes_noise_for_noise() -> None:
    # Every difference is the same, however far the model moved: no curvature, all noise.
    dampening = Curvature(N, F)
    for round_ in range(1, 20):
        for worker in range(N):
            dampening.weigh(evidence(worker, 1.0 / round_, displacement=float(round_)))
    assert dampening.weigh(evidence(0, 0.05, displacement=20.0, drift=10.0)) == 1.0


def test_a_liars_curvature_is_held_between_those_of_the_honest() -> None:
    dampening = Curvature(N, F)
    for round_ in range(1, 20):
        for worker in range(N):
            growth = 1e6 if worker < F else 2.0
            dampening.weigh(evidence(worker, growth, displacement=float(round_)))
    lie = evidence(0, 1e6, norm=4.0, displacement=20.0, drift=6.0)
    assert dampening.weigh(lie) == pytest.approx(1 / (1 + 2 * 6 / 4), rel=1e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exponential:alpha=-1", "expected alpha >= 0, got -1.0"),
        ("exponential:beta=0", "expected beta > 0, got 0.0"),
        ("curvature:memory=1", "expected 0 < memory < 1, got 1.0"),
        ("inverse:alpha=1", "unknown key 'alpha'"),
    ],
)
def test_what_cannot_be_a_dampening_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(text)
