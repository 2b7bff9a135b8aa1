"""The learning rate as a function of the version: gamma_t. Nothing else is known in here.

Every schedule takes `warmup=W`, by which it is multiplied with min(1, (t+1) / W): a linear rise
over the first W updates (Goyal et al., 2017).
"""

import math
from collections.abc import Callable, Mapping

Rate = Callable[[int], float]


def constant(gamma: float = 0.1, warmup: int = 0) -> Rate:
    """gamma, for ever."""
    return _warmed(lambda t: gamma, gamma, warmup)


def step(every: int, gamma: float = 0.1, factor: float = 0.1, warmup: int = 0) -> Rate:
    """gamma factor^floor(t / every): cut by `factor` once in so many updates."""
    if not every >= 1:
        raise ValueError(f"expected every >= 1, got {every}")
    if not 0 < factor <= 1:
        raise ValueError(f"expected 0 < factor <= 1, got {factor}")
    return _warmed(lambda t: gamma * factor ** (t // every), gamma, warmup)


def cosine(updates: int, gamma: float = 0.1, floor: float = 0.001, warmup: int = 0) -> Rate:
    """floor + (gamma - floor) (1 + cos(pi t / T)) / 2 up to T = updates, and the floor for ever
    after.

    One period of SGDR (Loshchilov and Hutter, ICLR 2017). The floor is above zero because a model
    that stands still measures no growth, and a filter would refuse everybody.
    """
    if not updates >= 1:
        raise ValueError(f"expected updates >= 1, got {updates}")
    if not 0 < floor <= gamma:
        raise ValueError(f"expected 0 < floor <= gamma, got floor={floor}, gamma={gamma}")

    def rate(t: int) -> float:
        share = min(t / updates, 1.0)
        return floor + (gamma - floor) * (1 + math.cos(math.pi * share)) / 2

    return _warmed(rate, gamma, warmup)


def _warmed(rate: Rate, gamma: float, warmup: int) -> Rate:
    if not 0 < gamma < math.inf:
        raise ValueError(f"expected 0 < gamma < inf, got {gamma}")
    if not warmup >= 0:
        raise ValueError(f"expected warmup >= 0, got {warmup}")
    return lambda t: rate(t) * min((t + 1) / warmup, 1.0) if warmup else rate(t)


RATES: Mapping[str, Callable[..., Rate]] = {"constant": constant, "step": step, "cosine": cosine}
