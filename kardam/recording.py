"""A recording, being written (see tape): a new life each time that a server begins.

Never in here: how an event looks, or when it has to be on the disk.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kardam import tape
from kardam.checkpoint import UNFINISHED, fsync
from kardam.errors import Unwritable
from kardam.events import Event
from kardam.fingerprint import fingerprint
from kardam.logs import Log
from kardam.messages import Model
from kardam.tape import LIFE, RECORDING, SUFFIX, Kept, Mark

SEGMENT_BYTES = 2**26

# What may wait in memory until it is written.
WAITING_BYTES = 2**22


class Recording:
    """One life, being written: in memory until `flush`, or more than WAITING_BYTES of it.

    `whole`: all of it stays. `durable`: `flush` returns once the disk has it. Raises Unwritable
    where it can not begin, or go on; it then ends at the last whole event.
    """

    def __init__(self, run: Path, whole: bool, durable: bool, most: int = SEGMENT_BYTES) -> None:
        self.life = max((tape.number(life) for life in tape.lives(run)), default=0) + 1
        self.folder = run / RECORDING / f"{self.life:04d}"
        self.ended = False
        self._whole, self._durable, self._most = whole, durable, most
        self._segment = 1
        try:
            self.folder.mkdir(parents=True, mode=0o700)
            if durable:
                fsync(run)
                fsync(self.folder.parent)
            self._log = self._open()
        except OSError as error:
            raise Unwritable(f"{self.folder}: {error.strerror}") from error

    def begins(self, start: str, recipe: Mapping[str, Any]) -> None:
        """It can be played from the checkpoint of this name on, by this recipe."""
        facts = {"start": start, "recipe": recipe, "whole": self._whole}
        path = self.folder / LIFE
        beside = path.with_name(UNFINISHED + LIFE)
        try:
            with beside.open("w") as file:
                json.dump(facts, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
            fsync(self.folder)
        except OSError as error:
            raise Unwritable(f"{path}: {error.strerror}") from error

    def hear(self, event: Event, seconds: float, print_: str) -> None:
        """An event, and the fingerprint of its gradient if it has one."""
        head, body = tape.said(event, seconds, print_)
        self._put(head, body)

    def keeps(self, model: Model, seconds: float) -> None:
        """This is the model here."""
        self._put(*tape.said(Kept(model.version, fingerprint(model.x)), seconds, ""))

    def _put(self, head: list[Any], body: memoryview) -> None:
        if self.ended:
            return
        self._log.put(*tape.framed(head, body))
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
        for life in tape.lives(self.folder.parents[1]):
            facts = tape.beginning(life)
            if facts is not None and not facts["whole"]:
                for segment in tape.segments(life):
                    if (tape.number(life), tape.number(segment)) < mark[:2]:
                        segment.unlink(missing_ok=True)

    def close(self) -> None:
        """Hear nothing more; what was not flushed is forgotten."""
        self.ended = True
        self._log.close()

    def _open(self) -> Log:
        log = Log(self.folder / f"{self._segment:06d}{SUFFIX}")
        if self._durable:
            fsync(self.folder)
        return log


def cut(run: Path, mark: Mark) -> None:
    """Throw away what stands behind this place. Raises Unwritable."""
    try:
        for life in tape.lives(run):
            if tape.number(life) > mark.life:
                shutil.rmtree(life)
            for path in tape.segments(life) if tape.number(life) == mark.life else []:
                if tape.number(path) > mark.segment:
                    path.unlink()
                elif tape.number(path) == mark.segment and path.stat().st_size > mark.offset:
                    os.truncate(path, mark.offset)
    except OSError as error:
        raise Unwritable(f"{run / RECORDING}: {error.strerror}") from error
