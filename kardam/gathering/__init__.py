"""When there is an update, and of which gradients: one interface for pure asynchrony, buffers and
rounds, and for what other papers do in their place.

What reaches a gathering has passed the filter. Never in here: the rule over what is gathered
(an aggregator's), or what is made of the result (an optimizer's). Adding one is a class in a file
beside this and a line in the table; a user's own is named by its import path.
"""

from collections.abc import Callable, Mapping

from kardam.gathering.gathering import (
    Buffered,
    Gathering,
    OnArrival,
    Synchronous,
    arrival,
    buffered,
    synchronous,
    weighted,
)
from kardam.gathering.rivals import Basgd, Ctma, Throttle, basgd, ctma, throttle

__all__ = [
    "GATHERINGS",
    "Basgd",
    "Buffered",
    "Ctma",
    "Gathering",
    "OnArrival",
    "Synchronous",
    "Throttle",
    "weighted",
]

# A factory may ask, by parameter name, for n, f and `rule`, a RuleOf.
GATHERINGS: Mapping[str, Callable[..., Gathering]] = {
    "arrival": arrival,
    "buffered": buffered,
    "synchronous": synchronous,
    "basgd": basgd,
    "ctma": ctma,
    "throttle": throttle,
}
