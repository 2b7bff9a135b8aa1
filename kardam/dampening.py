"""How much a stale gradient counts: functions from what was measured of it to a weight in (0, 1].

Lambda in the paper. Never in here: whether it counts at all (that is a filter's).
"""

import math
from collections.abc import Callable, Mapping

from kardam.growth import Evidence, Population
from kardam.messages import WorkerId
from kardam.state import State, Stateful


class Dampening(Stateful):
    """A weight for each gradient. This one is 1."""

    # Whether it needs the worker's growth, hence a memory of his answers.
    compares = False

    def weigh(self, evidence: Evidence) -> float:
        """Lambda in (0, 1], 1 for a fresh gradient. Learns from what it is shown; every gradient is
        shown once.
        """
        return 1.0


class ByStaleness(Dampening):
    """A weight that depends on tau alone."""

    def __init__(self, weight: Callable[[int], float]) -> None:
        self.weight = weight

    def weigh(self, evidence: Evidence) -> float:
        return self.weight(evidence.staleness)


def constant() -> Dampening:
    """1, however stale: plain asynchronous SGD."""
    return ByStaleness(lambda tau: 1.0)


def inverse() -> Dampening:
    """1 / (1 + tau). DynSGD (Jiang et al., SIGMOD 2017)."""
    return ByStaleness(lambda tau: 1 / (1 + tau))


def exponential(alpha: float = 0.2, beta: float = 1.0) -> Dampening:
    """exp(-alpha tau^(1/beta)). Kardam, section 3; alpha = 0.2 as in the authors' example."""
    if not alpha >= 0:
        raise ValueError(f"expected alpha >= 0, got {alpha}")
    if not beta > 0:
        raise ValueError(f"expected beta > 0, got {beta}")
    return ByStaleness(lambda tau: math.exp(-alpha * tau ** (1 / beta)))


class Curvature(Dampening):
    """1 / (1 + K ||x_t - x_l|| / ||g||), with K the worker's own curvature net of noise.

    A stale gradient is wrong by about K ||x_t - x_l||, so flat regions forgive staleness and curved
    ones do not. The raw growth is mostly mini-batch noise, sqrt(2) sigma over the displacement, and
    would cut the rate of everybody; so K^2 is the slope of ||g - g'||^2 on ||x - x'||^2, whose
    intercept 2 sigma^2 takes up the noise: a least-squares fit for each worker over his answers,
    each older one counting `memory` times the next. K is held between the (f+1)-th smallest
    and largest of all workers', so that a liar's is no larger than an honest one's.
    """

    compares = True

    def __init__(self, n: int, f: int, memory: float = 0.9) -> None:
        if not 0 < memory < 1:
            raise ValueError(f"expected 0 < memory < 1, got {memory}")
        self.n, self.f, self.memory = n, f, memory
        self.curvatures = Population()
        self._fits: dict[WorkerId, _Line] = {}

    def weigh(self, evidence: Evidence) -> float:
        if evidence.change is None or not math.isfinite(evidence.change.growth):
            return 1.0
        line = self._fits.setdefault(evidence.worker, _Line(self.memory))
        line.add(evidence.change.displacement**2, evidence.change.difference**2)
        self.curvatures[evidence.worker] = math.sqrt(max(line.slope(), 0.0))
        if len(self.curvatures) < self.n - self.f:
            return 1.0
        low, high = self.curvatures.smallest(self.f + 1), self.curvatures.largest(self.f + 1)
        curvature = min(max(self.curvatures[evidence.worker], low), high)
        wrong = curvature * evidence.drift
        return evidence.norm / (evidence.norm + wrong) if wrong > 0 else 1.0

    def state(self) -> State:
        fits = [[worker, line.state()] for worker, line in self._fits.items()]
        return {"curvatures": self.curvatures.state(), "fits": fits}

    def restore(self, state: State) -> None:
        self.curvatures.restore(state["curvatures"])
        for worker, line in state["fits"]:
            self._fits[worker] = _Line(self.memory)
            self._fits[worker].restore(line)


class _Line:
    """A least-squares line through points of which older ones count less and less."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        # Means and central moments, updated in place: sums of squares would cancel.
        self._weight = self.memory * self._weight + 1
        share = 1 / self._weight
        dx, dy = x - self._x, y - self._y
        self._x += share * dx
        self._y += share * dy
        self._xx += share * (dx * (x - self._x) - self._xx)
        self._xy += share * (dx * (y - self._y) - self._xy)

    def slope(self) -> float:
        """dy/dx, 0 while all points share one x."""
        return self._xy / self._xx if self._xx > 0 else 0.0

    def state(self) -> State:
        moments = [self._weight, self._x, self._y, self._xx, self._xy]
        return {"moments": moments}

    def restore(self, state: State) -> None:
        self._weight, self._x, self._y, self._xx, self._xy = state["moments"]


DAMPENINGS: Mapping[str, Callable[..., Dampening]] = {
    "constant": constant,
    "inverse": inverse,
    "exponential": exponential,
    "curvature": Curvature,
}
