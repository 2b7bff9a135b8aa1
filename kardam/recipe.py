"""The algorithm's choices as the texts that users write, checked together; and presets of them.

Wiring: it knows every rule's table, and no rule knows it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from kardam.aggregators import AGGREGATORS, Rule
from kardam.dampening import DAMPENINGS
from kardam.descent import Descent
from kardam.errors import UsageError, suggest
from kardam.filters import STAGES, chain, tolerated
from kardam.gathering import GATHERINGS, Gathering, OnArrival
from kardam.lens import MEMORIES
from kardam.messages import Vector
from kardam.optimizers import OPTIMIZERS
from kardam.rates import RATES
from kardam.spec import build
from kardam.trusted import TRUSTED, Root


class Preset(NamedTuple):
    """A name for a filter and a dampening together; single flags override it."""

    filter: str
    dampening: str
    says: str


PRESETS = {
    "none": Preset("none", "constant", "plain asynchronous SGD"),
    "paper": Preset(
        "growth:band=upper+frequency",
        "exponential:alpha=0.2",
        "Kardam, ICML 2018",
    ),
    "paper_literal": Preset(
        "server_growth+frequency",
        "exponential:alpha=0.2",
        "the text of that to the letter, which freezes",
    ),
    "middle": Preset(
        "growth:band=middle,exponent=0.5+clip",
        "constant",
        "the authors' own telling, without the lowest and the highest f; clipped",
    ),
    "consensus": Preset(
        "growth:band=relative,c=7,exponent=0.5,span=25+consensus+throttle+clip:factor=2,after=60",
        "constant",
        "growth near all others', histories that agree, a limit on the fast; clipped",
    ),
}

# The best that is measured so far.
DEFAULT_PRESET = "consensus"

DEFAULT_RATE = "constant:gamma=0.1"

DEFAULT_OPTIMIZER = "sgd"

DEFAULT_GATHER = "arrival:m=1"

DEFAULT_AGGREGATOR = "average"

DEFAULT_MEMORY = "auto"


# What a server's books can be asked to hold.
N_MAX = 10**6


@dataclass(frozen=True, slots=True)
class Recipe:
    """n workers of whom f are assumed to lie, and which rules judge, dampen, gather and step.

    Only `of` makes one, so that a recipe that exists can be cooked.
    """

    n: int
    f: int
    filter: str
    dampening: str
    rate: str
    optimizer: str
    gather: str
    aggregator: str
    memory: str
    root_examples: int = 0

    @classmethod
    def of(
        cls,
        n: int,
        f: int | None = None,
        preset: str = DEFAULT_PRESET,
        filter: str | None = None,
        dampening: str | None = None,
        rate: str = DEFAULT_RATE,
        optimizer: str = DEFAULT_OPTIMIZER,
        gather: str = DEFAULT_GATHER,
        aggregator: str = DEFAULT_AGGREGATOR,
        memory: str = DEFAULT_MEMORY,
        root_examples: int = 0,
    ) -> Self:
        """The preset, with what is not None in place of its parts. f = None: the most that n bear.

        Raises UsageError where a part is unknown, or the parts do not go together.
        """
        if not 1 <= n <= N_MAX:
            raise UsageError(f"--workers: expected 1 to {N_MAX:,}, got {n}")
        if not root_examples >= 0:
            raise UsageError(f"--root-examples: expected at least 0, got {root_examples}")
        if preset not in PRESETS:
            raise UsageError(f"--preset: unknown name {preset!r}{suggest(preset, PRESETS)}")
        recipe = cls(
            n=n,
            f=tolerated(n) if f is None else f,
            filter=PRESETS[preset].filter if filter is None else filter,
            dampening=PRESETS[preset].dampening if dampening is None else dampening,
            rate=rate,
            optimizer=optimizer,
            gather=gather,
            aggregator=aggregator,
            memory=memory,
            root_examples=root_examples,
        )
        recipe.descent(np.zeros(1, np.float32), np.zeros_like if root_examples else None)
        return recipe

    @property
    def quorum(self) -> int:
        """How many workers must be there: n - f where a rule bears f > 0 liars, else one."""
        robust = self.filter != "none" or self.aggregator != "average" or self._gathering().robust
        return self.n - self.f if self.f > 0 and robust else 1

    def descent(
        self, x: Vector, root: Root | None = None, chance: np.random.Generator | None = None
    ) -> Descent:
        """A new Descent by this recipe, from x_0; `root` is the gradient on `root_examples` that
        are trusted, if there are any, and a sketched memory draws its secret from `chance`.
        """
        return Descent(x, **self.parts(x.size, root, chance))

    def parts(
        self, d: int, root: Root | None = None, chance: np.random.Generator | None = None
    ) -> dict[str, Any]:
        """All that a Descent over d numbers is made of, but for x_0."""
        filter = chain(self.filter, self.n, self.f, table={**STAGES, **TRUSTED}, root=root)
        dampening = build(self.dampening, DAMPENINGS, "--dampening", n=self.n, f=self.f)
        if filter.exact and self.memory not in ("auto", "exact"):
            raise UsageError(
                f"--memory {self.memory}: --filter {self.filter} needs the vectors themselves; give"
                " --memory exact"
            )
        # Where nothing compares, there is nothing to remember.
        memory = self.memory if filter.stages or dampening.compares else "exact"
        return {
            "n": self.n,
            "f": self.f,
            "filter": filter,
            "dampening": dampening,
            "rate": build(self.rate, RATES, "--rate"),
            "optimizer": build(self.optimizer, OPTIMIZERS, "--optimizer"),
            "gathering": self._gathering(),
            "lens": build(memory, MEMORIES, "--memory", d=d, chance=chance, compared=filter.exact),
            # The rate is no knob of the state: it remembers nothing, and may be another.
            "knobs": {
                "--workers": self.n,
                "--f": self.f,
                "--filter": self.filter,
                "--dampening": self.dampening,
                "--optimizer": self.optimizer,
                "--gather": self.gather,
                "--aggregator": self.aggregator,
                "--memory": self.memory,
            },
        }

    def _gathering(self) -> Gathering:
        knob = "--aggregator"
        sizes: list[int] = []

        def rule(size: int) -> Rule:
            sizes.append(size)
            # What counts as n is how many vectors the rule will see.
            return build(
                self.aggregator, AGGREGATORS, f"--gather {self.gather} {knob}", n=size, f=self.f
            )

        gathering = build(self.gather, GATHERINGS, "--gather", n=self.n, f=self.f, rule=rule)
        if self.aggregator != DEFAULT_AGGREGATOR and isinstance(gathering, OnArrival):
            raise UsageError(
                f"{knob} {self.aggregator}: on arrival a fast liar may own all that it is shown;"
                " give --gather buffered or synchronous"
            )
        if self.aggregator != DEFAULT_AGGREGATOR and not sizes:
            raise UsageError(
                f"{knob} {self.aggregator}: --gather {self.gather} has a rule of its own; leave"
                f" {knob} away"
            )
        return gathering
