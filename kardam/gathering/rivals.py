"""Asynchronous methods of other papers, each as its authors define it, so that they can be compared
with ours in one harness. Never in here: a filter, or anything of our own invention.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kardam.aggregators import Rule
from kardam.gathering.gathering import Gathering, RuleOf, like, weighted
from kardam.growth import distance, norm
from kardam.messages import Vector, WorkerId
from kardam.state import State

# Counts or shares of n vectors, (n,).
Weights = NDArray[np.float64]

# As small as a distance counts in Weiszfeld's iteration; theirs has 0, and divides by it.
NU = 1e-6


class Basgd(Gathering):
    """B buffers; a gradient of worker s goes into buffer s mod B, which keeps the running mean of
    what it holds. When none is empty: the rule over the B means, and all are emptied.

    BASGD (Yang and Li, ICLR 2021 submission, section 3): buffers stay with their workers, as there;
    the JMLR version re-assigns those of a buffer that waits for long. The theorem is for rules that
    stay between the extremes of any B - q buffers in each coordinate, with q >= f: the
    coordinate-wise trimmed mean and median.
    """

    def __init__(self, size: int, rule: Rule) -> None:
        self.size = size
        self.rule = rule
        self._means: dict[int, Vector] = {}
        self._counts: dict[int, int] = {}

    def add(self, worker: WorkerId, g: Vector, weight: float) -> Vector | None:
        buffer, term = worker % self.size, weighted(g, weight)
        count = self._counts[buffer] = self._counts.get(buffer, 0) + 1
        mean = self._means.get(buffer)
        self._means[buffer] = term if mean is None else mean + (term - mean) / np.float32(count)
        if len(self._means) < self.size:
            return None
        result = self.rule([self._means[buffer] for buffer in range(self.size)])
        self._means, self._counts = {}, {}
        return like(g, result)

    def state(self) -> State:
        return {
            "buffers": [[at, self._counts[at], mean] for at, mean in self._means.items()],
        }

    def restore(self, state: State) -> None:
        self._means = {at: mean for at, _, mean in state["buffers"]}
        self._counts = {at: count for at, count, _ in state["buffers"]}


class Ctma(Gathering):
    """On each arrival, a robust rule over the latest momentum m_i of every worker that was heard,
    each weighing as much as it sent gradients, s_i.

        m_i <- beta m_i + (1 - beta) g,    s_i <- s_i + 1
        z = the weighted median, by coordinate or geometric, of all m
        the mean, by weight, of those nearest to z until they weigh (1 - share) sum s

    the last of them cut where it would weigh more. Dahan and Levy (NeurIPS 2024): w-CTMA over
    WeightedCWMed or WeightedGM. `share` is lambda, the liars' share of all *updates*, which is
    theirs to raise by flooding. Theirs is u^2-SGD, whose workers compute two gradients a step; here
    it is plain momentum, which they report to do as well, and the server keeps it: n vectors, and
    O(n d log n) an arrival.
    """

    robust = True

    def __init__(
        self, share: float, beta: float, base: Literal["median", "geometric_median"]
    ) -> None:
        self.share, self.beta = share, beta
        self._base = weighted_median if base == "median" else weighted_geometric_median
        self._momenta: dict[WorkerId, Vector] = {}
        self._counts: dict[WorkerId, int] = {}

    def add(self, worker: WorkerId, g: Vector, weight: float) -> Vector | None:
        before, term = self._momenta.get(worker), weighted(g, weight)
        if before is not None:
            term = np.float32(self.beta) * before + np.float32(1 - self.beta) * term
        self._momenta[worker] = term
        self._counts[worker] = self._counts.get(worker, 0) + 1
        owners = sorted(self._momenta)
        stack = np.stack([self._momenta[owner] for owner in owners])
        counts = np.array([self._counts[owner] for owner in owners], np.float64)
        return trimmed_about(self._base(stack, counts), stack, counts, self.share)

    def forget(self, worker: WorkerId) -> None:
        self._momenta.pop(worker, None)
        self._counts.pop(worker, None)

    def state(self) -> State:
        return {"latest": [[who, self._counts[who], m] for who, m in self._momenta.items()]}

    def restore(self, state: State) -> None:
        self._momenta = {who: m for who, _, m in state["latest"]}
        self._counts = {who: count for who, count, _ in state["latest"]}


def weighted_median(stack: NDArray[np.float32], weights: Weights) -> Vector:
    """In each coordinate the first value, from below, up to which more than half of the weight
    lies.
    """
    order = np.argsort(stack, axis=0, kind="stable")
    passed = 2 * np.cumsum(weights[order], axis=0) > weights.sum()
    first = np.take_along_axis(order, passed.argmax(axis=0)[None], axis=0)
    middle: Vector = np.take_along_axis(stack, first, axis=0)[0]
    return middle


def weighted_geometric_median(
    stack: NDArray[np.float32], weights: Weights, iterations: int = 3
) -> Vector:
    """Weiszfeld from 0: z <- sum b_i m_i / sum b_i, with b_i = s_i / max(nu, ||m_i - z||)."""
    z: Vector = np.zeros_like(stack[0])
    for _ in range(iterations):
        apart = np.array([distance(m, z) for m in stack])
        shares = weights / np.maximum(NU, apart)
        if not shares.any():  # so far apart that no square is finite
            return z
        z = _mean(stack, shares)
    return z


def trimmed_about(z: Vector, stack: NDArray[np.float32], weights: Weights, share: float) -> Vector:
    """w-CTMA: the weighted mean of what is nearest to z and weighs (1 - share) of all together."""
    order = np.argsort([distance(m, z) for m in stack], kind="stable")
    ends = np.minimum(np.cumsum(weights[order]), (1 - share) * weights.sum())
    kept = np.empty_like(weights)
    kept[order] = np.diff(ends, prepend=0.0)
    return _mean(stack[kept > 0], kept[kept > 0])


def _mean(stack: NDArray[np.float32], weights: Weights) -> Vector:
    mean: Vector = np.average(stack, axis=0, weights=weights).astype(np.float32)
    return mean


class Throttle(Gathering):
    """A step on each arrival, but of a worker's gradients in one round the first counts 1/n, and
    each later one, clipped to the radius `clip`, 1/q^c: c is how many he sent before. A round ends
    when every worker has delivered.

    The first ones pass a local robust map, v -> a + min(1, radius / ||v - a||) (v - a): centered
    clipping about a, the mean of the last round's first ones (as mapped), itself clipped to the
    ball of radius `clip`; 0 in the first round.

    THROTTLE (Otsuka et al., 2026). So one worker weighs 1/n + 1/(q - 1) a round at most, however
    often he answers; a silent one ends no round, and the weights of all others decay. At the end of
    a round theirs call all workers back to begin anew, where here what is under way counts in the
    round it arrives in: it costs nobody his work.
    """

    robust = True

    def __init__(self, n: int, q: float, clip: float, radius: float) -> None:
        self.n, self.q, self.clip, self.radius = n, q, clip, radius
        self._centre: Vector | None = None
        self._sum: Vector | None = None
        self._counts: dict[WorkerId, int] = {}

    def add(self, worker: WorkerId, g: Vector, weight: float) -> Vector | None:
        count, v = self._counts.get(worker, 0), weighted(g, weight)
        self._counts[worker] = count + 1
        if count > 0:
            return weighted(_clipped(v, self.clip), self.q**-count)
        v = _clipped(v, self.radius, self._centre)
        self._sum = v if self._sum is None else self._sum + v
        if len(self._counts) == self.n:
            self._centre = _clipped(self._sum / np.float32(self.n), self.clip)
            self._sum, self._counts = None, {}
        return weighted(v, 1 / self.n)

    def state(self) -> State:
        return {
            "centre": self._centre,
            "sum": self._sum,
            "counts": [[who, count] for who, count in self._counts.items()],
        }

    def restore(self, state: State) -> None:
        self._centre, self._sum = state["centre"], state["sum"]
        self._counts = {who: count for who, count in state["counts"]}


def _clipped(v: Vector, radius: float, centre: Vector | None = None) -> Vector:
    """v, or what lies on the way to it from the centre (None: 0), `radius` away."""
    apart: Vector = v if centre is None else v - centre
    length = norm(apart)
    if length <= radius:
        return v
    nearer: Vector = apart * np.float32(radius / length)
    return nearer if centre is None else centre + nearer


# --- by their flags ---


def basgd(n: int, f: int, rule: RuleOf, b: int | None = None) -> Gathering:
    """BASGD with b buffers, f < b/2 and b <= n; by default 2f + 1, of which f may be anything."""
    size = 2 * f + 1 if b is None else b
    if not 2 * f < size <= n:
        raise ValueError(f"expected 2f < b <= n, got b={size}, f={f}, n={n}")
    return Basgd(size, rule(size))


def ctma(
    n: int,
    f: int,
    share: float | None = None,
    beta: float = 0.9,
    base: Literal["median", "geometric_median"] = "median",
) -> Gathering:
    """Weighted robustness of Dahan and Levy; by default the liars' share of updates is that of f
    workers who are as quick as all others, f/n.
    """
    of_updates = f / n if share is None else share
    if not 0 <= of_updates < 0.5:
        raise ValueError(f"expected 0 <= share < 1/2, got {of_updates:g}")
    if not 0 <= beta < 1:
        raise ValueError(f"expected 0 <= beta < 1, got {beta}")
    return Ctma(of_updates, beta, base)


def throttle(n: int, f: int, q: float = 10.0, clip: float = 1.0, radius: float = 1.0) -> Gathering:
    """THROTTLE for f < n/2; where f = 0 nothing is clipped."""
    if not n > 2 * f >= 0:
        raise ValueError(f"expected n > 2f, got n={n}, f={f}")
    if not 1 < q < math.inf:
        raise ValueError(f"expected q > 1, got {q}")
    for name, value in (("clip", clip), ("radius", radius)):
        if not value > 0:
            raise ValueError(f"expected {name} > 0, got {value}")
    return Throttle(n, q, *((clip, radius) if f > 0 else (math.inf, math.inf)))
