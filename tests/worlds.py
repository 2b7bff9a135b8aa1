"""Whole clusters on virtual time: the product's own simulation, with what tests vary."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from kardam.descent import Descent
from kardam.messages import Vector, Verdict
from kardam.recipe import Recipe
from workers.crew import Member, crew
from workers.objective import Network
from workers.simulation import hire, secrets, simulate
from workers.tasks import load_task

LATENCY = "lognormal:mean=1,sigma=0.5"


@cache
def network(seed: int = 0) -> Network:
    return Network(load_task("digits", seed))


@cache
def start(seed: int = 0) -> Vector:
    """The first model. (`network` holds whichever it computed with last.)"""
    return Network(load_task("digits", seed)).x


class World(NamedTuple):
    """A descent, its workers, and what happened."""

    descent: Descent
    members: list[Member]
    verdicts: list[Verdict]

    @property
    def liars(self) -> set[int]:
        return {member.index for member in self.members if member.byzantine}

    @property
    def honest(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.worker not in self.liars]

    @property
    def accuracy(self) -> float:
        return network().evaluate(self.descent.model.x)[1]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(v.rule for v in self.verdicts if not v.admitted)


def share(verdicts: list[Verdict]) -> float:
    return sum(v.admitted for v in verdicts) / len(verdicts)


def windows(verdicts: list[Verdict], size: int) -> Iterator[list[Verdict]]:
    """Every stretch of so many consecutive verdicts."""
    return (
        verdicts[at : at + size] for at in range(0, len(verdicts) - size + 1, max(size // 4, 1))
    )


def world(
    arrivals: int,
    *,
    n: int = 10,
    seed: int = 0,
    recipe: dict[str, Any] | None = None,
    split: str = "iid",
    **who: Any,
) -> World:
    """Run so many arrivals. `recipe` as for Recipe.of; the rest as for crew."""
    descent = Recipe.of(n=n, **(recipe or {})).descent(start(seed), chance=secrets(seed))
    members = crew(n=n, seed=seed, **{"latency": LATENCY, **who})
    run = simulate(descent, hire(members, network(), seed, split))
    return World(descent, members, [verdict for _, verdict in islice(run, arrivals)])
