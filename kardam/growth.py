"""What the server remembers of each worker, so that growth can be measured. No rule in here:
nothing is refused.

The growth of worker p is its empirical Lipschitz coefficient (Kardam, section 3, in the authors'
own reading):

    K_p = ||g - g'|| / ||x_l - x_l'||

' marking the same worker's latest answer on another version. Raw gradients on both sides. The
worker computes the same number with the same code; what counts is the server's.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

from kardam.messages import Declared, WorkerId
from kardam.state import State, Stateful

# What the server keeps of a vector: the vector itself, or less (see lens).
Trace = NDArray[np.floating[Any]]

# Coordinates that are still in a core's own cache when they are read again.
BLOCK = 65_536


def norm(v: Trace) -> float:
    """||v||, Euclidean. Infinite where the squares leave float32: such a vector is no gradient."""
    return root(squared(v))


def squared(v: Trace) -> float:
    """||v||^2. By `vdot`, which is `dot` to the bit and warns of no overflow: to forbid it that
    takes longer than 512 numbers do.
    """
    return float(np.vdot(v, v))


def root(square: float) -> float:
    """The length of what has this square; infinite where that is NaN."""
    return math.sqrt(square) if square >= 0 else math.inf


# Around the function, which is made once: a `with` inside takes a microsecond more.
@np.errstate(over="ignore", invalid="ignore")
def distance(a: Trace, b: Trace) -> float:
    """||a - b||; infinite on overflow."""
    total = 0.0
    # Block by block, so that no difference of d numbers is written to memory and read again.
    for start in range(0, a.size, BLOCK):
        total += squared(a[start : start + BLOCK] - b[start : start + BLOCK])
    return root(total)


class Change(NamedTuple):
    """From a worker's earlier answer (the one with ticket `since`) to its newest: ||g - g'|| and
    ||x - x'|| > 0.
    """

    since: int
    difference: float
    displacement: float

    @property
    def growth(self) -> float:
        """K = ||g - g'|| / ||x - x'||, infinite where the difference left float32."""
        return self.difference / self.displacement

    @property
    def declared(self) -> Declared | None:
        """What its worker says of it; nothing where the growth is infinite."""
        return Declared(self.growth, self.since) if self.growth < math.inf else None


class _Answer(NamedTuple):
    ticket: int
    version: int
    g: Trace
    x: Trace


class History(Stateful):
    """The answers of one worker that the next change is measured from: two, whatever comes.

    The latest, and the latest on another version than that: a worker that is served the same model
    again and again keeps its pair, since a zero displacement measures nothing.
    """

    def __init__(self) -> None:
        self._latest: _Answer | None = None
        self._earlier: _Answer | None = None

    def add(self, ticket: int, version: int, g: Trace, x: Trace) -> Change | None:
        """Remember an answer (traces of g and of x_l); the change it makes, or None while there is
        no usable pair.
        """
        if self._latest is not None and self._latest.version != version:
            self._earlier = self._latest
        self._latest = _Answer(ticket, version, g, x)
        if self._earlier is None:
            return None
        displacement = distance(x, self._earlier.x)
        if not 0 < displacement < math.inf:
            return None
        return Change(self._earlier.ticket, distance(g, self._earlier.g), displacement)

    def state(self) -> State:
        pair = {"latest": self._latest, "earlier": self._earlier}
        return {name: answer._asdict() if answer else None for name, answer in pair.items()}

    def restore(self, state: State) -> None:
        self._latest, self._earlier = (
            _Answer(**state[name]) if state[name] else None for name in ("latest", "earlier")
        )


class Population(Stateful):
    """The latest number that each worker has shown, in order. Setting and asking cost O(log n).

    What is NaN or infinite is the largest, and leaks into no other rank. A worker that has shown
    nothing is not counted: it may be honest, and to rank it as infinite would lift a liar into the
    place of an honest number.
    """

    def __init__(self) -> None:
        self._latest: dict[WorkerId, float] = {}
        self._sorted: SortedList = SortedList()

    def __setitem__(self, worker: WorkerId, value: float) -> None:
        shown = value if math.isfinite(value) else math.inf
        before = self._latest.get(worker)
        if shown == before:
            return
        if before is not None:
            self._sorted.remove(before)
        self._latest[worker] = shown
        self._sorted.add(shown)

    def forget(self, worker: WorkerId) -> None:
        """This worker has shown nothing."""
        if worker in self._latest:
            self._sorted.remove(self._latest.pop(worker))

    def get(self, worker: WorkerId) -> float:
        """What this worker has shown; 0 if it has shown nothing."""
        return self._latest.get(worker, 0.0)

    def __len__(self) -> int:
        """How many workers have shown one."""
        return len(self._latest)

    def smallest(self, k: int) -> float:
        """The k-th smallest, from 1. An order statistic, never interpolated: a lie cannot leak."""
        if not 1 <= k <= len(self):
            raise ValueError(f"expected 1 <= k <= {len(self)}, got k={k}")
        return float(self._sorted[k - 1])

    def largest(self, k: int) -> float:
        """The k-th largest, from 1."""
        return self.smallest(len(self) + 1 - k)

    def median(self) -> float:
        """The lower median."""
        return self.smallest((len(self) + 1) // 2)

    def state(self) -> State:
        return {"latest": [[worker, value] for worker, value in self._latest.items()]}

    def restore(self, state: State) -> None:
        for worker, value in state["latest"]:
            self[worker] = value


class Evidence(NamedTuple):
    """What the server itself measured of one gradient: all that a rule may go by. A named tuple, as
    a verdict is.

    `g`, `x` and `now` are traces (see lens) of the gradient, of the model it was computed on, and
    of the current one. Where it does not `count`, its worker is new (see probation): a rule
    remembers what it shows, and holds nobody else to it.
    """

    worker: WorkerId
    staleness: int
    norm: float
    change: Change | None
    declared: Declared | None
    g: Trace
    x: Trace
    now: Trace
    tolerance: float
    counts: bool = True

    @property
    def growth(self) -> float:
        """K_p, +inf while there is no pair to measure it from."""
        return self.change.growth if self.change is not None else math.inf

    @property
    def drift(self) -> float:
        """||x_t - x_l||: how far the model has moved since the worker was given it. O(d)."""
        return distance(self.now, self.x) if self.staleness > 0 else 0.0
