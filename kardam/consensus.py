"""Whether a worker's recent work, on average, points where that of the others does.

Never in here: the newest gradient alone, which is mostly noise; or what a worker says of itself.
"""

import math
from collections import defaultdict, deque
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kardam.blocs import angles, bloc, cliques, pullers, telling
from kardam.centre import ROUNDING, expected, look
from kardam.fingerprint import bytes_of, check
from kardam.growth import Evidence, distance
from kardam.histories import SHORT, Histories
from kardam.messages import Refusal, Vector, WorkerId
from kardam.stage import Stage
from kardam.state import State
from kardam.terms import Terms

# Of how many histories the centre is made at once. Of more workers, these take turns.
SAMPLE = 256

# Once in how many verdicts it moves at most, however few workers there are: of four it would be
# half of what a verdict costs.
SELDOM = 10

# How many standard deviations more liars than f of n there are of a turn, at most.
DEVIATIONS = 3.0


class _Centre(NamedTuple):
    """z; z_(-p) of each worker p that had a part in it; and what else was seen of the crowd when it
    moved last (see centre).
    """

    z: Vector
    without: dict[WorkerId, Vector]
    own: float  # omega^2
    median: float  # of D_p; ROUNDING at least


class Consensus(Stage):
    """Refuse, for a term, a worker whose history lies too far from the centre of the others; and
    any that lies too near.

    A history h_p is the average *direction* of one worker's latest gradients (see histories), over
    what it would be expected to differ by: its noise v_p, and what honest workers have of their own
    in their data, omega^2, the median of what their squared distances are beyond noise. What lies
    where it should, and is not used, is taken out of it again: a liar who knows why it is not could
    send honest work whenever his lie would not be used, and be known by that.

        D_p = ||h_p - z_(-p)|| / sqrt(omega^2 + (1 - omega^2) v_p)
        too near    D_p < near median
        too far     D_p > far median,    or p is of a bloc
        guilty      D_p > out median,    or `need` of the latest `span` answers were too far;
                    of whom is convicted, what another rule refuses for what it says is too far

    Directions, since late in a run gradients are many small ones that agree, and few large ones
    that do not: their mean is next to nothing, that of their directions is not. So that lies at
    full length are not paid for with honest directions that weigh nothing, what is used of a worker
    is no longer than `longer` times what two thirds of its latest answers are, or more.

    Whoever is guilty serves a *term*, and is on parole after it (see terms). A worker that is too
    far now and then is not refused for that: a refusal without a term leaves a liar at the edge,
    where the model rests when it is just admitted; and an honest worker's data, once refused, is
    fit less, so that it lies farther out still. `out` is refused even if f others serve.

    The centre z moves once per n verdicts (or SAMPLE, if that is less; or SELDOM, if that is more),
    by one step of centered clipping; z_(-p) is it without p's part (see centre).

    *Blocs.* A model that is pushed by some and pulled by all others rests between them, where each
    is no farther from the centre than honest workers are who have little in common. But those who
    push stand together, at one end of the axis along which histories differ most (see blocs): f/2
    to f of them, since fewer do little, and more do not lie; two at least, for whoever is alone may
    be honest, with data that nobody else has; and only if all others agree against them, or their
    gradients are the longest, or they say the same, since two honest workers may stand together by
    their data. Or their gradients are the longest, since they are fewer, and all others agree
    against them, however unlike each one's data are. Or else they point the same way, where nobody
    else does: three at least, since two honest workers may well have like data.

    *Places.* No more than f serve at once, and whoever another rule refuses for what it says takes
    one: f are all that lie, so who is shut out for them is honest. But nobody takes his own, or f
    liars could hide behind what they have refused. Who is refused for how often he comes takes
    none: he may be honest, and fast; nor who changes too little, and may have large batches.

    *Voices.* A small multiple of a mean that colluders agree on lies nearer to any centre than an
    honest history, which is mostly noise, and three of them own the geometric median of ten. But
    independent noise keeps honest histories apart. Those that are closer together than `echo` times
    the median distance to the nearest neighbour share one voice: in the centre, in the medians of
    D_p and of omega^2, and in admissions, where of w answers one is used (`echo`).

    *Refused elsewhere.* Who passes here, but is refused by another rule for what it says, is left
    out of the centre and of the medians until it is admitted; unless that left fewer than n - f. It
    may be of a bloc all the same.

    What it can not see: lies smaller than how honest histories differ, which shift what is applied
    by less than that; that f/2 or more honest workers who stand together have data of their own,
    and do not lie, where the others agree against them; nor does who stands where a liar has joined
    him, or has the longest gradients while liars who do not serve yet agree against him; and more
    than f liars.

    Costs O(d) a verdict, and O(f) of who is guilty and finds no place; per m = min(n, SAMPLE)
    verdicts a pass over m histories and, for blocs, O(m^2 d + m^3); and 2 d numbers a worker, h_p
    and z_(-p), where d is what the memory keeps of a gradient, and some fifty more.
    """

    def __init__(
        self,
        n: int,
        f: int,
        beta: float = 0.9,
        far: float = 1.8,
        out: float = 2.3,
        near: float = 0.55,
        apart: float = 1.2,
        alike: float = 0.4,
        against: float = 0.35,
        echo: float = 0.5,
        need: int = 8,
        span: int = 25,
        term: int = 10,
        clean: int = 100,
        longer: float = 4.0,
    ) -> None:
        if not 0 <= near < 1 < far <= out:
            raise ValueError(
                f"expected 0 <= near < 1 < far <= out, got near={near}, far={far}, out={out}"
            )
        if not apart > 0:
            raise ValueError(f"expected apart > 0, got {apart}")
        if not alike > 0:
            raise ValueError(f"expected alike > 0, got {alike}")
        if not against > 0:
            raise ValueError(f"expected against > 0, got {against}")
        if not 0 <= echo < 1:
            raise ValueError(f"expected 0 <= echo < 1, got {echo}")
        if not 1 <= need <= span:
            raise ValueError(f"expected 1 <= need <= span, got need={need}, span={span}")
        if not longer >= 1:
            raise ValueError(f"expected longer >= 1, got {longer}")
        self.n, self.f = n, f
        self.far, self.out, self.near = far, out, near
        self.apart, self.alike, self.against = apart, alike, against
        self.echo, self.need, self.longer = echo, need, longer
        self._histories = Histories(beta)
        self._terms = Terms(n, term, clean)
        self._centre: _Centre | None = None
        # Who stood together when they were looked at last.
        self._bloc: set[WorkerId] = set()
        # Of each worker, which of its latest answers were too far.
        self._far: dict[WorkerId, deque[bool]] = defaultdict(lambda: deque(maxlen=span))
        # Verdicts since the last move.
        self._since = 0
        # Whose turns are left of a pass over all; how many passes over more than SAMPLE there were.
        self._queue: list[list[WorkerId]] = []
        self._passes = 0
        # Whether the answer that was judged last passed here.
        self._passed = False
        # Who is refused elsewhere, with the admissions when it was last.
        self._elsewhere: dict[WorkerId, int] = {}
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
        self._passed = False
        if not evidence.norm < math.inf:
            return Refusal("unmeasured")
        self._histories.remember(evidence)
        if evidence.counts:
            self._new.discard(worker)
            self._turn()
        else:
            self._new.add(worker)
        if self._centre is None:
            return Refusal("unmeasured")
        if worker not in self._histories.workers:
            return None  # a vector of no length, as all he sent
        value, middle = self._distance(worker, self._centre), self._centre.median
        low = self.near * middle if middle > ROUNDING else 0.0
        high = self.far * middle
        if not evidence.counts:
            # A newcomer takes nobody's place among those who serve.
            return None if low <= value <= high else Refusal("consensus", value, low, high)
        out = value > self.out * middle
        far = self._far[worker]
        if evidence.norm > SHORT:
            far.append(value > high or worker in self._bloc)
        guilty = out or sum(far) >= self.need
        places = self._places(worker) if guilty else 0
        if self._terms.serves(worker, guilty=guilty, places=places) or out or value < low:
            return Refusal("consensus", value, low, high)
        self._passed = True
        return self._share(worker)

    def scale(self, evidence: Evidence) -> float:
        weight, worker = self._terms.weight(evidence.worker), evidence.worker
        if worker in self._histories.workers:
            most = self.longer * self._histories.usual(worker)
            weight *= most / evidence.norm if evidence.norm > most else 1.0
        return weight

    def admit(self, evidence: Evidence) -> None:
        self._terms.admit()
        self._elsewhere.pop(evidence.worker, None)

    def refuse(self, evidence: Evidence, refusal: Refusal) -> None:
        worker = evidence.worker
        if not self._passed:
            return
        self._histories.take_back()
        if evidence.norm > SHORT:
            self._far[worker].pop()
        # Who only comes too often may be honest, and fast.
        if refusal.for_content:
            self._elsewhere[worker] = self._terms.now
            if self._terms.convicted(worker):
                self._far[worker].append(True)

    def _places(self, worker: WorkerId) -> int:
        """How many may serve, this one among them: f less those whom another rule refuses. Himself
        he does not shelter.
        """
        return self.f - len(self._elsewhere.keys() - self._terms.serving - {worker})

    def forget(self, worker: WorkerId) -> None:
        for those in (self._new, self._bloc):
            those.discard(worker)
        for its in (self._elsewhere, self._far, self._weights, self._credits):
            its.pop(worker, None)
        self._histories.forget(worker)
        self._terms.forget(worker)
        if self._centre is not None:
            # What it pulled the centre to is undone by the next moves, as all that was.
            self._centre.without.pop(worker, None)

    # --- the centre ---

    def _distance(self, worker: WorkerId, centre: _Centre) -> float:
        """D_p."""
        others = centre.without.get(worker, centre.z)
        apart = distance(self._histories.direction(worker), others)
        return apart / math.sqrt(expected(self._histories.variance(worker), centre.own))

    @property
    def _known(self) -> int:
        """How many have shown a direction, and are not new."""
        return len(self._histories) - len(self._new & self._histories.workers)

    @property
    def _missing(self) -> int:
        """How many of n there are beside them."""
        return max(self.n - self._known, 0)

    def _turn(self) -> None:
        """One more verdict; the centre moves once in so many."""
        self._since += 1
        first = self._centre is None
        due = min(self.n if first else max(self.n, SELDOM), SAMPLE)
        if self._since >= due and self._known >= self.n - self.f:
            self._since = 0
            self._move()

    def _move(self) -> None:
        # Whoever is not heard of any more takes nobody's place.
        for worker in [w for w, at in self._elsewhere.items() if self._terms.long_ago(at)]:
            del self._elsewhere[worker]
        crowd, share = self._sample()
        # How many honest workers there are among so many, but for the luck of the draw.
        enough = share * (self.n - self.f)
        enough -= DEVIATIONS * math.sqrt(enough * self.f / self.n * (1 - share))
        rows = self._histories.directions(crowd)
        variances = np.array([self._histories.variance(worker) for worker in crowd])
        heard = np.array([worker not in self._elsewhere for worker in crowd])
        if np.count_nonzero(heard) < max(enough, 1):
            heard[:] = True
        z = self._centre.z if self._centre is not None else np.median(rows[heard], axis=0)
        seen = look(rows[heard], variances[heard], z, echo=self.echo, near=self.near, enough=enough)
        workers = list(compress(crowd, heard))
        self._weights.update(zip(workers, seen.weights.tolist(), strict=True))
        others = dict(zip(workers, seen.without, strict=True))
        self._centre = _Centre(seen.z, others, seen.own, seen.median)
        rows /= np.sqrt(expected(variances, seen.own)).astype(np.float32)[:, None]
        distances = np.empty(len(crowd))
        distances[heard] = seen.distances
        for at in np.flatnonzero(~heard).tolist():
            distances[at] = self._distance(crowd[at], self._centre)
        self._bloc.difference_update(crowd)
        self._bloc |= self._blocs(crowd, share, rows, distances <= self.out * seen.median)

    def _blocs(
        self,
        crowd: list[WorkerId],
        share: float,
        rows: NDArray[np.float32],
        inside: NDArray[np.bool],
    ) -> set[WorkerId]:
        """Who is of a bloc, by rows over what is expected of their lengths: of the whole crowd,
        since whoever is refused elsewhere now and then, by his own doing, may be one of them. Who
        stand together are `inside`, not far out. Who is, is of the f already; and whoever goes far
        alone would turn the axis away from the others.
        """
        left = self.f - self._missing
        likely = -(-left * len(crowd) // self.n)
        if likely < 2:
            return set()
        luck = DEVIATIONS * math.sqrt(likely * (1 - self.f / self.n) * (1 - share))
        most = min(likely + math.ceil(luck), left)
        cosines, long = angles(rows), self._histories.lengths(crowd)
        weights = [self._weights.get(worker, 1.0) for worker in crowd]
        found = self._by_cosine(crowd, cosines, long, weights, (likely + 1) // 2, most)
        who = np.flatnonzero(inside)
        gone = len(crowd) - who.size
        least = max(2, (likely - gone + 1) // 2)
        if least <= most - gone:
            together = [int(who[at]) for at in bloc(rows[who], least, most - gone, self.apart)]
            if together and telling(cosines, long, weights, together, self.against):
                found.update(crowd[at] for at in together)
        return found

    def _by_cosine(
        self,
        crowd: list[WorkerId],
        cosines: NDArray[np.float32],
        long: list[float],
        weights: list[float],
        half: int,
        most: int,
    ) -> set[WorkerId]:
        """The blocs of those who point the same way, and of those who pull against all others. With
        those who serve, who pull are no more than f, or they are honest, and liars who serve agree
        against them.
        """
        alike = {crowd[at] for at in cliques(cosines, max(3, half), most, self.alike)}
        longest = pullers(cosines, long, weights, max(2, half), most, self.against)
        pulling = {crowd[at] for at in longest}
        return alike | pulling if len(pulling | self._terms.serving) <= self.f else alike

    def _sample(self) -> tuple[list[WorkerId], float]:
        """Whose turn it is, SAMPLE of all who are known at most; and what share that is. Each
        has as many turns as any other, and with others each time, lest f liars be most of one.
        """
        known = self._histories.workers
        crowd: list[WorkerId] = []
        # Whoever was forgotten meanwhile takes no turn, and may have been all of one.
        while not crowd:
            if not self._queue:
                self._queue = self._turns_of(sorted(known - self._new))
            crowd = [w for w in self._queue.pop() if w in known and w not in self._new]
        return crowd, len(crowd) / self._known

    def _turns_of(self, workers: list[WorkerId]) -> list[list[WorkerId]]:
        turns = -(-len(workers) // SAMPLE)
        if turns > 1:
            self._passes += 1
            # In an order of its own each time, which nobody knew when numbers were given out.
            at = check(bytes_of(self._centre.z)) if self._centre is not None else 0
            np.random.default_rng([self._passes, at]).shuffle(workers)
        return [workers[turn::turns] for turn in range(turns)]

    # --- voices ---

    def _share(self, worker: WorkerId) -> Refusal | None:
        weight = self._weights.get(worker, 1.0)
        if weight == 1.0:
            return None
        credit = self._credits.get(worker, 0.0) + weight
        used = credit >= 1 - 1e-9
        self._credits[worker] = credit - used
        return None if used else Refusal("echo", weight, 1.0, 1.0, for_content=False)

    # --- a life after this process ---

    def state(self) -> State:
        centre = None
        if self._centre is not None:
            z, without, *seen = self._centre
            centre = [z, [[p, of_others] for p, of_others in without.items()], *seen]
        return {
            "histories": self._histories.state(),
            "terms": self._terms.state(),
            "far": [[worker, list(its)] for worker, its in self._far.items()],
            "elsewhere": [[worker, at] for worker, at in self._elsewhere.items()],
            "new": sorted(self._new),
            "bloc": sorted(self._bloc),
            "weights": [[worker, value] for worker, value in self._weights.items()],
            "credits": [[worker, value] for worker, value in self._credits.items()],
            "centre": centre,
            "since": self._since,
            "queue": list(self._queue),
            "passes": self._passes,
        }

    def restore(self, state: State) -> None:
        self._histories.restore(state["histories"])
        self._terms.restore(state["terms"])
        for worker, its in state["far"]:
            self._far[worker].extend(its)
        self._elsewhere = {worker: at for worker, at in state["elsewhere"]}
        self._new, self._bloc = set(state["new"]), set(state["bloc"])
        self._weights = {worker: value for worker, value in state["weights"]}
        self._credits = {worker: value for worker, value in state["credits"]}
        self._since, self._queue = state["since"], list(state["queue"])
        self._passes = state["passes"]
        if (centre := state["centre"]) is not None:
            z, without, *seen = centre
            self._centre = _Centre(z, {worker: others for worker, others in without}, *seen)
