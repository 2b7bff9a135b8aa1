"""Memory that a server and the workers on its machine share, by descriptors that are passed on.

Never in here: a message, or a verdict. Linux alone has the seals; elsewhere, and where there are no
more descriptors, `shelf` has nothing to give, and vectors travel as bytes.
"""

import fcntl
import logging
import mmap
import os
import secrets
import socket
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kardam.messages import ITEM, Vector, WorkerId
from kardam.protocol import Bytes
from kardam.rooms import Rooms

log = logging.getLogger(__name__)

# From fcntl.h of Linux 5.1, which Python 3.11 does not name: nobody can write any more, but by a
# mapping that was made before. Sealed with F_SEAL_WRITE, a room could never be used again.
F_SEAL_FUTURE_WRITE = 0x0010

# Its size stays, so that no reader falls off its end; and so do its seals.
FIXED = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")

# Rooms for every model that can be of use at a time: each worker may have two to answer, and an
# exact memory keeps two more of each; the newest, the next, and two that a file is made of. They
# take memory only once they are used.
ROOMS_A_WORKER, ROOMS_BESIDES = 4, 4


@dataclass(frozen=True, slots=True)
class Layout:
    """What lets one worker see it, besides two descriptors: that of the models, and of its slot."""

    name: str
    d: int
    rooms: int


class Pair(NamedTuple):
    """Descriptors: of the models, which the shelf keeps open, and of a slot, which is to close."""

    models: int
    slot: int


class SharedShelf:
    """A `rooms.Shelf` of sealed memory files. Models can be written by this process alone.

    A worker can write its own slot at any time, also while it is read: nothing is judged or applied
    but the one private copy that `take` makes. Raises OSError where the system has no such files.
    """

    def __init__(self, d: int, n: int) -> None:
        self.name = secrets.token_hex(8)
        self._d = d
        stride = _whole_pages(d * ITEM)
        self._count = ROOMS_A_WORKER * n + ROOMS_BESIDES
        self._models = _file("kardam-models", self._count * stride)
        weakref.finalize(self, os.close, self._models)
        models = mmap.mmap(self._models, self._count * stride)
        _seal(self._models, F_SEAL_FUTURE_WRITE)
        rooms = Rooms(memoryview(models), d, stride)
        self.room, self.place = rooms.room, rooms.place
        self._slots: dict[WorkerId, Vector] = {}

    def admit(self, worker: WorkerId) -> tuple[Layout, Pair]:
        """A new slot for this worker, and what it needs to see all. Raises OSError."""
        slot = _file("kardam-slot", self._d * ITEM)
        try:
            _seal(slot)
            own = mmap.mmap(slot, self._d * ITEM, access=mmap.ACCESS_READ)
        except OSError:
            os.close(slot)
            raise
        self._slots[worker] = np.frombuffer(own, np.float32, self._d)
        return Layout(self.name, self._d, self._count), Pair(self._models, slot)

    def __contains__(self, worker: WorkerId) -> bool:
        return worker in self._slots

    def take(self, worker: WorkerId) -> Vector:
        return self._slots[worker].copy()

    def vacate(self, worker: WorkerId) -> None:
        self._slots.pop(worker, None)


class SharedDesk:
    """A `rooms.Desk`, in the worker's process, by what `admit` gave. The descriptors can be closed
    afterwards. Raises OSError where they are not what they should be.
    """

    def __init__(self, by: Layout, pair: Pair) -> None:
        self.name = by.name
        self._d, self._stride = by.d, _whole_pages(by.d * ITEM)
        self._models = mmap.mmap(pair.models, by.rooms * self._stride, access=mmap.ACCESS_READ)
        self._slot = memoryview(mmap.mmap(pair.slot, by.d * ITEM)).cast("B")

    def put(self, g: Bytes) -> None:
        self._slot[:] = g

    def copy(self, place: int) -> Vector | None:
        if not (place + 1) * self._stride <= len(self._models):
            return None
        return np.frombuffer(self._models, np.float32, self._d, place * self._stride).copy()


def shelf(d: int, n: int) -> SharedShelf | None:
    """For models of d numbers and n workers; None where this system has no such memory, or d is 0.
    It goes when the last who refers to it does.
    """
    try:
        return SharedShelf(d, n) if d > 0 else None
    except (OSError, AttributeError) as error:
        log.warning("no shared memory here (%s): all goes over TCP", error)
        return None


def hand_over(way: socket.socket, pair: Pair) -> None:
    """Pass the descriptors on, and close ours of the slot. Raises OSError where nobody takes any
    more: it does not wait.
    """
    try:
        socket.send_fds(way, [b"."], pair, socket.MSG_DONTWAIT)
    finally:
        os.close(pair.slot)


def taken_over(way: socket.socket) -> Pair:
    """What was handed over, in order; ours to close. Raises OSError, also where nothing comes."""
    _, descriptors, _, _ = socket.recv_fds(way, 1, len(Pair._fields))
    if len(descriptors) != len(Pair._fields):
        raise OSError("the descriptors did not come")
    return Pair(*descriptors)


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _file(name: str, nbytes: int) -> int:
    """A file in memory without a name that others could open. Raises OSError."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(file, nbytes)
    except OSError:
        os.close(file)
        raise
    return file


def _seal(file: int, *more: int) -> None:
    seals = sum(getattr(fcntl, seal) for seal in FIXED) + sum(more)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
