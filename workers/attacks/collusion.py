"""Lies that liars prepare together: functions of several honest gradients, the same for all liars.

What the papers compute from the honest workers' gradients is estimated from the liars' own
(`sees=board`), of which there are only f, each at the model that its owner was lent last; over
sockets nothing else can be known. In a simulation it can be the truth (`sees=honest`): the last
gradient that each honest worker has delivered. Never in here: how a board is shared, or what any
filter says.
"""

import math
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kardam.messages import Vector
from workers.attacks.attack import Attack, Knows
from workers.board import Board
from workers.sight import Sight

Sees = Literal["board", "honest"]
Along = Literal["mean", "sign", "std"]

# Several gradients, one a row: (k, d).
Stack = NDArray[np.float32]

# Sums of squares are compared: in double precision.
Exactly = NDArray[np.float64]


class Colluder(Attack):
    """A liar with a board, and where it `sees` the honest, with sight."""

    def __init__(self, board: Board, sight: Sight, sees: Sees = "board") -> None:
        self._board, self._sight, self.sees = board, sight, sees
        self.knows = Knows.HONEST if sees == "honest" else Knows.BOARD

    def gradients(self, g: Vector) -> Stack:
        """What it knows of honest gradients, its own being g: shape (k, d), k >= 1.

        Its own alone, while it is to see the honest and none has delivered.
        """
        if self.sees == "honest":
            honest = self._sight.honest()
            return honest if len(honest) else g[np.newaxis]
        self._board.post(g)
        return self._board.read()


class Alie(Colluder):
    """mean - z * std, per coordinate: a little is enough (Baruch et al., NeurIPS 2019, section 3).

        z_max = Phi^-1((n - f - s) / (n - f)),    s = floor(n/2 + 1) - f

    is the most that hides among n - f honest workers when s of them are farther out; 0 where the
    liars are too few for any. f is how many collude on this board. The authors' code takes z = 1.5.
    """

    def __init__(
        self, board: Board, sight: Sight, z: float | None = None, sees: Sees = "board"
    ) -> None:
        super().__init__(board, sight, sees)
        if z is None:
            z = z_max(board.n, board.f)
        if not math.isfinite(z):
            raise ValueError(f"expected z to be finite, got {z}")
        self.z = np.float32(z)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        seen = self.gradients(g)
        lie: Vector = seen.mean(0) - self.z * seen.std(0)
        return lie


def z_max(n: int, f: int) -> float:
    """How far from the mean a lie of f colluders among n workers may lie, in standard deviations.

    Raises ValueError where f are a majority, who need not hide.
    """
    honest, supporters = n - f, n // 2 + 1 - f
    if supporters <= 0:
        raise ValueError(f"{f} of {n} are a majority, for whom there is no z_max: give z=...")
    share = (honest - supporters) / honest
    return NormalDist().inv_cdf(share) if share > 0.5 else 0.0


class InnerProduct(Colluder):
    """-epsilon * mean: the inner product with the true gradient is made negative (Xie, Koyejo and
    Gupta, UAI 2019). Small epsilon stays inside the honest cloud; large ones push.
    """

    def __init__(
        self, board: Board, sight: Sight, epsilon: float = 0.5, sees: Sees = "board"
    ) -> None:
        super().__init__(board, sight, sees)
        if not epsilon > 0:
            raise ValueError(f"expected epsilon > 0, got {epsilon}")
        self.epsilon = np.float32(epsilon)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        lie: Vector = -self.epsilon * self.gradients(g).mean(0)
        return lie


class MinMax(Colluder):
    """mean - lambda p, as far as it is from no gradient farther than these are from each other:

        the largest lambda with  max_i ||m - g_i||  <=  max_ij ||g_i - g_j||

    (Shejwalkar and Houmansadr, NDSS 2021, section IV). Along `mean` p is the mean, of length 1;
    along `sign` its signs, along `std` the deviations, per coordinate. The paper finds lambda by
    halving; each condition is a quadratic in it, so it is solved.
    """

    def __init__(
        self, board: Board, sight: Sight, along: Along = "std", sees: Sees = "board"
    ) -> None:
        super().__init__(board, sight, sees)
        self.along = along

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        seen = self.gradients(g).astype(np.float64)
        mean, p = seen.mean(0), perturbation(seen, self.along)
        square = float(p @ p)
        strength = self._strength(seen, mean - seen, p, square) if square > 0 else 0.0
        lie: Vector = (mean - strength * p).astype(np.float32)
        return lie

    def _strength(self, seen: Exactly, away: Exactly, p: Exactly, square: float) -> float:
        """lambda; `away` are the mean - g_i, and `square` is ||p||^2 > 0."""
        # ||away_i||^2 - 2 lambda <away_i, p> + lambda^2 ||p||^2 <= bound: the larger of two roots.
        bound = float(np.max([((seen - g) ** 2).sum(1).max() for g in seen]))
        inner, spread = away @ p, (away**2).sum(1)
        roots = (inner + np.sqrt(inner**2 + square * np.maximum(bound - spread, 0))) / square
        return float(roots.min())


class MinSum(MinMax):
    """As `min_max`, with sums of squares:

        the largest lambda with  sum_i ||m - g_i||^2  <=  min_i sum_j ||g_i - g_j||^2

    (the same paper): closer to the mean, and harder to see.
    """

    def _strength(self, seen: Exactly, away: Exactly, p: Exactly, square: float) -> float:
        bound = float(np.min([((seen - g) ** 2).sum() for g in seen]))
        # The mean - g_i sum to nothing, so no term is linear in lambda.
        return math.sqrt(max(bound - float((away**2).sum()), 0) / (len(seen) * square))


def perturbation(seen: Exactly, along: Along) -> Exactly:
    """The direction p of Shejwalkar and Houmansadr, from gradients of shape (k, d); `mean` is of
    length 1, or 0.
    """
    mean = seen.mean(0)
    if along == "sign":
        return np.asarray(np.sign(mean))
    if along == "std":
        return np.asarray(seen.std(0))
    return unit(mean)


class Mimic(Colluder):
    """Exactly what honest worker i* has sent last: nothing is a lie, and his data count f + 1 times
    (Karimireddy, He and Jaggi, ICLR 2022). Harm comes only of data that differ.

        i* = argmax_i <g_i, z>,    z -> unit of  t/(t+1) z + 1/(t+1) unit of sum_i <a_i, z> a_i

    with a_i the g_i less their running mean, in the first `warmup` answers; then i* stays. So z is
    about the direction in which honest workers differ most (the authors' code). Each liar goes by
    what it has seen, from the same first z.
    """

    def __init__(
        self, board: Board, sight: Sight, seed: int, warmup: int = 20, sees: Sees = "honest"
    ) -> None:
        super().__init__(board, sight, sees)
        if not warmup >= 1:
            raise ValueError(f"expected warmup >= 1 answers, got {warmup}")
        self.seed, self.warmup = seed, warmup
        self._answers = 0
        self._whom = 0
        self._mean: Exactly | None = None
        self._z: Exactly | None = None

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        seen = self.gradients(g)
        if self._answers < self.warmup:
            self._whom = self._choose(seen.astype(np.float64))
        self._answers += 1
        lie: Vector = seen[min(self._whom, len(seen) - 1)]
        return lie

    def _choose(self, seen: Exactly) -> int:
        """i*, after one more step of the power iteration."""
        t, mean = self._answers, seen.mean(0)
        if self._mean is None or self._z is None:
            self._mean = mean
            self._z = np.random.default_rng([self.seed, 0x313]).standard_normal(mean.size)
        self._mean = (t * self._mean + mean) / (t + 1)
        away = seen - self._mean
        pulled = unit((away @ self._z) @ away)
        self._z = unit(t * self._z + pulled) if pulled.any() else self._z
        return int(np.argmax(seen @ self._z))


def unit(v: Exactly) -> Exactly:
    """v at length 1; 0 stays 0."""
    length = float(np.linalg.norm(v))
    return v / length if length > 0 else v
