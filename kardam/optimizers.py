"""From the gradient of an update to the next model: x_{t+1} = step(x_t, g, gamma_t).

g is the mean of what was admitted, already clipped and dampened (or a start-up median), and what an
optimizer remembers are d numbers at a time, of such gradients only. Never in here: who sent it, and
how large gamma is.

What was admitted once acts again with every momentum. If no g is longer than C, which is what a
clip is for, then without decay

    sgd                   ||x_{t+1} - x_t||  <=  gamma_t C
    momentum, nesterov    ||x_{t+1} - x_t||  <=  gamma_t C / (1 - beta)
    adam                  each coordinate moves by at most
                          gamma_t (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)), whatever C,
                          where beta1^2 < beta2 (Cauchy-Schwarz): 7.3 gamma_t by default

so beta multiplies what an admitted lie can do, and to Adam a clip says nothing: a short vector has
as much to say as a long one.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from kardam.growth import BLOCK
from kardam.messages import Vector
from kardam.state import State, Stateful


class Optimizer(Stateful):
    """Makes a new model of the old one, each coordinate by itself. Neither x nor g is ever written:
    others hold them.
    """

    # Whether a step is x - gamma g and no more than that.
    linear = False

    def step(self, x: Vector, g: Vector, gamma: float, out: Vector) -> Vector:
        """The next model, of shape (d,), in `out`, which nobody else has. Called once an update.

        Block by block, so that what one pass leaves in the cache is there for the next: an eighth
        less time for SGD and a fifth for Adam at d = 10^6, and a third for Adam at 10^7.
        """
        self._begin(x.size)
        for start in range(0, x.size, BLOCK):
            block = slice(start, start + BLOCK)
            self._move(block, x[block], g[block], gamma, out[block])
        return out

    def _begin(self, d: int) -> None:
        """One update more; what is remembered are d numbers at a time."""

    def _move(self, block: slice, x: Vector, g: Vector, gamma: float, out: Vector) -> None:
        """A block of the step, which lies there in what is remembered."""
        raise NotImplementedError


class SGD(Optimizer):
    """x - gamma (g + decay x): plain stochastic gradient descent, to the bit where decay is 0.

    The decay is coupled (an L2 penalty), which for this rule is the same as decoupled. No vectors
    of memory.
    """

    def __init__(self, decay: float = 0.0) -> None:
        self.decay = _checked_decay(decay)
        self.linear = self.decay == 0

    def _move(self, block: slice, x: Vector, g: Vector, gamma: float, out: Vector) -> None:
        np.multiply(_coupled(g, x, self.decay), np.float32(gamma), out=out)
        np.subtract(x, out, out=out)


class Momentum(Optimizer):
    """v <- beta v + (g + decay x),  x - gamma v;  v starts as the first gradient.

    Polyak's heavy ball as torch.optim.SGD has it: gamma stands outside v, so a new rate acts at
    once, and in the long run a step is 1/(1-beta) times that of SGD. The decay is coupled. One
    vector of memory.
    """

    def __init__(self, beta: float = 0.9, decay: float = 0.0) -> None:
        self.beta = _checked_beta("beta", beta)
        self.decay = _checked_decay(decay)
        self._v: Vector | None = None

    def _begin(self, d: int) -> None:
        if self._v is None:
            self._v = np.zeros(d, np.float32)

    def _move(self, block: slice, x: Vector, g: Vector, gamma: float, out: Vector) -> None:
        v = self._gather(block, _coupled(g, x, self.decay))
        np.multiply(v, np.float32(gamma), out=out)
        np.subtract(x, out, out=out)

    def _gather(self, block: slice, g: Vector) -> Vector:
        """v with g in it; the optimizer's own, to be read only."""
        assert self._v is not None  # since the update began
        v = self._v[block]
        v *= np.float32(self.beta)
        v += g
        return v

    def state(self) -> State:
        return {"v": None if self._v is None else self._v.copy()}

    def restore(self, state: State) -> None:
        self._v = None if state["v"] is None else state["v"].copy()


class Nesterov(Momentum):
    """v <- beta v + (g + decay x),  x - gamma (g + decay x + beta v): the momentum one step ahead.

    Nesterov's in the form of Sutskever et al. (ICML 2013) that torch.optim.SGD has. The decay is
    coupled. One vector of memory.
    """

    def _move(self, block: slice, x: Vector, g: Vector, gamma: float, out: Vector) -> None:
        g = _coupled(g, x, self.decay)
        np.multiply(self._gather(block, g), np.float32(self.beta), out=out)
        out += g
        out *= np.float32(gamma)
        np.subtract(x, out, out=out)


class Adam(Optimizer):
    """m <- beta1 m + (1-beta1) g,  v <- beta2 v + (1-beta2) g^2, and after k updates

        x - gamma decay x - gamma m / (1-beta1^k) / (sqrt(v / (1-beta2^k)) + epsilon)

    Kingma and Ba (ICLR 2015); its decay is decoupled, which is AdamW (Loshchilov and Hutter, ICLR
    2019). Two vectors of memory.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        decay: float = 0.0,
    ) -> None:
        # So small that it would vanish in float32 is zero, and 0/0 no step.
        if not 1e-30 <= epsilon < math.inf:
            raise ValueError(f"expected 1e-30 <= epsilon < inf, got {epsilon}")
        self.beta1, self.beta2 = _checked_beta("beta1", beta1), _checked_beta("beta2", beta2)
        self.epsilon = epsilon
        self.decay = _checked_decay(decay)
        self._moments: tuple[Vector, Vector] | None = None
        self._updates = 0

    def _begin(self, d: int) -> None:
        if self._moments is None:
            self._moments = np.zeros(d, np.float32), np.zeros(d, np.float32)
        self._updates += 1

    def _move(self, block: slice, x: Vector, g: Vector, gamma: float, out: Vector) -> None:
        assert self._moments is not None  # since the update began
        m, v = (moment[block] for moment in self._moments)
        # Both corrections for the start at zero, taken out of the vectors: fewer passes.
        first, second = 1 - self.beta1**self._updates, math.sqrt(1 - self.beta2**self._updates)
        np.multiply(g, np.float32(1 - self.beta1), out=out)
        m *= np.float32(self.beta1)
        m += out
        np.multiply(g, g, out=out)
        out *= np.float32(1 - self.beta2)
        v *= np.float32(self.beta2)
        v += out
        np.sqrt(v, out=out)
        out += np.float32(self.epsilon * second)
        np.divide(m, out, out=out)
        out *= np.float32(gamma * second / first)
        if self.decay:
            out += np.float32(gamma * self.decay) * x
        np.subtract(x, out, out=out)

    def state(self) -> State:
        moments = None if self._moments is None else [moment.copy() for moment in self._moments]
        return {"moments": moments, "updates": self._updates}

    def restore(self, state: State) -> None:
        self._moments = None
        if state["moments"] is not None:
            m, v = state["moments"]
            self._moments = m.copy(), v.copy()
        self._updates = state["updates"]


def _coupled(g: Vector, x: Vector, decay: float) -> Vector:
    """g + decay x: the gradient with that of an L2 penalty."""
    return g if decay == 0 else g + np.float32(decay) * x


def _checked_beta(name: str, beta: float) -> float:
    if not 0 <= beta < 1:
        raise ValueError(f"expected 0 <= {name} < 1, got {beta}")
    return beta


def _checked_decay(decay: float) -> float:
    if not 0 <= decay < math.inf:
        raise ValueError(f"expected 0 <= decay < inf, got {decay}")
    return decay


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
}
