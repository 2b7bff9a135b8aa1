"""From several gradients to one: rules over vectors, and the two ways of gathering what a rule
needs.

Never in here: who may take part (a filter's business) or how large a step is (the rate's).
"""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from kardam.growth import norm
from kardam.messages import Vector, WorkerId
from kardam.state import State, Stateful

Rule = Callable[[Sequence[Vector]], Vector]


def coordinate_median(vectors: Sequence[Vector]) -> Vector:
    """The median of each coordinate over k vectors of shape (d,); the mean of the two middle ones
    for even k.

    Between the honest extremes in every coordinate while fewer than half of the vectors lie (Yin et
    al., ICML 2018).
    """
    return cast("Vector", np.median(np.stack(vectors), axis=0).astype(np.float32))


def clipped_median(vectors: Sequence[Vector]) -> Vector:
    """The coordinate-wise median, scaled down to the vectors' median norm where it is longer."""
    median = coordinate_median(vectors)
    bound = float(np.median([norm(v) for v in vectors]))
    length = norm(median)
    return median * np.float32(bound / length) if length > bound else median


class Mean(Stateful):
    """The mean of every `size` weighted gradients, in order of arrival; size = 1 is pure
    asynchrony.

    M in the paper: (1/M) sum Lambda g.
    """

    def __init__(self, size: int = 1) -> None:
        if not size >= 1:
            raise ValueError(f"expected M >= 1, got M={size}")
        self.size = size
        self._sum: Vector | None = None
        self._count = 0

    def add(self, g: Vector, weight: float) -> Vector | None:
        """The mean, when this gradient completes it. May return g itself: it is not written."""
        weighted = g if weight == 1.0 else g * np.float32(weight)
        self._sum = weighted if self._sum is None else self._sum + weighted
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


class Quorum(Stateful):
    """The first gradients of `size` distinct workers, and then a rule over them; repeat."""

    def __init__(self, size: int, rule: Rule) -> None:
        self.size = size
        self.rule = rule
        self._gathered: dict[WorkerId, Vector] = {}

    def has(self, worker: WorkerId) -> bool:
        return worker in self._gathered

    def add(self, worker: WorkerId, g: Vector) -> Vector | None:
        """The rule's result, when this worker completes the quorum."""
        self._gathered[worker] = g
        if len(self._gathered) < self.size:
            return None
        result = self.rule(list(self._gathered.values()))
        self._gathered = {}
        return result

    def state(self) -> State:
        return {"gathered": [[worker, g] for worker, g in self._gathered.items()]}

    def restore(self, state: State) -> None:
        self._gathered = dict(state["gathered"])
