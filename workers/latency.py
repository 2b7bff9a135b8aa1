"""How long one thing takes, computing or the network: seconds, drawn from a generator that is given
or replayed from a file.

Never in here: a clock, or waiting.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

# Seconds without end, for one worker: each opens a stream of its own, with a generator of its own.
Latency = Callable[[np.random.Generator], Iterator[float]]


def constant(seconds: float = 0.0) -> Latency:
    """Always the same."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"expected seconds >= 0, got {seconds}")
    return lambda rng: itertools.repeat(seconds)


def uniform(low: float, high: float) -> Latency:
    """Anything between low and high, in seconds, alike."""
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"expected 0 <= low <= high seconds, got low={low}, high={high}")
    return _each(lambda rng: rng.uniform(low, high))


def exponential(mean: float) -> Latency:
    """Memoryless, with this mean in seconds: arrivals of independent users."""
    if not 0 <= mean < math.inf:
        raise ValueError(f"expected mean >= 0 seconds, got {mean}")
    return _each(lambda rng: rng.exponential(mean))


def lognormal(mean: float, sigma: float = 0.5) -> Latency:
    """exp(N(mu, sigma^2)) with this mean in seconds: what measured compute times of shared machines
    look like.
    """
    if not 0 < mean < math.inf:
        raise ValueError(f"expected mean > 0 seconds, got {mean}")
    if not 0 <= sigma <= 5:
        raise ValueError(f"expected 0 <= sigma <= 5, got {sigma}")
    mu = math.log(mean) - sigma**2 / 2
    return _each(lambda rng: rng.lognormal(mu, sigma))


def pareto(mean: float, alpha: float = 1.5) -> Latency:
    """P(X > x) = (m / x)^alpha for x >= m = mean (alpha - 1) / alpha, in seconds: a heavy tail.

    Most draws lie below the mean and a few far beyond it; up to alpha = 2 the variance is infinite.
    """
    if not 0 < mean < math.inf:
        raise ValueError(f"expected mean > 0 seconds, got {mean}")
    if not 1 < alpha < math.inf:
        raise ValueError(f"expected alpha > 1, without which there is no mean, got {alpha}")
    least = mean * (alpha - 1) / alpha
    return _each(lambda rng: least * (1 + rng.pareto(alpha)))


def trace(path: Path) -> Latency:
    """What was measured elsewhere: seconds in a text file, one number a line; # begins a comment.

    Replayed in order and, at its end, from its beginning; where each worker begins is drawn.
    """
    seconds = _numbers(path)

    def replay(rng: np.random.Generator) -> Iterator[float]:
        return itertools.islice(itertools.cycle(seconds), int(rng.integers(len(seconds))), None)

    return replay


LATENCIES: Mapping[str, Callable[..., Latency]] = {
    "constant": constant,
    "uniform": uniform,
    "exponential": exponential,
    "lognormal": lognormal,
    "pareto": pareto,
    "trace": trace,
}


def _each(draw: Callable[[np.random.Generator], float]) -> Latency:
    """Draws that know nothing of one another."""

    def draws(rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield float(draw(rng))

    return draws


def _numbers(path: Path) -> list[float]:
    """The numbers of a trace. Raises ValueError, naming file and line, for what is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text file, one number a line") from error
    seconds = [
        _seconds(text, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if (text := line.partition("#")[0].strip())
    ]
    if not seconds:
        raise ValueError(f"{path}: expected one number a line, found none")
    return seconds


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where}: expected seconds >= 0, got {text!r}")
    return seconds
