"""Lies that colluders direct against one rule, whose name they know but not its state: as far from
where honest workers would go as this rule is said to bear (Fang, Cao, Jia and Gong, USENIX Security
2020).

Never in here: the rule itself, or asking it.
"""

import math

import numpy as np

from kardam.messages import Vector
from workers.attacks.collusion import Colluder, Exactly

# At this strength the search of `fang_krum` gives up, as the paper's does.
LEAST = 1e-5


class FangKrum(Colluder):
    """-lambda sign(mean), the same from all, with the largest lambda at which Krum would choose it,
    found by halving from the upper bound of the paper's theorem 1 (section 4.2, there of models).

    It plays Krum over the k gradients that it sees and c copies of the lie, k-2 nearest to each:
    with all f copies where it sees the honest. Where it sees only the board (the paper's partial
    knowledge), that stands for the honest, and the fewest copies that do.
    """

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        seen = self.gradients(g).astype(np.float64)
        s = np.sign(seen.mean(0))
        f = self._board.f
        tried = [f] if self.sees == "honest" else range(1, f + 1)
        found = (_strongest(seen, s, copies) for copies in tried)
        strength = next(filter(None, found), LEAST)
        lie: Vector = (-strength * s).astype(np.float32)
        return lie


def _strongest(seen: Exactly, s: Exactly, copies: int) -> float:
    """The largest lambda that is found; 0 where Krum takes none of `LEAST` or more."""
    squares = np.array([((seen - other) ** 2).sum(1) for other in seen])
    strength = _bound(seen, squares, copies)
    while strength >= LEAST:
        if _chosen(squares, ((seen + strength * s) ** 2).sum(1), copies):
            return strength
        strength /= 2
    return 0.0


def _nearest(squares: Exactly, k: int) -> Exactly:
    """The sum of the max(k-2, 1) least of each row."""
    total: Exactly = np.sort(squares, axis=-1)[..., : max(k - 2, 1)].sum(-1)
    return total


def _bound(seen: Exactly, squares: Exactly, copies: int) -> float:
    """Theorem 1: above it Krum takes no lie; the model before is the origin of what is seen."""
    k, d = seen.shape
    others = np.where(np.eye(k, dtype=bool), np.inf, squares) if k > 1 else squares
    least = float(_nearest(np.sqrt(others), k).min()) / max(k - copies - 1, 1)
    bound: float = (least + np.sqrt((seen**2).sum(1)).max()) / math.sqrt(d)
    return bound


def _chosen(squares: Exactly, away: Exactly, copies: int) -> bool:
    """Whether a lie that is so far (squared) from each gradient has the least score of all."""
    k = len(away)
    own = _nearest(np.concatenate([np.zeros(copies - 1), away]), k)
    others = np.where(np.eye(k, dtype=bool), np.inf, squares)
    lies = np.repeat(away[:, np.newaxis], copies, axis=1)
    return bool(own < _nearest(np.hstack([others, lies]), k).min())


class FangTrimmedMean(Colluder):
    """Beyond the honest extremes in every coordinate, on the side that the mean is not on, drawn
    anew by each liar: against the trimmed mean and the median (section 4.3).

    Where it sees the honest, between their least (or greatest) and twice or half of it, whichever
    is beyond; where it sees the board, 3 to 4 deviations from the mean.
    """

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        seen = self.gradients(g)
        mean = seen.mean(0)
        side = np.where(mean > 0, np.float32(-1), np.float32(1))
        share = rng.random(g.size, np.float32)
        if self.sees == "board":
            lie: Vector = mean + side * (3 + share) * seen.std(0)
            return lie
        edge = np.where(side < 0, seen.min(0), seen.max(0))
        beyond = np.where(edge * side > 0, 2 * edge, edge / 2)
        lie = edge + share * (beyond - edge)
        return lie
