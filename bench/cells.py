"""One cell: a run on virtual time, said by all that it depends on, and kept in a file by that.
Never in here: which cells there are, or what is made of them.
"""

import ast
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Self

from kardam.errors import UsageError
from kardam.recipe import Recipe
from kardam.spec import parse
from kardam.stats import Stats
from workers.crew import Member
from workers.objective import Network, root_of
from workers.simulation import hire, secrets, simulate
from workers.tasks import load_task

# Virtual seconds between two evaluations. With a mean latency of 1, each worker answers once.
EVERY = 1.0

# What a cell's accuracy is the mean over: this last share of its time. A single evaluation of a
# model under constant steps is off by a point or two.
LAST = 0.05

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Cell:
    """A run to be, all choices resolved: the same cell is the same run, to the last bit."""

    task: str
    recipe: Recipe
    members: tuple[Member, ...]
    split: str
    seed: int
    seconds: float

    def facts(self) -> dict[str, Any]:
        """All that its outcome depends on, as plain values: the code and the data, too."""
        return {**asdict(self), "data": _data(self.task), "code": code_version()}

    @property
    def key(self) -> str:
        """A name for those."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:32]


class Work(NamedTuple):
    """What became of one worker's gradients."""

    byzantine: bool
    delivered: int
    admitted: int


class Played(NamedTuple):
    """What a cell came to: (seconds, held-out accuracy) as time went on, and everybody's work."""

    curve: list[tuple[float, float]]
    work: list[Work]
    updates: int
    took: float  # real seconds

    @property
    def accuracy(self) -> float:
        """The mean over the last twentieth of the time."""
        return self._mean_of_last(LAST)

    @property
    def plateau(self) -> float:
        """The mean over the second half of the time, dips and all: what a run of half the time
        comes to, in the end.
        """
        return self._mean_of_last(0.5)

    def _mean_of_last(self, share: float) -> float:
        since = (1 - share) * self.curve[-1][0]
        last = [accuracy for at, accuracy in self.curve if at >= since]
        return sum(last) / len(last)

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """As it stands in a file."""
        return cls(
            [(at, accuracy) for at, accuracy in told["curve"]],
            [Work(*work) for work in told["work"]],
            told["updates"],
            told["took"],
        )


def play(cell: Cell) -> Played:
    """Run it. Raises UsageError where the task knows no accuracy."""
    network = Network(load_task(cell.task, cell.seed))
    if not network.task.classes:
        raise UsageError(f"--task {cell.task}: a grid compares accuracies, and this has no classes")
    began = time.perf_counter()
    root = root_of(network, cell.recipe.root_examples, cell.seed)
    descent = cell.recipe.descent(network.x, root, secrets(cell.seed))
    stats = Stats(cell.recipe.n, cell.recipe.f)
    for member in cell.members:
        stats.label(member.index, member.label, member.byzantine)
    curve: list[tuple[float, float]] = []
    due = 0.0
    for now, verdict in simulate(descent, hire(cell.members, network, cell.seed, cell.split)):
        stats.record(verdict, now)
        if now >= due:
            due = now + EVERY
            curve.append((now, network.evaluate(descent.model.x)[1]))
        if now >= cell.seconds:
            break
    # Where nobody answers any more, nothing changes until the end.
    curve.append((cell.seconds, network.evaluate(descent.model.x)[1]))
    rows = (stats.workers[member.index] for member in cell.members)
    work = [Work(row.byzantine, row.tally.delivered, row.tally.admitted) for row in rows]
    return Played(curve, work, descent.model.version, time.perf_counter() - began)


# --- files ---


def _file(cell: Cell, folder: Path) -> Path:
    return folder / f"{cell.key}.json"


def kept(cell: Cell, folder: Path) -> Played | None:
    """What is known of this cell; None where it was not played yet, or not to its end."""
    try:
        return Played.of(json.loads(_file(cell, folder).read_text())["played"])
    except FileNotFoundError:
        return None


def keep(cell: Cell, folder: Path) -> Played:
    """Play it, and leave in a file what it was and what it came to."""
    played = play(cell)
    told = {**cell.facts(), "played": played._asdict()}
    path = _file(cell, folder)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(told) + "\n")
    beside.rename(path)  # there is a whole file, or none
    return played


# --- what else a cell depends on ---


@cache
def code_version() -> str:
    """A digest of the source of this module, of all of ours that it imports, however far down, and
    of the versions of numpy and torch. What a user names by an import path is not in it.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure("bench.cells")):
        digest.update(_source(name).read_bytes())
    for library in ("numpy", "torch"):
        digest.update(version(library).encode())
    return digest.hexdigest()[:16]


@cache
def _data(task: str) -> str:
    """A digest of the file that a task reads; empty where it reads none."""
    path = parse(task, "--task").args.get("path") if task.startswith("npz:") else None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else ""


def _source(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _closure(name: str) -> set[str]:
    """A module of ours and what it imports, all the way down."""
    found, left = set[str](), [name]
    while left:
        if (module := left.pop()) not in found and _source(module).is_file():
            found.add(module)
            left.extend(_imports(module))
    return found


def _imports(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(_source(name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # An imported name may be a module itself.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
