"""A worker without its socket: a model in, a gradient out, and how long that took. No clock; chance
is given.

Honest or not is a matter of the attack it carries; slow or not, of its latency.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kardam.errors import TaskError
from kardam.growth import History
from kardam.messages import Gradient, Vector, WorkerId
from workers.attacks import Attack
from workers.latency import Latency
from workers.outages import NEVER, Absences, Outages
from workers.sight import Sight

# What a liar is while it does not lie.
HONEST = Attack()

# (inputs, targets, number of classes) -> the mini-batch to train on
Poison = Callable[[Any, Any, int], tuple[Any, Any]]


class Objective(Protocol):
    """A function to minimize, as one worker sees it."""

    # Examples in a mini-batch.
    batch: int

    def gradient(self, x: Vector, rng: np.random.Generator, poison: Poison) -> tuple[Vector, float]:
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


@dataclass(frozen=True, slots=True)
class Owed:
    """The seconds that an answer takes: the model's way down, computing (infinite is never), the
    way up.
    """

    down: float
    compute: float
    up: float


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A gradient. A liar may push others before it, and rest for seconds before its next pull."""

    gradient: Gradient
    repeats: tuple[Gradient, ...] = ()
    rest: float = 0.0


class Worker:
    """One worker. Its draws (batches, lies, delays, outages) come from four streams of (seed,
    index): the seed is the worker. `since` is the version at which it joins, so that one who comes
    back to a run that went on does not draw the same again.

    For every model that it is lent, it is asked what it `owes`, and then for its `answer`: when the
    time has passed if that can be had, so that a liar knows all that there is to know by then.
    `sight` is what a liar sees of the others, where there is a simulation to show it.
    """

    def __init__(
        self,
        index: WorkerId,
        seed: int,
        objective: Objective,
        attack: Attack,
        pace: Pace,
        since: int = 0,
        sight: Sight | None = None,
    ) -> None:
        self.index = index
        self.sight = sight
        self._objective = objective
        self._attack = attack
        self._answers = 0
        self._factor = pace.factor
        streams = np.random.SeedSequence([seed, index, since]).spawn(4)
        self._batches, self._lies, delays, outages = map(np.random.default_rng, streams)
        self._compute, self._network = pace.compute(delays), pace.network(delays)
        self._absences = Absences(pace.outages, outages)
        self._history = History()

    def owes(self, now: float) -> Owed:
        """What the answer to a hand-out of second `now` will take."""
        down, up = next(self._network), next(self._network)
        compute = self._factor * next(self._compute)
        return Owed(down, self._lying().takes(now + down, compute), up)

    def answer(self, ticket: int, version: int, x: Vector, now: float = 0.0) -> Answer:
        """The answer to a hand-out of second `now`; raises TaskError where the task gives no
        gradient, or the attack no vector.
        """
        attack = self._lying()
        self._answers += 1
        g, loss = self._objective.gradient(attack.model(x), self._batches, attack.poison)
        sent = _vector(attack.corrupt(g, self._lies), len(g))
        change = self._history.add(ticket, version, sent, x)
        declared = change.declared if change is not None else None
        gradient = Gradient(
            worker=self.index,
            ticket=ticket,
            g=attack.spell(sent, self._lies),
            declared=attack.declare(declared),
            loss=loss,
            examples=self._objective.batch,
        )
        return Answer(gradient, repeats=attack.repeats(gradient), rest=attack.rest(now, x, g, sent))

    def _lying(self) -> Attack:
        """What it does to its next answer."""
        return self._attack if self._attack.lies(self._answers) else HONEST

    def stretches(self, now: float, seconds: float) -> Iterator[tuple[float, float]]:
        """So many seconds of work from `now` on (second 0: when the worker began), as stretches of
        (seconds there, seconds away).
        """
        return self._absences.stretches(now, seconds)

    def forget(self) -> None:
        """Begin anew with a server that remembers nothing of this worker."""
        self._history = History()


def _vector(sent: Vector, d: int) -> Vector:
    """As float32: a lie with numpy's own noise in it has become float64, which no server takes, and
    would pass for a lie that every filter sees. Raises TaskError for what is no vector.
    """
    if not isinstance(sent, np.ndarray) or sent.shape != (d,):
        what = f"one of shape {sent.shape}" if isinstance(sent, np.ndarray) else repr(sent)[:60]
        raise TaskError(f"expected a vector of shape ({d},) of the attack's corrupt, got {what}")
    if sent.dtype == np.float32:
        return sent
    with np.errstate(over="ignore"):
        return sent.astype(np.float32)
