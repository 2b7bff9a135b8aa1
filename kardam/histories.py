"""Where each worker's recent gradients pointed, on average, and how long they were.

Never in here: who else there is, or what is too far from what.
"""

from collections.abc import KeysView, Sequence
from copy import copy
from statistics import median
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kardam.growth import Evidence
from kardam.messages import Vector, WorkerId
from kardam.state import State, Stateful

# What is no longer has no direction, and says nothing.
SHORT = 1e-12

# Of how many answers the median is the length of a history, and which of them, in order, is what
# two thirds of them reach.
LENGTHS = 25
THIRD = 3


class _Sums(NamedTuple):
    """sum_i beta^(k-i) (1 - beta) g_i / ||g_i||, over k answers; and the latest ||g_i||. Never
    written to.
    """

    directions: Vector
    answers: int
    lengths: tuple[float, ...]


class Histories(Stateful):
    """Exponential averages over one worker's k answers,

        h_p = sum_i beta^(k-i) g_i/||g_i|| (1-beta) / (1-beta^k)
        v_p = (1-beta)/(1+beta) (1+beta^k)/(1-beta^k)
        l_p = median of the latest LENGTHS of ||g_i||

    v_p being by how much averaging has shrunk the variance of one direction, and l_p a length that
    less than half of the answers do not change. An answer without a direction is none of the k, or
    honest workers who seldom have one would fade. Of d numbers a worker, where d is what the memory
    keeps of a gradient, and LENGTHS more.
    """

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"expected 0 <= beta < 1, got {beta}")
        self.beta = beta
        self._sums: dict[WorkerId, _Sums] = {}
        # Whose answer was remembered last, and what there was of its worker before.
        self._latest: tuple[WorkerId, _Sums | None] | None = None

    def remember(self, evidence: Evidence) -> None:
        before = self._sums.get(evidence.worker)
        self._latest = evidence.worker, before
        if not evidence.norm > SHORT:
            return
        # float64 would change nothing but the memory it takes.
        direction = np.float32((1 - self.beta) / evidence.norm) * evidence.g
        sums = _Sums(direction, 1, (evidence.norm,))
        if before is not None:
            direction += np.float32(self.beta) * before.directions
            lengths = (*before.lengths, evidence.norm)[-LENGTHS:]
            sums = _Sums(direction, before.answers + 1, lengths)
        self._sums[evidence.worker] = sums

    def take_back(self) -> None:
        """What was remembered last is as if it had never come."""
        assert self._latest is not None  # once for each that is remembered
        worker, before = self._latest
        self._latest = None
        if before is not None:
            self._sums[worker] = before
        else:
            self._sums.pop(worker, None)

    def direction(self, worker: WorkerId) -> Vector:
        """h_p, as long as its directions agree: between 0 and 1. Not to be written."""
        sums, whole = self._sums[worker].directions, np.float32(1 - self._faded(worker))
        # From some 160 answers on it is 1, to the bit, and a pass over d numbers is saved.
        return sums if whole == 1 else sums / whole

    def variance(self, worker: WorkerId) -> float:
        """v_p."""
        faded = self._faded(worker)
        return (1 - self.beta) / (1 + self.beta) * (1 + faded) / (1 - faded)

    def directions(self, workers: Sequence[WorkerId]) -> NDArray[np.float32]:
        """h_p of each of these, in its row."""
        # Not by `stack`, which takes four times as long over a few rows.
        sums = np.concatenate([self._sums[worker].directions for worker in workers])
        rows = sums.reshape(len(workers), -1)
        rows /= np.array([1 - self._faded(worker) for worker in workers], np.float32)[:, None]
        return rows

    def lengths(self, workers: Sequence[WorkerId]) -> list[float]:
        """l_p of each of these."""
        return [median(self._sums[worker].lengths) for worker in workers]

    def usual(self, worker: WorkerId) -> float:
        """A length that two thirds of this worker's latest answers have, or more."""
        lengths = sorted(self._sums[worker].lengths)
        return lengths[len(lengths) // THIRD]

    def _faded(self, worker: WorkerId) -> float:
        faded: float = self.beta ** self._sums[worker].answers
        return faded

    @property
    def workers(self) -> KeysView[WorkerId]:
        """All that have shown a direction."""
        return self._sums.keys()

    def __len__(self) -> int:
        """How many have."""
        return len(self._sums)

    def __deepcopy__(self, memo: object) -> Self:
        # Sums are shared: to copy them is a seventh of what it takes to foresee a verdict.
        twin = copy(self)
        twin._sums = dict(self._sums)
        return twin

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more."""
        self._sums.pop(worker, None)

    def state(self) -> State:
        return {
            "sums": [[worker, *its[:2], list(its.lengths)] for worker, its in self._sums.items()]
        }

    def restore(self, state: State) -> None:
        self._sums = {
            worker: _Sums(directions, answers, tuple(lengths))
            for worker, directions, answers, lengths in state["sums"]
        }
