"""A rate is a function of the version: positive at every one, and as high as gamma at most."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.errors import UsageError
from kardam.rates import RATES, Rate
from kardam.spec import build

SPECS = [
    "constant:gamma=0.5",
    "constant:gamma=0.5,warmup=10",
    "step:gamma=0.5,every=7,factor=0.5",
    "step:gamma=0.5,every=7,factor=0.5,warmup=10",
    "cosine:gamma=0.5,updates=20,floor=0.01",
    "cosine:gamma=0.5,updates=20,floor=0.01,warmup=10",
]


def made(text: str) -> Rate:
    return build(text, RATES, "--rate")


def test_every_rate_of_the_table_is_in_the_battery() -> None:
    assert {text.partition(":")[0] for text in SPECS} == set(RATES)


@given(st.integers(0, 500))
@pytest.mark.parametrize("text", SPECS)
def test_every_rate_is_above_zero_and_at_most_gamma(text: str, t: int) -> None:
    assert 0 < made(text)(t) <= 0.5


@given(st.integers(0, 500))
@pytest.mark.parametrize("text", [text for text in SPECS if "warmup" not in text])
def test_without_a_warm_up_no_rate_rises(text: str, t: int) -> None:
    assert made(text)(t + 1) <= made(text)(t)


def test_a_constant_is_that_number_to_the_bit() -> None:
    assert [made("constant:gamma=0.3")(t) for t in (0, 1, 10**9)] == [0.3] * 3


def test_a_step_cuts_the_rate_once_in_so_many_updates() -> None:
    rate = made("step:gamma=0.5,every=3,factor=0.1")
    assert [rate(t) for t in (0, 2, 3, 5, 6)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])


def test_a_cosine_falls_from_gamma_to_its_floor_and_stays_there() -> None:
    rate = made("cosine:gamma=0.5,updates=4,floor=0.1")
    half = 0.2 * math.sqrt(0.5)
    expected = [0.5, 0.3 + half, 0.3, 0.3 - half, 0.1, 0.1, 0.1]
    assert [rate(t) for t in (0, 1, 2, 3, 4, 5, 10**9)] == pytest.approx(expected)


@given(st.integers(0, 50))
@pytest.mark.parametrize("text", [text for text in SPECS if "warmup" in text])
def test_a_warm_up_is_a_linear_rise_over_its_first_updates(text: str, t: int) -> None:
    without = made(text.removesuffix(",warmup=10"))
    assert made(text)(t) == pytest.approx(without(t) * min((t + 1) / 10, 1), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("constant:gamma=0", "expected 0 < gamma < inf, got 0.0"),
        ("constant:gamma=nan", "expected 0 < gamma < inf, got nan"),
        ("constant:warmup=-1", "expected warmup >= 0, got -1"),
        ("step", "the key 'every' is needed"),
        ("step:every=0", "expected every >= 1, got 0"),
        ("step:every=1,factor=1.5", "expected 0 < factor <= 1, got 1.5"),
        ("cosine:updates=0", "expected updates >= 1, got 0"),
        ("cosine:updates=9,floor=0", "expected 0 < floor <= gamma, got floor=0.0, gamma=0.1"),
        ("cosine:updates=9,gamma=1,floor=2", "got floor=2.0, gamma=1.0"),
    ],
)
def test_what_cannot_be_a_rate_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(text)
