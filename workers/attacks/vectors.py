"""Lies in what is said: the vector, the labels it comes from, the growth that is declared.

Never in here: when it is said, or under which ticket.
"""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from kardam.growth import norm
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


# Bits 22, 30, 31 and 32 of a float32, the lowest being 1: of the fraction one, the two highest of
# the exponent, and the sign.
FLIPPED = np.uint32(1 << 21 | 1 << 29 | 1 << 30 | 1 << 31)


class BitFlip(Attack):
    """What memory or wires may do. `of=sign` flips the sign of every coordinate, which much code
    means by the name; `of=word` four bits of every float32 (22, 30, 31 and 32), as Blanchard et al.
    2017 are said to: most of what is left is of the order of 1e38, or 1e-38, or no number.
    """

    knows = Knows.OWN

    def __init__(self, of: Literal["sign", "word"] = "word") -> None:
        self.bits = FLIPPED if of == "word" else np.uint32(1 << 31)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return (g.view(np.uint32) ^ self.bits).view(np.float32)


class PartialDrop(Attack):
    """g without `share` of its coordinates, drawn anew each time, which are 0: as if packets were
    lost. 0.3 in Garfield (Guerraoui et al., DSN 2021).
    """

    knows = Knows.OWN

    def __init__(self, share: float = 0.3) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"expected 0 < share <= 1, got {share}")
        self.share = share

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return np.where(rng.random(g.size) < self.share, np.float32(0), g)


class RandomDisturbance(Attack):
    """g + N(0, ||sigma g||^2 I): the noise is per coordinate, so it is sigma sqrt(d) times as long
    as g. sigma = 0.2 in BASGD (Yang and Li, ICML 2021).
    """

    knows = Knows.OWN

    def __init__(self, sigma: float = 0.2) -> None:
        if not sigma > 0:
            raise ValueError(f"expected sigma > 0, got {sigma}")
        self.sigma = sigma

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        noise = self.sigma * norm(g) * rng.standard_normal(g.size)
        return g + noise.astype(np.float32)


class Constant(Attack):
    """The same vector always, of the given norm, in a direction drawn once and shared by all liars.

    Its growth is 0, truthfully: the hole in a filter that looks only for too much growth.
    """

    def __init__(self, seed: int, norm: float = 10.0) -> None:
        if not norm >= 0:
            raise ValueError(f"expected norm >= 0, got {norm}")
        self.seed, self.norm = seed, norm

    def along(self, d: int, length: float) -> Vector:
        """The vector of d numbers in that direction, and of this length."""
        v = np.random.default_rng([self.seed, 0xC0]).standard_normal(d)
        return (v * (length / np.linalg.norm(v))).astype(np.float32)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return self.along(g.size, self.norm)


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


class SlowDrift(Constant):
    """g + min(k step, norm) u in its k-th answer, with u of length 1 in the direction of
    `constant`: honest in the beginning, and never far from its last answer.

    What judges a worker by its own past alone is led away step by step, and the past with it.
    """

    knows = Knows.OWN

    def __init__(self, seed: int, step: float = 0.1, norm: float = 10.0) -> None:
        super().__init__(seed, norm)
        if not step > 0:
            raise ValueError(f"expected step > 0, got {step}")
        self.step = step
        self._answers = 0

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        gone = min(self._answers * self.step, self.norm)
        self._answers += 1
        return g + self.along(g.size, gone)


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

    def poison(self, inputs: Any, targets: Any, classes: int) -> tuple[Any, Any]:
        return inputs, classes - 1 - targets


class MalformedInputs(Attack):
    """The gradient on `scale` times the inputs, each with another one's label (that of the last for
    the first, and so on): AggregaThor's malformed data, at -100 and -1e12 (Damaskinos et al.,
    SysML 2019).
    """

    knows = Knows.OWN

    def __init__(self, scale: float = -100.0) -> None:
        if not 0 < abs(scale) < math.inf:
            raise ValueError(f"expected scale to be finite and not 0, got {scale}")
        self.scale = scale

    def poison(self, inputs: Any, targets: Any, classes: int) -> tuple[Any, Any]:
        return self.scale * inputs, targets.flip(0)


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


class Decoy(Attack):
    """-scale * g in every other answer, and between two of them g under a false growth, which the
    server sees and refuses. So nearly always all liars are refused for something that is no lie in
    the vector, by a rule that has no memory: where a filter shuts out f at most, and takes these
    for the f, nobody is shut out.
    """

    knows = Knows.OWN

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"expected scale > 0, got {scale}")
        self.scale = scale
        self._lies = False

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        self._lies = not self._lies
        return g * np.float32(-self.scale) if self._lies else g

    def declare(self, declared: Declared | None) -> Declared | None:
        return declared if declared is None or self._lies else replace(declared, growth=math.inf)


class Whisper(Attack):
    """-scale * g once, and small * g so many times after it. Their directions are honest ones, most
    of the time, and weigh next to nothing: against a filter that goes by directions alone.
    """

    knows = Knows.OWN

    def __init__(self, scale: float = 2.0, small: float = 0.01, times: int = 2) -> None:
        if not scale > 0:
            raise ValueError(f"expected scale > 0, got {scale}")
        if not 0 < small < 1:
            raise ValueError(f"expected 0 < small < 1, got {small}")
        if not times >= 1:
            raise ValueError(f"expected times >= 1, got {times}")
        self.scale, self.small, self.times = scale, small, times
        self._left = 0

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        if self._left == 0:
            self._left = self.times
            return g * np.float32(-self.scale)
        self._left -= 1
        return g * np.float32(self.small)
