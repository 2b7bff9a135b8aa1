"""How a run ended: values. Never in here: anything that runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from kardam.diagnosis import lost
from kardam.errors import Stalled, Unwritable
from kardam.plan import Until
from kardam.stats import Stats


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ended, in words, and the exit code that goes with it."""

    why: str
    code: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked for it; the run may go on another time."""
        return self.code >= 128

    def as_wished(self) -> Self:
        """For a server without a goal: to be asked to end is the end that it waits for."""
        return replace(self, code=0) if self.interrupted else self


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is to be told of a run that has ended.

    `folder` is what it left behind, `kept` the newest checkpoint in it, `unwritten` says what
    could not be written.
    """

    ending: Ending
    books: Mapping[str, Any]
    folder: Path
    kept: Path | None
    unwritten: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """The exit code."""
        return self.ending.code or (Unwritable.code if self.unwritten else 0)


def ending_of(stats: Stats, until: Until, now: float) -> Ending | None:
    """The ending, if by the books there is one: enough, or stalled."""
    if why := until.reached(stats, now):
        return Ending(why)
    if stats.stalled:
        return Ending(f"stalled: {lost(stats.since_admitted)}", Stalled.code)
    return None
