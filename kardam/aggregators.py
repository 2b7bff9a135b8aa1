"""From n gradients to one: rules over vectors of which f may be anything.

A rule is a function of n finite float32 vectors of one shape (d,), in the order of their workers;
ties go to the lower number. It writes none of them, and may return one. Its factory knows n and f,
and refuses where the theorem would not hold. Never in here: who may take part (a filter's
business), when (a gathering's), or how large a step is (the rate's).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from kardam.growth import distance, norm
from kardam.messages import Vector

Rule = Callable[[Sequence[Vector]], Vector]

# Several vectors, one a row: (n, d).
Stack = NDArray[np.float32]

# Numbers that are worked on at a time, n rows of them: a megabyte, which stays in the cache. But of
# no row fewer than what hides the cost of a call.
CELLS, WIDTH = 2**18, 256

# Vectors up to which a network sorts faster than numpy does: in half the time or less up to 64.
NETWORK_MAX = 128


def average() -> Rule:
    """The mean. No f above 0 is borne: one vector moves it anywhere."""
    return lambda vectors: _mean_of_ranks(vectors, 0, len(vectors))


def median(n: int, f: int) -> Rule:
    """The median of each coordinate, the mean of the two middle ones for even n; n >= 2f+1.

    Between the honest extremes in every coordinate (Yin et al., ICML 2018).
    """
    _require(n, f, 2 * f + 1, "2f+1")
    return coordinate_median


def trimmed_mean(n: int, f: int) -> Rule:
    """The mean of each coordinate without its f lowest and f highest; n >= 2f+1.

    Between the honest extremes in every coordinate (Yin et al., ICML 2018).
    """
    _require(n, f, 2 * f + 1, "2f+1")
    return lambda vectors: _mean_of_ranks(_counted(vectors, n), f, n - f)


def geometric_median(n: int, f: int, iterations: int = 8, nu: float = 1e-6) -> Rule:
    """The z of least sum of ||g_i - z||; n >= 2f+1. It is at most 2(n-f)/(n-2f) times as far from
    any point as the honest vector that is farthest from it (Chen et al., 2017).

    Smoothed Weiszfeld iterations, z <- sum w_i g_i / sum w_i with w_i = 1 / max(nu, ||g_i - z||):
    RFA (Pillutla et al., 2022) with equal weights, but from the coordinate-wise median, where RFA
    starts from the mean, which a liar can move anywhere.
    """
    _require(n, f, 2 * f + 1, "2f+1")
    _require_iterations(iterations)
    if not 0 < nu < math.inf:
        raise ValueError(f"expected 0 < nu < inf, got {nu}")

    def rule(vectors: Sequence[Vector]) -> Vector:
        stack = _stack(vectors, n)
        z = coordinate_median(list(stack))
        for _ in range(iterations):
            weights = 1 / np.maximum(nu, _distances(stack, z))
            # So far apart that no square is finite: nothing is nearer than anything else.
            if not weights.any():
                return z
            z = _combination(weights / weights.sum(), stack)
        return z

    return rule


def krum(n: int, f: int) -> Rule:
    """The vector of least score, which is the sum of the squared distances to its n-f-2 nearest
    others; n >= 2f+3.

    Krum (Blanchard et al., NeurIPS 2017), squared and with n-f-2 as in the paper.
    """
    _require(n, f, 2 * f + 3, "2f+3")

    def rule(vectors: Sequence[Vector]) -> Vector:
        scores = _scores(_squares(_counted(vectors, n)), n - f - 2)
        return vectors[int(scores.argmin())]

    return rule


def multi_krum(n: int, f: int, m: int | None = None) -> Rule:
    """The mean of the m vectors of least Krum score, all scored once; n >= 2f+3.

    1 <= m <= n-f-2, which is the default (AggregaThor; El Mhamdi et al., ICML 2018). The proof of
    the first paper (Blanchard et al., NeurIPS 2017) is for m <= n-2f-3.
    """
    _require(n, f, 2 * f + 3, "2f+3")
    size = n - f - 2 if m is None else m
    if not 1 <= size <= n - f - 2:
        raise ValueError(f"expected 1 <= m <= n-f-2 = {n - f - 2}, got m={size}")

    def rule(vectors: Sequence[Vector]) -> Vector:
        scores = _scores(_squares(_counted(vectors, n)), n - f - 2)
        chosen = np.argsort(scores, kind="stable")[:size]
        return _mean_of_ranks([vectors[i] for i in sorted(chosen)], 0, size)

    return rule


def bulyan(n: int, f: int) -> Rule:
    """Of theta = n-2f vectors that Krum selects, the mean of each coordinate's theta-2f values
    nearest to their median; n >= 4f+3.

    Bulyan over Krum (El Mhamdi et al., ICML 2018), the iterative one: Krum on what is left takes
    out one vector at a time, r-f-2 nearest of r. In the last rounds of f <= 1 that is less than
    one, and the single nearest counts. (AggregaThor's stops at theta = n-2f-2.) Of two values as
    far below their median as above, the lower one is nearer.
    """
    _require(n, f, 4 * f + 3, "4f+3")

    def rule(vectors: Sequence[Vector]) -> Vector:
        squares = _squares(_counted(vectors, n))
        left = list(range(n))
        chosen: list[int] = []
        while len(chosen) < n - 2 * f:
            scores = _scores(squares[np.ix_(left, left)], max(len(left) - f - 2, 1))
            chosen.append(left.pop(int(scores.argmin())))
        return mean_about_median([vectors[i] for i in chosen], n - 4 * f)

    return rule


def centered_clipping(n: int, f: int, radius: float | None = None, iterations: int = 3) -> Rule:
    """v <- v + (1/n) sum (g_i - v) min(1, radius / ||g_i - v||), again and again; n >= 2f+1.

    In one iteration f liars move v by f radius / n at most.

    Karimireddy, He and Jaggi (ICML 2021), but from the coordinate-wise median, where theirs goes on
    from the last update's v: a rule of ours remembers nothing. Without a radius it is the median
    distance from that start.
    """
    _require(n, f, 2 * f + 1, "2f+1")
    _require_iterations(iterations)
    if radius is not None and not 0 < radius < math.inf:
        raise ValueError(f"expected 0 < radius < inf, got {radius}")

    def rule(vectors: Sequence[Vector]) -> Vector:
        stack = _stack(vectors, n)
        v = coordinate_median(list(stack))
        bound = radius
        for _ in range(iterations):
            distances = _distances(stack, v)
            if bound is None:
                bound = float(np.sort(distances)[(n - 1) // 2])
            shares = bound / np.maximum(distances, bound) if bound > 0 else distances == 0
            v = v * np.float32(1 - shares.mean()) + _combination(shares / n, stack)
        return v

    return rule


def coordinate_median(vectors: Sequence[Vector]) -> Vector:
    """As `median`, of any number of vectors."""
    n = len(vectors)
    return _mean_of_ranks(vectors, (n - 1) // 2, n // 2 + 1)


def clipped_median(vectors: Sequence[Vector]) -> Vector:
    """The coordinate-wise median, scaled down to the vectors' median norm where it is longer."""
    middle = coordinate_median(vectors)
    bound = float(np.median([norm(v) for v in vectors]))
    length = norm(middle)
    return middle * np.float32(bound / length) if length > bound else middle


# --- what they are made of ---


def _require(n: int, f: int, least: int, formula: str) -> None:
    if not (f >= 0 and n >= least):
        raise ValueError(f"expected n >= {formula} vectors, got n={n}, f={f}")


def _require_iterations(iterations: int) -> None:
    if not iterations >= 1:
        raise ValueError(f"expected iterations >= 1, got {iterations}")


def _counted(vectors: Sequence[Vector], n: int) -> Sequence[Vector]:
    if len(vectors) != n:
        raise ValueError(f"expected n={n} vectors, got {len(vectors)}")
    return vectors


def _stack(vectors: Sequence[Vector], n: int) -> Stack:
    """The n vectors as rows."""
    stack = np.empty((n, _counted(vectors, n)[0].size), np.float32)
    for at, block in _blocks(vectors):
        stack[:, at] = block
    return stack


def _blocks(vectors: Sequence[Vector]) -> Iterator[tuple[slice, Stack]]:
    """Where in the vectors, and a copy of that part of them all, in memory that the next block will
    use again. Raises ValueError for what is not finite, which would be the mean of everything that
    it is averaged with.
    """
    n, d = len(vectors), vectors[0].size
    width = min(d, max(CELLS // n, WIDTH))
    rows = np.empty((n, width), np.float32)
    for start in range(0, d, width):
        at = slice(start, min(start + width, d))
        block = rows[:, : at.stop - start]
        for row, vector in zip(block, vectors, strict=True):
            row[:] = vector[at]
        if not np.isfinite(block).all():
            bad = next(i for i, vector in enumerate(vectors) if not np.isfinite(vector).all())
            raise ValueError(f"expected finite vectors, got NaN or infinity in number {bad}")
        yield at, block


def _mean_of_ranks(vectors: Sequence[Vector], low: int, high: int) -> Vector:
    """The mean of each coordinate's values from the low-th smallest, from 0, up to the one before
    the high-th.
    """
    result = np.empty_like(vectors[0])
    for at, block in _blocks(vectors):
        result[at] = _mean(_ranked(block, low, high)[low:high])
    return result


def mean_about_median(vectors: Sequence[Vector], m: int) -> Vector:
    """The mean of each coordinate's m values that are nearest to their median."""
    n = len(vectors)
    result = np.empty_like(vectors[0])
    for at, block in _blocks(vectors):
        # Sorted, the m nearest stand side by side; where they begin moves up for as long as what
        # comes in is nearer than what goes.
        ranked = _ranked(block)
        middle = _mean(ranked[(n - 1) // 2 : n // 2 + 1])
        mean = _mean(ranked[:m])
        for i in range(n - m):
            with np.errstate(over="ignore"):
                nearer = ranked[i + m] - middle < middle - ranked[i]
            np.copyto(mean, _mean(ranked[i + 1 : i + 1 + m]), where=nearer)
        result[at] = mean
    return result


class Comparator(NamedTuple):
    """Put the smaller of two rows at i and the larger at j, coordinate by coordinate; or only one
    of them, where nobody asks for the other.
    """

    i: int
    j: int
    smaller: bool
    larger: bool


@cache
def network(n: int, low: int | None = None, high: int | None = None) -> tuple[Comparator, ...]:
    """What sorts n rows in every coordinate: Batcher's odd-even merge (1968), in which no value
    decides what comes next, so that a processor does many coordinates in one instruction.

    Of the ranks `low` to `high` - 1, if they are given, all are found, but in no order; and what
    does not lead to them is left out: 83 of 103 exchanges remain for the median of 20.
    """
    # Of each row: nobody asks for it, somebody for any order of it and others, or for itself.
    unasked, some, itself = range(3)
    asked = [itself] * n
    if low is not None and high is not None:
        asked = [some if low <= i < high else unasked for i in range(n)]
    kept: list[Comparator] = []
    for i, j in reversed(_odd_even_merge(n)):
        if asked[i] == asked[j] != itself:
            continue
        kept.append(Comparator(i, j, asked[i] != unasked, asked[j] != unasked))
        asked[i] = asked[j] = itself
    return tuple(reversed(kept))


def _odd_even_merge(n: int) -> list[tuple[int, int]]:
    """Pairs i < j to be exchanged in turn: sorted runs of p, each two merged into one of 2p."""
    pairs, p = [], 1
    while p < n:
        k = p
        while k >= 1:
            for start in range(k % p, n - k, 2 * k):
                for i in range(start, min(start + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs.append((i, i + k))
            k //= 2
        p *= 2
    return pairs


def _ranked(block: Stack, low: int | None = None, high: int | None = None) -> Sequence[Vector]:
    """The rows, sorted in every coordinate, as far as `network` does; in memory that was theirs."""
    n = len(block)
    if n > NETWORK_MAX:
        block.sort(axis=0)
        return list(block)
    rows = list(block)
    spare = np.empty_like(rows[0])
    for i, j, smaller, larger in network(n, low, high):
        a, b = rows[i], rows[j]
        if smaller and larger:
            np.minimum(a, b, out=spare)
            np.maximum(a, b, out=b)
            rows[i], spare = spare, a
        elif smaller:
            np.minimum(a, b, out=a)
        else:
            np.maximum(a, b, out=b)
    return rows


def _mean(rows: Sequence[Vector]) -> Vector:
    # Summed in float64, so that equal vectors have exactly themselves as their mean.
    total = rows[0].astype(np.float64)
    for row in rows[1:]:
        total += row
    return cast("Vector", (total / len(rows)).astype(np.float32))


def _distances(stack: Stack, z: Vector) -> NDArray[np.float64]:
    """||g_i - z|| of each row; infinite where the square leaves float32."""
    return np.array([distance(g, z) for g in stack])


def _combination(weights: NDArray[np.float64], stack: Stack) -> Vector:
    """sum w_i g_i."""
    return cast("Vector", weights.astype(np.float32) @ stack)


def _squares(vectors: Sequence[Vector]) -> NDArray[np.float64]:
    """||g_i - g_j||^2 of every pair, (n, n); infinite where that leaves float32.

    By differences: ||a||^2 + ||b||^2 - 2ab cancels where vectors are long and near each other.
    """
    n = len(vectors)
    squares = np.zeros((n, n))
    with np.errstate(over="ignore"):
        for _, block in _blocks(vectors):
            apart = np.empty_like(block)
            for i in range(1, n):
                np.subtract(block[:i], block[i], out=apart[:i])
                squares[i, :i] += np.vecdot(apart[:i], apart[:i])
    return squares + squares.T


def _scores(squares: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Krum's score of each: the sum of its k least squared distances to others."""
    others = squares.copy()
    np.fill_diagonal(others, np.inf)
    return cast("NDArray[np.float64]", np.sort(others, axis=1)[:, :k].sum(axis=1))


AGGREGATORS: Mapping[str, Callable[..., Rule]] = {
    "average": average,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "geometric_median": geometric_median,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "centered_clipping": centered_clipping,
}
