"""Whether a worker's recent work, on average, points where that of the others does.

Never in here: the newest gradient alone, which is mostly noise, or what a worker says of itself.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kardam.growth import Evidence, Population, distance
from kardam.messages import Refusal, Vector, WorkerId
from kardam.stage import Stage
from kardam.state import State

# Among how many of those that lie equally far from the centre each looks for its twins.
NEIGHBOURS = 32


class _Average(NamedTuple):
    """sum_k beta^(age of k) (1 - beta) g_k, over so many answers."""

    sum: Vector
    answers: int


class _Voice(NamedTuple):
    """What one worker gave to the centre: how far it pulled, shape (k,), and with which weight."""

    pull: Vector
    weight: float


class Consensus(Stage):
    """Refuse a worker whose history lies too far from the centre of the others, or too near.

    A history is the exponential average of one worker's gradients, each clipped to the median of
    all workers' latest norms, over its expected noise, which shrinks with its number of answers k:

        h_p = sum_i beta^(k-i) g_i (1-beta) / (1-beta^k)
        v_p = (1-beta)/(1+beta) (1+beta^k)/(1-beta^k)
        D_p = ||h_p - z_(-p)|| / sqrt(v_p)
        near * median <= D_p <= far * median

    The centre z moves once per n verdicts, by one step of centered clipping (Karimireddy, He,
    Jaggi, ICML 2021): the weighted mean of h_q - z, each clipped to their median length. z_(-p) is
    that mean without p's part, so that nobody holds the centre by himself.

    *Voices.* A small multiple of a mean that colluders agree on lies nearer to any centre than an
    honest history, which is mostly noise, and three of them own the geometric median of ten. But
    independent noise keeps honest histories apart. Those that are closer together than `echo` times
    the median distance to the nearest neighbour share one voice: in the centre, in the median of D,
    and in admissions, where of w answers one is used (`echo`).

    What it can not see: lies smaller than the noise of a history, which shift what is applied by
    less than that; one worker's true oddity, which it refuses; and more than f liars. Costs
    O(d + n log n) a verdict, and one pass of O(n d) per n verdicts; d numbers a worker.

    It is part of no preset yet: a straggler may be refused for a while with nobody lying.
    """

    def __init__(
        self,
        n: int,
        f: int,
        beta: float = 0.9,
        far: float = 1.5,
        near: float = 0.5,
        echo: float = 0.5,
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"expected 0 <= beta < 1, got {beta}")
        if not 0 <= near < 1 < far:
            raise ValueError(f"expected 0 <= near < 1 < far, got near={near}, far={far}")
        if not 0 <= echo < 1:
            raise ValueError(f"expected 0 <= echo < 1, got {echo}")
        self.n, self.f = n, f
        self.beta, self.far, self.near, self.echo = beta, far, near, echo
        self.distances: dict[WorkerId, float] = {}
        self._norms = Population()
        self._averages: dict[WorkerId, _Average] = {}
        self._voices: dict[WorkerId, _Voice] = {}
        self._centre: Vector | None = None
        self._since = 0
        # Of an answer that shares its voice: what is left over until one may be used.
        self._credits: dict[WorkerId, float] = {}

    @property
    def ready(self) -> bool:
        return len(self.distances) >= self.n - self.f

    def judge(self, evidence: Evidence) -> Refusal | None:
        worker = evidence.worker
        self._norms[worker] = evidence.norm
        if not evidence.norm < math.inf:
            return Refusal("unmeasured")
        self._remember(evidence)
        self._since += 1
        if self._since >= self.n and len(self._averages) >= self.n - self.f:
            self._since = 0
            self._move()
        if self._centre is None:
            return Refusal("unmeasured")
        value = distance(self._history(worker), self._centre_without(worker))
        value /= self._noise(worker)
        self.distances[worker] = value
        if not self.ready:
            return Refusal("unmeasured")
        middle = self._median()
        low, high = self.near * middle, self.far * middle
        if not low <= value <= high:
            return Refusal("consensus", value, low, high)
        return self._share(worker)

    # --- histories ---

    def _remember(self, evidence: Evidence) -> None:
        bound = self._norms.median()
        weight = 1 - self.beta
        if evidence.norm > bound:
            weight *= bound / evidence.norm
        # float64 would change nothing but the memory it takes.
        new = np.float32(weight) * evidence.g
        before = self._averages.get(evidence.worker)
        if before is None:
            self._averages[evidence.worker] = _Average(new, 1)
        else:
            summed = np.float32(self.beta) * before.sum + new
            self._averages[evidence.worker] = _Average(summed, before.answers + 1)

    def _history(self, worker: WorkerId) -> Vector:
        average = self._averages[worker]
        history: Vector = average.sum / np.float32(1 - self.beta**average.answers)
        return history

    def _noise(self, worker: WorkerId) -> float:
        """By how much averaging has shrunk the noise of one gradient."""
        beta, faded = self.beta, self.beta ** self._averages[worker].answers
        return math.sqrt((1 - beta) / (1 + beta) * (1 + faded) / (1 - faded))

    # --- the centre ---

    def _move(self) -> None:
        workers = list(self._averages)
        histories = np.stack([self._history(worker) for worker in workers])
        start = self._centre if self._centre is not None else np.median(histories, axis=0)
        pulls = histories - start
        lengths = np.linalg.norm(pulls, axis=1)
        noise = np.array([self._noise(worker) for worker in workers])
        weights = _voices((pulls / noise[:, None]).astype(np.float32), self.echo)
        radius = float(np.median(lengths))
        shrink = np.minimum(1.0, radius / np.maximum(lengths, np.finfo(np.float32).tiny))
        pulls *= shrink[:, None].astype(np.float32)
        self._voices = {
            worker: _Voice(pull, float(weight))
            for worker, pull, weight in zip(workers, pulls, weights, strict=True)
        }
        mean = np.average(pulls, axis=0, weights=weights)
        self._centre = (start + mean).astype(np.float32)
        self._total = float(weights.sum())
        self._mean = mean.astype(np.float32)

    def _centre_without(self, worker: WorkerId) -> Vector:
        assert self._centre is not None
        voice = self._voices.get(worker)
        if voice is None or not self._total > voice.weight:
            return self._centre
        rest = np.float32(voice.weight / (self._total - voice.weight))
        without: Vector = self._centre + rest * (self._mean - voice.pull)
        return without

    # --- voices ---

    def _median(self) -> float:
        """The lower median of all distances, where those who share a voice count as one."""
        ranked = sorted(
            (value, self._voices[worker].weight if worker in self._voices else 1.0)
            for worker, value in self.distances.items()
        )
        half, seen = sum(weight for _, weight in ranked) / 2, 0.0
        for value, weight in ranked:
            seen += weight
            if seen >= half - 1e-9:
                return value
        return math.nan

    def _share(self, worker: WorkerId) -> Refusal | None:
        voice = self._voices.get(worker)
        if voice is None or voice.weight == 1.0:
            return None
        credit = self._credits.get(worker, 0.0) + voice.weight
        used = credit >= 1 - 1e-9
        self._credits[worker] = credit - used
        return None if used else Refusal("echo", voice.weight, 1.0, 1.0)

    # --- a life after this process ---

    def state(self) -> State:
        centre = None
        if self._centre is not None:
            centre = {"z": self._centre, "total": self._total, "mean": self._mean}
        return {
            "norms": self._norms.state(),
            "averages": [[worker, *its] for worker, its in self._averages.items()],
            "voices": [[worker, *its] for worker, its in self._voices.items()],
            "distances": [[worker, value] for worker, value in self.distances.items()],
            "credits": [[worker, value] for worker, value in self._credits.items()],
            "centre": centre,
            "since": self._since,
        }

    def restore(self, state: State) -> None:
        self._norms.restore(state["norms"])
        self._averages = {worker: _Average(*its) for worker, *its in state["averages"]}
        self._voices = {worker: _Voice(*its) for worker, *its in state["voices"]}
        self.distances = {worker: value for worker, value in state["distances"]}
        self._credits = {worker: value for worker, value in state["credits"]}
        self._since = state["since"]
        if (centre := state["centre"]) is not None:
            self._centre, self._total = centre["z"], centre["total"]
            self._mean = centre["mean"]


def _voices(pulls: NDArray[np.float32], echo: float) -> NDArray[np.float64]:
    """The weight of each row: one over the number of rows that coincide with it, itself included.

    Two coincide where they lie within `echo` times the median distance to the nearest neighbour,
    each looking at those NEIGHBOURS before and after it in the order of length: what is at one
    place is at one distance.
    """
    n = len(pulls)
    order = np.argsort(np.linalg.norm(pulls, axis=1), kind="stable")
    ranked = pulls[order]
    gaps = [
        np.linalg.norm(ranked[offset:] - ranked[:-offset], axis=1)
        for offset in range(1, min(NEIGHBOURS, n - 1) + 1)
    ]
    nearest = np.full(n, np.inf)
    for offset, gap in enumerate(gaps, 1):
        nearest[offset:] = np.minimum(nearest[offset:], gap)
        nearest[:-offset] = np.minimum(nearest[:-offset], gap)
    radius = echo * float(np.median(nearest))
    twins = np.ones(n)
    for offset, gap in enumerate(gaps, 1):
        close = gap < radius
        twins[offset:] += close
        twins[:-offset] += close
    weights = np.empty(n)
    weights[order] = 1 / twins
    return weights
