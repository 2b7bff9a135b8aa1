"""A worker without its socket: a model in, a gradient out, and how long that took. No clock; chance
is given.

Honest or not is a matter of the attack it carries; slow or not, of its latency.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kardam.growth import History
from kardam.messages import Declared, Gradient, Vector, WorkerId
from workers.attacks import Attack
from workers.latency import Latency
from workers.outages import NEVER, Absences, Outages

# What a liar is while it does not lie.
HONEST = Attack()

# (targets, number of classes) -> the targets to train on
Relabel = Callable[[Any, int], Any]


class Objective(Protocol):
    """A function to minimize, as one worker sees it."""

    # Examples in a mini-batch.
    batch: int

    def gradient(
        self, x: Vector, rng: np.random.Generator, relabel: Relabel
    ) -> tuple[Vector, float]:
        """The gradient at x and the loss, on a mini-batch drawn from rng. May raise TaskError."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a worker takes: computing an answer, and moving a model or a gradient one way; in
    seconds. And when it is away.

    `factor` multiplies computing: its speed, and its being a straggler.
    """

    compute: Latency
    network: Latency
    factor: float = 1.0
    outages: Outages = NEVER


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A gradient, and the seconds that its three stretches take: the model's way down, computing,
    the way up.

    A liar may push others before it, compute for ever (infinite), and rest before its next pull.
    """

    gradient: Gradient
    down: float
    compute: float
    up: float
    repeats: tuple[Gradient, ...] = ()
    rest: float = 0.0


class Worker:
    """One worker. Its draws (batches, lies, delays, outages) come from four streams of (seed,
    index): the seed is the worker. `since` is the version at which it joins, so that one who comes
    back to a run that went on does not draw the same again.
    """

    def __init__(
        self,
        index: WorkerId,
        seed: int,
        objective: Objective,
        attack: Attack,
        pace: Pace,
        since: int = 0,
    ) -> None:
        self.index = index
        self._objective = objective
        self._attack = attack
        self._answers = 0
        self._factor = pace.factor
        streams = np.random.SeedSequence([seed, index, since]).spawn(4)
        self._batches, self._lies, delays, outages = map(np.random.default_rng, streams)
        self._compute, self._network = pace.compute(delays), pace.network(delays)
        self._absences = Absences(pace.outages, outages)
        self._history = History()

    def answer(self, ticket: int, version: int, x: Vector, now: float = 0.0) -> Answer:
        """The answer to a hand-out of second `now`; raises TaskError where the task gives no
        gradient.
        """
        attack = self._attack if self._attack.lies(self._answers) else HONEST
        self._answers += 1
        g, loss = self._objective.gradient(attack.model(x), self._batches, attack.relabel)
        sent = attack.corrupt(g, self._lies)
        change = self._history.add(ticket, version, sent, x)
        declared = None
        if change is not None and math.isfinite(change.growth):
            declared = Declared(change.growth, change.since)
        gradient = Gradient(
            worker=self.index,
            ticket=ticket,
            g=sent,
            declared=attack.declare(declared),
            loss=loss,
            examples=self._objective.batch,
        )
        down, up = next(self._network), next(self._network)
        return Answer(
            gradient,
            down,
            attack.takes(now + down, self._factor * next(self._compute)),
            up,
            repeats=attack.repeats(gradient),
            rest=attack.rest(now, x, g, sent),
        )

    def stretches(self, now: float, seconds: float) -> Iterator[tuple[float, float]]:
        """So many seconds of work from `now` on (second 0: when the worker began), as stretches of
        (seconds there, seconds away).
        """
        return self._absences.stretches(now, seconds)

    def forget(self) -> None:
        """Begin anew with a server that remembers nothing of this worker."""
        self._history = History()
