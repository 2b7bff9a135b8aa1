"""Whether a worker's recent work, on average, points where that of the others does.

Never in here: the newest gradient alone, which is mostly noise; its length, which growth and clip
see to; or what a worker says of itself.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kardam.growth import Evidence, distance
from kardam.messages import Refusal, Vector, WorkerId
from kardam.stage import Stage
from kardam.state import State

# Of how many histories the centre is made at once. Of more workers, these take turns.
SAMPLE = 256

# Among how many of those that lie equally far from the centre each looks for its twins.
NEIGHBOURS = 32


class _Average(NamedTuple):
    """sum_i beta^(k-i) (1 - beta) g_i / ||g_i||, over k answers."""

    sum: Vector
    answers: int


# A term of 2^20 is for ever.
STRIKES_MAX = 20


@dataclass(slots=True)
class _Record:
    """How often a worker went too far, less what is forgiven; when the last of either was, and when
    its term is over, in admissions of anybody.
    """

    strikes: int = 0
    since: int = 0
    until: int = 0


class _Centre(NamedTuple):
    """z; the mean of the pulls that moved it there; their total weight; and each worker's pull."""

    z: Vector
    mean: Vector
    total: float
    pulls: dict[WorkerId, Vector]


class Consensus(Stage):
    """Refuse a worker whose history lies too far from the centre of the others, or too near.

    A history is the exponential average of the *directions* of one worker's gradients, over its
    expected noise, which shrinks with its number of answers k:

        h_p = sum_i beta^(k-i) g_i/||g_i|| (1-beta) / (1-beta^k)
        v_p = (1-beta)/(1+beta) (1+beta^k)/(1-beta^k)
        D_p = ||h_p - z_(-p)|| / sqrt(v_p)
        near * median <= D_p <= far * median

    Directions, since late in a run gradients are many small ones that agree, and few large ones
    that do not: their mean is next to nothing, that of their directions is not.

    The centre z moves once per n verdicts (or SAMPLE, if that is less), by one step of centered
    clipping (Karimireddy, He, Jaggi, ICML 2021): the weighted mean of h_q - z, each clipped to
    their median length. z_(-p) is that mean without p's part, so that nobody holds the centre by
    himself.

    *Terms.* Whoever is found too far is refused for the next `term` 2^s rounds, whatever it says, s
    being its strikes before; a strike is forgiven for `clean` rounds without another. A round is n
    admissions, of anybody, so that no flood makes it shorter. Without this a liar lives at the
    edge: while it is refused, honest work undoes what it did, its history comes back in, and the
    model rests where it is just admitted. No more than f serve at once, those with the most strikes
    first: whatever honest histories look like, n - f work on.

    *Voices.* A small multiple of a mean that colluders agree on lies nearer to any centre than an
    honest history, which is mostly noise, and three of them own the geometric median of ten. But
    independent noise keeps honest histories apart. Those that are closer together than `echo` times
    the median distance to the nearest neighbour share one voice: in the centre, in the median of D,
    and in admissions, where of w answers one is used (`echo`).

    *Listening.* Who passes here, but is not admitted for another reason, is left out of the centre
    and of the median until it is; unless that left fewer than n - f.

    What it can not see: lies smaller than how honest histories differ, which shift what is applied
    by less than that; one worker's true oddity, which it refuses; and more than f liars. Gradients
    of few directions differ much by chance: where nobody lies, it admits all of 60 independent
    ones, 0.9 of ten, and 0.65 of five.

    Costs O(d) a verdict, and one pass over min(n, SAMPLE) histories per as many verdicts; d numbers
    a worker, where d is what the memory keeps of a gradient.
    """

    def __init__(
        self,
        n: int,
        f: int,
        beta: float = 0.9,
        far: float = 1.65,
        near: float = 0.55,
        echo: float = 0.5,
        term: int = 10,
        clean: int = 100,
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"expected 0 <= beta < 1, got {beta}")
        if not 0 <= near < 1 < far:
            raise ValueError(f"expected 0 <= near < 1 < far, got near={near}, far={far}")
        if not 0 <= echo < 1:
            raise ValueError(f"expected 0 <= echo < 1, got {echo}")
        if not (term >= 0 and clean >= 1):
            raise ValueError(f"expected term >= 0 and clean >= 1, got term={term}, clean={clean}")
        self.n, self.f = n, f
        self.beta, self.far, self.near, self.echo = beta, far, near, echo
        self.term, self.clean = term, clean
        # The median of all D, and what it was taken from, as of the last move of the centre.
        self.median = math.nan
        self._averages: dict[WorkerId, _Average] = {}
        self._centre: _Centre | None = None
        # Verdicts since the last move, and how many workers' turns there were.
        self._since = 0
        self._turns = 0
        self._records: dict[WorkerId, _Record] = defaultdict(_Record)
        self._serving: set[WorkerId] = set()
        self._admissions = 0
        # Whose last answer passed here, not admitted so far; and who was found so an answer later.
        self._passed: set[WorkerId] = set()
        self._elsewhere: set[WorkerId] = set()
        # Whose history is remembered, and does not count yet.
        self._new: set[WorkerId] = set()
        # One over how many share a worker's voice; and what is left over until one may be used.
        self._weights: dict[WorkerId, float] = {}
        self._credits: dict[WorkerId, float] = {}

    @property
    def ready(self) -> bool:
        return self._centre is not None

    def judge(self, evidence: Evidence) -> Refusal | None:
        worker = evidence.worker
        if not evidence.norm < math.inf:
            return Refusal("unmeasured")
        self._listen(worker)
        self._remember(evidence)
        if evidence.counts:
            self._new.discard(worker)
            self._turn()
        else:
            self._new.add(worker)
        if self._centre is None:
            return Refusal("unmeasured")
        value = distance(self._history(worker), self._centre_without(worker, self._centre))
        value /= self._noise(worker)
        low, high = self.near * self.median, self.far * self.median
        if not evidence.counts:
            # A newcomer takes nobody's place among those who serve.
            return None if low <= value <= high else Refusal("consensus", value, low, high)
        if self._serves(worker, too_far=value > high) or not low <= value <= high:
            return Refusal("consensus", value, low, high)
        refusal = self._share(worker)
        if refusal is None:
            self._passed.add(worker)
        return refusal

    def admit(self, evidence: Evidence) -> None:
        self._admissions += 1
        self._passed.discard(evidence.worker)
        self._elsewhere.discard(evidence.worker)

    def forget(self, worker: WorkerId) -> None:
        for those in (self._serving, self._passed, self._elsewhere, self._new):
            those.discard(worker)
        for numbers in (self._weights, self._credits):
            numbers.pop(worker, None)
        self._averages.pop(worker, None)
        self._records.pop(worker, None)
        if self._centre is not None:
            # What it pulled the centre to is undone by the next moves, as all that was.
            self._centre.pulls.pop(worker, None)

    def _listen(self, worker: WorkerId) -> None:
        """What became of this worker's last answer, if it passed here."""
        if worker in self._passed:
            self._passed.remove(worker)
            self._elsewhere.add(worker)

    # --- histories ---

    def _remember(self, evidence: Evidence) -> None:
        weight = (1 - self.beta) / evidence.norm if evidence.norm > 0 else 0.0
        # float64 would change nothing but the memory it takes.
        new = np.float32(weight) * evidence.g
        before = self._averages.get(evidence.worker)
        if before is None:
            self._averages[evidence.worker] = _Average(new, 1)
        else:
            new += np.float32(self.beta) * before.sum
            self._averages[evidence.worker] = _Average(new, before.answers + 1)

    def _history(self, worker: WorkerId) -> Vector:
        average = self._averages[worker]
        history: Vector = average.sum / np.float32(1 - self.beta**average.answers)
        return history

    def _noise(self, worker: WorkerId) -> float:
        """By how much averaging has shrunk the noise of one direction."""
        beta, faded = self.beta, self.beta ** self._averages[worker].answers
        return math.sqrt((1 - beta) / (1 + beta) * (1 + faded) / (1 - faded))

    # --- the centre ---

    def _turn(self) -> None:
        """One more verdict; the centre moves once in so many."""
        self._since += 1
        known = len(self._averages) - len(self._new)
        if self._since >= min(self.n, SAMPLE) and known >= self.n - self.f:
            self._since = 0
            self._move()

    def _move(self) -> None:
        workers = self._sample()
        histories = np.stack([self._history(worker) for worker in workers])
        z = self._centre.z if self._centre is not None else np.median(histories, axis=0)
        pulls = histories - z
        lengths = np.linalg.norm(pulls, axis=1)
        noise = [self._noise(worker) for worker in workers]
        weights = _voices((pulls / np.array(noise)[:, None]).astype(np.float32), self.echo)
        radius = float(np.median(lengths))
        shrink = np.minimum(1.0, radius / np.maximum(lengths, np.finfo(np.float32).tiny))
        pulls *= shrink[:, None].astype(np.float32)
        mean = np.average(pulls, axis=0, weights=weights).astype(np.float32)
        self._centre = _Centre(
            (z + mean).astype(np.float32),
            mean,
            float(weights.sum()),
            dict(zip(workers, pulls, strict=True)),
        )
        self._weights.update(zip(workers, weights.tolist(), strict=True))
        values = [
            distance(history, self._centre_without(worker, self._centre)) / spread
            for worker, history, spread in zip(workers, histories, noise, strict=True)
        ]
        voiced = list(zip(values, weights.tolist(), strict=True))
        low = self.near * _weighted_median(voiced)
        # Again without those that are too near: they would draw the bounds in around themselves.
        self.median = _weighted_median([one for one in voiced if one[0] >= low])

    def _sample(self) -> list[WorkerId]:
        """The next SAMPLE of those who have answered, each as often as any other. Neighbours, who
        may be one liar's, come in different turns.
        """
        counted = self._averages.keys() - self._new
        workers = sorted(counted - self._elsewhere)
        if len(workers) < self.n - self.f:
            workers = sorted(counted)
        if len(workers) <= SAMPLE:
            return workers
        strides = -(-len(workers) // SAMPLE)
        self._turns += 1
        return workers[self._turns % strides :: strides]

    def _centre_without(self, worker: WorkerId, centre: _Centre) -> Vector:
        pull, weight = centre.pulls.get(worker), self._weights.get(worker, 1.0)
        if pull is None or not centre.total > weight:
            return centre.z
        rest = np.float32(weight / (centre.total - weight))
        without: Vector = centre.z + rest * (centre.mean - pull)
        return without

    # --- terms ---

    def _serves(self, worker: WorkerId, *, too_far: bool) -> bool:
        """Whether this worker is refused for what it did before. A term that ends while the worker
        is too far still goes on until it is not, and costs it no further strike.
        """
        record, now = self._records[worker], self._admissions
        if worker in self._serving:
            if too_far or now < record.until:
                return True
            self._serving.remove(worker)
            record.since = now
        if too_far:
            record.strikes = min(record.strikes + 1, STRIKES_MAX)
            record.since = now
            if self._has_place_for(record):
                record.until = now + self.n * self.term * 2 ** (record.strikes - 1)
                self._serving.add(worker)
        elif record.strikes > 0 and now - record.since >= self.n * self.clean:
            record.strikes -= 1
            record.since = now
        return False

    def _has_place_for(self, record: _Record) -> bool:
        """Whether it may serve: f places, and who has fewer strikes makes room."""
        if self.term == 0:
            return False
        if len(self._serving) < self.f:
            return True
        freed = min(self._serving, key=lambda worker: (self._records[worker].strikes, worker))
        if self._records[freed].strikes >= record.strikes:
            return False
        self._serving.remove(freed)
        return True

    # --- voices ---

    def _share(self, worker: WorkerId) -> Refusal | None:
        weight = self._weights.get(worker, 1.0)
        if weight == 1.0:
            return None
        credit = self._credits.get(worker, 0.0) + weight
        used = credit >= 1 - 1e-9
        self._credits[worker] = credit - used
        return None if used else Refusal("echo", weight, 1.0, 1.0)

    # --- a life after this process ---

    def state(self) -> State:
        centre = None
        if self._centre is not None:
            pulls = [[worker, pull] for worker, pull in self._centre.pulls.items()]
            centre = [self._centre.z, self._centre.mean, self._centre.total, pulls]
        return {
            "averages": [[worker, *its] for worker, its in self._averages.items()],
            "records": [
                [worker, its.strikes, its.since, its.until] for worker, its in self._records.items()
            ],
            "serving": sorted(self._serving),
            "admissions": self._admissions,
            "passed": sorted(self._passed),
            "elsewhere": sorted(self._elsewhere),
            "new": sorted(self._new),
            "weights": [[worker, value] for worker, value in self._weights.items()],
            "credits": [[worker, value] for worker, value in self._credits.items()],
            "centre": centre,
            "median": self.median,
            "since": self._since,
            "turns": self._turns,
        }

    def restore(self, state: State) -> None:
        self._averages = {worker: _Average(*its) for worker, *its in state["averages"]}
        self._records.update((worker, _Record(*its)) for worker, *its in state["records"])
        self._passed, self._elsewhere = set(state["passed"]), set(state["elsewhere"])
        self._new = set(state.get("new", ()))  # before there were keys, nobody was
        self._serving, self._admissions = set(state["serving"]), state["admissions"]
        self._weights = {worker: value for worker, value in state["weights"]}
        self._credits = {worker: value for worker, value in state["credits"]}
        self.median, self._since, self._turns = state["median"], state["since"], state["turns"]
        if (centre := state["centre"]) is not None:
            z, mean, total, pulls = centre
            self._centre = _Centre(z, mean, total, {worker: pull for worker, pull in pulls})


def _weighted_median(voiced: list[tuple[float, float]]) -> float:
    """The lower median of (value, weight): those who share a voice count as one."""
    half, seen = sum(weight for _, weight in voiced) / 2, 0.0
    for value, weight in sorted(voiced):
        seen += weight
        if seen >= half - 1e-9:
            return value
    return math.nan


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
