"""One thing that was looked at. A value: it looks at nothing itself."""

from dataclasses import dataclass
from typing import Literal

# The signs, by how bad they are.
State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, what was seen, and what to do about it.

    `code` is the exit code that goes with a failure.
    """

    name: str
    state: State
    told: str
    advice: str = ""
    code: int = 0


def ok(name: str, told: str) -> Finding:
    return Finding(name, "ok", told)


def warn(name: str, told: str, advice: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding(name, "warn", told, advice)


def fail(name: str, told: str, advice: str, code: int) -> Finding:
    """Nothing that needs it will work; `code` as in EXIT_CODES."""
    return Finding(name, "fail", told, advice, code)
