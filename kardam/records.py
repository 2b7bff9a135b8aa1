"""What a run leaves behind: one directory, written as the run goes.

    experiment.toml    every choice, resolved, with the seed: `kardam run` of it is this run again
    environment.json   host, date, versions, endpoint: outside any promise of determinism
    journal.jsonl      one line a verdict: its second, the gradient's fingerprint, and the fields of
                       `messages.Verdict`
    places.jsonl       where there are keys: whose each place is, from which second on
    metrics.jsonl      how the run stood, about once a second
    checkpoints/       models and server states, the newest few
    recording/         the gradients themselves, and all else that happened (see tape)
    summary.json       the books at the end, and what ended it

`kardam report` adds report.html and figures/.
Never in here: what is worth writing, or when.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from kardam import checkpoint, tape
from kardam.checkpoint import CHECKPOINTS, kept
from kardam.errors import Unwritable, UsageError
from kardam.events import Event, Receiving
from kardam.fingerprint import fingerprint
from kardam.logs import Log, whole_lines
from kardam.messages import Manifest, Model, Vector, Verdict
from kardam.recording import Recording, cut
from kardam.ring import Holder
from kardam.state import State
from kardam.tape import Mark

EXPERIMENT, ENVIRONMENT = "experiment.toml", "environment.json"
JOURNAL, METRICS, SUMMARY = "journal.jsonl", "metrics.jsonl", "summary.json"
PLACES = "places.jsonl"

# Verdicts whose lines are made in one go: then the code for it is in the cache, and a line takes 12
# microseconds and not 25. That is a millisecond, in which nobody else has a turn.
BATCH = 64

# The marks of a run that has not begun.
NOTHING: State = {"journal": 0, "metrics": 0, "places": 0}


class Records:
    """The directory of a run that is going on. As a context: closed after."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.recording: Recording | None = None
        self._keep = keep
        self._journal, self._metrics = Log(folder / JOURNAL), Log(folder / METRICS)
        # What the journal has no line of yet.
        self._judged: list[tuple[Verdict, float, str]] = []
        # Only where there are keys.
        self._places = Log(folder / PLACES) if (folder / PLACES).exists() else None
        self._recipe: Mapping[str, Any] = {}
        # Where in the recording each of our checkpoints lies.
        self._marks: dict[str, Mark] = {}

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
        them is forgotten with the work that it tells of. (Where a recording has that, it is told
        again, and whose it was stays.)
        """
        try:
            records = cls(folder, keep)
            records._journal.mend(marks["journal"])
            records._metrics.mend(marks["metrics"])
            mark = marks.get("recording")
            if records._places is not None:
                whole = whole_lines(folder / PLACES)
                records._places.mend(marks.get("places", 0) if mark is None else whole)
            if mark is not None:
                cut(folder, Mark(**mark))
            (folder / SUMMARY).unlink(missing_ok=True)
        except OSError as error:
            raise Unwritable(f"{folder}: {error.strerror}") from error
        return records

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._logs():
            log.close()
        if self.recording is not None:
            self.recording.close()

    def record(self, recipe: Mapping[str, Any], *, whole: bool, durable: bool) -> None:
        """From now on keep what happens to the descent, too. It can be played from the next
        checkpoint on, by this recipe; unless the `whole` is to stay, from the oldest that is kept.

        Raises Unwritable.
        """
        self._recipe = recipe
        self.recording = Recording(self.folder, whole, durable)

    def environment(self, facts: Mapping[str, Any]) -> None:
        """Where and with what the run is."""
        self._write(ENVIRONMENT, facts)

    def hear(self, event: Event, verdict: Verdict | None, seconds: float) -> None:
        """Something happened to the descent. Raises Unwritable where a recording ends."""
        print_ = fingerprint(event.gradient.g) if isinstance(event, Receiving) else ""
        if verdict is not None:
            self.verdict(verdict, seconds, print_)
        if self.recording is not None:
            self.recording.hear(event, seconds, print_)

    def verdict(self, verdict: Verdict, seconds: float, print_: str = "") -> None:
        """One judged gradient, at this second, and its fingerprint."""
        self._judged.append((verdict, seconds, print_))
        if len(self._judged) == BATCH:
            self._book()

    def _book(self) -> None:
        for judged in self._judged:
            self._journal.add(entry(*judged))
        self._judged.clear()

    def place(self, holder: Holder) -> None:
        """A place is somebody else's. Raises Unwritable."""
        if self._places is None:
            try:
                self._places = Log(self.folder / PLACES)
            except OSError as error:
                raise Unwritable(f"{self.folder / PLACES}: {error.strerror}") from error
        self._places.add({**holder._asdict(), "seconds": round(holder.seconds, 6)})

    def measure(self, metrics: Mapping[str, Any]) -> None:
        """How the run stands."""
        self._metrics.add(metrics)

    def flush(self) -> None:
        """Everything that was told so far, on its way to the disk. Raises Unwritable."""
        self._book()
        with contextlib.ExitStack() as logs:
            for log in self._logs():
                logs.callback(log.flush)

    def _logs(self) -> list[Log]:
        return [self._journal, self._metrics, *([self._places] if self._places else [])]

    def keeps(self, model: Model, seconds: float) -> None:
        """Here is a checkpoint, or the end: the recording has the model's fingerprint, and is
        written. Raises Unwritable.
        """
        if self.recording is not None:
            self.recording.keeps(model, seconds)
            self.recording.flush()

    def settle(self) -> None:
        """What was recorded so far is written, and if it is to be durable, on the disk. Raises
        Unwritable.
        """
        if self.recording is not None:
            self.recording.flush()

    def marks(self) -> State:
        """How far the files are, all flushed, for `reopen`."""
        mark = self.recording.mark() if self.recording is not None else None
        return {
            "journal": self._journal.position,
            "metrics": self._metrics.position,
            "places": self._places.position if self._places is not None else 0,
            "recording": mark._asdict() if mark is not None else None,
        }

    def checkpoint(self, manifest: Manifest, x: Vector, state: State, updates: int) -> Path:
        """Keep a state, and of the older ones the newest few. Raises Unwritable."""
        folder = self.folder / CHECKPOINTS
        path = checkpoint.place(folder, updates)
        # What its marks speak of is there before it.
        for log in self._logs():
            log.sync()
        checkpoint.save(path, manifest, x, state)
        recording, mark = self.recording, state["records"]["recording"]
        if recording is not None and mark is not None:
            if not self._marks:
                recording.begins(path.name, self._recipe)
            self._marks[path.name] = Mark(**mark)
        checkpoint.prune(folder, self._keep, but=tape.starts(self.folder))
        if recording is not None and (oldest := self._marks.get(kept(folder)[0].name)) is not None:
            recording.drop_before(oldest)
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


def entry(verdict: Verdict, seconds: float, print_: str = "") -> dict[str, Any]:
    """A line of the journal: what is not known is left out, and JSON has no word for infinity."""
    record: dict[str, Any] = {"seconds": round(seconds, 6)}
    for name, value in zip(Verdict._fields, verdict, strict=True):
        if type(value) is not float or math.isfinite(value):
            record[name] = value
        elif math.isinf(value):
            record[name] = "inf"
    if print_:
        record["fingerprint"] = print_
    return record


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
