"""A server from its start to its orderly end: what it is made of, what ends it, who may interrupt.

Wiring for the mains; the algorithm, the wire and the files are below.
"""

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import platform
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from kardam import checkpoint, memory, pages
from kardam.errors import Interrupted, Stalled, Unwritable, UsageError
from kardam.gate import Locked
from kardam.keys import Keys, Pass, Tokens, publish
from kardam.kits import Folder, new_pair
from kardam.messages import Manifest, Role, Vector, Verdict, WorkerId
from kardam.outcome import Ending, Outcome, ending_of
from kardam.plan import Plan, Until
from kardam.recipe import Recipe
from kardam.records import NOTHING, Records
from kardam.recovery import Retold, caught_up
from kardam.ring import Entry
from kardam.scribe import Scribe
from kardam.server import Server, serve
from kardam.sessions import Sessions, Terms
from kardam.state import State
from kardam.stats import Stats

if TYPE_CHECKING:
    from kardam.telemetry import Page

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two looks at whether it is enough, which are also two pictures of a live view.
LOOK = 0.25

MIB = 2**20

# The least limit is told in multiples of so many MiB, and with so many to spare.
ROUND_MIB, APART_MIB = 16, 4


def house(
    recipe: Recipe, x: Vector, manifest: Manifest, *, seed: int, task: str, split: str = "iid"
) -> Sessions:
    """A new server without its socket: sessions around a descent by this recipe, from x_0.

    Raises UsageError for texts that are longer than what a server can tell its workers.
    """
    for knob, text, most in (("--task", task, 512), ("--split", split, 128)):
        if len(text) > most:
            raise UsageError(f"{knob}: expected at most {most} characters, got {len(text)}")
    # From the operating system, and not from the seed, which every worker is told.
    descent = recipe.descent(x, chance=np.random.default_rng())
    terms = Terms(
        manifest=manifest,
        epoch=secrets.token_hex(8),
        seed=seed,
        task=task,
        quorum=recipe.quorum,
        split=split,
    )
    stats = Stats(recipe.n, recipe.f, descent.filter.slowdown())
    return Sessions(descent, stats, Tokens(recipe.n, lambda: secrets.token_hex(16)), terms)


async def unless(asked: asyncio.Future[Ending], waited: Coroutine[Any, Any, T]) -> T:
    """What is waited for. Raises Interrupted where somebody asks for the end before."""
    task = asyncio.create_task(waited)
    either: list[asyncio.Future[Any]] = [task, asked]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    ending = asked.result()
    raise Interrupted(f"{ending.why} before it began", ending.code)


class Run:
    """A server that is up, and what will end it; see `running`."""

    def __init__(
        self,
        server: Server,
        until: Until,
        scribe: Scribe,
        asked: asyncio.Future[Ending],
        key: str,
    ) -> None:
        self.server = server
        # The server's public one; empty where there are none.
        self.key = key
        self.endpoint = outward(server.endpoint)
        self.scribe = scribe
        self.page: Page | None = None
        # Where to look at it with a browser; empty where that was not asked for.
        self.link = ""
        self._stats = scribe.sessions.stats
        self._until = until
        self._asked = asked
        self._wake = asyncio.Event()
        asked.add_done_callback(lambda _: self._wake.set())

    def evaluator(self) -> Pass:
        """For an evaluator of our own."""
        return _pass(self.server, self.key, "evaluator", self.server.sessions.tokens.evaluator)

    def worker(self, place: WorkerId, label: str, byzantine: bool) -> Pass:
        """For a worker of our own, who is expected in this place from now on."""
        token = self.server.sessions.expect(place, label, byzantine, self.server.now)
        return _pass(self.server, self.key, "worker", token, place)

    def observe(self, verdict: Verdict, took: float) -> None:
        """Show it, and look at once where something is due: a run of so many arrivals is not a few
        more.
        """
        now = self.server.now
        if self.page is not None:
            self.page.record(verdict, took)
        if self._stats.stalled or self._until.reached(self._stats, 0.0) or self.scribe.due(now):
            self._wake.set()

    async def wait(self, look: Callable[[], str] = lambda: "") -> Ending:
        """The ending, when it comes, with the uploads that were under way received, and a
        checkpoint of where it ended.

        `look` is called every LOOK seconds; a word from it ends the run as stalled.
        """
        while (ending := self._ending(look)) is None:
            self.scribe.look(self.server.now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._wake.wait()
            self._wake.clear()
        await self.server.drain(over=not ending.interrupted)
        await self.scribe.end(self.server.now)
        return ending

    def outcome(self, ending: Ending, books: Mapping[str, Any]) -> Outcome:
        """The end: its summary is written, and there is nothing more to do."""
        scribe, books = self.scribe, {**books, "ending": ending.why}
        scribe.summary(books)
        return Outcome(ending, books, scribe.folder, scribe.kept, (*scribe.unwritten.values(),))

    def _ending(self, look: Callable[[], str]) -> Ending | None:
        if self._asked.done():
            return self._asked.result()
        if (ending := ending_of(self._stats, self._until, self.server.now)) is not None:
            return ending
        if why := look():
            return Ending(f"stalled: {why}", Stalled.code)
        return None


@contextlib.asynccontextmanager
async def running(plan: Plan, manifest: Manifest, x: Vector) -> AsyncIterator[Run]:
    """A server that listens to workers, signals and `kardam stats` while the block runs.

    It starts from x_0, or goes on from the checkpoint that the plan names. Raises UsageError,
    Unwritable or Unreachable where that can not be.
    """
    pages.keep()
    memory.raise_files()
    before: State | None = None
    retold: list[Retold] = []
    if plan.checkpoint is not None:
        kept = checkpoint.restore(plan.checkpoint)
        if kept.manifest != manifest:
            raise UsageError(f"--resume {plan.checkpoint}: its model is not made like this one")
        before, x = kept.state, kept.x
        if plan.in_place:
            before, retold = caught_up(plan.out, kept)
    sessions = house(plan.recipe, x, manifest, seed=plan.seed, task=plan.task, split=plan.split)
    folder = Folder(plan.keys) if plan.keys is not None else None
    locked = Locked(folder.pair.secret, folder.enrolled) if folder is not None else None
    key = folder.pair.public if folder is not None else ""
    sessions.progress = lambda now: plan.until.share(sessions.stats, now)
    seconds = 0.0
    if before is not None:
        seconds = before["seconds"]
        sessions.restore(before["sessions"], seconds)
        for verdict, second, _ in retold:
            sessions.stats.record(verdict, second)
    run: Run
    with interrupts() as asked, _door(plan.dashboard) as door:
        async with serve(
            sessions,
            plan.bind,
            lambda verdict, took: run.observe(verdict, took),
            seconds,
            (lambda: run.scribe.settle()) if plan.durable else None,
            locked=locked,
            memory_limit=_memory_limit(plan, sessions),
        ) as server:
            # Who has no port leaves no directory; and no message comes before the first `await`.
            with _records(plan, before) as records, published(server, key):
                if folder is not None:
                    folder.make(outward(server.endpoint))
                records.environment(_environment(server))
                for each in retold:
                    records.verdict(*each)
                if plan.record or plan.durable:
                    records.record(asdict(plan.recipe), whole=plan.record, durable=plan.durable)
                scribe = Scribe(sessions, records, plan.every, lambda: server.now, plan.durable)
                sessions.descent.hear = scribe.hear
                run = Run(server, plan.until, scribe, asked, key)
                scribe.begin(folder.enrolled() if folder is not None else {})
                async with _dashboard(run, door):
                    yield run


def _memory_limit(plan: Plan, sessions: Sessions) -> int | None:
    """In bytes, if there is one. Raises UsageError where honest work alone may need more."""
    if plan.memory_limit is None:
        return None
    least = memory.least(sessions.explained()) // MIB + 1
    if plan.memory_limit < least:
        # Two starts of a process differ by a little, and what is told is to be enough.
        enough = -(-(least + APART_MIB) // ROUND_MIB) * ROUND_MIB
        raise UsageError(
            f"--memory-limit: expected at least {enough} MiB for n={plan.recipe.n} and"
            f" {sessions.terms.manifest.d:,} numbers, got {plan.memory_limit}"
        )
    return plan.memory_limit * MIB


@contextlib.contextmanager
def _door(port: int | None) -> Iterator[socket.socket | None]:
    """Where browsers will come, taken before anything begins. Raises Unreachable."""
    if port is None:
        yield None
        return
    # It brings a web server; who serves no page does not wait for it.
    from kardam.telemetry import opened

    with opened(port) as door:
        yield door


@contextlib.asynccontextmanager
async def _dashboard(run: Run, door: socket.socket | None) -> AsyncIterator[None]:
    if door is None:
        yield
        return
    from kardam.telemetry import Page, serving

    run.page = Page(run.server, run.scribe)
    async with serving(run.page, door) as run.link:
        yield


def _records(plan: Plan, before: State | None) -> Records:
    """Its run directory, opened. Raises UsageError or Unwritable."""
    if plan.in_place:
        marks = before["records"] if before is not None else NOTHING
        return Records.reopen(plan.out, marks, plan.keep)
    return Records.create(plan.out, plan.experiment, plan.keep)


def _environment(server: Server) -> dict[str, Any]:
    libraries = ("kardam", "numpy", "pyzmq", "torch", "uvloop")
    return {
        "endpoint": server.endpoint,
        "host": platform.node(),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
    }


@contextlib.contextmanager
def interrupts() -> Iterator[asyncio.Future[Ending]]:
    """SIGINT, SIGTERM and SIGHUP: the first asks for an orderly end, a second one ends the process.

    A SIGHUP that is ignored (nohup) stays so.
    """
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[Ending] = loop.create_future()

    def hear(number: signal.Signals, why: str) -> None:
        if asked.done():
            os._exit(128 + number)
        _hush_what_is_gone()
        asked.set_result(Ending(why, 128 + number))

    heard = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard[signal.SIGHUP] = "its terminal is gone"
    for number, why in heard.items():
        loop.add_signal_handler(number, hear, number, why)
    try:
        yield asked
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def _hush_what_is_gone() -> None:
    """What is printed to a terminal that is gone is nobody's, and no error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            hush(descriptor)


def hush(descriptor: int) -> None:
    """What is printed there from now on is thrown away."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def outward(endpoint: str) -> str:
    """The endpoint as others reach it: for one on all addresses, by that which leads out."""
    parts = urlsplit(endpoint)
    if parts.hostname not in ("0.0.0.0", "::"):
        return endpoint
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documents; nothing is sent
            host = probe.getsockname()[0]
        except OSError:
            host = "127.0.0.1"
    return f"tcp://{host}:{parts.port}"


def _pass(server: Server, key: str, role: Role, token: str, place: WorkerId | None = None) -> Pass:
    """For a peer of our own: this token; or keys, where the server has one."""
    if not key:
        return Pass(token)
    pair = new_pair()
    server.sessions.ring.add(pair.public, Entry(role), place)
    return Pass(keys=Keys(key, *pair))


@contextlib.contextmanager
def published(server: Server, key: str = "") -> Iterator[None]:
    """While the block runs, this user's commands on this machine may read the books."""
    operator = _pass(server, key, "operator", server.sessions.tokens.operator)
    try:
        path = publish(outward(server.endpoint), operator)
    except Unwritable as error:
        log.warning("%s; kardam stats will not find its token", error)
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
