"""What can go wrong by somebody's doing, one class a culprit, each with the exit code of `kardam`.

Never in here: a bug of ours. Those stay ordinary exceptions, with their tracebacks.
"""

import difflib
from collections.abc import Iterable
from typing import NoReturn


class KardamError(Exception):
    """One sentence for the person who can mend it: the value, the allowed range, the knob."""

    code = 2


class UsageError(KardamError):
    """A flag, a spec or a file that says what cannot be."""


class TaskError(KardamError):
    """The task (model, loss, data) raised or returned what is no gradient; or other code that the
    user named did what it may not.
    """

    code = 3


class Stalled(KardamError):
    """The run went on and nothing could be used of it."""

    code = 4


class Unreachable(KardamError):
    """No server where one was sought, or no room where one was to be."""

    code = 5


class Denied(KardamError):
    """The server answered, and said no."""

    code = 6


class Unwritable(KardamError):
    """What was to be kept could not be written: no room, or no leave."""

    code = 7


class Different(KardamError):
    """What was recorded is not what comes of it."""

    code = 8


class Killed(KardamError):
    """A process of ours was ended by a signal that is not ours."""

    code = 9


class Interrupted(KardamError):
    """Somebody asked for the end before there was anything to end in order."""

    code = 130

    def __init__(self, words: str, code: int = 130) -> None:
        super().__init__(words)
        self.code = code


def raise_by_code(code: int, words: str) -> NoReturn:
    """Raise again, here, what another process ended with."""
    kinds = {kind.code: kind for kind in KardamError.__subclasses__()}
    raise kinds.get(code, KardamError)(words)


# The codes that an error above does not already carry; `kardam --help` prints the table.
EXIT_CODES = {
    0: "done",
    1: "a bug in kardam: please report the traceback",
    2: "a flag, spec or file that cannot be used",
    3: "the task, or other code of yours, raised, or gave no vector",
    4: "stalled: nothing was admitted for a long time",
    5: "no server reached, or the port is taken",
    6: "the server refused: version, token or role",
    7: "the run directory could not be written",
    8: "a replay came to something else than its recording",
    9: "a worker's process was killed",
    129: "its terminal was closed (SIGHUP), after an orderly end",
    130: "interrupted (Ctrl-C), after an orderly end",
    143: "terminated (SIGTERM), after an orderly end",
}


def suggest(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'growth'? (known: clip, growth)`: the tail of every error about a name."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{guess} (known: {', '.join(names) or 'none'})"
