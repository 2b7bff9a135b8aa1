"""How a process of ours ends: with its parent, or when it is told to.

Imported before torch, which takes seconds in which a parent may die. Never in here: what the
process does.
"""

import os
import select
import signal
import sys
import threading
from types import FrameType

# Seconds between two looks at whether the watch is to end; and until an end is asked for again.
LOOK = 0.1
AGAIN = 0.25


def keep_only(*descriptors: int) -> None:
    """Close whatever else a parent left open, but for standard input, output and errors.

    uvloop leaves the originals of a child's own pipes open in it. Forked on, they would outlive the
    process whose end they are to tell.
    """
    first = 3
    for kept in sorted(descriptors):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


class Lifeline:
    """While it holds, the process dies with its parents, of whom each alone has the other end of
    one of the pipes.
    """

    def __init__(self, *pipes: int) -> None:
        self.pipes = pipes
        self._free = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def let_go(self) -> None:
        """Hold no longer: there is one thread less, and the process may fork."""
        self._free.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._free.is_set():
            if select.select(self.pipes, [], [], LOOK)[0]:
                os._exit(1)


class Terminated(SystemExit):
    """SIGTERM came."""


def leave_when_told() -> None:
    """From now on, SIGTERM raises Terminated in the main thread, so that goodbyes are said."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _leave)
    sys.unraisablehook = _ignored


def _leave(number: int, frame: FrameType | None) -> None:
    if isinstance(sys.exception(), Terminated):
        return  # on its way
    # Where Python ignores exceptions, as in a destructor, this one is lost: so once more, then.
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    raise Terminated


def _ignored(what: "sys.UnraisableHookArgs") -> None:
    # Of a Terminated that is lost nobody needs to hear: it comes again.
    if what.exc_type is not Terminated:
        sys.__unraisablehook__(what)
