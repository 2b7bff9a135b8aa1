"""A recording: what happened to a descent, gradients and all, in files that only grow.

    recording/0001/life.json      of one server's life: the checkpoint it began with, its recipe
    recording/0001/000001.tape    its events in order, in segments of some SEGMENT_BYTES

An event is two lengths, a check of them and of the head, the head in JSON, and for a gradient its
bytes, whose fingerprint is in the head. Never in here: what an event does.
"""

import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kardam.errors import Unwritable, UsageError
from kardam.events import Event, Forgetting, Lending, Receiving, Refusing
from kardam.fingerprint import bytes_of, check, fingerprint
from kardam.logs import Log
from kardam.messages import Declared, Gradient, Model, Vector

RECORDING, LIFE, SUFFIX = "recording", "life.json", ".tape"

SEGMENT_BYTES = 2**26

# What may wait in memory until it is written.
WAITING_BYTES = 2**22

# Lengths of head and body; the check.
_LENGTHS, _CHECK = struct.Struct("<IQ"), struct.Struct("<Q")
_PREFIX = _LENGTHS.size + _CHECK.size

# No head is longer; what says so is none.
_HEAD_MAX = 65536


class Mark(NamedTuple):
    """A place in a recording."""

    life: int
    segment: int
    offset: int


class Kept(NamedTuple):
    """At this place a checkpoint was kept, or the run ended: the model's fingerprint."""

    version: int
    fingerprint: str


class Told(NamedTuple):
    """One event of a recording; its second and its gradient's fingerprint, where it had them; and
    the place behind it.
    """

    event: Event | Kept
    seconds: float
    fingerprint: str
    mark: Mark


class Recording:
    """One life, being written: in memory until `flush`, or more than WAITING_BYTES of it.

    `whole`: all of it stays. `durable`: `flush` returns once the disk has it. Raises Unwritable
    where it can not begin, or go on; it then ends at the last whole event.
    """

    def __init__(self, run: Path, whole: bool, durable: bool, most: int = SEGMENT_BYTES) -> None:
        self.life = max((number(life) for life in lives(run)), default=0) + 1
        self.folder = run / RECORDING / f"{self.life:04d}"
        self.ended = False
        self._whole, self._durable, self._most = whole, durable, most
        self._segment = 1
        try:
            self.folder.mkdir(parents=True, mode=0o700)
            if durable:
                _settle(run)
                _settle(self.folder.parent)
            self._log = self._open()
        except OSError as error:
            raise Unwritable(f"{self.folder}: {error.strerror}") from error

    def begins(self, start: str, recipe: Mapping[str, Any]) -> None:
        """It can be played from the checkpoint of this name on, by this recipe."""
        facts = {"start": start, "recipe": recipe, "whole": self._whole}
        path = self.folder / LIFE
        try:
            with path.open("w") as file:
                json.dump(facts, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            _settle(self.folder)
        except OSError as error:
            raise Unwritable(f"{path}: {error.strerror}") from error

    def hear(self, event: Event, seconds: float, print_: str) -> None:
        """An event, and the fingerprint of its gradient if it has one."""
        match event:
            case Lending(worker=worker, ticket=ticket):
                self._put(["lend", worker, ticket])
            case Forgetting(worker=worker, but=but):
                self._put(["forget", worker, but])
            case Refusing(worker=worker, ticket=ticket, rule=rule):
                self._put(["refuse", seconds, worker, ticket, rule])
            case Receiving(gradient=one):
                said = one.declared
                growth, since = (said.growth, said.since) if said is not None else (None, None)
                plain = [one.worker, one.ticket, growth, since, one.loss, one.examples]
                self._put(["receive", seconds, *plain, print_], bytes_of(one.g))

    def keeps(self, model: Model, seconds: float) -> None:
        """This is the model here."""
        self._put(["model", seconds, model.version, fingerprint(model.x)])

    def _put(self, head: list[Any], body: bytes | memoryview = b"") -> None:
        if self.ended:
            return
        plain = json.dumps(head, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(plain), len(body))
        self._log.put(lengths, _CHECK.pack(check(lengths + plain)), plain, body)
        if self._log.waiting >= WAITING_BYTES:
            self._write(sync=False)

    def flush(self) -> None:
        """Everything that was heard so far, on its way to the disk, or, if durable, there."""
        if not self.ended:
            self._write(sync=self._durable)

    def _write(self, sync: bool) -> None:
        # Whatever goes wrong before it returns ends the recording.
        self.ended = True
        try:
            full = self._log.position + self._log.waiting >= self._most
            self._log.flush(sync=sync or (full and self._durable))
            if full:
                self._log.close()
                self._segment += 1
                self._log = self._open()
        except OSError as error:
            raise Unwritable(f"{self.folder}: {error.strerror}; it ends here") from error
        self.ended = False

    def mark(self) -> Mark | None:
        """How far it is, all flushed; None where it has ended."""
        return None if self.ended else Mark(self.life, self._segment, self._log.position)

    def drop_before(self, mark: Mark) -> None:
        """Throw away what nobody needs who begins at this place of this life, and what is not to
        stay.
        """
        for life in lives(self.folder.parents[1]):
            facts = beginning(life)
            if facts is not None and not facts["whole"]:
                for segment in segments(life):
                    if (number(life), number(segment)) < mark[:2]:
                        segment.unlink(missing_ok=True)

    def close(self) -> None:
        """Hear nothing more; what was not flushed is forgotten."""
        self.ended = True
        self._log.close()

    def _open(self) -> Log:
        log = Log(self.folder / f"{self._segment:06d}{SUFFIX}")
        if self._durable:
            _settle(self.folder)
        return log


# --- read again ---


def lives(run: Path) -> list[Path]:
    """The lives of a run that were recorded, in order."""
    return sorted(path for path in (run / RECORDING).glob("*") if path.name.isdigit())


def life_of(run: Path, mark: Mark) -> Path | None:
    """The life that this place is in, if it is there."""
    return next((life for life in lives(run) if number(life) == mark.life), None)


def segments(life: Path) -> list[Path]:
    """Its segments, in order."""
    return sorted(life.glob("*" + SUFFIX))


def number(path: Path) -> int:
    """Of a life or a segment, by its name."""
    return int(path.stem)


def beginning(life: Path) -> dict[str, Any] | None:
    """What `begins` wrote; None where a crash came before that, and so before any event.

    Raises UsageError where it is damaged.
    """
    path = life / LIFE
    try:
        facts = json.loads(path.read_text())
        return {
            "start": str(facts["start"]),
            "recipe": dict(facts["recipe"]),
            "whole": bool(facts["whole"]),
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not as kardam writes it: {error}") from error


def starts(run: Path) -> set[str]:
    """The names of the checkpoints that the lives which stay whole are played from."""
    found = [beginning(life) for life in lives(run)]
    return {facts["start"] for facts in found if facts is not None and facts["whole"]}


def play(life: Path, after: Mark | None = None) -> Iterator[Told]:
    """The events of a life, from this place on; they end where one is torn, or damaged."""
    found = segments(life)
    if after is not None:
        found = [path for path in found if number(path) >= after.segment]
    for path in found:
        with path.open("rb") as file:
            if after is not None and number(path) == after.segment:
                file.seek(after.offset)
            while (told := _event(file, number(life), number(path))) is not None:
                yield told
            if file.tell() < path.stat().st_size:
                return


def behind(life: Path, mark: Mark) -> int:
    """How many bytes stand behind this place of this life."""
    sizes = [path.stat().st_size for path in segments(life) if number(path) >= mark.segment]
    return sum(sizes) - mark.offset


def cut(run: Path, mark: Mark) -> None:
    """Throw away what stands behind this place. Raises Unwritable."""
    try:
        for life in lives(run):
            if number(life) > mark.life:
                shutil.rmtree(life)
            for path in segments(life) if number(life) == mark.life else []:
                if number(path) > mark.segment:
                    path.unlink()
                elif number(path) == mark.segment and path.stat().st_size > mark.offset:
                    os.truncate(path, mark.offset)
    except OSError as error:
        raise Unwritable(f"{run / RECORDING}: {error.strerror}") from error


def _event(file: BufferedReader, life: int, segment: int) -> Told | None:
    """The next one, or None, and nothing read, where there is none that is whole."""
    start = file.tell()
    prefix = file.read(_PREFIX)
    lengths, sum_ = prefix[: _LENGTHS.size], prefix[_LENGTHS.size :]
    if len(prefix) == _PREFIX:
        long, size = _LENGTHS.unpack(lengths)
        plain = file.read(min(long, _HEAD_MAX))
        if _CHECK.pack(check(lengths + plain)) == sum_:
            g = np.empty(size // 4, np.float32)
            if file.readinto(bytes_of(g)) == size:
                event, seconds, print_ = _decoded(json.loads(plain), g)
                if not print_ or fingerprint(g) == print_:
                    return Told(event, seconds, print_, Mark(life, segment, file.tell()))
    file.seek(start)
    return None


def _decoded(head: list[Any], g: Vector) -> tuple[Event | Kept, float, str]:
    match head:
        case ["lend", worker, ticket]:
            return Lending(worker, ticket), 0.0, ""
        case ["forget", worker, but]:
            return Forgetting(worker, tuple(but)), 0.0, ""
        case ["refuse", seconds, worker, ticket, rule]:
            return Refusing(worker, ticket, rule), seconds, ""
        case ["receive", seconds, worker, ticket, growth, since, loss, examples, print_]:
            declared = None if growth is None else Declared(growth, since)
            return Receiving(Gradient(worker, ticket, g, declared, loss, examples)), seconds, print_
        case ["model", seconds, version, print_]:
            return Kept(version, print_), seconds, ""
        case _:
            raise UsageError(f"a recording of another kardam: it tells of {head[:1]}")


def _settle(folder: Path) -> None:
    """The names in this folder, on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
