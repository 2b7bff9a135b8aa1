"""The noun: what an attack is, and what it may see. No attack lives here but the chain of many.

Never in here: anything about other workers, or about the server's state.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kardam.messages import Declared, Gradient, Vector


class Knows(StrEnum):
    """What an attack must see for what it changes, from least to most. The last two there are in a
    simulation only.
    """

    NOTHING = "nothing"
    OWN = "its own data, models and clock"
    BOARD = "the honest gradients of all liars, which they post to each other"
    HONEST = "the gradients that honest workers have delivered"
    FILTER = "what the server's filter would say"

    @property
    def rank(self) -> int:
        """How much it is: 0 is nothing."""
        return list(Knows).index(self)


class Attack:
    """What one worker does in place of an honest answer. This one does nothing: it is honest.

    The worker asks in this order, once for every model that it is lent: `lies`, and if it does,
    `takes`, and for its answer `model`, `poison`, `corrupt`, `spell`, `declare`, `repeats`, `rest`.
    An attack may remember what it was asked; it belongs to one worker.
    """

    knows: Knows = Knows.NOTHING

    def lies(self, answers: int) -> bool:
        """Whether it lies at all, after so many answers."""
        return True

    def model(self, x: Vector) -> Vector:
        """The model to compute a gradient at, in place of x, the one that was lent."""
        return x

    def poison(self, inputs: Any, targets: Any, classes: int) -> tuple[Any, Any]:
        """The mini-batch to train on: tensors of shape (batch, ...), of which targets are integers
        below `classes` (or anything, where that is 0).
        """
        return inputs, targets

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        """The vector to send in place of the gradient g, of the same shape (d,)."""
        return g

    def spell(self, v: Vector, rng: np.random.Generator) -> NDArray[Any]:
        """What to push in place of the vector v, whose growth is declared: any array at all, though
        a server takes none but (d,) of float32.
        """
        return v

    def declare(self, declared: Declared | None) -> Declared | None:
        """The growth to declare in place of the true one."""
        return declared

    def repeats(self, gradient: Gradient) -> tuple[Gradient, ...]:
        """What else to push, before this answer."""
        return ()

    def takes(self, now: float, seconds: float) -> float:
        """The seconds that computing takes from `now` on, in place of `seconds`; infinite is never.

        `now` is one clock for all workers of a machine, or of a simulation.
        """
        return seconds

    def rest(self, now: float, x: Vector, g: Vector, sent: Vector) -> float:
        """The seconds to wait after this answer, before the next model is pulled.

        At `now` it was lent x; it computed g, and sends `sent`.
        """
        return 0.0


class Chain(Attack):
    """All of its stages, each given what the one before it made; it lies while all of them do."""

    def __init__(self, stages: Sequence[Attack]) -> None:
        self.stages = tuple(stages)
        self.knows = max((stage.knows for stage in self.stages), key=lambda knows: knows.rank)

    def lies(self, answers: int) -> bool:
        return all(stage.lies(answers) for stage in self.stages)

    def model(self, x: Vector) -> Vector:
        for stage in self.stages:
            x = stage.model(x)
        return x

    def poison(self, inputs: Any, targets: Any, classes: int) -> tuple[Any, Any]:
        for stage in self.stages:
            inputs, targets = stage.poison(inputs, targets, classes)
        return inputs, targets

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        for stage in self.stages:
            g = stage.corrupt(g, rng)
        return g

    def spell(self, v: Vector, rng: np.random.Generator) -> NDArray[Any]:
        for stage in self.stages:
            v = stage.spell(v, rng)
        return v

    def declare(self, declared: Declared | None) -> Declared | None:
        for stage in self.stages:
            declared = stage.declare(declared)
        return declared

    def repeats(self, gradient: Gradient) -> tuple[Gradient, ...]:
        return tuple(again for stage in self.stages for again in stage.repeats(gradient))

    def takes(self, now: float, seconds: float) -> float:
        for stage in self.stages:
            seconds = stage.takes(now, seconds)
        return seconds

    def rest(self, now: float, x: Vector, g: Vector, sent: Vector) -> float:
        return max(stage.rest(now, x, g, sent) for stage in self.stages)
