"""What a recording looks like, and how it is read: what happened to a descent, gradients and all.

    recording/0001/life.json      of one server's life: the checkpoint it began with, its recipe
    recording/0001/000001.tape    its events in order, in segments of some 64 MiB

An event is two lengths, a check of them and of the head, the head in JSON, and for a gradient its
bytes, whose fingerprint is in the head. Never in here: what an event does.
"""

import json
import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kardam.errors import UsageError
from kardam.events import Event, Forgetting, Lending, Receiving, Refusing, Turning
from kardam.fingerprint import bytes_of, check, fingerprint
from kardam.messages import ITEM, Declared, Gradient, Vector

RECORDING, LIFE, SUFFIX = "recording", "life.json", ".tape"

# Lengths of head and body; the check.
_LENGTHS, _CHECK = struct.Struct("<IQ"), struct.Struct("<Q")
_PREFIX = _LENGTHS.size + _CHECK.size

NOTHING = memoryview(b"")

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


# --- one event ---


def said(event: Event | Kept, seconds: float, print_: str) -> tuple[list[Any], memoryview]:
    """Its head and its body; the twin of `_decoded`."""
    match event:
        case Lending(worker=worker, ticket=ticket):
            return ["lend", worker, ticket], NOTHING
        case Forgetting(worker=worker, but=but):
            return ["forget", worker, but], NOTHING
        case Turning(worker=worker, how=how):
            return ["turn", worker, how], NOTHING
        case Refusing(worker=worker, ticket=ticket, rule=rule):
            return ["refuse", seconds, worker, ticket, rule], NOTHING
        case Receiving(gradient=one):
            told = one.declared
            growth, since = (told.growth, told.since) if told is not None else (None, None)
            plain = [one.worker, one.ticket, growth, since, one.loss, one.examples]
            return ["receive", seconds, *plain, print_], bytes_of(one.g)
        case Kept():
            return ["model", seconds, event.version, event.fingerprint], NOTHING


def framed(head: list[Any], body: memoryview) -> tuple[bytes | memoryview, ...]:
    """What is written of it, in pieces; the body is not copied."""
    plain = json.dumps(head, separators=(",", ":")).encode()
    lengths = _LENGTHS.pack(len(plain), len(body))
    return lengths, _CHECK.pack(check(lengths + plain)), plain, body


def _event(file: BufferedReader, life: int, segment: int) -> Told | None:
    """The next one, or None, and nothing read, where there is none that is whole."""
    start = file.tell()
    prefix = file.read(_PREFIX)
    lengths, sum_ = prefix[: _LENGTHS.size], prefix[_LENGTHS.size :]
    if len(prefix) == _PREFIX:
        long, size = _LENGTHS.unpack(lengths)
        plain = file.read(min(long, _HEAD_MAX))
        if _CHECK.pack(check(lengths + plain)) == sum_:
            g = np.empty(size // ITEM, np.float32)
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
        case ["turn", worker, ("vacate" | "begin" | "excuse") as how]:
            return Turning(worker, how), 0.0, ""
        case ["refuse", seconds, worker, ticket, rule]:
            return Refusing(worker, ticket, rule), seconds, ""
        case ["receive", seconds, worker, ticket, growth, since, loss, examples, print_]:
            declared = None if growth is None else Declared(growth, since)
            return Receiving(Gradient(worker, ticket, g, declared, loss, examples)), seconds, print_
        case ["model", seconds, version, print_]:
            return Kept(version, print_), seconds, ""
        case _:
            raise UsageError(f"a recording of another kardam: it tells of {head[:1]}")


# --- a recording, read ---


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


def behind(life: Path, mark: Mark) -> dict[str, int]:
    """How many bytes stand behind this place of this life, by segments where there are any."""
    left = {
        path.name: path.stat().st_size - mark.offset * (number(path) == mark.segment)
        for path in segments(life)
        if number(path) >= mark.segment
    }
    return {name: size for name, size in left.items() if size > 0}
