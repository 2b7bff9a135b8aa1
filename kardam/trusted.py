"""Rules that hold a gradient against one of the server's own, on data that it trusts. Rivals to
compare with, in simulation alone: a server of ours has no data.

Never in here: where that gradient comes from; a callable is given. It is one of the server's own,
of which there is no trace to compare: so they need the vectors themselves (`--memory exact`).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from kardam.growth import Evidence, distance, norm
from kardam.messages import Refusal, Vector
from kardam.stage import Stage
from kardam.state import State

# x, shape (d,), to the gradient there on a few trusted examples.
Root = Callable[[Vector], Vector]


class Rooted(Stage):
    """A stage that knows v, the root gradient at a model at most `every` admissions old."""

    exact = True

    def __init__(self, root: Root, every: int) -> None:
        self.root, self.every = root, every
        self._v: Vector | None = None
        self._age = 0

    def v(self, evidence: Evidence) -> Vector:
        """The root gradient, measured anew at the current model where it is too old."""
        if self._v is None or self._age >= self.every:
            self._v, self._age = self.root(evidence.now), 0
        return self._v

    def admit(self, evidence: Evidence) -> None:
        self._age += 1

    def state(self) -> State:
        return {"v": self._v, "age": self._age}

    def restore(self, state: State) -> None:
        self._v, self._age = state["v"], state["age"]


class Zeno(Rooted):
    """Admits g, rescaled to g~ = g ||v|| / ||g||, iff

        gamma <v, g~> - rho ||g~||^2 + gamma epsilon >= 0

    Zeno++ (Xie, Koyejo and Gupta, ICML 2020). The authors' script takes ||g||^2 of before the
    rescaling; this is the paper's.
    """

    def __init__(self, root: Root, every: int, gamma: float, rho: float, epsilon: float) -> None:
        super().__init__(root, every)
        self.gamma, self.rho, self.epsilon = gamma, rho, epsilon

    def judge(self, evidence: Evidence) -> Refusal | None:
        v, rescaled = self.v(evidence), self.scale(evidence)
        score = self.gamma * (rescaled * float(np.dot(v, evidence.g)) + self.epsilon)
        score -= self.rho * (rescaled * evidence.norm) ** 2
        return None if score >= 0 else Refusal("zeno", score, 0.0, math.inf)

    def scale(self, evidence: Evidence) -> float:
        v = self.v(evidence)
        return norm(v) / evidence.norm if evidence.norm > 0 else 1.0


class AflGuard(Rooted):
    """Admits g iff ||g - v|| <= radius ||v||: AFLGuard (Fang et al., ACSAC 2022), whose lambda is
    the radius.
    """

    def __init__(self, root: Root, every: int, radius: float) -> None:
        super().__init__(root, every)
        self.radius = radius

    def judge(self, evidence: Evidence) -> Refusal | None:
        v = self.v(evidence)
        apart, bound = distance(evidence.g, v), self.radius * norm(v)
        return None if apart <= bound else Refusal("afl_guard", apart, 0.0, bound)


def _checked(root: Root | None, every: int, **positive: float) -> Root:
    if root is None:
        raise ValueError("it needs root data, which only a simulation has: say --root-examples 100")
    if not every >= 1:
        raise ValueError(f"expected every >= 1, got {every}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"expected {name} > 0, got {value}")
    return root


def zeno(
    root: Root | None,
    every: int = 10,
    gamma: float = 0.1,
    rho: float = 0.001,
    epsilon: float = 0.0,
) -> Stage:
    """Zeno++ with the values of the authors' script; v is measured every 10 steps."""
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"expected epsilon >= 0, got {epsilon}")
    return Zeno(_checked(root, every, gamma=gamma, rho=rho), every, gamma, rho, epsilon)


def afl_guard(root: Root | None, every: int = 1, radius: float = 1.5) -> Stage:
    """AFLGuard; a server whose own update is late says every=10."""
    return AflGuard(_checked(root, every, radius=radius), every, radius)


# A factory may ask, by parameter name, for n, f and `root`.
TRUSTED: Mapping[str, Callable[..., Stage]] = {"zeno": zeno, "afl_guard": afl_guard}
