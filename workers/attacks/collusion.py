"""Lies that liars prepare together, on a board where each posts his own honest gradient.

What the papers compute from the honest workers' gradients is estimated from the liars' own, of
which there are only f, each at the model that its owner was lent last; nothing else can be known
over sockets. All liars send the same function of the same board. Never in here: how a board is
shared.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kardam.messages import Vector
from workers.attacks.attack import Attack, Knows
from workers.board import Board


class Colluder(Attack):
    """A liar with a board."""

    knows = Knows.BOARD

    def __init__(self, board: Board) -> None:
        self._board = board

    def posts(self, g: Vector) -> NDArray[np.float32]:
        """Post g, one's own; all posts, shape (k, d), k >= 1."""
        self._board.post(g)
        return self._board.read()


class Alie(Colluder):
    """mean - z * std, per coordinate: a little is enough (Baruch et al., NeurIPS 2019, section 3).

        z_max = Phi^-1((n - f - s) / (n - f)),    s = floor(n/2 + 1) - f

    is the most that hides among n - f honest workers when s of them are farther out; 0 where the
    liars are too few for any. f is how many collude on this board. The authors' code takes z = 1.5.
    """

    def __init__(self, board: Board, z: float | None = None) -> None:
        super().__init__(board)
        if z is None:
            z = z_max(board.n, board.f)
        if not math.isfinite(z):
            raise ValueError(f"expected z to be finite, got {z}")
        self.z = np.float32(z)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        posts = self.posts(g)
        lie: Vector = posts.mean(0) - self.z * posts.std(0)
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

    def __init__(self, board: Board, epsilon: float = 0.5) -> None:
        super().__init__(board)
        if not epsilon > 0:
            raise ValueError(f"expected epsilon > 0, got {epsilon}")
        self.epsilon = np.float32(epsilon)

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        lie: Vector = -self.epsilon * self.posts(g).mean(0)
        return lie
