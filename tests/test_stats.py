"""The books add up, rates are recent, and everything in them is plain JSON."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from kardam.messages import Verdict
from kardam.stage import Slowdown
from kardam.stats import HELD_OUT_MAX, RATE_SECONDS, Meter, Stats

verdicts = st.builds(
    lambda worker, admitted, rule, staleness, growth: Verdict(
        worker=worker,
        ticket=0,
        admitted=admitted,
        rule="" if admitted else rule,
        updates=0,
        staleness=staleness,
        growth=growth,
    ),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from(["growth", "frequency", "nonfinite"]),
    st.integers(-1, 50),
    st.floats(),
)


def told(given_: list[Verdict], liars: tuple[int, ...] = ()) -> Stats:
    stats = Stats(5, 1, Slowdown(0.6, 0.25, 0.75))
    for liar in liars:
        stats.label(liar, "zero", byzantine=True)
    for second, verdict in enumerate(given_):
        stats.record(verdict, float(second))
    return stats


@given(st.lists(verdicts, max_size=50))
def test_the_books_add_up(given_: list[Verdict]) -> None:
    books = told(given_, liars=(4,)).snapshot(50.0)
    assert books["delivered"] == len(given_)
    assert books["delivered"] == books["admitted"] + sum(books["refused"].values())
    for part in ("delivered", "admitted"):
        assert books[part] == books["honest"][part] + books["byzantine"][part]
        assert books[part] == sum(row[part] for row in books["workers"])


def test_what_answers_no_hand_out_is_refused_and_no_delivery() -> None:
    unasked = Verdict(worker=4, ticket=9, admitted=False, rule="unasked", updates=0)
    stats = told([unasked] * 10_000, liars=(4,))
    assert stats.total.refused == stats.workers[4].tally.refused == {"unasked": 10_000}
    assert (stats.total.delivered, stats.byzantine.delivered) == (0, 0)
    assert not stats.stalled


def test_the_newest_evaluations_are_kept_and_not_all_for_ever() -> None:
    stats = told([])
    for update in range(3 * HELD_OUT_MAX):
        stats.evaluated(update, 1.0, 0.5, float(update))
    assert [its[0] for its in stats.held_out] == [*range(2 * HELD_OUT_MAX, 3 * HELD_OUT_MAX)]


@given(st.lists(verdicts, max_size=50))
def test_the_books_are_plain_json_without_nan(given_: list[Verdict]) -> None:
    books = told(given_).snapshot(50.0)
    assert json.loads(json.dumps(books, allow_nan=False)) == books


@given(st.lists(verdicts, max_size=50), st.floats(0.01, 1))
def test_a_quantile_of_staleness_is_the_one_of_the_sorted_list(
    given_: list[Verdict], share: float
) -> None:
    slow = sorted(v.staleness for v in given_ if v.staleness >= 0)
    expected = slow[math.ceil(share * len(slow)) - 1] if slow else 0
    assert told(given_).staleness(share) == expected


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), max_size=40))
def test_a_rate_counts_the_last_seconds_only(given_: list[tuple[float, int]]) -> None:
    rate, moments = Meter(), sorted(given_)
    for now, amount in moments:
        rate.add(amount, now)
    assert rate.per_second(1000.0) == 0.0
    last = moments[-1][0] if moments else 0.0
    recent = sum(a for now, a in moments if int(now) >= last - RATE_SECONDS)
    assert rate.per_second(last) * (RATE_SECONDS + 1) >= recent * 0.99


def test_a_steady_stream_has_its_rate() -> None:
    rate = Meter()
    for tenth in range(300):
        rate.add(2, tenth / 10)
    assert abs(rate.per_second(29.9) - 20) < 2.5


def test_slowdown_is_of_honest_work_where_liars_are_known_and_else_of_all() -> None:
    given_ = [
        Verdict(worker, 0, admitted, "" if admitted else "growth", 0)
        for worker, admitted in [(0, True), (0, False), (4, False), (4, False)]
    ]
    known, unknown = told(given_, liars=(4,)).snapshot(9.0), told(given_).snapshot(9.0)
    assert (known["slowdown"], known["slowdown_of"]) == (0.5, "honest")
    assert (unknown["slowdown"], unknown["slowdown_of"]) == (0.25, "all")


def test_a_run_that_admits_nothing_for_50_n_deliveries_is_stalled() -> None:
    refused = [Verdict(turn % 4, 0, False, "growth", 0) for turn in range(250)]
    stats = told(refused[:-1])
    assert not stats.stalled
    stats.record(refused[-1], 0.0)
    assert stats.stalled
    stats.record(Verdict(0, 0, True, "", 1), 0.0)
    assert not stats.stalled


def test_f_liars_who_are_refused_as_often_as_they_please_stall_no_run() -> None:
    stats = told([Verdict(4, 0, False, "nonfinite", 0)] * 10_000)
    assert not stats.stalled


def test_only_one_key_of_the_books_speaks_of_accuracy() -> None:
    def keys(value: object) -> list[str]:
        if isinstance(value, dict):
            return [*value, *(k for inner in value.values() for k in keys(inner))]
        if isinstance(value, list):
            return [k for inner in value for k in keys(inner)]
        return []

    stats = told([Verdict(0, 0, True, "", 1)])
    stats.evaluated(1, 0.5, 0.9, 1.0)
    books = stats.snapshot(2.0)
    assert [key for key in keys(books) if "accuracy" in key] == ["accuracy"]
    assert (books["accuracy"], books["loss"]) == (0.9, 0.5)
    assert books["held_out"] == [[1, 1.0, 0.5, 0.9]]
