"""What a run leaves behind: one directory, written as the run goes.

    experiment.toml    every choice, resolved, with the seed: `kardam run` of it is this run again
    environment.json   host, date, versions, endpoint: outside any promise of determinism
    journal.jsonl      one line a verdict: its second, and the fields of `messages.Verdict`
    metrics.jsonl      how the run stood, about once a second
    checkpoints/       models and server states, the newest few
    summary.json       the books at the end, and what ended it

`kardam report` adds report.html and figures/.
Never in here: what is worth writing, or when.
"""

import contextlib
import fcntl
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from kardam import checkpoint
from kardam.checkpoint import CHECKPOINTS
from kardam.errors import Unwritable, UsageError
from kardam.messages import Manifest, Vector, Verdict
from kardam.state import State

EXPERIMENT, ENVIRONMENT = "experiment.toml", "environment.json"
JOURNAL, METRICS, SUMMARY = "journal.jsonl", "metrics.jsonl", "summary.json"

# The marks of a run that has not begun.
NOTHING: State = {"journal": 0, "metrics": 0}

_VERDICT = tuple(field.name for field in fields(Verdict))


class Log:
    """A file of lines of JSON that only grows. Where it can not, it ends: no hole follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        self._ended = False
        # Unbuffered: what is not written yet is in `_lines`, and nowhere else.
        self._file = path.open("ab", buffering=0)
        self.position = self._file.tell()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UsageError(f"{path}: another kardam, which is running, writes there") from error

    def add(self, record: Mapping[str, Any]) -> None:
        """Another line, written at the next `flush`."""
        if not self._ended:
            self._lines.append(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Write what was added. Raises Unwritable once, and then ends at the last whole line."""
        data = memoryview("".join(self._lines).encode())
        self._lines.clear()
        start = self.position
        try:
            while data:
                written = self._file.write(data)
                self.position += written
                data = data[written:]
        except OSError as error:
            self._ended = True
            with contextlib.suppress(OSError):
                self.cut(start)
            raise Unwritable(f"{self.path}: {error.strerror}; it ends here") from error

    def cut(self, position: int) -> None:
        """Forget what stands behind this position."""
        self._file.truncate(position)
        self._file.seek(position)
        self.position = position

    def close(self) -> None:
        self._file.close()


class Records:
    """The directory of a run that is going on. As a context: closed after."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._journal, self._metrics = Log(folder / JOURNAL), Log(folder / METRICS)

    @classmethod
    def create(cls, folder: Path, experiment: str, keep: int) -> Self:
        """A new directory. Raises UsageError where it exists, Unwritable where it can not be."""
        check_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / EXPERIMENT).write_text(experiment)
            return cls(folder, keep)
        except OSError as error:
            raise Unwritable(f"{folder}: {error.strerror}") from error

    @classmethod
    def reopen(cls, folder: Path, marks: State, keep: int) -> Self:
        """The directory of a run that goes on from a state with these marks; what it wrote after
        them is forgotten with the work that it tells of.
        """
        try:
            records = cls(folder, keep)
        except OSError as error:
            raise Unwritable(f"{folder}: {error.strerror}") from error
        records._journal.cut(marks["journal"])
        records._metrics.cut(marks["metrics"])
        (folder / SUMMARY).unlink(missing_ok=True)
        return records

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._metrics.close()

    def environment(self, facts: Mapping[str, Any]) -> None:
        """Where and with what the run is."""
        self._write(ENVIRONMENT, facts)

    def verdict(self, verdict: Verdict, now: float) -> None:
        """One judged gradient, at this second."""
        record: dict[str, Any] = {"seconds": round(now, 6)}
        for name in _VERDICT:
            value = getattr(verdict, name)
            # JSON has no word for infinity; what is not a number is not known, and left out.
            if type(value) is not float or math.isfinite(value):
                record[name] = value
            elif math.isinf(value):
                record[name] = "inf"
        self._journal.add(record)

    def measure(self, metrics: Mapping[str, Any]) -> None:
        """How the run stands."""
        self._metrics.add(metrics)

    def flush(self) -> None:
        """Everything that was told so far, on its way to the disk. Raises Unwritable."""
        try:
            self._journal.flush()
        finally:
            self._metrics.flush()

    def marks(self) -> State:
        """How far the files are, for `reopen`."""
        return {"journal": self._journal.position, "metrics": self._metrics.position}

    def checkpoint(self, manifest: Manifest, x: Vector, state: State, updates: int) -> Path:
        """Keep a state, and of the older ones the newest few. Raises Unwritable."""
        folder = self.folder / CHECKPOINTS
        path = checkpoint.place(folder, updates)
        checkpoint.save(path, manifest, x, state)
        checkpoint.prune(folder, self._keep)
        return path

    def summary(self, books: Mapping[str, Any]) -> None:
        """How the run ended. Raises Unwritable."""
        self._write(SUMMARY, books)

    def _write(self, name: str, facts: Mapping[str, Any]) -> None:
        path = self.folder / name
        beside = path.with_name(checkpoint.UNFINISHED + name)
        try:
            beside.write_text(json.dumps(facts, indent=2) + "\n")
            beside.rename(path)
        except OSError as error:
            raise Unwritable(f"{path}: {error.strerror}") from error


class Found(NamedTuple):
    """A run, and the checkpoint of it to go on from (None: it came to none, and begins again);
    `whole` where the run itself was named.
    """

    run: Path
    checkpoint: Path | None
    whole: bool


def resumable(path: Path) -> Found:
    """What `--resume PATH` means: a run's directory, for its newest checkpoint, or one checkpoint.

    Raises UsageError where there is none.
    """
    if (path / checkpoint.PLAIN).is_file():
        return Found(path.resolve().parent.parent, path, whole=False)
    newest = checkpoint.newest(path / CHECKPOINTS)
    if newest is None:
        raise UsageError(f"--resume {path}: no checkpoint there; expected a run's directory")
    return Found(path, newest, whole=True)


def check_new(folder: Path) -> None:
    """Raise UsageError where a new run's directory would stand in the place of something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        kept = checkpoint.newest(folder / CHECKPOINTS) is not None
        going_on = f", or --resume {folder} to go on" if kept else ""
        raise UsageError(f"--out {folder}: exists already; name another{going_on}")


def endpoint(run: Path) -> str:
    """Where the server of this run listened. Raises UsageError where that is not known."""
    try:
        return str(json.loads((run / ENVIRONMENT).read_text())["endpoint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--resume {run}: no {ENVIRONMENT} of a run there") from error
