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
    n = len(rows)
    order = np.argsort(lengths(rows), kind="stable")
    ranked = rows[order]
    gaps = [
        lengths(ranked[offset:] - ranked[:-offset])
        for offset in range(1, min(NEIGHBOURS, n - 1) + 1)
    ]
    nearest = np.full(n, np.inf)
    for offset, gap in enumerate(gaps, 1):
        nearest[offset:] = np.minimum(nearest[offset:], gap)
        nearest[:-offset] = np.minimum(nearest[:-offset], gap)
    radius = echo * median(nearest.tolist())
    twins = np.ones(n)
    for offset, gap in enumerate(gaps, 1):
        close = gap < radius
        twins[offset:] += close
        twins[:-offset] += close
    weights = np.empty(n)
    weights[order] = 1 / twins
    return weights


def weighted_median(values: list[float], weights: list[float]) -> float:
    """The lower median: those who share a voice count as one. NaN of nothing."""
    half, seen = sum(weights) / 2, 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        seen += weight
        if seen >= half - 1e-9:
            return value
    return math.nan
