"""What a rule has learned, as a tree of plain values: the half of a checkpoint that is not the
model's.

Never in here: files, or what any key means.
"""

from typing import Any

# Of dicts with string keys, lists, int, float (infinite, too), str, bool, None and numpy arrays.
State = dict[str, Any]


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
