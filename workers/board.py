"""Where liars show each other their honest gradients, in one process or among many.

Never in here: what liars make of it. Honest workers have no board, and the server none either.
"""

import mmap
import zlib

import numpy as np
from numpy.typing import NDArray

from kardam.messages import Vector

# How often a post is read that its owner is just writing, before it is left out.
TRIES = 4


class Board:
    """One liar's place at a board of f colluders among n workers: his own latest post, and a view
    of all.

    No lock, and no liar waits for another. Beside each vector stands its checksum, written after
    it: what is half written, or was left so by a process that died, does not match, and is no post.
    """

    def __init__(self, n: int, f: int, d: int, memory: bytearray | mmap.mmap, place: int) -> None:
        self.n, self.f, self.d = n, f, d
        self._place = place
        self._marks = np.frombuffer(memory, np.uint64, f)
        self._posts = np.frombuffer(memory, np.float32, f * d, offset=8 * f).reshape(f, d)

    def post(self, g: Vector) -> None:
        """Put g, of shape (d,), in the place of one's last post."""
        self._posts[self._place] = g
        self._marks[self._place] = _mark(g)

    def read(self) -> NDArray[np.float32]:
        """The latest posts of those who have posted: shape (k, d), k <= f.

        Whose post is being written all the while is left out.
        """
        posts = [post for place in range(self.f) if (post := self._read(place)) is not None]
        return np.stack(posts) if posts else np.empty((0, self.d), np.float32)

    def _read(self, place: int) -> Vector | None:
        for _ in range(TRIES if self._marks[place] else 0):
            post: Vector = self._posts[place].copy()
            if _mark(post) == self._marks[place]:
                return post
        return None


def private(n: int, f: int, d: int) -> list[Board]:
    """A place for each of f liars, in one process."""
    return _places(n, f, d, bytearray(_nbytes(f, d)))


def shared(n: int, f: int, d: int) -> list[Board]:
    """A place for each of f liars, who are processes to be forked from this one."""
    return _places(n, f, d, mmap.mmap(-1, _nbytes(f, d))) if f else []


def _places(n: int, f: int, d: int, memory: bytearray | mmap.mmap) -> list[Board]:
    return [Board(n, f, d, memory, place) for place in range(f)]


def _nbytes(f: int, d: int) -> int:
    return f * (8 + 4 * d)


def _mark(g: Vector) -> int:
    """A checksum that is never 0, which marks the place of who has not posted yet."""
    return 1 + zlib.crc32(g.tobytes())
