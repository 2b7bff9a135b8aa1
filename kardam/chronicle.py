"""A run's directory, read again: what was written of the run, as tables and arrays.

Never in here: a picture, or a number that nobody wrote down.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kardam import checkpoint
from kardam.checkpoint import CHECKPOINTS, PLAIN
from kardam.errors import UsageError
from kardam.records import EXPERIMENT, JOURNAL, METRICS, PLACES, SUMMARY
from kardam.ring import Holder
from kardam.stats import Evaluation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_NUMBERS = ("seconds", "worker", "updates", "staleness", "reading", "band_low", "band_high")


@dataclass(frozen=True, eq=False)
class Journal:
    """The verdicts in order, a column a field of `messages.Verdict`; NaN where nothing is known."""

    seconds: Floats
    worker: Ints
    updates: Ints
    staleness: Ints
    reading: Floats
    band_low: Floats
    band_high: Floats
    admitted: Flags
    rule: Sequence[str]

    @property
    def refused(self) -> Sequence[str]:
        """The rules that refused, the most frequent first."""
        names, counts = np.unique(
            [rule for rule, admitted in zip(self.rule, self.admitted, strict=True) if not admitted],
            return_counts=True,
        )
        return [str(names[at]) for at in np.argsort(-counts, kind="stable")]


@dataclass(frozen=True, eq=False)
class Chronicle:
    """One run. `books` are those of its end, or the last ones that were written before it was cut
    off, without rows of workers then.
    """

    name: str
    experiment: Mapping[str, Any]
    books: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    journal: Journal

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """By time. The books keep the newest exactly; older ones are as old as the metrics say."""
        exact = [Evaluation(*its) for its in self.books.get("held_out", []) if None not in its]
        first = exact[0].seconds if exact else np.inf
        before = [
            Evaluation(row["updates"], row["seconds"], row["loss"], row["accuracy"])
            for row in self.metrics
            if row["seconds"] < first and None not in (row["loss"], row["accuracy"])
        ]
        return before + exact

    @property
    def n(self) -> int:
        return int(self.books["n"])

    def label(self, worker: int) -> str:
        """What its owner says that it is; empty for an honest one, and where nobody wrote it."""
        return str(self._rows.get(worker, {}).get("label") or "")

    def byzantine(self, worker: int) -> bool:
        """Whether its owner says that it lies."""
        return bool(self._rows.get(worker, {}).get("byzantine"))

    @cached_property
    def _rows(self) -> Mapping[int, Mapping[str, Any]]:
        return {row["worker"]: row for row in self.books.get("workers", [])}


def read(folder: Path) -> Chronicle:
    """The run in this directory. Raises UsageError where there is none, or none that got on."""
    try:
        experiment = tomllib.loads((folder / EXPERIMENT).read_text())
        metrics = list(_lines(folder / METRICS))
        journal = _journal(folder / JOURNAL)
        summary = folder / SUMMARY
        books = json.loads(summary.read_text()) if summary.is_file() else None
    except OSError as error:
        several = f", or several: {folder}/*" if any(folder.glob(f"*/{EXPERIMENT}")) else ""
        raise UsageError(
            f"{error.filename}: {error.strerror}; expected the directory of a run{several}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: not as kardam writes a run: {error}") from error
    if not (metrics and len(journal.worker)):
        raise UsageError(f"{folder}: no gradient was judged in this run; there is nothing to show")
    return Chronicle(folder.resolve().name, experiment, books or metrics[-1], metrics, journal)


def read_all(folders: Sequence[Path]) -> list[Chronicle]:
    """Each of these runs once, under its directory's name, or their paths where two share one."""
    found = {folder: read(folder) for folder in folders}
    if len({run.name for run in found.values()}) < len(found):
        return [replace(run, name=str(folder)) for folder, run in found.items()]
    return list(found.values())


def verdicts(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of its journal. Raises UsageError where it has none."""
    try:
        yield from _lines(run / JOURNAL)
    except OSError as error:
        raise UsageError(f"{run / JOURNAL}: {error.strerror}; expected a run") from error
    except ValueError as error:
        raise UsageError(f"{run / JOURNAL}: not as kardam writes it: {error}") from error


class Person(NamedTuple):
    """What a worker's owner says that it is."""

    label: str
    byzantine: bool


def people(run: Path) -> dict[int, Person]:
    """Who is said to be what, by the summary, or the newest checkpoint of a run that has none.

    Raises UsageError where that is not as kardam writes it.
    """
    rows: list[Any] = []
    newest = checkpoint.newest(run / CHECKPOINTS)
    try:
        if (run / SUMMARY).is_file():
            rows = json.loads((run / SUMMARY).read_text())["workers"]
        elif newest is not None:
            told = json.loads((newest / PLAIN).read_text())["sessions"]
            workers = told.get("stats", {"workers": []})["workers"]
            rows = [{"worker": worker, **row} for worker, row in workers]
        return {row["worker"]: Person(row["label"], row["byzantine"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{run}: not as kardam writes a run: {error!r}") from error


def holders(run: Path) -> list[Holder]:
    """Whose each place was, in order; none where there were no keys. Raises UsageError."""
    path = run / PLACES
    try:
        return [Holder(**line) for line in _lines(path)] if path.is_file() else []
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not as kardam writes it: {error}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Its objects; a last line that is cut off was never written."""
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _journal(path: Path) -> Journal:
    columns: dict[str, list[Any]] = {name: [] for name in (*_NUMBERS, "admitted", "rule")}
    for verdict in _lines(path):
        for name, column in columns.items():
            column.append(verdict.get(name, "nan"))
    rule = columns.pop("rule")
    kinds: Mapping[str, type] = {
        "worker": np.int64,
        "updates": np.int64,
        "staleness": np.int64,
        "admitted": np.bool_,
    }
    arrays: dict[str, Any] = {
        name: np.array(its, kinds.get(name, np.float64)) for name, its in columns.items()
    }
    return Journal(rule=rule, **arrays)
