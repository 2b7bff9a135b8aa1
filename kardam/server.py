"""A ROUTER socket around Sessions and Descent, on the event loop: `async with serve(...)`.

It moves bytes and tells the time. What is said is the sessions', what is admitted the descent's.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

import zmq

from kardam.client import KEEPALIVE
from kardam.errors import Unreachable
from kardam.messages import Verdict
from kardam.protocol import (
    CHUNK_BYTES,
    HEADER_BYTES_MAX,
    Bytes,
    ProtocolError,
    VersionMismatch,
    decode_up,
    encode,
)
from kardam.sessions import Effect, Judge, Note, Peer, Send, Sessions

log = logging.getLogger(__name__)

# Is told of every verdict, and of the seconds that judging and applying took.
Observe = Callable[[Verdict, float], None]

# Seconds between looks at the clock: for deadlines, and for a socket that should have woken us.
TICK = 0.2

# Messages in one go, before other tasks have their turn.
BUDGET = 64

# A peer for whom so many messages wait here does not read; what waits is thrown away.
BACKLOG_MAX = 1024

# Messages of one peer that may wait inside ZeroMQ, each way; each may be a chunk.
HIGH_WATER = 16

# Flags as plain numbers: pyzmq's own, which are enumerations, cost a microsecond each to combine.
NOW, MORE, READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)

# After the routing id. Further frames are read, since they came, and thrown away.
FRAMES_MAX = 2

# The last words may take so long, in milliseconds; uploads under way at the end, in seconds.
LINGER_MS = 1000
DRAIN_SECONDS = 5.0


class Router:
    """A ROUTER socket that never blocks, and calls `deliver(peer, frames)` for what comes.

    ZeroMQ's descriptor is edge-triggered: it may stay silent while messages wait. So the socket's
    own state is asked again after every read and write, and at every `look`.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        deliver: Callable[[Peer, list[memoryview]], None],
        backlog: int = BACKLOG_MAX,
    ) -> None:
        self._socket = socket
        self._deliver = deliver
        self._most = backlog
        self._backlog: dict[Peer, deque[Sequence[Bytes]]] = {}

    def send(self, peer: Peer, frames: Sequence[Bytes]) -> None:
        """Now, or as soon as the peer has room, in order; not at all where it is gone."""
        waiting = self._backlog.get(peer)
        if waiting is not None:
            waiting.append(frames)
            if len(waiting) > self._most:
                log.warning("a peer does not read: %d messages to it are dropped", len(waiting))
                del self._backlog[peer]
        elif not self._try(peer, frames):
            self._backlog[peer] = deque([frames])

    def forget_all_but(self, peers: Collection[Peer]) -> None:
        """Nobody else gets what waits for him, but for one last word."""
        for peer in [p for p, waiting in self._backlog.items() if len(waiting) > 1]:
            if peer not in peers:
                del self._backlog[peer]

    def look(self) -> bool:
        """Read up to BUDGET messages, write what waits; whether there is more to read."""
        left = BUDGET
        # To ask costs half of a receive that fails.
        while (more := self._readable()) and left > 0:
            self._deliver(*self._receive())
            left -= 1
        if self._backlog:
            for peer in list(self._backlog):
                self._retry(peer)
            more = self._readable()
        return more

    def _readable(self) -> bool:
        return bool(self._socket.poll(0, READABLE))

    def _receive(self) -> tuple[Peer, list[memoryview]]:
        frame = self._socket.recv(NOW, copy=False)
        peer = frame.bytes
        frames: list[memoryview] = []
        while frame.more:
            frame = self._socket.recv(NOW, copy=False)
            if len(frames) <= FRAMES_MAX:
                frames.append(frame.buffer)
        return peer, frames

    def _retry(self, peer: Peer) -> None:
        waiting = self._backlog[peer]
        while waiting and self._try(peer, waiting[0]):
            waiting.popleft()
        if not waiting:
            del self._backlog[peer]

    def _try(self, peer: Peer, frames: Sequence[Bytes]) -> bool:
        """Whether the message is off our hands: sent, or for nobody."""
        try:
            self._socket.send(peer, MORE)
            for frame in frames[:-1]:
                self._socket.send(frame, MORE)
            self._socket.send(frames[-1], NOW, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True


class Server:
    """What is running inside a `serve` block."""

    def __init__(
        self,
        sessions: Sessions,
        socket: zmq.Socket[bytes],
        endpoint: str,
        observe: Observe,
        seconds: float,
    ) -> None:
        self.sessions = sessions
        self.endpoint = endpoint
        self._observe = observe
        # Room for a model and the next, however large.
        chunks = sessions.descent.model.x.nbytes // CHUNK_BYTES
        self._router = Router(socket, self._deliver, BACKLOG_MAX + 2 * chunks)
        self._descriptor = int(socket.get(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time() - seconds
        self._drained = asyncio.Event()
        self._crashed: asyncio.Future[None] = self._loop.create_future()

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._loop.time() - self._began

    def books(self) -> dict[str, Any]:
        """How the run stands, and every worker's row."""
        return self.sessions.books(self.now)

    async def drain(self, over: bool = True) -> None:
        """Lend nothing more, and wait for uploads under way, DRAIN_SECONDS at most. `over`: the run
        ends with this server.
        """
        self.sessions.drain(over)
        self._do([])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._drained.wait()

    # --- inside the block ---

    async def _run(self) -> None:
        """Look at the socket when it calls, and at the clock now and then; raises what crashed."""
        self._loop.add_reader(self._descriptor, self._look)
        try:
            self._look()
            while not self._crashed.done():
                await asyncio.wait({self._crashed}, timeout=TICK)
                self._do(self.sessions.tick(self.now))
                self._router.forget_all_but(self.sessions.peers)
                self._look()
            self._crashed.result()
        finally:
            self._loop.remove_reader(self._descriptor)

    def _look(self) -> None:
        if self._crashed.done():
            return
        try:
            if self._router.look():
                self._loop.call_soon(self._look)
        except Exception as error:
            self._crashed.set_exception(error)

    def _deliver(self, peer: Peer, frames: list[memoryview]) -> None:
        try:
            message, body = decode_up(frames)
        except VersionMismatch as mismatch:
            self._do(self.sessions.mismatched(peer, str(mismatch)))
        except ProtocolError as error:
            log.debug("%s sent what is no message: %s", peer.hex(), error)
            self._do(self.sessions.violated())
        else:
            self._do(self.sessions.receive(peer, message, body, self.now))

    def _do(self, effects: list[Effect]) -> None:
        pending = deque(effects)
        while pending:
            match pending.popleft():
                case Send(peer=peer, message=message, body=body):
                    self._router.send(peer, encode(message, body))
                case Judge(gradient=gradient):
                    began = time.perf_counter()
                    verdict = self.sessions.descent.receive(gradient)
                    took = time.perf_counter() - began
                    pending.extend(self.sessions.judged(verdict, self.now))
                    self._observe(verdict, took)
                case Note(verdict=verdict):
                    self._observe(verdict, 0.0)
        if self.sessions.drained:
            self._drained.set()

    def _halt(self, reason: str) -> None:
        self._do(self.sessions.halt(reason))


@contextlib.asynccontextmanager
async def serve(
    sessions: Sessions,
    bind: str,
    observe: Observe = lambda verdict, took: None,
    seconds: float = 0.0,
) -> AsyncIterator[Server]:
    """Serve for as long as the block runs: ready inside, gone after; a crash comes out of it.

    `bind` is an endpoint like tcp://127.0.0.1:0, 0 for any free port; `seconds` have gone before.
    Raises Unreachable where the port is taken or the address is not ours.
    """
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.SNDHWM, HIGH_WATER)
        socket.set(zmq.RCVHWM, HIGH_WATER)
        socket.set(zmq.MAXMSGSIZE, CHUNK_BYTES + HEADER_BYTES_MAX)
        socket.set(zmq.LINGER, LINGER_MS)
        for option, value in KEEPALIVE.items():
            socket.set(option, value)
        try:
            socket.bind(bind)
        except zmq.ZMQError as error:
            free = "tcp://127.0.0.1:0 takes any free port"
            raise Unreachable(f"--bind {bind}: {zmq.strerror(error.errno or 0)}; {free}") from error
        server = Server(sessions, socket, socket.get_string(zmq.LAST_ENDPOINT), observe, seconds)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(server._run())
                yield server
                server._halt("the run is over")
                running.cancel()
        except BaseExceptionGroup as group:
            # The block's own error, or the crash that ended it, as itself.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
