"""A server from its start to its orderly end: what it is made of, what ends it, who may interrupt.

Wiring for the mains; the algorithm and the wire are below.
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlsplit

from kardam.client import check_endpoint
from kardam.errors import Stalled, UsageError
from kardam.keys import Tokens, publish
from kardam.messages import Manifest, Vector, Verdict
from kardam.recipe import Recipe
from kardam.server import Server, serve
from kardam.sessions import Sessions, Terms
from kardam.stats import Stats

# Seconds between two looks at whether it is enough, which are also two pictures of a live view.
LOOK = 0.25


def check_bind(bind: str, insecure: bool) -> str:
    """The endpoint to listen on, if it is ours alone. Raises UsageError for a public one.

    Without keys a public server lets anybody in, so that has to be asked for by name.
    """
    host = urlsplit(check_endpoint(bind)).hostname or ""
    if not insecure and host not in ("localhost", "::1") and not host.startswith("127."):
        raise UsageError(
            f"--bind {bind}: anybody who reaches {host} could join; use tcp://127.0.0.1:PORT (and a"
            " tunnel), or say --insecure"
        )
    return bind


def house(
    recipe: Recipe, x: Vector, manifest: Manifest, *, seed: int, task: str, split: str = "iid"
) -> Sessions:
    """A new server without its socket: sessions around a descent by this recipe, from x_0.

    Raises UsageError for texts that are longer than what a server can tell its workers.
    """
    for knob, text, most in (("--task", task, 512), ("--split", split, 128)):
        if len(text) > most:
            raise UsageError(f"{knob}: expected at most {most} characters, got {len(text)}")
    descent = recipe.descent(x)
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


@dataclass(frozen=True, slots=True)
class Until:
    """When it is enough: model updates, delivered gradients, seconds, held-out accuracy; any of
    them.
    """

    updates: int | None = None
    arrivals: int | None = None
    seconds: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        for name in ("updates", "arrivals", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name}: expected more than 0, got {value}")
        if self.target is not None and not 0 < self.target <= 1:
            raise UsageError(f"--target: expected an accuracy in (0, 1], got {self.target}")

    def reached(self, stats: Stats, now: float) -> str:
        """Which of them is reached, in words; empty while none is."""
        if self.updates is not None and stats.updates >= self.updates:
            return f"{stats.updates:,} updates"
        if self.arrivals is not None and stats.total.delivered >= self.arrivals:
            return f"{stats.total.delivered:,} arrivals"
        if self.seconds is not None and now >= self.seconds:
            return f"{self.seconds:g} seconds"
        if self.target is not None and stats.accuracy >= self.target:
            return f"accuracy {stats.accuracy:.3f}"
        return ""

    def share(self, stats: Stats, now: float) -> float:
        """How much of the way is gone, 0 to 1; the furthest of them."""
        ways = [
            stats.updates / self.updates if self.updates else 0.0,
            stats.total.delivered / self.arrivals if self.arrivals else 0.0,
            now / self.seconds if self.seconds else 0.0,
        ]
        return min(max(ways), 1.0)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ended, in words, and the exit code that goes with it."""

    why: str
    code: int = 0

    def as_wished(self) -> Self:
        """For a server without a goal: to be asked to end is the end that it waits for."""
        return replace(self, code=0) if self.code >= 128 else self


class Run:
    """A server that is up, and what will end it; see `running`."""

    def __init__(self, sessions: Sessions, until: Until, asked: asyncio.Future[Ending]) -> None:
        self.server: Server
        self._stats = sessions.stats
        self._until = until
        self._asked = asked
        self._enough = asyncio.Event()

    def observe(self, verdict: Verdict) -> None:
        """Look at once, so that a run of so many arrivals is not a few more."""
        if self._stats.stalled or self._until.reached(self._stats, 0.0):
            self._enough.set()

    async def wait(self, look: Callable[[], str] = lambda: "") -> Ending:
        """The ending, when it comes, with the uploads that were under way received.

        `look` is called every LOOK seconds; a word from it ends the run as stalled.
        """
        enough = asyncio.create_task(self._enough.wait())
        ends: set[asyncio.Future[Any]] = {enough, self._asked}
        try:
            while (ending := self._ending(look)) is None:
                await asyncio.wait(ends, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            enough.cancel()
        await self.server.drain()
        return ending

    def _ending(self, look: Callable[[], str]) -> Ending | None:
        if self._asked.done():
            return self._asked.result()
        if why := self._until.reached(self._stats, self.server.now):
            return Ending(why)
        if self._stats.stalled:
            lost = f"nothing of the last {self._stats.since_admitted:,} gradients was admitted"
            return Ending(f"stalled: {lost}", Stalled.code)
        if why := look():
            return Ending(f"stalled: {why}", Stalled.code)
        return None


@contextlib.asynccontextmanager
async def running(sessions: Sessions, bind: str, until: Until) -> AsyncIterator[Run]:
    """A server that listens to workers, signals and `kardam stats` while the block runs."""
    with interrupts() as asked:
        run = Run(sessions, until, asked)
        async with serve(sessions, bind, run.observe) as run.server:
            with published(run.server):
                yield run


@contextlib.contextmanager
def interrupts() -> Iterator[asyncio.Future[Ending]]:
    """SIGINT and SIGTERM: the first asks for an orderly end, a second one ends the process."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[Ending] = loop.create_future()

    def hear(number: signal.Signals, why: str) -> None:
        if asked.done():
            os._exit(128 + number)
        asked.set_result(Ending(why, 128 + number))

    heard = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    for number, why in heard.items():
        loop.add_signal_handler(number, hear, number, why)
    try:
        yield asked
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def published(server: Server) -> Iterator[None]:
    """While the block runs, this user's commands on this machine may read the books."""
    path = publish(server.endpoint, server.sessions.tokens.operator)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
