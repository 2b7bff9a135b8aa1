"""How much memory this process has, and whether its work explains it.

What peers send and nobody has read yet lies in ZeroMQ, whose limits count whole messages: one that
does not end is in no limit of ours. Never in here: a socket, or what to do about it.
"""

import contextlib
import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

# Of the kernel: pages of this process that are in memory stand second in it.
STATM = Path("/proc/self/statm")
PAGE = os.sysconf("SC_PAGE_SIZE")

# Beyond what is explained; ordinary messages that wait, and what a memory allocator keeps.
SLACK = 2**28


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the kernel does not say."""
    try:
        return int(STATM.read_text().split()[1]) * PAGE
    except OSError:
        return 0


def least(explained: int) -> int:
    """The least limit under which work of so many bytes has room, beside what there is by now."""
    return resident() + explained + SLACK // 4


def trim() -> None:
    """Give back to the system what is free. Does nothing where the C library is another."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def raise_files() -> None:
    """Let this process have as many connections as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Watch:
    """Whether the process has grown by more than its work explains, since the watch began.

    `explained` says how much that is, in bytes; it is asked only where there is doubt. A `limit` of
    so many bytes in all takes its place.
    """

    def __init__(self, explained: Callable[[], int], limit: int | None = None) -> None:
        self._explained = explained
        self._limit = limit
        self._began = resident()
        self._allowed = limit if limit is not None else self._began + SLACK

    def exceeded(self) -> bool:
        """Whether the process has too many bytes."""
        now = resident()
        if now > self._allowed and self._limit is None:
            self._allowed = max(self._allowed, self._began + self._explained() + SLACK)
        return now > self._allowed

    def relieved(self) -> None:
        """Something was done about it. What that did not free is of another kind, and borne."""
        trim()
        self._allowed = max(self._allowed, resident() + SLACK // 4)
