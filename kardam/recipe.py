"""The algorithm's choices as the texts that users write, checked together; and presets of them.

Wiring: it knows every rule's table, and no rule knows it.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from kardam.dampening import DAMPENINGS
from kardam.descent import Descent
from kardam.errors import UsageError, suggest
from kardam.filters import chain, tolerated
from kardam.messages import Vector
from kardam.optimizers import OPTIMIZERS
from kardam.rates import RATES
from kardam.spec import build


class Preset(NamedTuple):
    """A name for a filter and a dampening together; single flags override it."""

    filter: str
    dampening: str
    says: str


PRESETS = {
    "none": Preset("none", "constant", "plain asynchronous SGD: no filter, clip or dampening"),
    "paper": Preset(
        "growth:band=upper+frequency",
        "exponential:alpha=0.2",
        "Kardam, ICML 2018: own growth, upper band, strict frequency, exp(-0.2 tau)",
    ),
    "paper_literal": Preset(
        "server_growth+frequency",
        "exponential:alpha=0.2",
        "the server-side coefficient of the paper's text: an exhibit, which freezes",
    ),
    "middle": Preset(
        "growth:band=middle,exponent=0.5+clip",
        "constant",
        "the authors' own telling: without the lowest and the highest f; clipped",
    ),
}

# The best that is measured so far.
DEFAULT_PRESET = "middle"

DEFAULT_RATE = "constant:gamma=0.1"

DEFAULT_OPTIMIZER = "sgd"


@dataclass(frozen=True, slots=True)
class Recipe:
    """n workers of whom the filter assumes f to lie, and which rules judge, dampen and step.

    Only `of` makes one, so that a recipe that exists can be cooked.
    """

    n: int
    f: int
    filter: str
    dampening: str
    rate: str
    optimizer: str
    per_update: int

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
        per_update: int = 1,
    ) -> Self:
        """The preset, with what is not None in place of its parts. f = None: the most that n bear.

        Raises UsageError where a part is unknown, or the parts do not go together.
        """
        if n < 1:
            raise UsageError(f"--workers: expected at least 1, got {n}")
        if per_update < 1:
            raise UsageError(f"--per-update: expected M >= 1, got {per_update}")
        if preset not in PRESETS:
            raise UsageError(f"--preset: unknown name {preset!r}{suggest(preset, PRESETS)}")
        recipe = cls(
            n=n,
            f=tolerated(n) if f is None else f,
            filter=PRESETS[preset].filter if filter is None else filter,
            dampening=PRESETS[preset].dampening if dampening is None else dampening,
            rate=rate,
            optimizer=optimizer,
            per_update=per_update,
        )
        recipe.descent(np.zeros(1, np.float32))
        return recipe

    @property
    def quorum(self) -> int:
        """How many workers must be there: n - f where f > 0 are filtered, else one."""
        return self.n - self.f if self.f > 0 and self.filter != "none" else 1

    def descent(self, x: Vector) -> Descent:
        """A new Descent by this recipe, from x_0."""
        return Descent(
            x,
            n=self.n,
            f=self.f,
            filter=chain(self.filter, self.n, self.f),
            dampening=build(self.dampening, DAMPENINGS, "--dampening", n=self.n, f=self.f),
            rate=build(self.rate, RATES, "--rate"),
            optimizer=build(self.optimizer, OPTIMIZERS, "--optimizer"),
            per_update=self.per_update,
            # The rate is no knob of the state: it remembers nothing, and may be another.
            knobs={
                "--workers": self.n,
                "--f": self.f,
                "--filter": self.filter,
                "--dampening": self.dampening,
                "--optimizer": self.optimizer,
                "--per-update": self.per_update,
            },
        )
