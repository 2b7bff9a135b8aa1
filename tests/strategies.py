"""What a vector, a growth, an answer, a message *can* be; and the evidence that rules are shown."""

import math

import numpy as np
from hypothesis import strategies as st

from kardam.growth import Change, Evidence
from kardam.messages import Declared, Vector, WorkerId

NOTHING = np.zeros(1, np.float32)

# Positive, and far from what squares to infinity in float32.
growths = st.floats(1e-6, 1e6)
any_float = st.floats(allow_nan=True, allow_infinity=True)
coordinates = st.floats(-1e3, 1e3, width=32)


def vectors(d: int) -> st.SearchStrategy[Vector]:
    """Finite vectors of d numbers."""
    return st.lists(coordinates, min_size=d, max_size=d).map(lambda v: np.array(v, np.float32))


def evidence(
    worker: WorkerId,
    growth: float | None = 1.0,
    *,
    norm: float = 1.0,
    staleness: int = 0,
    displacement: float = 1.0,
    declared: Declared | None = None,
    drift: float = 0.0,
    counts: bool = True,
) -> Evidence:
    """Evidence as if the worker had shown this growth (None: no pair to measure it from)."""
    change = None
    if growth is not None:
        change = Change(since=1, difference=growth * displacement, displacement=displacement)
    return Evidence(
        worker=worker,
        staleness=max(staleness, int(drift > 0)),
        norm=norm,
        change=change,
        declared=declared,
        g=NOTHING,
        x=NOTHING,
        now=NOTHING + np.float32(drift),
        tolerance=0.01,
        counts=counts,
    )


def is_number(value: float) -> bool:
    return not math.isnan(value)
