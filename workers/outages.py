"""When a worker is away: it vanishes without a word and comes back. Drawn from a generator that is
given.

Never in here: a clock, waiting, or what an absence means to a connection.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Outages:
    """There for Exp(every) seconds, away for Exp(seconds), and so on; both are means, in seconds.

    In the long run the share of time away is seconds / (every + seconds).
    """

    every: float
    seconds: float

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise ValueError(f"expected every > 0 seconds between outages, got {self.every}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"expected seconds > 0 of being away, got {self.seconds}")


NEVER = Outages(every=math.inf, seconds=1.0)


class Absences:
    """One worker's outages, in the order of time; at second 0 it is there."""

    def __init__(self, outages: Outages, rng: np.random.Generator) -> None:
        self._outages = outages
        self._rng = rng
        self._next = self._rng.exponential(outages.every)

    def stretches(self, now: float, seconds: float) -> Iterator[tuple[float, float]]:
        """So many seconds of work from `now` on, broken by outages: (seconds there, seconds away).

        An outage that was due before `now` begins at once. Calls come in the order of time.
        """
        while self._next < now + seconds:
            there = max(self._next - now, 0.0)
            away = self._rng.exponential(self._outages.seconds)
            yield there, away
            seconds -= there
            now += there + away
            self._next = now + self._rng.exponential(self._outages.every)
        yield seconds, 0.0
