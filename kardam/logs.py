"""Files that only grow, by whole records. Never in here: what a record says."""

import contextlib
import fcntl
import json
import os
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from kardam.errors import Unwritable, UsageError

# Pieces that the system takes in one call.
PIECES_MAX = 1024


class Log:
    """A file that only grows. Where it can not, it ends at a whole record: no hole follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = False
        # Bytes that were added and are not written.
        self.waiting = 0
        # Whether the disk has yet to say that it has all.
        self._unsaid = False
        self._pieces: list[memoryview] = []
        # Unbuffered: what is not written yet is in `_pieces`, and nowhere else.
        self._file = path.open("ab", buffering=0)
        self.position = self._file.tell()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UsageError(f"{path}: another kardam, which is running, writes there") from error

    def add(self, record: Mapping[str, Any]) -> None:
        """Another line of JSON, written at the next `flush`."""
        self.put((json.dumps(record) + "\n").encode())

    def put(self, *pieces: bytes | memoryview) -> None:
        """Another record, in pieces that are not changed until they are written."""
        if not self.ended:
            views = [memoryview(piece) for piece in pieces if len(piece)]
            self._pieces += views
            self._unsaid = True
            self.waiting += sum(map(len, views))

    def flush(self, sync: bool = False) -> None:
        """Write what was added, and with `sync` have the disk say that it has it. Raises Unwritable
        once, and then ends at the last whole record.
        """
        pieces, self._pieces, self.waiting = deque(self._pieces), [], 0
        start = self.position
        try:
            while pieces:
                self._write(pieces)
            if sync and self._unsaid:
                os.fdatasync(self._file.fileno())
                self._unsaid = False
        except OSError as error:
            self.ended = True
            with contextlib.suppress(OSError):
                self.cut(start)
            raise Unwritable(f"{self.path}: {error.strerror}; it ends here") from error

    def sync(self) -> None:
        """What was written is on the disk. Raises Unwritable. (Of any thread.)"""
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise Unwritable(f"{self.path}: {error.strerror}") from error

    def _write(self, pieces: deque[memoryview]) -> None:
        written = os.writev(self._file.fileno(), list(islice(pieces, PIECES_MAX)))
        self.position += written
        while written > 0:
            first = pieces.popleft()
            if written < len(first):
                pieces.appendleft(first[written:])
            written -= len(first)

    def cut(self, position: int) -> None:
        """Forget what stands behind this position."""
        self._file.truncate(position)
        self._file.seek(position)
        self.position = position

    def mend(self, position: int) -> None:
        """Forget what stands behind this position, which is the end of a line; where a crash left
        less than that, what stands behind the last whole line.
        """
        self.cut(position if position <= self.position else whole_lines(self.path))

    def close(self) -> None:
        self._file.close()


def whole_lines(path: Path) -> int:
    """How many bytes of this file are whole lines."""
    at = path.stat().st_size
    with path.open("rb") as file:
        while at > 0:
            at, before = max(at - 65536, 0), at
            file.seek(at)
            newline = file.read(before - at).rfind(b"\n")
            if newline >= 0:
                return at + newline + 1
    return 0
