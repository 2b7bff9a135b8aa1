"""What a rule has learned, as a tree of plain values: the half of a checkpoint that is not the
model's.

Never in here: files, or what any key means.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Of dicts with string keys, lists, int, float (infinite, too), str, bool, None and numpy arrays.
State = dict[str, Any]


def nbytes(state: State) -> int:
    """Bytes of all arrays in a state, each counted once."""
    return sum({id(array): array.nbytes for array in _arrays(state)}.values())


def _arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _arrays(inner)


class Stateful:
    """Something that learns as it goes, and can go on in another process. This one has learned
    nothing.
    """

    def state(self) -> State:
        """All that it has learned. Nothing of it is ever written again: what is immutable may be
        shared, by several keys and with the object itself; the rest is copied.
        """
        return {}

    def restore(self, state: State) -> None:
        """Go on from `state`, as a new object with the parameters of the one that returned it."""
