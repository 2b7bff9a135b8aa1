"""Which gradients may move the model, and how far: Kardam's rules over evidence, and the table of
all.

Never in here: vectors are not changed, the model is not known, and nothing that a worker says of
itself decides.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

from kardam.consensus import Consensus
from kardam.errors import UsageError
from kardam.growth import Change, Evidence, Population, distance
from kardam.messages import NOBODY, Refusal, Vector, WorkerId
from kardam.spec import build, stages
from kardam.stage import Chain, Reading, Slowdown, Stage
from kardam.state import State
from kardam.throttle import Throttle

__all__ = [
    "STAGES",
    "Chain",
    "Clip",
    "Frequency",
    "Growth",
    "Slowdown",
    "Stage",
    "chain",
    "tolerated",
]


class Growth(Stage):
    """The Lipschitz filter: a worker's growth against the latest of all workers, its own included.

    Of the latest K of all workers, sorted:

        upper       the highest f thrown away            (Kardam, ICML 2018)
        middle      the lowest and the highest f         (the authors' own telling)
        low, high   the lowest low n, the highest n - high n    (the knob itself)
        relative    median/c <= K_p <= c median, and never narrower than the middle: so n - 2f
                    workers are in it, whatever growths look like

    and the ends of what is left are the bounds. So with all n known the upper one is the (n-f)-th
    smallest, and at any time neither lies beyond what some honest worker has shown.

    K_p is ||g - g'|| / ||x - x'||^exponent. Exponent 1 is the Lipschitz coefficient of the paper;
    with mini-batches its numerator is mostly noise, which no displacement changes, so it is large
    for the fast and small for stragglers, liars or not. Exponent 0 would compare noise alone. In
    between lies the Hoelder coefficient of a gradient that is noisy and curved, and 1/2 compares
    workers whose speeds differ twentyfold as equals (bench/RESULTS.md).

    With a `span` above 1, what stands for a worker is the lower median of that many of his latest
    growths, and a single hard batch refuses nobody; nor does the first lie of who was honest.

    A declared growth is checked beside it: another number for the same pair is `misdeclared`.
    """

    compares = True

    def __init__(
        self,
        n: int,
        f: int,
        band: Literal["upper", "middle", "relative"] = "middle",
        exponent: float = 1.0,
        c: float | None = None,
        low: float | None = None,
        high: float | None = None,
        span: int = 1,
    ) -> None:
        if not n > 3 * f:
            raise ValueError(f"expected n > 3f, got n={n}, f={f}")
        if not span >= 1:
            raise ValueError(f"expected span >= 1, got {span}")
        if not 0 <= exponent <= 1:
            raise ValueError(f"expected 0 <= exponent <= 1, got {exponent}")
        if (c is not None) != (band == "relative"):
            raise ValueError("c=... and band=relative go together")
        if c is not None and not c > 1:
            raise ValueError(f"expected c > 1, got {c}")
        lowest = 0 if band == "upper" else f
        highest = f
        if low is not None:
            lowest = math.floor(round(low * n, 9))
        if high is not None:
            highest = n - math.floor(round(high * n, 9))
        if not (lowest >= 0 and highest >= 0 and lowest + highest < n):
            raise ValueError(
                "expected 0 <= low < high <= 1 with a worker in between,"
                f" got low={low}, high={high}, n={n}"
            )
        self.n, self.f, self.c, self.exponent = n, f, c, exponent
        # How many are thrown away at each end.
        self.lowest, self.highest = lowest, highest
        self.growths = Population()
        # As of the last judgement.
        self._reading = Reading()
        self._latest: dict[WorkerId, deque[float]] = defaultdict(lambda: deque(maxlen=span))

    @property
    def ready(self) -> bool:
        return len(self.growths) >= max(self.n - self.f, self.lowest + self.highest + 1)

    def bounds(self) -> tuple[float, float]:
        """What is admitted now: low <= K_p <= high. NaN, which admits nothing, while not ready."""
        if not self.ready:
            return math.nan, math.nan
        low = self.growths.smallest(self.lowest + 1) if self.lowest > 0 else 0.0
        high = self.growths.largest(self.highest + 1)
        if self.c is not None:
            median = self.growths.median()
            low, high = min(low, median / self.c), max(high, median * self.c)
        return low, high

    def judge(self, evidence: Evidence) -> Refusal | None:
        change = evidence.change
        if change is None:
            return Refusal("unmeasured", for_content=False)
        latest = self._latest[evidence.worker]
        growth = change.difference / change.displacement**self.exponent
        latest.append(growth if growth < math.inf else math.inf)
        growth = self._stands_for(evidence.worker)
        if evidence.counts:
            self.growths[evidence.worker] = growth
        low, high = self.bounds()
        self._reading = Reading(growth, low, high)
        if (lie := _misdeclared(evidence, change)) is not None:
            return lie
        if low <= growth <= high < math.inf:
            return None
        # Who changes too little may be honest, and average over more examples than the others.
        return Refusal("growth", growth, low, high, for_content=not growth < low)

    def reading(self, evidence: Evidence) -> Reading | None:
        return self._reading if evidence.change is not None else None

    def _stands_for(self, worker: WorkerId) -> float:
        """The lower median of this worker's latest growths."""
        latest = sorted(self._latest[worker])
        return latest[(len(latest) - 1) // 2]

    def forget(self, worker: WorkerId) -> None:
        self.growths.forget(worker)
        self._latest.pop(worker, None)

    def slowdown(self) -> Slowdown | None:
        if self.c is not None:
            return None
        n, f = self.n, self.f
        kept = n - self.lowest - self.highest
        return Slowdown(kept / n, max(kept - f, 0) / (n - f), min(kept / (n - f), 1.0))

    def state(self) -> State:
        latest = [[worker, list(its)] for worker, its in self._latest.items()]
        return {"growths": self.growths.state(), "latest": latest}

    def restore(self, state: State) -> None:
        self.growths.restore(state["growths"])
        for worker, its in state["latest"]:
            self._latest[worker].extend(its)


def _misdeclared(evidence: Evidence, change: Change) -> Refusal | None:
    """A refusal where the worker declared another growth for the very pair that was measured."""
    declared = evidence.declared
    if declared is None or declared.since != change.since or not change.growth < math.inf:
        return None
    slack = evidence.tolerance * change.growth
    low, high = change.growth - slack, change.growth + slack
    if low <= declared.growth <= high:
        return None
    return Refusal("misdeclared", declared.growth, low, high)


class Frequency(Stage):
    """No worker owns two of any 2f+1 consecutive admitted gradients.

    Kardam's frequency filter in its equivalent form: among the 2f+1, any f workers appear at most f
    times.
    """

    def __init__(self, f: int) -> None:
        self.f = f
        self._owners: deque[WorkerId] = deque(maxlen=2 * f)

    def judge(self, evidence: Evidence) -> Refusal | None:
        owned = self._owners.count(evidence.worker)
        return Refusal("frequency", owned, 0, 0, False) if owned else None

    def admit(self, evidence: Evidence) -> None:
        self._owners.append(evidence.worker)

    def forget(self, worker: WorkerId) -> None:
        # What he owned stays between the others.
        for at, owner in enumerate(self._owners):
            if owner == worker:
                self._owners[at] = NOBODY

    def state(self) -> State:
        return {"owners": list(self._owners)}

    def restore(self, state: State) -> None:
        self._owners.extend(state["owners"])


class Clip(Stage):
    """Scale an admitted gradient down to C times the median of all workers' latest norms.

        C = factor, after so many rounds of n admissions, of anybody; min(factor, 1) until then

    Beyond the paper: a growth test cannot see that a vector is ten times too long. The median of
    more than 2f numbers lies between honest ones.

    A wide clip lets the few whose examples are hard learn them, late in a run. Early in it honest
    gradients may have so little in common that a liar at twice their length balances three workers,
    until he is known by what he did; and no examples are hard yet.
    """

    def __init__(self, n: int, f: int, factor: float = 1.0, after: int = 0) -> None:
        if not 0 < factor < math.inf:
            raise ValueError(f"expected factor > 0, got {factor}")
        if not after >= 0:
            raise ValueError(f"expected after >= 0, got {after}")
        self.n, self.f, self.factor, self.after = n, f, factor, after
        self.norms = Population()
        self._admissions = 0

    @property
    def ready(self) -> bool:
        return len(self.norms) >= self.n - self.f

    def judge(self, evidence: Evidence) -> Refusal | None:
        if evidence.counts:
            self.norms[evidence.worker] = evidence.norm
        return None

    def scale(self, evidence: Evidence) -> float:
        early = self._admissions < self.n * self.after
        bound = (min(self.factor, 1.0) if early else self.factor) * self.norms.median()
        return 1.0 if evidence.norm <= bound else bound / evidence.norm

    def admit(self, evidence: Evidence) -> None:
        self._admissions += 1

    def forget(self, worker: WorkerId) -> None:
        self.norms.forget(worker)

    def state(self) -> State:
        return {"norms": self.norms.state(), "admissions": self._admissions}

    def restore(self, state: State) -> None:
        self.norms.restore(state["norms"])
        self._admissions = state["admissions"]


class ServerGrowth(Stage):
    """The server-side coefficient of the paper's text, kept as an exhibit: it freezes, unattacked,
    after a few updates.

        ||g - g_prv|| / ||x_t - x_prv||  <=  K_(n-f)

    g_prv is the gradient that last moved the model, x_prv the model it moved. The left side has one
    step below the line, the right side the n steps between two answers of one worker, and above the
    line both are mostly noise.
    """

    compares = True

    def __init__(self, n: int, f: int) -> None:
        self.n, self.f = n, f
        self.growths = Population()
        self._previous: tuple[Vector, Vector] | None = None

    @property
    def ready(self) -> bool:
        return self._previous is not None and len(self.growths) >= self.n - self.f

    def judge(self, evidence: Evidence) -> Refusal | None:
        if evidence.change is not None and evidence.counts:
            self.growths[evidence.worker] = evidence.change.growth
        if self._previous is None or not self.ready:
            return Refusal("unmeasured", for_content=False)
        g, x = self._previous
        moved = distance(evidence.now, x)
        growth = distance(evidence.g, g) / moved if moved > 0 else math.inf
        high = self.growths.largest(self.f + 1)
        return None if growth <= high < math.inf else Refusal("server_growth", growth, 0.0, high)

    def admit(self, evidence: Evidence) -> None:
        self._previous = evidence.g, evidence.now

    def start(self, g: Vector, x: Vector) -> None:
        self._previous = g, x

    def forget(self, worker: WorkerId) -> None:
        self.growths.forget(worker)

    def state(self) -> State:
        previous = None if self._previous is None else list(self._previous)
        return {"growths": self.growths.state(), "previous": previous}

    def restore(self, state: State) -> None:
        self.growths.restore(state["growths"])
        if state["previous"] is not None:
            g, x = state["previous"]
            self._previous = g, x


STAGES: Mapping[str, Callable[..., Stage]] = {
    "growth": Growth,
    "frequency": Frequency,
    "clip": Clip,
    "consensus": Consensus,
    "throttle": Throttle,
    "server_growth": ServerGrowth,
}


def tolerated(n: int) -> int:
    """The most Byzantine workers that n bear: the largest f with n > 3f."""
    return (n - 1) // 3


def chain(
    text: str,
    n: int,
    f: int,
    knob: str = "--filter",
    table: Mapping[str, Callable[..., Stage]] = STAGES,
    **given: Any,
) -> Chain:
    """`growth:band=middle+clip` as a rule. `none`, and any chain at f = 0, is the identity.

    Stages are those of the `table`, whose factories may ask for n, f, and what is `given`. Raises
    UsageError unless n > 3f >= 0, and for names and keys that are not there.
    """
    if not n > 3 * f >= 0:
        raise UsageError(
            f"expected n > 3f, got n={n}, f={f}: give --workers more or --f at most {tolerated(n)}"
        )
    parts = stages(text)
    if not parts:
        raise UsageError(f"{knob} is empty; 'none' is no filter")
    if parts == ["none"]:
        return Chain([])
    built = [build(part, table, knob, n=n, f=f, **given) for part in parts]
    return Chain(built if f > 0 else [])
