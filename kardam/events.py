"""What happens to a descent from outside, as values: done again in the same order from the same
state, they make the same models and verdicts, to the last bit.

Never in here: what becomes of them, or when they were.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kardam.messages import Gradient, Verdict, WorkerId


class Lending(NamedTuple):
    """The newest model was lent, under this ticket."""

    worker: WorkerId
    ticket: int


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The worker's loans were closed, but for those under the tickets `but`."""

    worker: WorkerId
    but: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refusing:
    """A loan, if it was open, was closed for what was no gradient."""

    worker: WorkerId
    ticket: int
    rule: str


@dataclass(frozen=True, slots=True)
class Turning:
    """Who this worker is, or whether it counts, has changed, by that method of Descent."""

    worker: WorkerId
    how: Literal["vacate", "begin", "excuse"]


class Receiving(NamedTuple):
    """A gradient was judged."""

    gradient: Gradient


Event = Lending | Forgetting | Refusing | Turning | Receiving

# Is told of each event once it has happened, and of the verdict where it made one.
Hear = Callable[[Event, Verdict | None], None]


def unheard(event: Event, verdict: Verdict | None) -> None:
    """Nobody listens."""
