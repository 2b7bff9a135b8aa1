"""What is written down of a run, and when: verdicts, metrics, checkpoints. What can not be written
ends no training.

Never in here: how a file looks (records, checkpoint), or what ends a run.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kardam.errors import Unwritable
from kardam.events import Event, Turning
from kardam.messages import Manifest, Model, Verdict, WorkerId
from kardam.plan import Every
from kardam.records import Records
from kardam.ring import Entry, Holder, Key
from kardam.sessions import Sessions
from kardam.state import State

log = logging.getLogger(__name__)

# Seconds between two lines of metrics.
MEASURE = 1.0

# Of each worker the journal has so many refusals of what nobody asked it for; the books count all.
UNASKED_MAX = 100


class Scribe:
    """Writes as the run goes. `clock`: the second of the run. Where it is to be `durable`, a
    recording that can not be written is an error, and no word.

    `folder` is where; `kept` the newest checkpoint that is whole, which took `checkpoint_seconds`;
    `unwritten` says of each kind of thing what could not be written last.
    """

    def __init__(
        self,
        sessions: Sessions,
        records: Records,
        every: Every,
        clock: Callable[[], float],
        durable: bool = False,
    ) -> None:
        self.sessions = sessions
        self.folder = records.folder
        self.kept: Path | None = None
        self.unwritten: dict[str, str] = {}
        self.checkpoint_seconds = math.nan
        self._records = records
        self._every = every
        self._clock = clock
        self._durable = durable
        self._measure_at = -math.inf
        self._kept_at = clock()
        self._kept_updates = sessions.descent.model.version
        self._kept_joined = sessions.joined
        self._writing: asyncio.Task[Path] | None = None

    def hear(self, event: Event, verdict: Verdict | None) -> None:
        """Something happened to the descent. Raises Unwritable where that is to be durable."""
        if isinstance(event, Turning) and event.how != "excuse":
            self._place(event.worker, self.sessions.ring.enrolled)
        if verdict is None or not self._flooded_by(verdict):
            with self._saying("recording"):
                self._records.hear(event, verdict, self._clock())

    def settle(self) -> None:
        """What was heard so far is on the disk. Raises Unwritable."""
        self._records.settle()

    def _place(self, worker: WorkerId, enrolled: Mapping[Key, Entry]) -> None:
        """Whose this place is from now on."""
        key = self.sessions.ring.holder(worker)
        name = enrolled[key].name if key in enrolled else ""
        with self._saying("logs"):
            self._records.place(Holder(self._clock(), worker, key, name))

    def _flooded_by(self, verdict: Verdict) -> bool:
        """Whether there is enough of what this worker sends and nobody asked for."""
        if verdict.version >= 0:
            return False
        tally = self.sessions.stats.workers[verdict.worker].tally
        return tally.refused[verdict.rule] >= UNASKED_MAX

    def begin(self, enrolled: Mapping[Key, Entry]) -> None:
        """Keep the beginning, before anything happens, so that from now on there is something to go
        on from; and whose each place is, by those who are enrolled. Raises Unwritable where that is
        to be durable.
        """
        for worker in sorted(self.sessions.ring.taken):
            self._place(worker, enrolled)
        with self._saying("logs"):
            self._records.flush()  # what was retold
        with self._saying("checkpoint"):
            self.kept = self._keep(*self._known(self._clock()))
        if self._durable and self.kept is None:
            raise Unwritable(self.unwritten["checkpoint"])

    def due(self, now: float) -> bool:
        """Whether it is time for a checkpoint: by what was wished, and soon after somebody joined,
        whom the next server is to know.
        """
        if self._writing is not None:
            return False
        updates = self.sessions.descent.model.version - self._kept_updates
        joined = self.sessions.joined > self._kept_joined
        since = now - self._kept_at
        return self._every.due(updates, since) or (joined and since >= MEASURE)

    def look(self, now: float) -> None:
        """Write what is due; checkpoints in a thread of their own, one at a time."""
        with self._saying("checkpoint"):
            if self._writing is not None and self._writing.done():
                writing, self._writing = self._writing, None
                self.kept = writing.result()
        self._log(now)
        if self.due(now):
            self._writing = self._checkpoint(now)

    async def end(self, now: float) -> None:
        """Write where the run ended, however it did."""
        with self._saying("checkpoint"):
            if self._writing is not None:
                writing, self._writing = self._writing, None
                self.kept = await writing
        self._measure_at = -math.inf
        self._log(now)
        moved = self._kept_updates < self.sessions.descent.model.version
        if moved or self.sessions.joined > self._kept_joined:
            with self._saying("checkpoint"):
                self.kept = await self._checkpoint(now)

    def summary(self, books: Mapping[str, Any]) -> None:
        """The books at the end."""
        with self._saying("summary"):
            self._records.flush()
            self._records.summary(books)

    def _log(self, now: float) -> None:
        with self._saying("logs"):
            if now >= self._measure_at:
                self._measure_at = now + MEASURE
                self._records.measure(self.sessions.metrics(now))
            self._records.flush()
        with self._saying("recording"):
            self._records.settle()

    def _checkpoint(self, now: float) -> asyncio.Task[Path]:
        """What the server knows at this moment, on its way to the disk."""
        return asyncio.create_task(asyncio.to_thread(self._keep, *self._known(now)))

    def _known(self, now: float) -> tuple[Manifest, Model, State]:
        model = self.sessions.descent.model
        with self._saying("recording"):
            self._records.keeps(model, now)
        state = {
            "sessions": self.sessions.state(),
            "records": self._records.marks(),
            "seconds": now,
        }
        self._kept_at, self._kept_updates = now, model.version
        self._kept_joined = self.sessions.joined
        return self.sessions.terms.manifest, model, state

    def _keep(self, manifest: Manifest, model: Model, state: State) -> Path:
        began = time.perf_counter()
        path = self._records.checkpoint(manifest, model.x, state, model.version)
        self.checkpoint_seconds = time.perf_counter() - began
        return path

    @contextlib.contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        try:
            yield
        except Unwritable as error:
            if what == "recording" and self._durable:
                raise
            if what not in self.unwritten:
                log.warning("%s; training goes on", error)
            self.unwritten[what] = str(error)
