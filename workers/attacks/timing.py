"""Lies in time: when an answer comes, when a model is pulled, and from when until when it lies.

Never in here: what is answered, or waiting itself.
"""

import math
from typing import NamedTuple

from kardam.growth import distance
from kardam.messages import Vector
from workers.attacks.attack import Attack, Knows


class Late(Attack):
    """Honest for its first `after` answers: whoever trusts a good beginning is betrayed."""

    def __init__(self, after: int = 100) -> None:
        self.after = _count(after)

    def lies(self, answers: int) -> bool:
        return answers >= self.after


class Stops(Attack):
    """Lies in its first `after` answers, and is honest from then on."""

    def __init__(self, after: int = 100) -> None:
        self.after = _count(after)

    def lies(self, answers: int) -> bool:
        return answers < self.after


def _count(after: int) -> int:
    if not after >= 0:
        raise ValueError(f"expected after >= 0 answers, got {after}")
    return after


class Flood(Attack):
    """rho times the honest rate: computing takes 1/rho of the time. Otsuka et al. 2026 (THROTTLE)
    use rho = 1, 3, 10, 30.

    On sockets the machine itself is the limit, and the measured rate what counts.
    """

    def __init__(self, rho: float = 10.0) -> None:
        if not 0 < rho < math.inf:
            raise ValueError(f"expected rho > 0, got {rho}")
        self.rho = rho

    def takes(self, now: float, seconds: float) -> float:
        return seconds / self.rho


class Burst(Attack):
    """Nothing, and then `answers` answers at once, at whole multiples of `seconds` on the clock of
    the machine, where all liars come together.

    The second answer of a burst, and those after it, take no time: the liar had enough before.
    """

    def __init__(self, seconds: float = 5.0, answers: int = 5) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"expected seconds > 0, got {seconds}")
        if not answers >= 1:
            raise ValueError(f"expected answers >= 1, got {answers}")
        self.seconds, self.answers = seconds, answers
        self._left = 0

    def takes(self, now: float, seconds: float) -> float:
        if not seconds < math.inf:
            return seconds
        if self._left > 0:
            self._left -= 1
            return 0.0
        self._left = self.answers - 1
        return seconds + (self.seconds - (now + seconds) % self.seconds)


class Silent(Attack):
    """Takes a model, is there, and never answers: who waits for all of n waits for ever."""

    def takes(self, now: float, seconds: float) -> float:
        return math.inf


class _Answer(NamedTuple):
    now: float
    x: Vector
    g: Vector
    sent: Vector


class Timed(Attack):
    """Waits before it pulls, until its lie grows no more than its honest gradient would.

    What the server will measure of a lie v is ||v - v'|| / ||x - x'||^e, and the liar chooses the
    displacement: the later it pulls, the farther the model has gone. Every other model it pulls at
    once, to see what growth K it would show if it were honest; before the others it waits

        w <- w * min(2, max(1/2, K_v / K)),    at most `most` times as long as an honest answer

    so that K_v, measured over the wait, comes to lie where K is: in the middle of the honest ones.
    It must know the exponent e of the filter (1 in the paper, 1/2 in `middle`), and of its own all
    that it saw. A lie that grows too little gains nothing by it.
    """

    knows = Knows.OWN

    def __init__(self, exponent: float = 1.0, most: float = 100.0) -> None:
        if not 0 < exponent <= 1:
            raise ValueError(f"expected 0 < exponent <= 1, got {exponent}")
        if not 0 < most < math.inf:
            raise ValueError(f"expected most > 0, got {most}")
        self.exponent, self.most = exponent, most
        self._before: _Answer | None = None
        self._waited = False
        self._honest = math.nan
        self._pace = 0.0
        self._wait = math.nan

    def rest(self, now: float, x: Vector, g: Vector, sent: Vector) -> float:
        answer, before = _Answer(now, x, g, sent), self._before
        self._before = answer
        if before is not None and (moved := distance(x, before.x)) > 0:
            self._learn(answer, before, moved**self.exponent)
        # NaN until both growths were seen.
        self._waited = not self._waited and self._wait >= 0
        return self._wait if self._waited else 0.0

    def _learn(self, answer: _Answer, before: _Answer, scale: float) -> None:
        if not self._waited:
            self._honest = distance(answer.g, before.g) / scale
            self._pace = answer.now - before.now
            if math.isnan(self._wait):
                self._wait = self._pace
            return
        if self._honest > 0:
            ratio = distance(answer.sent, before.sent) / scale / self._honest
            self._wait *= min(2.0, max(0.5, ratio))
            self._wait = min(self._wait, self.most * self._pace)
