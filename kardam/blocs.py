"""Who stands together, apart from all others: rows at one end of where they differ most, that point
the same way, or that pull against all others; and whether those do what honest ones seldom do.

Never in here: who they are, or what is done about it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The share of all expected squares, along one axis, that counts at most: nobody makes another
# stand out by standing farther out himself.
SHARE_MAX = 0.5

# By how much who pull against all others are longer.
LONGER = 1.1

# The mean cosine from which who stand together say the same. Of honest workers who did, four fifths
# had 0.3 to 0.7; of liars who send one vector nine tenths had 0.8 and more.
SAME = 0.8

# What is divided by at least.
TINY = 1e-12

Numbers = NDArray[np.float64]


def bloc(rows: NDArray[np.float32], least: int, most: int, apart: float) -> list[int]:
    """The indices of `least` to `most` of n rows that stand together, apart from the others; of
    none, if none do. The rows, of shape (n, d), are each over the length that is expected of it.

    Those differ most along the axis of their largest variance, lambda per row; on it p is at t_p.
    The k outermost at one end are a bloc where

        (mean of the others - t_k) / (deviation of the others)  >  apart / min(lambda, 1/2)

    t_k being the innermost of the k: each stands off, and the more of all differences are along the
    axis, the less clear need it be. And t_k must be nearer to the outermost, t_1, than to the mean
    of the others, or whoever goes far alone would take the next one with him. Of several, the
    clearest.
    """
    centred = rows - rows.mean(axis=0)
    variances, axes = np.linalg.eigh(centred @ centred.T)
    needed = apart / min(max(float(variances[-1]) / len(rows), TINY), SHARE_MAX)
    best = needed, 0, 1.0
    for end in (1.0, -1.0):
        clear, k = _clearest(np.sort(end * axes[:, -1]).tolist(), least, most)
        best = max(best, (clear, k, end))
    _, k, end = best
    return [int(at) for at in np.argsort(end * axes[:, -1], kind="stable")[:k]]


def _clearest(ranked: Sequence[float], least: int, most: int) -> tuple[float, int]:
    """The largest (mean - t_k) / deviation, mean and deviation being of those after the k first,
    and that k; of those k that are together.
    """
    found = -math.inf, 0
    total, squares = math.fsum(ranked), math.fsum(t * t for t in ranked)
    for k, t in enumerate(ranked[:most], 1):
        total, squares = total - t, squares - t * t
        others = len(ranked) - k
        if k >= least and others > 1:
            deviation = math.sqrt(max(squares - total * total / others, 0.0) / (others - 1))
            gap = total / others - t
            if t - ranked[0] < gap:
                found = max(found, (gap / max(deviation, TINY), k))
    return found


def angles(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """cos(p, q) of each two of n rows, of shape (n, n)."""
    products = rows @ rows.T
    lengths = np.sqrt(np.maximum(np.diagonal(products), TINY))
    products /= np.outer(lengths, lengths)
    return products


def cliques(cosines: NDArray[np.float32], least: int, most: int, margin: float) -> list[int]:
    """The indices of all of n rows that are in a set of `least` to `most` which point more alike
    than any of them does like another:

        min of cos(p, q), both in it  >  max of cos(p, r), r not in it,  +  margin

    However long they are, and wherever all the others point. Requires 2 <= least, most < n.
    """
    if least > most:
        return []
    found: set[int] = set()
    cosines = cosines.copy()
    np.fill_diagonal(cosines, np.inf)
    # Itself first. Of a clique of k, each has the k - 1 others next, and then nobody for long.
    nearest = np.argsort(-cosines, axis=1)
    ranked = np.take_along_axis(cosines, nearest, axis=1)
    gaps = ranked[:, least - 1 : most] - ranked[:, least : most + 1]
    for row, more in np.argwhere(gaps > margin).tolist():
        inside = np.zeros(len(cosines), np.bool)
        inside[nearest[row, : least + more]] = True
        if cosines[inside][:, inside].min() > cosines[inside][:, ~inside].max() + margin:
            found.update(np.flatnonzero(inside).tolist())
    return sorted(found)


def pullers(
    cosines: NDArray[np.float32],
    lengths: Sequence[float],
    weights: Sequence[float],
    least: int,
    most: int,
    margin: float,
) -> list[int]:
    """The indices of the k longest of n, if each is LONGER than all others, and pulls against them:
    if the others are more alike than they are like these k,

        mean of cos(q, r), q and r of the others  >  mean of cos(p, q), p of the k  +  margin

    each of the others counting by its weight. Of `least` to `most` that k for which it is so most
    clearly, lest who is next longest goes with them. A model rests where those who push it are as
    strong as those who pull it back: the fewer of them must pull longer, and all others agree
    against them, however little else either have in common. Requires n - most >= 2.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    ranked, long, weight = _ordered(order, cosines, lengths, weights)
    best = margin, 0
    for k in range(least, most + 1):
        if long[k - 1] >= LONGER * long[k]:
            best = max(best, (_agreed_against(ranked, weight, k), k))
    return sorted(order[: best[1]].tolist())


def telling(
    cosines: NDArray[np.float32],
    lengths: Sequence[float],
    weights: Sequence[float],
    together: Sequence[int],
    margin: float,
) -> bool:
    """Whether these, who stand `together`, do one thing beside it that those seldom do who have
    only data in common: the others agree against them, as against `pullers`, however long they are;
    or each is LONGER than all others; or they say the same, SAME being their mean cosine.
    """
    k = len(together)
    order = [*together, *(at for at in range(len(cosines)) if at not in together)]
    ranked, long, weight = _ordered(order, cosines, lengths, weights)
    return (
        bool(ranked[:k, :k].sum() > SAME * k * (k - 1))
        or bool(long[:k].min() >= LONGER * long[k:].max())
        or _agreed_against(ranked, weight, k) > margin
    )


def _ordered(
    order: Sequence[int] | NDArray[np.intp],
    cosines: NDArray[np.float32],
    lengths: Sequence[float],
    weights: Sequence[float],
) -> tuple[Numbers, Numbers, Numbers]:
    """All three in this order, the cosines without anybody's with itself."""
    ranked = cosines[order][:, order].astype(np.float64)
    np.fill_diagonal(ranked, 0.0)
    return ranked, np.asarray(lengths)[order], np.asarray(weights)[order]


def _agreed_against(cosines: Numbers, weights: Numbers, k: int) -> float:
    """Mean of cos(q, r), q and r being any two after the first k, less that of cos(p, q), p being
    of the first k: those after them each by its weight. Without two of these, minus infinity. The
    cosines are without anybody's with itself.
    """
    w = weights[k:]
    pairs = w.sum() ** 2 - w @ w
    if pairs <= TINY:
        return -math.inf
    among = w @ cosines[k:, k:] @ w / pairs
    return float(among - (cosines[:k, k:] @ w).mean() / w.sum())
