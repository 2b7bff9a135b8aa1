"""What liars are shown in a simulation, where nothing can be hid from them; over sockets, nothing.

To look changes nothing: no rule learns of it. Never in here: what liars make of what they see.
"""

import numpy as np
from numpy.typing import NDArray

from kardam.descent import Descent
from kardam.messages import Gradient, Vector, Verdict, WorkerId


class Scene:
    """All that there is to see: the descent, and what was delivered to it."""

    def __init__(self, descent: Descent) -> None:
        self.descent = descent
        self.honest: dict[WorkerId, Vector] = {}
        self.applied: Vector | None = None

    def delivered(self, gradient: Gradient, verdict: Verdict, honest: bool) -> None:
        """Told of every gradient, and of what the server said of it."""
        if honest:
            self.honest[gradient.worker] = gradient.g
        if verdict.admitted and verdict.rule != "startup":
            self.applied = gradient.g


class Sight:
    """One liar's view of the scene; requires that somebody `opens` it before the first look."""

    def __init__(self, worker: WorkerId) -> None:
        self._worker = worker
        self._scene: Scene

    def opens(self, scene: Scene) -> None:
        """From now on it shows this scene."""
        self._scene = scene

    def honest(self) -> NDArray[np.float32]:
        """The last gradient that each honest worker has delivered: shape (k, d), k >= 0."""
        scene = self._scene
        if not scene.honest:
            return np.empty((0, scene.descent.model.x.size), np.float32)
        return np.stack([scene.honest[worker] for worker in sorted(scene.honest)])

    def applied(self) -> Vector | None:
        """The last gradient that was admitted, whoever sent it; None during start-up."""
        return self._scene.applied

    def weight(self, g: Vector) -> float:
        """What g would be multiplied by, if the liar pushed it now: clip and dampening, or 0 where
        it would be refused.
        """
        return self._scene.descent.foresee(self._worker, g).weight
