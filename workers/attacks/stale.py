"""Lies about which model a gradient belongs to.

The server asks nobody: by its own record it knows which model went out under which ticket, and it
takes each ticket once.

Never in here: what else is said.
"""

from collections import deque
from dataclasses import replace

import numpy as np

from kardam.messages import Gradient, Vector
from workers.attacks.attack import Attack, Knows


def _remembered(age: int) -> int:
    """How many to keep so that the oldest is `age` answers old."""
    if not age >= 1:
        raise ValueError(f"expected age >= 1 answers, got {age}")
    return age + 1


class VersionLie(Attack):
    """A new gradient at the model that was lent `age` answers ago, pushed under the newest ticket:
    stale, and said to be fresh, so that no dampening touches it.

    In the beginning, at the oldest model that there is. (Damaskinos et al. 2018 let workers report
    the version themselves; a liar reports the newest.)
    """

    knows = Knows.OWN

    def __init__(self, age: int = 10) -> None:
        self._models: deque[Vector] = deque(maxlen=_remembered(age))

    def model(self, x: Vector) -> Vector:
        self._models.append(x)
        return self._models[0]


class Replay(Attack):
    """The gradient of `age` answers ago once more, twice over: under the ticket that it had, which
    the server must refuse (`unasked`), and as the answer to the newest.

    In the beginning, the oldest gradient that there is. The attack that nonces are for.
    """

    knows = Knows.OWN

    def __init__(self, age: int = 10) -> None:
        self._gradients: deque[Vector] = deque(maxlen=_remembered(age))
        self._tickets: deque[int] = deque(maxlen=_remembered(age))

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        self._gradients.append(g)
        return self._gradients[0]

    def repeats(self, gradient: Gradient) -> tuple[Gradient, ...]:
        self._tickets.append(gradient.ticket)
        if self._tickets[0] == gradient.ticket:
            return ()
        return (replace(gradient, ticket=self._tickets[0]),)
