"""Lies of who knows the filter: each asks what the server would say, before it says anything.

All see the filter's state and the honest gradients, so there are such liars in a simulation only.
They measure, and know no rule by name: what stands for a filter is tried, whatever it is. Never in
here: how the server is asked.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Literal

import numpy as np

from kardam.growth import norm
from kardam.messages import Vector
from workers.attacks.attack import Attack, Knows
from workers.attacks.collusion import Along, perturbation, unit
from workers.board import Board
from workers.sight import Sight

# What is tried, as shares of the longest that may be.
SCALES = tuple(2.0**-k for k in range(10))

# How often the way to the next failure is halved.
HALVINGS = 4


def strongest(gain: Callable[[float], float], last: float, most: float) -> tuple[float, float]:
    """The largest gain, and the strength in [0, most] that has it, as far as some 30 questions
    tell; (0, 0) where nothing is gained.

    What passes need not be an interval (a growth has bounds on both sides), so strengths are tried
    on two grids, from `most` down and around the `last` one, and the best of them is then made
    larger by halving. ByzantineMomentum (`line_maximize`) doubles from 0 until the gain falls.
    """
    tried = {strength: gain(strength) for strength in _grid(last, most)}
    best = max(tried, key=lambda strength: (tried[strength], strength))
    highest, step = tried[best], best / 4
    for _ in range(HALVINGS):
        further = best + step
        if further <= most and (more := gain(further)) > highest:
            best, highest = further, more
        else:
            step /= 2
    return (highest, best) if highest > 0 else (0.0, 0.0)


def _grid(last: float, most: float) -> set[float]:
    coarse = {most * scale for scale in SCALES}
    fine = {last + sign * strength / 4 for strength in coarse for sign in (-1, 0, 1)}
    return coarse | {strength for strength in fine if 0 <= strength <= most}


def _on_line(base: Vector, length: float, u: Vector) -> Vector:
    return base + np.float32(length) * u


class Searcher(Attack):
    """A liar who asks how far it may go along a line; its last strength is where it looks first."""

    knows = Knows.FILTER

    def __init__(self, sight: Sight, most: float) -> None:
        if not 0 < most < np.inf:
            raise ValueError(f"expected most > 0 of its own gradients' lengths, got {most}")
        self._sight = sight
        self.most = most
        self._last = 0.0

    def farthest(self, bases: Sequence[Vector], u: Vector, g: Vector) -> Vector:
        """base + lambda ||g|| u, u of length 1, with the base, and the lambda in [0, most], that
        take the server farthest along u, clip and dampening included; g, its own gradient, where
        none takes it anywhere.
        """
        found = [(self._search(base, u, norm(g)), base) for base in bases]
        (gain, strength), base = max(found, key=itemgetter(0))
        if not gain > 0:
            return g
        self._last = strength
        return _on_line(base, strength * norm(g), u)

    def _search(self, base: Vector, u: Vector, scale: float) -> tuple[float, float]:
        """The most that is gained on the line from this base, and the strength that gains it."""

        def gain(strength: float) -> float:
            v = _on_line(base, strength * scale, u)
            return float(v @ u) * self._sight.weight(v)

        return strongest(gain, self._last, self.most)

    def honest(self, g: Vector) -> Vector:
        """The mean of what honest workers delivered last; its own g while there is nothing."""
        seen = self._sight.honest()
        return seen.mean(0) if len(seen) else g


class Adaptive(Searcher):
    """b - lambda ||g|| p: the strongest that still passes, whatever the rule is.

    p is a direction of `min_max`, of length 1: along `mean`, this reverses what honest workers ask
    for. b is the vector that the liar sent last, as in `radius_walk`, or its own gradient g, whose
    noise is what an honest worker's is; `together`, the mean of all liars' in place of g, so that
    they say about the same, as who owns a median must. Both b and lambda are searched anew for
    every answer (Fang et al., USENIX Security 2020, halve lambda until Krum takes the lie).
    """

    def __init__(
        self,
        board: Board,
        sight: Sight,
        along: Along = "mean",
        together: bool = False,
        most: float = 10.0,
    ) -> None:
        super().__init__(sight, most)
        self._board = board
        self.along, self.together = along, together
        self._sent: Vector | None = None

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        seen = self._sight.honest()
        if not len(seen):
            seen = g[np.newaxis]
        p = unit(perturbation(seen.astype(np.float64), self.along)).astype(np.float32)
        base = g
        if self.together:
            self._board.post(g)
            base = self._board.read().mean(0)
        bases = [base] if self._sent is None else [base, self._sent]
        self._sent = self.farthest(bases, -p, g)
        return self._sent


class HiddenVulnerability(Searcher):
    """mean + lambda ||g|| e: one coordinate carries all of the lie, the largest that still passes.

    e is one unit vector that the seed draws for all liars, or with `coordinates=all` ones in every
    coordinate, at length 1. What a distance bounds in all d coordinates leaves room of the order of
    sqrt(d) in one (El Mhamdi, Guerraoui and Rouault, ICML 2018).
    """

    def __init__(
        self,
        sight: Sight,
        seed: int,
        coordinates: Literal["one", "all"] = "one",
        most: float = 10.0,
    ) -> None:
        super().__init__(sight, most)
        self.seed, self.coordinates = seed, coordinates

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        e = np.ones_like(g)
        if self.coordinates == "one":
            e[:] = 0
            e[np.random.default_rng([self.seed, 0xE1]).integers(g.size)] = 1
        return self.farthest([self.honest(g)], e / np.float32(norm(e)), g)


class RadiusWalk(Searcher):
    """v + r u with u the direction of the reversed honest mean, and r the most that passes: what
    is bounded is the step from v, and many steps go anywhere.

    Around `own`, v is the last vector that it sent, from which its own growth is measured; around
    `applied` the last that was admitted, which is the reference of `server_growth`.
    """

    def __init__(
        self, sight: Sight, around: Literal["own", "applied"] = "own", most: float = 10.0
    ) -> None:
        super().__init__(sight, most)
        self.around = around
        self._sent: Vector | None = None

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        around = self._sent if self.around == "own" else self._sight.applied()
        u = unit(-self.honest(g).astype(np.float64)).astype(np.float32)
        self._sent = self.farthest([g if around is None else around], u, g)
        return self._sent


class ReferenceCapture(Attack):
    """c = -scale times the first honest mean that it sees, the same always, whenever the server
    would take it; its honest gradient otherwise.

    Who compares with what was applied last, or what was sent last, has c for a reference once it
    took it, and then takes c again, and honest gradients are the far ones. It costs the liar
    nothing to wait at the door.
    """

    knows = Knows.FILTER

    def __init__(self, sight: Sight, scale: float = 10.0) -> None:
        if not scale > 0:
            raise ValueError(f"expected scale > 0, got {scale}")
        self._sight = sight
        self.scale = np.float32(scale)
        self._reference: Vector | None = None

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        if self._reference is None:
            seen = self._sight.honest()
            self._reference = -self.scale * (seen.mean(0) if len(seen) else g)
        return self._reference if self._sight.weight(self._reference) > 0 else g
