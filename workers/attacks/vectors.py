"""Lies in what is said: the vector, the labels it comes from, the growth that is declared.

Never in here: when it is said, or under which ticket.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from kardam.messages import Declared, Vector
from workers.attacks.attack import Attack, Knows


class SignFlip(Attack):
    """-scale * g: ascend. Damaskinos et al. 2018 use 1; Xie et al. (Zeno++) and BASGD use 10."""

    knows = Knows.OWN

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"expected scale > 0, got {scale}")
        self.scale = scale

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return g * np.float32(-self.scale)


class Constant(Attack):
    """The same vector always, of the given norm, in a direction drawn once and shared by all liars.

    Its growth is 0, truthfully: the hole in a filter that looks only for too much growth.
    """

    def __init__(self, seed: int, norm: float = 10.0) -> None:
        if not norm >= 0:
            raise ValueError(f"expected norm >= 0, got {norm}")
        self.seed, self.norm = seed, norm

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        v = np.random.default_rng([self.seed, 0xC0]).standard_normal(g.size)
        return (v * (self.norm / np.linalg.norm(v))).astype(np.float32)


class HonestPlusConstant(Constant):
    """g + v, with v as in `constant`: it pulls the model aside, and v cancels in every difference.

    Its growth is that of an honest worker, truthfully: no growth test can see it. Akin to the
    hidden vulnerability of El Mhamdi et al. (ICML 2018), where v is one coordinate.
    """

    knows = Knows.OWN

    def __init__(self, seed: int, norm: float = 5.0) -> None:
        super().__init__(seed, norm)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return g + super().corrupt(g, rng)


class Gaussian(Attack):
    """N(0, sigma^2) in every coordinate, drawn anew each time; sigma = 200 in Blanchard et al. 2017
    (Krum).
    """

    def __init__(self, sigma: float = 200.0) -> None:
        if not sigma >= 0:
            raise ValueError(f"expected sigma >= 0, got {sigma}")
        self.sigma = sigma

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return (self.sigma * rng.standard_normal(g.size)).astype(np.float32)


class Zero(Attack):
    """The zero vector: nothing to see, nothing learned."""

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return np.zeros_like(g)


class Nan(Attack):
    """Not a number in every coordinate: one such vector in a mean is the end of the mean."""

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return np.full_like(g, np.nan)


class LabelFlip(Attack):
    """The gradient on labels C-1-y for C classes: diligent, and wrong."""

    knows = Knows.OWN

    def relabel(self, targets: Any, classes: int) -> Any:
        return classes - 1 - targets


class LyingGrowth(Attack):
    """`factor` times the true growth is declared. Low lies (factor 0) would pull a bound down onto
    honest workers, high ones (factor inf) would lift it over liars, where it were believed.
    """

    knows = Knows.OWN

    def __init__(self, factor: float = 0.0) -> None:
        if not factor >= 0:
            raise ValueError(f"expected factor >= 0 (inf included), got {factor}")
        self.factor = factor

    def declare(self, declared: Declared | None) -> Declared | None:
        if declared is None:
            return None
        lie = self.factor * declared.growth
        return replace(declared, growth=lie if lie >= 0 else 0.0)
