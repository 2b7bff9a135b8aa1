"""The noun, and the plain ones: what a gathering is; pure asynchrony, buffers and rounds. Never in
here: the rule over what is gathered.
"""

from collections.abc import Callable

import numpy as np

from kardam.aggregators import Rule
from kardam.errors import TaskError
from kardam.messages import Refusal, Vector, WorkerId
from kardam.state import State, Stateful

# The chosen aggregator, as a function of how many vectors it will see.
RuleOf = Callable[[int], Rule]


class Gathering(Stateful):
    """Collects weighted gradients until they make an update; then begins anew."""

    # Whether a second answer of a worker to one model is of no use, so that he may as well wait.
    rounds = False

    # Whether it bears liars by itself, whatever the aggregator.
    robust = False

    # Whether each gradient is an update by itself, times its weight: then nobody need `add` it.
    alone = False

    def refuse(self, worker: WorkerId, staleness: int) -> Refusal | None:
        """Why an answer has no place in the update that is being gathered; None where it has."""
        return None

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more. What was admitted of it already is used all the same."""

    def add(self, worker: WorkerId, g: Vector, weight: float) -> Vector | None:
        """The gradient of the update, when this one completes it. It may be g itself, which is
        never written; requires that `refuse` does not.
        """
        raise NotImplementedError


class OnArrival(Gathering):
    """The mean of every `size` gradients in order of arrival, whoever sent them; size = 1 is pure
    asynchrony.

    M in the paper: (1/M) sum Lambda g. A fast worker may be several of the M, so no rule that
    bears f liars would bear them here.
    """

    def __init__(self, size: int = 1) -> None:
        if not size >= 1:
            raise ValueError(f"expected m >= 1, got m={size}")
        self.size = size
        self.alone = size == 1
        self._sum: Vector | None = None
        self._count = 0

    def add(self, worker: WorkerId, g: Vector, weight: float) -> Vector | None:
        term = weighted(g, weight)
        self._sum = term if self._sum is None else self._sum + term
        self._count += 1
        if self._count < self.size:
            return None
        mean = self._sum if self.size == 1 else self._sum / np.float32(self.size)
        self._sum, self._count = None, 0
        return mean

    def state(self) -> State:
        return {"sum": self._sum, "count": self._count}

    def restore(self, state: State) -> None:
        self._sum, self._count = state["sum"], state["count"]


class Buffered(Gathering):
    """The first gradients of `size` distinct workers, of whatever versions, and a rule over them in
    the order of workers, whichever came first.

    A worker's second answer for one update is refused as `twice`, rather than taken instead of the
    first: what is admitted is used. FedBuff (Nguyen et al., AISTATS 2022) takes K answers in order
    of arrival, whoever sent them, and their mean: that is `arrival:m=K`. A robust rule over those
    would bear nothing, since one liar may fill several of the K places.
    """

    def __init__(self, size: int, rule: Rule) -> None:
        self.size = size
        self.rule = rule
        self._gathered: dict[WorkerId, Vector] = {}

    def refuse(self, worker: WorkerId, staleness: int) -> Refusal | None:
        return Refusal("twice", 1, 0, 0, False) if worker in self._gathered else None

    def add(self, worker: WorkerId, g: Vector, weight: float) -> Vector | None:
        self._gathered[worker] = weighted(g, weight)
        if len(self._gathered) < self.size:
            return None
        result = self.rule([self._gathered[owner] for owner in sorted(self._gathered)])
        self._gathered = {}
        return like(g, result)

    def state(self) -> State:
        return {"gathered": [[worker, g] for worker, g in self._gathered.items()]}

    def restore(self, state: State) -> None:
        self._gathered = dict(state["gathered"])


class Synchronous(Buffered):
    """A buffer for answers to the newest model only; others are refused as `stale`. So an update is
    a round; who has answered waits for the next, and all for the last of `size`: the baseline.
    """

    rounds = True

    def refuse(self, worker: WorkerId, staleness: int) -> Refusal | None:
        if staleness > 0:
            return Refusal("stale", staleness, 0, 0, False)
        return super().refuse(worker, staleness)


def like(g: Vector, result: Vector) -> Vector:
    """What a rule made of vectors like g. Raises TaskError where that is none: it may be a user's
    own.
    """
    if not isinstance(result, np.ndarray):
        got = repr(result)[:60]
    elif result.shape != g.shape or not np.can_cast(result.dtype, g.dtype, "same_kind"):
        got = f"one of shape {result.shape} and type {result.dtype}"
    else:
        return result
    raise TaskError(f"expected a vector of shape {g.shape} of the aggregator, got {got}")


def weighted(g: Vector, weight: float) -> Vector:
    """weight g; g itself where that is 1."""
    return g if weight == 1.0 else g * np.float32(weight)


def arrival(m: int = 1) -> Gathering:
    """The mean of M in order of arrival."""
    return OnArrival(m)


def buffered(n: int, f: int, rule: RuleOf, m: int | None = None) -> Gathering:
    """The rule over M distinct workers: by default n - f, since for more f silent ones are enough
    to stop it.
    """
    size = _size(n, f, m)
    return Buffered(size, rule(size))


def synchronous(n: int, f: int, rule: RuleOf, m: int | None = None) -> Gathering:
    """The rule over the first M answers to the newest model: by default n - f. For M = n, as many
    papers have it, one silent worker is enough to stop it.
    """
    size = _size(n, f, m)
    return Synchronous(size, rule(size))


def _size(n: int, f: int, m: int | None) -> int:
    size = n - f if m is None else m
    if not 1 <= size <= n:
        raise ValueError(f"expected 1 <= m <= n = {n}, got m={size}")
    return size
