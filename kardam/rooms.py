"""Vectors that need not travel, since server and worker see the same memory: what of it the two
halves of the protocol know.

Never in here: where that memory comes from, a message, or when a vector may be read.
"""

import weakref
from typing import Protocol

import numpy as np

from kardam.messages import Vector, WorkerId
from kardam.protocol import Bytes


class Shelf(Protocol):
    """The server's end: models that workers read where they lie, and a slot for each worker's
    gradient, which the worker writes.
    """

    # What a worker calls it by, to show that it sees the same.
    name: str

    def __contains__(self, worker: WorkerId) -> bool:
        """Whether this worker has a slot."""

    def room(self) -> Vector:
        """Memory for the next model, which nobody else has: see `Rooms`."""

    def place(self, x: Vector) -> int | None:
        """Where others find a model that was made in a `room`; None where they can not."""

    def take(self, worker: WorkerId) -> Vector:
        """What is in this worker's slot, copied once: the worker may write on while others read."""

    def vacate(self, worker: WorkerId) -> None:
        """This worker is no more, and needs no slot."""


class Desk(Protocol):
    """A worker's end of a Shelf."""

    name: str

    def put(self, g: Bytes) -> None:
        """Write a gradient, of the model's length, into the slot."""

    def copy(self, place: int) -> Vector | None:
        """The model in this place, copied: what is lent stays as it is only while it is lent. None
        where there is no such place.
        """


class Rooms:
    """One piece of memory as rooms for vectors of d numbers. A room that was given away is given
    away again once nobody refers to the vector in it, nor to a view of that.

    So whoever must not see a vector change keeps a reference to it; there are no other books.
    """

    def __init__(self, memory: bytearray | memoryview, d: int, stride: int) -> None:
        self._memory = memory
        self._d, self._stride = d, stride
        # The last to be free is the first to be given: it is in the cache, and few are ever used.
        self._free = list(reversed(range(len(memory) // stride)))
        # Of each vector by its id: its room, and what tells of its end as long as it is kept.
        self._places: dict[int, tuple[int, weakref.ref[Vector]]] = {}

    def room(self) -> Vector:
        """Memory for a vector; where all rooms are taken, it is in none of them."""
        if not self._free:
            return np.empty(self._d, np.float32)
        place = self._free.pop()
        # An array of its own each time, which owns the room as long as it lives: a view of it
        # keeps it alive, where a view of a common array would keep only that.
        v = np.frombuffer(self._memory, np.float32, self._d, place * self._stride)
        key = id(v)
        # A plain reference: a `finalize` takes twice the time.
        self._places[key] = place, weakref.ref(v, lambda _: self._leave(key))
        return v

    def place(self, v: Vector) -> int | None:
        """In which room this vector lies, if `room` gave it; a view of it does not count."""
        place, _ = self._places.get(id(v), (None, None))
        return place

    def _leave(self, key: int) -> None:
        # Wherever the last reference is dropped, in whichever thread: one step, and then another.
        self._free.append(self._places.pop(key)[0])
