"""Each rule is the published one, said again in loops; f liars move none out of the honest hull;
and nothing that is not finite is averaged.
"""

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kardam.aggregators import (
    AGGREGATORS,
    CELLS,
    NETWORK_MAX,
    Rule,
    clipped_median,
    coordinate_median,
    mean_about_median,
    network,
)
from kardam.errors import UsageError
from kardam.growth import distance, norm
from kardam.messages import Vector
from kardam.spec import build
from tests.strategies import vectors

D = 4
N, F = 11, 2

# Rules times examples: a battery of seconds.
FEW = settings(max_examples=25)

Point = list[float]
Oracle = Callable[[list[Point], int], Point]


def made(text: str, n: int = N, f: int = F) -> Rule:
    return build(text, AGGREGATORS, "--aggregator", n=n, f=f)


# --- slow and obvious: one number at a time, in float64 ---


def far(a: Point, b: Point) -> float:
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def by_coordinate(rule: Callable[[list[float]], float]) -> Callable[[list[Point]], Point]:
    return lambda points: [rule(list(column)) for column in zip(*points, strict=True)]


mean = by_coordinate(statistics.fmean)
median = by_coordinate(statistics.median)


def trimmed(points: list[Point], f: int) -> Point:
    return by_coordinate(lambda column: statistics.fmean(sorted(column)[f : len(column) - f]))(
        points
    )


def score(points: list[Point], i: int, k: int) -> float:
    others = [far(points[i], points[j]) ** 2 for j in range(len(points)) if j != i]
    return sum(sorted(others)[:k])


def by_score(points: list[Point], k: int) -> list[int]:
    return sorted(range(len(points)), key=lambda i: (score(points, i, k), i))


def krum(points: list[Point], f: int) -> Point:
    return points[by_score(points, len(points) - f - 2)[0]]


def multi_krum(points: list[Point], f: int, m: int | None = None) -> Point:
    k = len(points) - f - 2
    return mean([points[i] for i in sorted(by_score(points, k)[: m or k])])


def bulyan(points: list[Point], f: int) -> Point:
    left = list(points)
    selected: list[Point] = []
    while len(selected) < len(points) - 2 * f:
        selected.append(left.pop(by_score(left, max(len(left) - f - 2, 1))[0]))

    def central(column: list[float]) -> float:
        middle = statistics.median(column)
        nearest = sorted(column, key=lambda value: abs(value - middle))
        return statistics.fmean(nearest[: len(column) - 2 * f])

    return by_coordinate(central)(selected)


def weighted(points: list[Point], weights: Sequence[float]) -> Point:
    return by_coordinate(
        lambda column: sum(w * value for w, value in zip(weights, column, strict=True))
    )(points)


def geometric_median(points: list[Point], f: int, iterations: int = 8) -> Point:
    z = median(points)
    for _ in range(iterations):
        weights = [1 / max(1e-6, far(point, z)) for point in points]
        z = weighted(points, [weight / sum(weights) for weight in weights])
    return z


def centered_clipping(
    points: list[Point], f: int, radius: float | None = None, iterations: int = 3
) -> Point:
    v = median(points)
    radius = radius or statistics.median_low(far(point, v) for point in points)
    for _ in range(iterations):
        moved = list(v)
        for point in points:
            length = far(point, v)
            share = 1.0 if length <= radius else radius / length
            for i in range(len(v)):
                moved[i] += (point[i] - v[i]) * share / len(points)
        v = moved
    return v


ORACLES: dict[str, Oracle] = {
    "average": lambda points, f: mean(points),
    "median": lambda points, f: median(points),
    "trimmed_mean": trimmed,
    "geometric_median": geometric_median,
    "geometric_median:iterations=3": lambda points, f: geometric_median(points, f, 3),
    "krum": krum,
    "multi_krum": multi_krum,
    "multi_krum:m=3": lambda points, f: multi_krum(points, f, 3),
    "bulyan": bulyan,
    "centered_clipping": centered_clipping,
    "centered_clipping:radius=0.5,iterations=5": lambda points, f: centered_clipping(
        points, f, 0.5, 5
    ),
}
ROBUST = [text for text in ORACLES if text != "average"]
# Whose results are made of coordinates or vectors that honest workers have sent.
WITHIN_THE_HULL = ["median", "trimmed_mean", "krum", "multi_krum", "multi_krum:m=3", "bulyan"]
SCALE_FREE = [text for text in ORACLES if "radius" not in text]


def crowd(n: int, seed: int, d: int = D, spread: float = 1.0) -> list[Vector]:
    """Vectors around a common one, no two alike."""
    chance = np.random.default_rng(seed)
    centre = chance.standard_normal(d)
    return [(centre + spread * chance.standard_normal(d)).astype(np.float32) for _ in range(n)]


def test_every_aggregator_of_the_table_is_in_the_battery() -> None:
    assert {text.partition(":")[0] for text in ORACLES} == set(AGGREGATORS)


@FEW
@given(st.integers(0, 10**6), st.sampled_from([(3, 0), (7, 1), (8, 1), (11, 2), (12, 2), (15, 3)]))
@pytest.mark.parametrize("text", ORACLES)
def test_it_is_the_published_rule(text: str, seed: int, size: tuple[int, int]) -> None:
    n, f = size
    assume("m=3" not in text or n - f - 2 >= 3)
    given_ = crowd(n, seed)
    expected = ORACLES[text]([[float(value) for value in v] for v in given_], f)
    result = made(text, n, f)(given_)
    assert result.dtype == np.float32
    assert result == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(st.lists(vectors(D), min_size=1, max_size=9))
def test_the_coordinate_median_is_the_median_of_each_coordinate(given_: list[Vector]) -> None:
    expected = [statistics.median(float(v[i]) for v in given_) for i in range(D)]
    assert coordinate_median(given_) == pytest.approx(expected, rel=1e-6)


def test_more_coordinates_than_one_block_are_all_measured() -> None:
    given_ = crowd(N, 0, d=40_000)
    given_[4] = given_[3].copy()
    given_[4][-1] += 1
    distances = [sum(sorted(distance(g, h) ** 2 for h in given_)[1 : N - F - 1]) for g in given_]
    assert made("krum")(given_) is given_[int(np.argmin(distances))]


# --- what holds of all of them ---


# With f <= 2 the last rounds of Bulyan know one neighbour, and two that are nearest to each other
# tie: the lower number goes first.
@FEW
@given(st.integers(0, 10**6), st.permutations(range(15)))
@pytest.mark.parametrize("text", ORACLES)
def test_the_order_of_workers_does_not_matter(text: str, seed: int, order: list[int]) -> None:
    given_, rule = crowd(15, seed), made(text, 15, 3)
    assert rule([given_[i] for i in order]) == pytest.approx(rule(given_), rel=1e-5, abs=1e-5)


@FEW
@given(st.integers(0, 10**6))
@pytest.mark.parametrize("text", ORACLES)
def test_it_moves_with_the_vectors(text: str, seed: int) -> None:
    given_, shift = crowd(N, seed), np.float32(3)
    shifted = made(text)([g + shift for g in given_])
    assert shifted == pytest.approx(made(text)(given_) + shift, rel=1e-4, abs=1e-4)


@FEW
@given(st.integers(0, 10**6), st.sampled_from([-8.0, 0.125, 1024.0]))
@pytest.mark.parametrize("text", SCALE_FREE)
def test_it_scales_with_the_vectors(text: str, seed: int, scale: float) -> None:
    given_ = crowd(N, seed)
    scaled = made(text)([g * np.float32(scale) for g in given_])
    assert scaled / np.float32(scale) == pytest.approx(made(text)(given_), rel=1e-4, abs=1e-4)


@FEW
@given(vectors(D))
@pytest.mark.parametrize("text", ORACLES)
def test_what_all_say_is_the_result(text: str, g: Vector) -> None:
    assert made(text)([g] * N) == pytest.approx(g, rel=1e-6, abs=1e-30)


@FEW
@given(st.integers(0, 10**6), st.sampled_from([1e6, -1e6, 1e15, 3e38]), st.data())
@pytest.mark.parametrize("text", WITHIN_THE_HULL)
def test_f_liars_do_not_move_it_out_of_the_honest_hull(
    text: str, seed: int, size: float, data: st.DataObject
) -> None:
    given_ = crowd(N, seed)
    liars = data.draw(st.sets(st.integers(0, N - 1), min_size=F, max_size=F))
    lie = np.full(D, size, np.float32)
    mixed = [lie if i in liars else g for i, g in enumerate(given_)]
    honest = [g for i, g in enumerate(given_) if i not in liars]
    result = made(text)(mixed)
    assert (result >= np.min(honest, axis=0) - 1e-6).all()
    assert (result <= np.max(honest, axis=0) + 1e-6).all()


@FEW
@given(st.integers(0, 10**6), st.sampled_from([1e6, -1e6, 1e15, 3e38]), st.data())
@pytest.mark.parametrize("text", ROBUST)
def test_f_liars_do_not_move_it_far_from_the_honest(
    text: str, seed: int, size: float, data: st.DataObject
) -> None:
    given_ = crowd(N, seed)
    liars = data.draw(st.sets(st.integers(0, N - 1), min_size=F, max_size=F))
    lie = np.full(D, size, np.float32)
    honest = [g for i, g in enumerate(given_) if i not in liars]
    result = made(text)([lie if i in liars else g for i, g in enumerate(given_)])
    centre = np.mean(honest, axis=0)
    radius = max(distance(g, centre) for g in honest)
    assert distance(result, centre) <= 2 * (N - F) / (N - 2 * F) * radius


def test_one_liar_moves_the_average_anywhere() -> None:
    given_ = [*crowd(N - 1, 0), np.full(D, 1e6, np.float32)]
    assert (made("average")(given_) > 5e4).all()


def test_at_f_0_the_trimmed_mean_and_bulyan_are_the_average() -> None:
    given_ = crowd(5, 0)
    for text in ("trimmed_mean", "bulyan"):
        assert made(text, 5, 0)(given_).tobytes() == made("average", 5, 0)(given_).tobytes()


@pytest.mark.parametrize("text", ["krum", "multi_krum:m=1"])
def test_a_tie_goes_to_the_lower_number(text: str) -> None:
    given_ = [np.array([v], np.float32) for v in (9, 1, 0, 1, 0, 9, 1, 0)]
    # 0 and 1 are three each, as near to each other as to themselves.
    assert made(text, 8, 1)(given_).tolist() == [1]


@pytest.mark.parametrize("text", ORACLES)
def test_no_vector_is_written(text: str) -> None:
    given_ = crowd(N, 0)
    for g in given_:
        g.flags.writeable = False
    made(text)(given_)


def test_the_geometric_median_has_the_least_sum_of_distances() -> None:
    given_ = crowd(N, 3)
    z = made("geometric_median:iterations=200")(given_)
    least = sum(distance(g, z) for g in given_)
    chance = np.random.default_rng(0)
    for _ in range(200):
        near = z + (0.05 * chance.standard_normal(D)).astype(np.float32)
        assert sum(distance(g, near) for g in given_) >= least - 1e-4


def test_distances_hold_where_the_gram_expansion_cancels() -> None:
    # Vectors near each other and far from zero: ||a||^2 + ||b||^2 - 2ab has no digit left.
    given_ = [g + np.float32(4096) for g in crowd(N, 1)]
    expected = krum([[float(value) for value in g] for g in given_], F)
    assert made("krum")(given_).tolist() == expected


@given(st.integers(1, 40), st.data())
def test_a_network_finds_the_ranks_that_are_asked_for_whatever_their_order(
    n: int, data: st.DataObject
) -> None:
    low = data.draw(st.integers(0, n - 1))
    high = data.draw(st.integers(low + 1, n))
    values = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    column = list(values)
    for i, j, smaller, larger in network(n, low, high):
        pair = sorted((column[i], column[j]))
        # What nobody asks for may be anything.
        column[i], column[j] = (pair[0] if smaller else -1), (pair[1] if larger else 99)
    assert sorted(column[low:high]) == sorted(values)[low:high]


def test_a_network_leaves_out_what_leads_to_no_rank_that_is_asked_for() -> None:
    assert [len(network(20)), len(network(20, 9, 11)), len(network(20, 4, 16))] == [103, 83, 90]
    assert network(20, 0, 20) == ()


# As many vectors as no network sorts, and coordinates of more than one block.
@pytest.mark.parametrize(("n", "f", "d"), [(NETWORK_MAX + 2, 9, 600), (4, 1, CELLS // 4 + 3)])
@pytest.mark.parametrize("text", ["average", "median", "trimmed_mean"])
def test_many_vectors_and_long_ones_give_what_few_and_short_ones_do(
    text: str, n: int, f: int, d: int
) -> None:
    chance = np.random.default_rng(0)
    given_ = [chance.standard_normal(d).astype(np.float32) for _ in range(n)]
    some = [0, d // 2, d - 1]
    expected = ORACLES[text]([[float(g[i]) for i in some] for g in given_], f)
    assert made(text, n, f)(given_)[some].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@FEW
@given(st.lists(st.lists(st.integers(-4, 4), min_size=D, max_size=D), min_size=N - 1, max_size=N))
def test_bulyan_takes_the_values_nearest_to_the_median_and_of_two_as_near_the_lower(
    points: list[list[int]],
) -> None:
    given_ = [np.array(point, np.float32) for point in points]
    for m in range(1, len(points) + 1):
        nearest = [
            sorted(column, key=lambda value: (abs(value - statistics.median(column)), value))[:m]
            for column in map(list, zip(*points, strict=True))
        ]
        expected = [statistics.fmean(values) for values in nearest]
        assert mean_about_median(given_, m).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


# --- what is refused ---


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("text", ORACLES)
def test_what_is_not_finite_is_refused_and_never_averaged(text: str, bad: float) -> None:
    given_ = crowd(N, 0)
    given_[3][1] = bad
    with pytest.raises(
        ValueError, match="expected finite vectors, got NaN or infinity in number 3"
    ):
        made(text)(given_)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("median", 5),
        ("trimmed_mean", 5),
        ("geometric_median", 5),
        ("centered_clipping", 5),
        ("krum", 7),
        ("multi_krum", 7),
        ("bulyan", 11),
    ],
)
def test_the_precondition_is_the_error(name: str, least: int) -> None:
    made(name, least, 2)
    words = rf"--aggregator '{name}': expected n >= .* vectors, got n={least - 1}, f=2"
    with pytest.raises(UsageError, match=words):
        made(name, least - 1, 2)


@pytest.mark.parametrize("text", [text for text in ROBUST if text != "median"])
def test_another_number_of_vectors_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected n=11 vectors, got 10"):
        made(text)(crowd(10, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("multi_krum:m=8", "expected 1 <= m <= n-f-2 = 7, got m=8"),
        ("multi_krum:m=0", "expected 1 <= m <= n-f-2 = 7, got m=0"),
        ("geometric_median:iterations=0", "expected iterations >= 1, got 0"),
        ("geometric_median:nu=0", "expected 0 < nu < inf, got 0.0"),
        ("centered_clipping:radius=-1", "expected 0 < radius < inf, got -1.0"),
        ("kurm", "did you mean 'krum'"),
    ],
)
def test_what_cannot_be_an_aggregator_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(text)


# --- the start-up rule ---


@given(st.lists(vectors(D), min_size=1, max_size=9))
def test_the_clipped_median_is_no_longer_than_the_median_norm(given_: list[Vector]) -> None:
    bound = statistics.median(map(norm, given_))
    assert norm(clipped_median(given_)) <= bound * (1 + 1e-5)
