"""An experiment some of whose choices are lists, as all of the runs that it stands for.

Values only: nothing in here runs one.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kardam.errors import UsageError

# A slip of the keyboard makes many; nobody waits for more.
RUNS_MAX = 1000

# What file systems bear is 255 bytes.
NAME_MAX = 200

Choices = Mapping[str, Any]


class Cell(NamedTuple):
    """One of the runs: the name of its directory, and what it takes from each list."""

    name: str
    choices: Choices


def check_axis(values: Sequence[Any], where: str) -> None:
    """Raises UsageError for a list that is no axis of a sweep."""
    if not values:
        raise UsageError(f"{where}: expected one value or more, got []")
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{where}: {value!r} stands there twice")


def cells(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Their product, the last list fastest. Raises UsageError for more than RUNS_MAX."""
    if math.prod(map(len, axes.values())) > RUNS_MAX:
        raise UsageError(f"{told(axes)}: expected at most {RUNS_MAX:,}")
    found: dict[str, Cell] = {}
    for values in itertools.product(*axes.values()):
        choices = dict(zip(axes, values, strict=True))
        name = _name(choices, taken=found)
        found[name] = Cell(name, choices)
    return list(found.values())


def told(axes: Mapping[str, Sequence[Any]]) -> str:
    """`6 runs: attack (2) x seed (3)`."""
    count = math.prod(map(len, axes.values()))
    return f"{count:,} runs: " + " x ".join(f"{flag(n)} ({len(its)})" for n, its in axes.items())


def flag(name: str) -> str:
    """A parameter's name as users write it."""
    return name.replace("_", "-")


def _name(choices: Choices, taken: Mapping[str, Cell]) -> str:
    """A directory's name that says what was chosen, in letters that no shell minds."""
    text = ",".join(f"{flag(key)}={value}" for key, value in choices.items())
    name = re.sub(r"[^A-Za-z0-9.,=_+-]", "-", text)
    if len(name) > NAME_MAX or name in taken:
        name = f"{name[:NAME_MAX]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


# --- what came of them ---


class Over(NamedTuple):
    """Runs that differ in their seed alone: what they share, and the accuracies of each."""

    choices: Choices
    accuracies: Sequence[float]

    @property
    def mean(self) -> float:
        return math.fsum(self.accuracies) / len(self.accuracies)


def over_seeds(runs: Sequence[tuple[Choices, float | None]]) -> list[Over]:
    """The runs, each with its accuracy, by everything but the seed; those without one left out."""
    groups: dict[tuple[Any, ...], Over] = {}
    for choices, accuracy in runs:
        shared = {key: value for key, value in choices.items() if key != "seed"}
        if accuracy is not None:
            over = groups.setdefault(tuple(shared.values()), Over(shared, []))
            groups[tuple(shared.values())] = Over(shared, [*over.accuracies, accuracy])
    return list(groups.values())
