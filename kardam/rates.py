"""The learning rate as a function of the version: gamma_t. Nothing else is known in here."""

from collections.abc import Callable, Mapping

Rate = Callable[[int], float]


def constant(gamma: float = 0.1) -> Rate:
    """gamma, for ever."""
    if not gamma > 0:
        raise ValueError(f"expected gamma > 0, got {gamma}")
    return lambda t: gamma


RATES: Mapping[str, Callable[..., Rate]] = {"constant": constant}
