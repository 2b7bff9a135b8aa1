"""A nursery of processes on this machine, seen from their parent's event loop: `async with
swarm(...)`.

Never in here: what a child does, or when there are enough of them.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kardam.errors import Killed, raise_by_code
from kardam.keys import Pass
from kardam.messages import Manifest, Vector
from kardam.shared import Layout, SharedShelf, hand_over
from workers.crew import Member

log = logging.getLogger(__name__)

# What the evaluator is called; workers are called by their numbers.
EVALUATOR = "evaluator"

# Seconds that the nursery has to end its children and itself.
END_SECONDS = 5.0

# The longest line of events: the manifest of a model with very many tensors.
LINE_BYTES_MAX = 2**24


@dataclass(frozen=True, slots=True)
class Fate:
    """How a process ended: its exit code (negative: the signal), and its last words."""

    code: int
    words: str

    @property
    def exit_code(self) -> int:
        """That of a command whose process this was."""
        return self.code if self.code >= 0 else Killed.code

    def __str__(self) -> str:
        if self.code < 0:
            return f"killed by signal {-self.code}"
        return self.words or ("it left" if self.code == 0 else f"exit code {self.code}")


class Swarm:
    """Children by name: the processes that live, and the fates of those that do not."""

    def __init__(self, process: asyncio.subprocess.Process, way: socket.socket) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._orders = process.stdin
        self._events = process.stdout
        # On which descriptors go, before the order that speaks of them.
        self._way = way
        self.pids: dict[str, int] = {}
        self.fates: dict[str, Fate] = {}
        self.changed = asyncio.Event()
        self._ordered: set[str] = set()
        self._listening: asyncio.Task[None] | None = None
        self._ending = False

    async def opening(self) -> tuple[Manifest, Vector]:
        """What the task's model is made of, and the first model. Raises what loading it raised."""
        event = await self._event()
        if event is None:
            raise RuntimeError(f"the nursery ended with code {await self._process.wait()}")
        if event["event"] == "failed":
            raise_by_code(event["code"], event["words"])
        manifest = Manifest(tuple((name, tuple(shape)) for name, shape in event["manifest"]))
        body = await self._events.readexactly(event["nbytes"])
        self._listening = asyncio.create_task(self._listen())
        return manifest, np.frombuffer(body, np.float32)

    def work(
        self,
        member: Member,
        endpoint: str,
        shows: Pass,
        patience: float,
        shelf: SharedShelf | None = None,
    ) -> None:
        """Start a worker, which shares the memory of the `shelf` where that can be."""
        memory = self._admit(member, shelf) if shelf is not None else None
        self._order(
            "work",
            str(member.index),
            member=asdict(member),
            memory=asdict(memory) if memory is not None else None,
            endpoint=endpoint,
            shows=shows,
            patience=patience,
        )

    def _admit(self, member: Member, shelf: SharedShelf) -> Layout | None:
        try:
            memory, pair = shelf.admit(member.index)
            hand_over(self._way, pair)
        except OSError as error:
            # It would be one of very many workers: there are only so many descriptors.
            log.warning("worker %d goes over TCP: no shared memory (%s)", member.index, error)
            shelf.vacate(member.index)
            return None
        return memory

    def evaluate(self, endpoint: str, shows: Pass, every: float, patience: float) -> None:
        """Start an evaluator."""
        self._order(
            "evaluate", EVALUATOR, every=every, endpoint=endpoint, shows=shows, patience=patience
        )

    def _order(self, order: str, name: str, **rest: Any) -> None:
        self._ordered.add(name)
        if self._listening is not None and self._listening.done():
            self._bury()
            return
        line = json.dumps({"order": order, "name": name, **rest})
        self._orders.write(line.encode() + b"\n")

    @property
    def deaths(self) -> dict[str, Fate]:
        """Who ended otherwise than well."""
        return {name: fate for name, fate in self.fates.items() if fate.code != 0}

    async def idle(self, asked: asyncio.Future[Any]) -> None:
        """Wait until all children have ended, or somebody asks for the end."""
        while self._ordered - self.fates.keys() and not asked.done():
            self.changed.clear()
            change = asyncio.create_task(self.changed.wait())
            await asyncio.wait({change, asked}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()

    async def _event(self) -> Any:
        line = await self._events.readline()
        return json.loads(line) if line else None

    async def _listen(self) -> None:
        await self._hear()
        if not self._ending:
            log.warning("the nursery died, and with it the evaluator and all workers here")
        self._bury()

    def _bury(self) -> None:
        """The nursery is no more, and so is nobody who lived in it or was to."""
        for name in (self._ordered - self.fates.keys()) | self.pids.keys():
            self.fates[name] = Fate(1, "its nursery died")
        self.pids.clear()
        self.changed.set()

    async def _hear(self) -> None:
        while (event := await self._event()) is not None:
            if event["event"] == "started":
                self.pids[event["name"]] = event["pid"]
            else:
                self.pids.pop(event["name"], None)
                fate = self.fates[event["name"]] = Fate(event["code"], event["words"])
                if event["name"] == EVALUATOR and fate.code != 0:
                    log.warning("the evaluator: %s; training goes on without it", fate)
            self.changed.set()

    async def _end(self) -> None:
        self._ending = True
        self._orders.close()
        if self._listening is None and self._process.returncode is None:
            self._process.kill()  # it has no children yet, and reads no orders
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            await self._listening


@contextlib.asynccontextmanager
async def swarm(task: str, split: str, n: int, seed: int, liars: int = 0) -> AsyncIterator[Swarm]:
    """A nursery for this task, split among n workers, for as long as the block runs; none of its
    children outlives it.

    They are some of n workers, and `liars` of them share a board.
    """
    # The child looks for modules where we do, and not in whatever folder this is.
    # Ctrl-C, and the end of a terminal, are heard by all of it: the parent decides, from the first
    # line on.
    program = (
        "import signal; "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from workers.lifeline import Lifeline, keep_only; "
        "pipe, way = map(int, sys.argv[1:3]); keep_only(pipe, way); line = Lifeline(pipe); "
        "from workers.nursery import main; main(line)"
    )
    request = {"task": task, "split": split, "n": n, "liars": liars, "seed": seed}
    theirs, ours = os.pipe()
    way, their_way = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", program),
            *(str(theirs), str(their_way.fileno()), json.dumps(request)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(theirs, their_way.fileno()),
            limit=LINE_BYTES_MAX,
        )
        os.close(theirs)
        their_way.close()
        hands = Swarm(process, way)
        try:
            yield hands
        finally:
            await hands._end()
    finally:
        os.close(ours)
        way.close()
