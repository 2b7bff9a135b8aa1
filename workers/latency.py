"""How long things take, drawn from a generator that is given: seconds of computing or of network,
factors of speed.

Never in here: a clock, or waiting.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

# One draw: seconds.
Latency = Callable[[np.random.Generator], float]

# One draw for each of n workers: how many times as long as the latency says he takes.
Speeds = Callable[[np.random.Generator, int], list[float]]


def constant(seconds: float = 0.0) -> Latency:
    """Always the same."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"expected seconds >= 0, got {seconds}")
    return lambda rng: seconds


def exponential(mean: float) -> Latency:
    """Memoryless, with this mean in seconds: arrivals of independent users."""
    if not 0 <= mean < math.inf:
        raise ValueError(f"expected mean >= 0 seconds, got {mean}")
    return lambda rng: float(rng.exponential(mean))


def lognormal(mean: float, sigma: float = 0.5) -> Latency:
    """exp(N(mu, sigma^2)) with this mean in seconds: what measured compute times of shared machines
    look like.
    """
    if not 0 < mean < math.inf:
        raise ValueError(f"expected mean > 0 seconds, got {mean}")
    if not 0 <= sigma <= 5:
        raise ValueError(f"expected 0 <= sigma <= 5, got {sigma}")
    mu = math.log(mean) - sigma**2 / 2
    return lambda rng: float(rng.lognormal(mu, sigma))


LATENCIES: Mapping[str, Callable[..., Latency]] = {
    "constant": constant,
    "exponential": exponential,
    "lognormal": lognormal,
}


def equal() -> Speeds:
    """Everybody the same."""
    return lambda rng, n: [1.0] * n


def uniform(low: float = 0.5, high: float = 2.0) -> Speeds:
    """Each worker's own factor, between low and high."""
    if not 0 < low <= high < math.inf:
        raise ValueError(f"expected 0 < low <= high, got low={low}, high={high}")
    return lambda rng, n: [float(rng.uniform(low, high)) for _ in range(n)]


SPEEDS: Mapping[str, Callable[..., Speeds]] = {"equal": equal, "uniform": uniform}
