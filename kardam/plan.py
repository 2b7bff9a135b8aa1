"""What a run is to be: where it listens, what judges, when it is enough, what is kept of it. Values
only: nothing in here runs, opens a file or reads a clock.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kardam.client import check_endpoint
from kardam.errors import UsageError
from kardam.recipe import Recipe
from kardam.stats import Stats


def is_public(bind: str) -> bool:
    """Whether others than this machine reach this endpoint. Raises UsageError where it is none."""
    host = urlsplit(check_endpoint(bind)).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"  # any other name may be anybody's


@dataclass(frozen=True, slots=True)
class Until:
    """When it is enough: model updates, delivered gradients, seconds, held-out accuracy; any of
    them.
    """

    updates: int | None = None
    arrivals: int | None = None
    seconds: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        for name in ("updates", "arrivals", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name}: expected more than 0, got {value}")
        if self.target is not None and not 0 < self.target <= 1:
            raise UsageError(f"--target: expected an accuracy in (0, 1], got {self.target}")

    def reached(self, stats: Stats, now: float) -> str:
        """Which of them is reached, in words; empty while none is."""
        if self.updates is not None and stats.updates >= self.updates:
            return f"{stats.updates:,} updates"
        if self.arrivals is not None and stats.total.delivered >= self.arrivals:
            return f"{stats.total.delivered:,} arrivals"
        if self.seconds is not None and now >= self.seconds:
            return f"{self.seconds:g} seconds"
        if self.target is not None and stats.accuracy >= self.target:
            return f"accuracy {stats.accuracy:.3f}"
        return ""

    @property
    def by_accuracy_alone(self) -> bool:
        """Whether it is never enough unless somebody evaluates."""
        others = (self.updates, self.arrivals, self.seconds)
        return self.target is not None and all(its is None for its in others)

    def share(self, stats: Stats, now: float) -> float:
        """How much of the way is gone, 0 to 1; the furthest of them."""
        ways = [
            stats.updates / self.updates if self.updates else 0.0,
            stats.total.delivered / self.arrivals if self.arrivals else 0.0,
            now / self.seconds if self.seconds else 0.0,
        ]
        return min(max(ways), 1.0)


@dataclass(frozen=True, slots=True)
class Every:
    """When to keep a checkpoint: after so many updates or seconds, whichever comes first."""

    updates: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("updates", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--checkpoint-{name}: expected more than 0, got {value}")

    def due(self, updates: int, seconds: float) -> bool:
        """Whether one is due, so many updates and seconds after the last."""
        return updates > 0 and (
            (self.updates is not None and updates >= self.updates)
            or (self.seconds is not None and seconds >= self.seconds)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A server to be: what it does, until when, where it listens, what it tells its workers of the
    task (empty where it knows none), and what it leaves behind.

    `dashboard` is the port of a page to look at, if there is to be one. `record`: what was received
    stays, gradients and all; `durable`: it is on the disk before anything of it leaves.

    `keys` is the folder of those who may come, under CURVE; where there is none, anybody may who
    reaches the port, and has a token.

    `memory_limit` is so many MiB of the server's process, after which it closes its connections.

    `experiment` is the text of its file, `out` its directory. A run that goes on from a
    `checkpoint` does so in its own directory (`in_place`), or begins another one.
    """

    recipe: Recipe
    bind: str
    until: Until
    every: Every
    keep: int
    seed: int
    task: str
    split: str
    experiment: str
    out: Path
    checkpoint: Path | None = None
    in_place: bool = False
    dashboard: int | None = None
    record: bool = False
    durable: bool = False
    keys: Path | None = None
    memory_limit: int | None = None
