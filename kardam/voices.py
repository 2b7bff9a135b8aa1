"""How many speak, where some say the same: weights of rows, and medians by weight.

Never in here: who says it, or what is made of a weight.
"""

import math
from statistics import median

import numpy as np
from numpy.typing import NDArray

# Among how many of those that are equally long each row looks for its twins.
NEIGHBOURS = 32


def lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row, in one pass: a third of the time of numpy's norm, which makes arrays."""
    squares: NDArray[np.float32] = np.vecdot(rows, rows)
    return np.sqrt(squares)


def voices(rows: NDArray[np.float32], echo: float) -> NDArray[np.float64]:
    """The weight of each row: one over the number of rows that coincide with it, itself included.

    Two coincide where they lie within `echo` times the median distance to the nearest neighbour,
    each looking at those NEIGHBOURS before and after it in the order of length: what is at one
    place is at one distance.
    """
    # Of so few, everybody is within reach of everybody, in whichever order.
    apart = _all_apart(rows) if len(rows) <= NEIGHBOURS + 1 else _neighbours_apart(rows)
    # By the ufuncs' own methods: those of arrays take twice the time of a few numbers.
    radius = echo * median(np.minimum.reduce(apart).tolist())
    weights: NDArray[np.float64] = 1 / (1 + np.add.reduce(apart < radius))
    return weights


def _all_apart(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """In column i, how far row i is from each other; infinitely from itself."""
    n = len(rows)
    squares = np.full((n, n), np.inf, np.float32)
    # Row by row: differences of all pairs at once would be n^2 d numbers.
    for i in range(n - 1):
        gaps = rows[i + 1 :] - rows[i]
        squares[i, i + 1 :] = squares[i + 1 :, i] = np.vecdot(gaps, gaps)
    return np.sqrt(squares)


def _neighbours_apart(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """In column i, how far row i is from each of its neighbours; infinitely from who is not there.
    Requires more rows than NEIGHBOURS.
    """
    order = np.argsort(lengths(rows), kind="stable")
    ranked = rows[order]
    apart = np.full((2 * NEIGHBOURS, len(rows)), np.inf, np.float32)
    for offset in range(1, NEIGHBOURS + 1):
        gaps = lengths(ranked[offset:] - ranked[:-offset])
        apart[offset - 1, offset:] = apart[-offset, :-offset] = gaps
    by_row = np.empty_like(apart)
    by_row[:, order] = apart
    return by_row


def weighted_median(values: list[float], weights: list[float]) -> float:
    """The lower median: those who share a voice count as one. NaN of nothing."""
    half, seen = sum(weights) / 2, 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        seen += weight
        if seen >= half - 1e-9:
            return value
    return math.nan
