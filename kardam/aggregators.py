"""From n gradients to one: rules over vectors of which f may be anything.

A rule is a function of n finite float32 vectors of one shape (d,), in the order of their workers;
ties go to the lower number. It writes none of them, and may return one. Its factory knows n and f,
and refuses where the theorem would not hold. Never in here: who may take part (a filter's
business), when (a gathering's), or how large a step is (the rate's).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kardam.growth import distance, norm
from kardam.messages import Vector

Rule = Callable[[Sequence[Vector]], Vector]

# Several vectors, one a row: (n, d).
Stack = NDArray[np.float32]

# Coordinates of one pass over all pairs: so few that n of them stay in the cache.
BLOCK = 16_384


def average() -> Rule:
    """The mean. No f above 0 is borne: one vector moves it anywhere."""
    return lambda vectors: _mean(_stack(vectors))


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
    return lambda vectors: _mean(np.sort(_stack(vectors, n), axis=0)[f : n - f])


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
        z = _middle(stack)
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
        scores = _scores(_squares(_stack(vectors, n)), n - f - 2)
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
        stack = _stack(vectors, n)
        scores = _scores(_squares(stack), n - f - 2)
        chosen = np.argsort(scores, kind="stable")[:size]
        return _mean(stack[np.sort(chosen)])

    return rule


def bulyan(n: int, f: int) -> Rule:
    """Of theta = n-2f vectors that Krum selects, the mean of each coordinate's theta-2f values
    nearest to their median; n >= 4f+3.

    Bulyan over Krum (El Mhamdi et al., ICML 2018), the iterative one: Krum on what is left takes
    out one vector at a time, r-f-2 nearest of r. In the last rounds of f <= 1 that is less than
    one, and the single nearest counts. (AggregaThor's stops at theta = n-2f-2.)
    """
    _require(n, f, 4 * f + 3, "4f+3")

    def rule(vectors: Sequence[Vector]) -> Vector:
        stack = _stack(vectors, n)
        squares = _squares(stack)
        left = list(range(n))
        chosen: list[int] = []
        while len(chosen) < n - 2 * f:
            scores = _scores(squares[np.ix_(left, left)], max(len(left) - f - 2, 1))
            chosen.append(left.pop(int(scores.argmin())))
        selected = stack[sorted(chosen)]
        with np.errstate(over="ignore"):
            apart = np.abs(selected - _middle(selected))
        nearest = np.argsort(apart, axis=0, kind="stable")[: n - 4 * f]
        return _mean(np.take_along_axis(selected, nearest, axis=0))

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
        v = _middle(stack)
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
    return _middle(_stack(vectors))


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


def _stack(vectors: Sequence[Vector], n: int | None = None) -> Stack:
    """The vectors as rows. Raises ValueError for another number of them, and for what is not
    finite, which would be the mean of everything that it is averaged with.
    """
    if n is not None and len(vectors) != n:
        raise ValueError(f"expected n={n} vectors, got {len(vectors)}")
    stack = np.stack(vectors)
    if not np.isfinite(stack).all():
        at = int(np.isfinite(stack).all(axis=1).argmin())
        raise ValueError(f"expected finite vectors, got NaN or infinity in number {at}")
    return stack


def _mean(stack: Stack) -> Vector:
    # Summed in float64, so that equal vectors have exactly themselves as their mean.
    return cast("Vector", stack.mean(axis=0, dtype=np.float64).astype(np.float32))


def _middle(stack: Stack) -> Vector:
    """The coordinate-wise median."""
    # Sorting all takes a third of the time of np.median along this axis.
    ranked, n = np.sort(stack, axis=0), len(stack)
    return _mean(ranked[(n - 1) // 2 : n // 2 + 1])


def _distances(stack: Stack, z: Vector) -> NDArray[np.float64]:
    """||g_i - z|| of each row; infinite where the square leaves float32."""
    return np.array([distance(g, z) for g in stack])


def _combination(weights: NDArray[np.float64], stack: Stack) -> Vector:
    """sum w_i g_i."""
    return cast("Vector", weights.astype(np.float32) @ stack)


def _squares(stack: Stack) -> NDArray[np.float64]:
    """||g_i - g_j||^2 of every pair, (n, n); infinite where that leaves float32.

    By differences: ||a||^2 + ||b||^2 - 2ab cancels where vectors are long and near each other.
    """
    n, d = stack.shape
    squares = np.zeros((n, n))
    with np.errstate(over="ignore"):
        for start in range(0, d, BLOCK):
            part = stack[:, start : start + BLOCK]
            for i in range(n):
                for j in range(i):
                    apart = part[i] - part[j]
                    squares[i, j] += np.dot(apart, apart)
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
