"""Where each worker's recent gradients pointed, on average, and how long they were.

Never in here: who else there is, or what is too far from what.
"""

import math
from collections.abc import KeysView, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kardam.growth import Evidence
from kardam.messages import Vector, WorkerId
from kardam.state import State, Stateful

# What is no longer has no direction: its squares leave float32, and its norm is less than it is.
SHORT = 1e-12


class _Sums(NamedTuple):
    """sum_i beta^(k-i) (1 - beta) g_i / ||g_i||, over k answers; and of log ||g_i|| likewise."""

    directions: Vector
    answers: int
    logs: float


class Histories(Stateful):
    """Exponential averages over one worker's k answers,

        h_p = sum_i beta^(k-i) g_i/||g_i|| (1-beta) / (1-beta^k)
        v_p = (1-beta)/(1+beta) (1+beta^k)/(1-beta^k)
        l_p = exp(sum_i beta^(k-i) log ||g_i|| (1-beta) / (1-beta^k))

    v_p being by how much averaging has shrunk the variance of one direction, and l_p a length that
    no single answer makes much longer. Of d numbers a worker, where d is what the memory keeps of a
    gradient.
    """

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"expected 0 <= beta < 1, got {beta}")
        self.beta = beta
        self._sums: dict[WorkerId, _Sums] = {}
        # Whose answer was remembered last, and what there was of its worker before.
        self._latest: tuple[WorkerId, _Sums | None] | None = None

    def remember(self, evidence: Evidence) -> None:
        weight = (1 - self.beta) / evidence.norm if evidence.norm > SHORT else 0.0
        # float64 would change nothing but the memory it takes.
        direction = np.float32(weight) * evidence.g
        answers, logs = 1, (1 - self.beta) * math.log(max(evidence.norm, SHORT))
        before = self._sums.get(evidence.worker)
        self._latest = evidence.worker, before
        if before is not None:
            direction += np.float32(self.beta) * before.directions
            answers += before.answers
            logs += self.beta * before.logs
        self._sums[evidence.worker] = _Sums(direction, answers, logs)

    def take_back(self) -> None:
        """What was remembered last is as if it had never come."""
        assert self._latest is not None  # once for each that is remembered
        worker, before = self._latest
        self._latest = None
        if before is not None:
            self._sums[worker] = before
        else:
            del self._sums[worker]

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
        return [math.exp(self._sums[w].logs / (1 - self._faded(w))) for w in workers]

    def _faded(self, worker: WorkerId) -> float:
        faded: float = self.beta ** self._sums[worker].answers
        return faded

    @property
    def workers(self) -> KeysView[WorkerId]:
        """All that have answered."""
        return self._sums.keys()

    def __len__(self) -> int:
        """How many have."""
        return len(self._sums)

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more."""
        self._sums.pop(worker, None)

    def state(self) -> State:
        return {"sums": [[worker, *its] for worker, its in self._sums.items()]}

    def restore(self, state: State) -> None:
        self._sums = {worker: _Sums(*its) for worker, *its in state["sums"]}
