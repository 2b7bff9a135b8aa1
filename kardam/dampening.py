"""How much a stale gradient counts: functions from what was measured of it to a weight in (0, 1].

Lambda in the paper. Never in here: whether it counts at all (that is a filter's).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kardam.growth import Evidence, Population, norm
from kardam.messages import Vector, WorkerId
from kardam.state import State, Stateful


class Dampening(Stateful):
    """A weight for each gradient. This one is 1."""

    # Whether it needs the worker's growth, hence a memory of his answers.
    compares = False

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more; who will be called so is another, and has shown nothing."""

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
    """1 while a stale gradient is wrong by no more than a gradient's length; beyond, the square of
    the length over the error:

        Lambda = min(1, (||g|| / (K ||x_t - x_l||))^2)

    With e = K ||x_t - x_l|| the error of staleness, sigma^2 the variance of a mini-batch and s the
    length of the true gradient, ||w g - grad Q(x_t)||^2 is least on average at w = s^2 / (s^2 +
    sigma^2 + e^2), if the error points no particular way. Beside the same for a fresh gradient that
    is N^2 / (N^2 + e^2), N^2 = s^2 + sigma^2 = E ||g||^2. Up to e = N it costs half at most and is
    left to the rate: who is as stale as all are would only learn more slowly. From there on it is
    N^2 / e^2. So N is the length of a gradient with its noise: an error below the noise harms no
    more than the noise. It is the median of all workers' latest.

    K is net of noise. For the changes of two workers, dg = g - g' over dx = x - x',

        <dg_p, dg_q> / <dx_p, dx_q>

    is K^2 on average, since the mini-batches of different workers are independent and what their
    data differ by is subtracted; asked where half of the shorter dx lies within the longer. (The
    square of one worker's own growth has 2 sigma^2 / ||dx||^2 on top, which is most of it.) K_p^2
    is the median over p's last 2f+1 partners, each worker in its turn, and K^2 the median over the
    workers (Siegel's repeated median, 1982): liars own the majority of neither, so it lies between
    what pairs of honest workers show. Until 2f+1 workers have a K_p the median growth stands for K,
    noise and all: more cautious than it need be, and it is known one answer after the first.

    O(d) a gradient, and two vectors a worker besides references to its latest g and x.
    """

    def __init__(self, n: int, f: int) -> None:
        self.n = n
        # So many numbers of different workers have a median that honest ones enclose.
        self.panel = 2 * f + 1
        self.lengths = Population()
        self.growths = Population()
        self.squares = Population()
        self._answers: dict[WorkerId, _Pair] = {}
        self._changes: dict[WorkerId, _Pair] = {}
        self._partner: dict[WorkerId, WorkerId] = {}
        self._shown: dict[WorkerId, dict[WorkerId, float]] = {}

    @property
    def curvature(self) -> float:
        """K; 0 while nothing is known."""
        if len(self.squares) >= self.panel:
            return math.sqrt(max(self.squares.median(), 0.0))
        return self.growths.median() if len(self.growths) >= self.panel else 0.0

    def weigh(self, evidence: Evidence) -> float:
        self._learn(evidence)
        drift = evidence.drift
        if not drift > 0:
            return 1.0
        error, length = self.curvature * drift, self.lengths.median()
        return (length / error) ** 2 if error > length else 1.0

    def _learn(self, evidence: Evidence) -> None:
        worker = evidence.worker
        self.lengths[worker] = evidence.norm
        before = self._answers.get(worker)
        self._answers[worker] = _Pair(evidence.g, evidence.x)
        if before is None:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            change = _Pair(evidence.g - before.g, evidence.x - before.x)
        moved = norm(change.x)
        if not 0 < moved < math.inf:
            return
        self._changes[worker] = change
        self.growths[worker] = norm(change.g) / moved
        partner = self._next_partner(worker)
        if partner is not None and (square := change.square(self._changes[partner])) is not None:
            self._show(worker, partner, square)
            self._show(partner, worker, square)

    def _next_partner(self, worker: WorkerId) -> WorkerId | None:
        """Who comes after the last one, of the others who have shown a change. Nobody can choose
        himself: not by being fast.
        """
        last = self._partner.get(worker, worker)
        order = ((last + step) % self.n for step in range(1, self.n + 1))
        partner = next((other for other in order if other in self._changes and other != worker), -1)
        if partner < 0:
            return None
        self._partner[worker] = partner
        return partner

    def _show(self, worker: WorkerId, partner: WorkerId, square: float) -> None:
        shown = self._shown.setdefault(worker, {})
        shown.pop(partner, None)
        shown[partner] = square
        if len(shown) > self.panel:
            del shown[next(iter(shown))]
        if len(shown) == self.panel:
            self.squares[worker] = sorted(shown.values())[self.panel // 2]

    def forget(self, worker: WorkerId) -> None:
        for population in (self.lengths, self.growths, self.squares):
            population.forget(worker)
        for pairs in (self._answers, self._changes):
            pairs.pop(worker, None)
        self._partner.pop(worker, None)
        self._shown.pop(worker, None)
        for shown in self._shown.values():
            shown.pop(worker, None)

    def state(self) -> State:
        return {
            "lengths": self.lengths.state(),
            "growths": self.growths.state(),
            "squares": self.squares.state(),
            "answers": [[worker, *pair] for worker, pair in self._answers.items()],
            "changes": [[worker, *pair] for worker, pair in self._changes.items()],
            "partner": [list(pair) for pair in self._partner.items()],
            "shown": [
                [worker, [list(pair) for pair in shown.items()]]
                for worker, shown in self._shown.items()
            ],
        }

    def restore(self, state: State) -> None:
        self.lengths.restore(state["lengths"])
        self.growths.restore(state["growths"])
        self.squares.restore(state["squares"])
        self._answers = {worker: _Pair(g, x) for worker, g, x in state["answers"]}
        self._changes = {worker: _Pair(g, x) for worker, g, x in state["changes"]}
        self._partner = {worker: partner for worker, partner in state["partner"]}
        self._shown = {
            worker: {partner: square for partner, square in shown}
            for worker, shown in state["shown"]
        }


class _Pair(NamedTuple):
    """Traces of a gradient and of a model, or of how they changed from one answer to the next."""

    g: Vector
    x: Vector

    def square(self, other: "_Pair") -> float | None:
        """<dg, dg'> / <dx, dx'> of two changes: K^2 and no noise. None where the models' ways have
        less in common than half of the shorter; infinite on overflow.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            shorter = min(float(np.dot(self.x, self.x)), float(np.dot(other.x, other.x)))
            common = float(np.dot(self.x, other.x))
            if not 0.5 * shorter <= common < math.inf:
                return None
            square = float(np.dot(self.g, other.g)) / common
        return square if math.isfinite(square) else math.inf


DAMPENINGS: Mapping[str, Callable[..., Dampening]] = {
    "constant": constant,
    "inverse": inverse,
    "exponential": exponential,
    "curvature": Curvature,
}
