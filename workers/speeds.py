"""How unlike the workers are: a factor for each, drawn once, by which computing takes longer.

Never in here: how long anything takes.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

# One draw for each of n workers: how many times as long as the latency says it takes.
Speeds = Callable[[np.random.Generator, int], list[float]]


def equal() -> Speeds:
    """Everybody the same."""
    return lambda rng, n: [1.0] * n


def uniform(low: float = 0.5, high: float = 2.0) -> Speeds:
    """Each worker's own factor, between low and high."""
    _check(low, high)
    return lambda rng, n: [float(rng.uniform(low, high)) for _ in range(n)]


def lognormal(sigma: float = 1.0) -> Speeds:
    """Each worker's own exp(N(0, sigma^2)): half of them take longer than the latency says."""
    if not 0 <= sigma <= 5:
        raise ValueError(f"expected 0 <= sigma <= 5, got {sigma}")
    return lambda rng, n: [float(rng.lognormal(0.0, sigma)) for _ in range(n)]


def spread(low: float, high: float) -> Speeds:
    """low (high / low)^(k / (n - 1)) for k = 0 ... n - 1, one for each worker, in an order that is
    drawn: the slowest takes exactly high / low times as long as the quickest.
    """
    _check(low, high)
    # Rounding may lift what lies between the ends a little beyond them.
    return lambda rng, n: rng.permutation(np.geomspace(low, high, n).clip(low, high)).tolist()


SPEEDS: Mapping[str, Callable[..., Speeds]] = {
    "equal": equal,
    "uniform": uniform,
    "lognormal": lognormal,
    "spread": spread,
}


def _check(low: float, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise ValueError(f"expected 0 < low <= high, got low={low}, high={high}")
