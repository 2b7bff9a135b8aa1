"""Each filter against a slow, obvious oracle, and against the theorems' numbers."""

import itertools
import math
import re
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.errors import UsageError
from kardam.filters import STAGES, Chain, Clip, Frequency, Growth, Stage, chain, tolerated
from kardam.growth import Change
from kardam.messages import Declared, Refusal
from tests.strategies import evidence, growths

N, F = 10, 3
ARRIVALS = 20_000


def admitted(stage: Stage, worker: int, growth: float | None, **rest: float) -> bool:
    """Judge, and admit what is not refused, as a descent does."""
    shown = evidence(worker, growth, **rest)  # type: ignore[arg-type]
    refused = stage.judge(shown) is not None
    if not refused:
        stage.admit(shown)
    return not refused


def pass_rate(stage: Stage, liars: dict[int, float] | None = None) -> float:
    """Share of honest arrivals admitted, uniform arrivals, honest growths drawn independently."""
    liars = liars or {}
    chance = np.random.default_rng(7)
    seen = passed = 0
    for worker in range(N):
        stage.judge(evidence(worker, liars.get(worker, float(chance.lognormal()))))
    for _ in range(ARRIVALS):
        worker = int(chance.integers(N))
        passes = admitted(stage, worker, liars.get(worker, float(chance.lognormal())))
        if worker not in liars:
            seen, passed = seen + 1, passed + passes
    return passed / seen


# --- the theorems' numbers ---


def test_the_upper_band_admits_n_minus_f_of_n_where_nobody_lies() -> None:
    assert pass_rate(Growth(N, F, "upper")) == pytest.approx((N - F) / N, abs=0.01)


def test_the_middle_band_admits_n_minus_2f_of_n_where_nobody_lies() -> None:
    assert pass_rate(Growth(N, F, "middle")) == pytest.approx((N - 2 * F) / N, abs=0.01)


def test_f_who_show_growth_zero_leave_the_upper_band_n_minus_2f_of_n_minus_f() -> None:
    liars = {7: 0.0, 8: 0.0, 9: 0.0}
    assert pass_rate(Growth(N, F, "upper"), liars) == pytest.approx((N - 2 * F) / (N - F), abs=0.01)


@pytest.mark.parametrize("lie", [1e30, math.inf, math.nan])
def test_f_who_show_huge_growth_leave_all_honest_work_admitted_and_leak_into_no_bound(
    lie: float,
) -> None:
    liars = dict.fromkeys((7, 8, 9), lie)
    stage = Growth(N, F, "upper")
    assert pass_rate(stage, liars) == 1.0
    assert stage.bounds()[1] < 1e3


@pytest.mark.parametrize("band", ["upper", "middle"])
@pytest.mark.parametrize("liars", [{}, {7: 0.0, 8: 0.0, 9: 0.0}, {7: 1e9, 8: 1e9, 9: 1e9}])
def test_the_measured_slowdown_lies_within_the_stated_bounds(
    band: str, liars: dict[int, float]
) -> None:
    stage = Growth(N, F, band)  # type: ignore[arg-type]
    bounds = stage.slowdown()
    assert bounds is not None
    measured = pass_rate(stage, liars)
    if liars:
        assert bounds.low - 0.01 <= measured <= bounds.high + 0.01
    else:
        assert measured == pytest.approx(bounds.without, abs=0.01)


def test_the_frequency_filter_alone_admits_n_minus_2f_of_n_under_uniform_arrivals() -> None:
    assert pass_rate(Frequency(F)) == pytest.approx((N - 2 * F) / N, abs=0.01)


# --- oracles ---


@given(
    st.lists(st.tuples(st.integers(0, N - 1), growths | st.just(math.inf)), max_size=60),
    st.sampled_from(["upper", "middle", "relative"]),
)
def test_the_band_is_what_sorting_all_latest_growths_says(
    arrivals: list[tuple[int, float]], band: str
) -> None:
    stage = Growth(N, F, band, c=2.0 if band == "relative" else None)  # type: ignore[arg-type]
    latest: dict[int, float] = {}
    for worker, growth in arrivals:
        latest[worker] = growth
        ranked = sorted(latest.values())
        low, high = 1.0, 0.0
        if len(ranked) >= N - F:
            median = ranked[(len(ranked) - 1) // 2]
            low, high = {
                "upper": (0.0, ranked[-F - 1]),
                "middle": (ranked[F], ranked[-F - 1]),
                "relative": (min(median / 2, ranked[F]), max(median * 2, ranked[-F - 1])),
            }[band]
        assert admitted(stage, worker, growth) == (low <= growth <= high < math.inf)
        assert stage.ready == (len(ranked) >= N - F)


@given(st.data(), st.sampled_from(["upper", "middle"]))
def test_no_bound_lies_beyond_what_an_honest_worker_has_shown(
    data: st.DataObject, band: str
) -> None:
    # Up to f lie as they please, and any honest ones may not have been heard yet.
    stage = Growth(N, F, band)  # type: ignore[arg-type]
    liars = data.draw(st.sets(st.integers(0, N - 1), max_size=F))
    honest: list[float] = []
    for worker in data.draw(st.permutations(range(N))):
        growth = data.draw(growths)
        if worker in liars:
            growth = data.draw(st.sampled_from([0.0, 1e-9, 1e9, math.inf]))
        else:
            honest.append(growth)
        stage.judge(evidence(worker, growth))
        if stage.ready:
            low, high = stage.bounds()
            assert high <= max(honest)
            assert low >= min(honest) or band == "upper"


@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 2)])
def test_frequency_is_the_papers_rule_that_any_f_own_at_most_f_of_2f_plus_1(n: int, f: int) -> None:
    def paper(window: deque[int], worker: int) -> bool:
        owners = [*window, worker]
        return all(
            sum(owners.count(w) for w in group) <= f
            for group in itertools.combinations(range(n), f)
        )

    chance = np.random.default_rng(1)
    stage, window = Frequency(f), deque[int](maxlen=2 * f)
    for _ in range(2000):
        worker = int(chance.integers(n))
        passes = admitted(stage, worker, 1.0)
        if len(window) == 2 * f:
            assert passes == paper(window, worker)
        if passes:
            window.append(worker)


@given(st.lists(st.integers(0, N - 1), max_size=200))
def test_any_2f_plus_1_consecutive_owners_are_distinct(arrivals: list[int]) -> None:
    stage = Frequency(F)
    owners = [worker for worker in arrivals if admitted(stage, worker, 1.0)]
    for at in range(len(owners)):
        window = owners[at : at + 2 * F + 1]
        assert len(set(window)) == len(window)


@given(st.lists(st.tuples(st.integers(0, N - 1), st.floats(0.1, 1e6)), min_size=1, max_size=40))
def test_clip_scales_to_the_median_of_the_latest_norms_and_refuses_nobody(
    arrivals: list[tuple[int, float]],
) -> None:
    stage, latest = Clip(N, F), dict[int, float]()
    for worker, norm in arrivals:
        latest[worker] = norm
        median = sorted(latest.values())[(len(latest) - 1) // 2]
        shown = evidence(worker, norm=norm)
        assert stage.judge(shown) is None
        assert norm * stage.scale(shown) == pytest.approx(min(norm, median))


@given(
    st.floats(0.5, 4), st.integers(0, 5), st.lists(st.integers(0, N - 1), min_size=N, max_size=80)
)
def test_a_clip_is_at_the_median_for_its_first_rounds_and_then_at_its_factor(
    factor: float, after: int, arrivals: list[int]
) -> None:
    stage = Clip(N, F, factor, after)
    for worker in range(N):
        stage.judge(evidence(worker, norm=1.0))
    for before, worker in enumerate(arrivals):
        wide = before >= N * after or factor < 1
        shown = evidence(worker, norm=1e6)
        assert 1e6 * stage.scale(shown) == pytest.approx(factor if wide else 1.0)
        # Of what is refused, however much, no round is made.
        shown = evidence(worker, norm=1.0)
        stage.judge(shown)
        stage.refuse(shown, Refusal("growth"))
        stage.admit(shown)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"factor": 0.0}, "expected factor > 0, got 0.0"),
        ({"after": -1}, "expected after >= 0, got -1"),
    ],
)
def test_a_clip_that_cannot_be_says_why(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        Clip(N, F, **knobs)


# --- declared growth ---


def test_f_who_declare_zero_beside_honest_gradients_move_no_bound() -> None:
    honest, lied_to = Growth(N, F), Growth(N, F)
    chance = np.random.default_rng(3)
    for arrival in range(500):
        worker, growth = arrival % N, float(chance.lognormal())
        honest.judge(evidence(worker, growth))
        lie = Declared(0.0, since=1) if worker < F else None
        refusal = lied_to.judge(evidence(worker, growth, declared=lie))
        assert repr(lied_to.bounds()) == repr(honest.bounds())
        if worker < F:
            assert refusal is not None
            assert refusal.rule == "misdeclared"


@pytest.mark.parametrize("declared", [None, Declared(1.0, since=1), Declared(0.0, since=99)])
def test_a_true_an_absent_and_an_unknown_declaration_bear_no_penalty(
    declared: Declared | None,
) -> None:
    stage = Growth(N, F, "upper")
    for worker in range(N):
        stage.judge(evidence(worker, 1.0))
    assert stage.judge(evidence(0, 1.0, declared=declared)) is None


@pytest.mark.parametrize("lie", [0.98, 1.02, math.inf])
def test_another_growth_for_the_same_pair_is_misdeclared_beyond_the_tolerance(lie: float) -> None:
    stage = Growth(N, F, "upper")
    for worker in range(N):
        stage.judge(evidence(worker, 1.0))
    refusal = stage.judge(evidence(0, 1.0, declared=Declared(lie, since=1)))
    assert refusal == Refusal("misdeclared", lie, 0.99, 1.01)


def test_who_changes_too_little_is_refused_and_may_be_honest() -> None:
    """As who averages over more examples than the others: he is none of the f who lie."""
    stage = Growth(N, F, "relative", c=7.0)
    for worker in range(N):
        stage.judge(evidence(worker, 1.0))
    for growth, content in ((1 / 8, False), (8.0, True)):
        refusal = stage.judge(evidence(0, growth))
        assert refusal is not None
        assert (refusal.rule, refusal.for_content) == ("growth", content)


# --- start-up, exponent, knob ---


def test_a_growth_band_is_ready_once_n_minus_f_have_shown_theirs() -> None:
    stage = Growth(N, F)
    for worker in range(N - F):
        assert not stage.ready
        stage.judge(evidence(worker, 1.0))
    assert stage.ready


def test_an_answer_without_a_pair_is_refused_as_unmeasured() -> None:
    assert Growth(N, F).judge(evidence(0, None)) == pytest.approx(
        Refusal("unmeasured", for_content=False), nan_ok=True
    )


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_exponent_zero_compares_differences_and_one_compares_growths(
    growth: float, displacement: float
) -> None:
    for exponent, expected in [(0.0, growth * displacement), (1.0, growth)]:
        stage = Growth(1, 0, "upper", exponent=exponent)
        stage.judge(evidence(0, growth, displacement=displacement))
        assert stage.growths.get(0) == pytest.approx(expected)


def test_low_and_high_set_what_is_thrown_away_directly() -> None:
    knob = Growth(N, F, low=0.2, high=0.9)
    assert (knob.lowest, knob.highest) == (2, 1)
    same = Growth(N, F, low=0.3, high=0.7)
    assert (same.lowest, same.highest) == (F, F)


# --- chains ---


@given(st.lists(st.tuples(st.integers(0, N - 1), growths), max_size=60))
def test_every_stage_of_a_chain_sees_every_gradient(arrivals: list[tuple[int, float]]) -> None:
    alone, behind = Growth(N, F), Growth(N, F)
    both = Chain([Frequency(F), behind])
    for worker, growth in arrivals:
        alone.judge(evidence(worker, growth))
        admitted(both, worker, growth)
        assert repr(alone.bounds()) == repr(behind.bounds())


def test_a_chain_names_the_first_stage_that_refuses() -> None:
    both = Chain([Frequency(F), Growth(N, F)])
    admitted(both, 0, None)
    assert getattr(both.judge(evidence(0, None)), "rule", "") == "unmeasured"
    both.stages[0].admit(evidence(0))
    assert getattr(both.judge(evidence(0, None)), "rule", "") == "frequency"


@pytest.mark.parametrize("name", sorted(STAGES))
def test_at_f_0_every_stage_is_the_identity(name: str) -> None:
    built = chain(name, n=5, f=0)
    for growth in (None, 0.0, 1.0, math.inf):
        shown = evidence(0, growth, norm=1e9)
        assert built.ready
        assert built.judge(shown) is None
        assert built.scale(shown) == 1.0


@pytest.mark.parametrize(("n", "f"), [(10, 4), (3, 1), (9, 3), (10, -1)])
def test_the_precondition_is_the_error(n: int, f: int) -> None:
    with pytest.raises(UsageError, match=f"expected n > 3f, got n={n}, f={f}"):
        chain("growth", n, f)


@given(st.integers(1, 10_000))
def test_tolerated_is_the_largest_f_with_n_over_3f(n: int) -> None:
    assert n > 3 * tolerated(n)
    assert not n > 3 * (tolerated(n) + 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grwth", "did you mean 'growth'"),
        ("growth:bnd=middle", "did you mean 'band'"),
        ("growth:band=midle", "did you mean 'middle'"),
        ("growth:low=0.9,high=0.1", "expected 0 <= low < high <= 1"),
        ("growth:exponent=2", "expected 0 <= exponent <= 1, got 2.0"),
        ("growth:band=relative", "go together"),
        ("growth:band=relative,c=0.5", "expected c > 1, got 0.5"),
        ("growth:n=3", "unknown key 'n'"),
        ("", "'none' is no filter"),
        ("growth+none", "unknown name 'none'"),
    ],
)
def test_what_cannot_be_a_filter_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        chain(text, N, F)


# --- safety never comes for free, but it comes cheap where f is far below n ---


class Counted(float):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __truediv__(self, other: float) -> "Counted":
        return Counted(float(self) / other)

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < other

    def __gt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) > other


@pytest.fixture(scope="module")
def many() -> Growth:
    """100,000 workers who have all shown a growth; 20 of them, the last, may lie."""
    stage, chance = Growth(100_000, 20, "upper"), np.random.default_rng(3)
    for worker, growth in enumerate(chance.lognormal(size=stage.n)):
        stage.judge(evidence(worker, float(growth)))
    return stage


@pytest.mark.parametrize("lie", [None, 0.0, 1e9])
def test_with_100_000_workers_and_f_20_next_to_no_honest_work_is_lost(
    many: Growth, lie: float | None
) -> None:
    chance = np.random.default_rng(4)
    liars = range(many.n - 20, many.n if lie is not None else many.n - 20)
    for liar in liars:
        many.judge(evidence(liar, lie))
    workers = chance.integers(many.n - 20, size=ARRIVALS)
    passed = sum(admitted(many, int(w), float(chance.lognormal())) for w in workers)
    assert passed / ARRIVALS >= 0.999
    bounds = many.slowdown()
    assert bounds is not None
    assert bounds.low >= 0.999


def test_a_verdict_compares_o_log_n_growths_and_remembers_one_a_worker(many: Growth) -> None:
    chance = np.random.default_rng(5)
    for worker in range(1000):
        shown = evidence(worker)
        before = Counted.comparisons
        change = Change(0, Counted(chance.lognormal()), 1.0)
        many.judge(shown._replace(change=change))
        # Two to look its old and its new place up, and the bounds.
        assert Counted.comparisons - before <= 3 * math.log2(many.n)
    assert Counted.comparisons >= 1000 * math.log2(many.n) / 2
    assert len(many.growths) == many.n == len(many.growths.state()["latest"])
