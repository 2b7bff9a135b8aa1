"""A ROUTER socket around Sessions and Descent, on the event loop: `async with serve(...)`.

It moves bytes and tells the time. What is said is the sessions', what is admitted the descent's.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import zmq

from kardam import memory
from kardam.complaints import Complaints
from kardam.errors import Unreachable
from kardam.exchange import Effect, Judge, Peer, Send
from kardam.gate import Gate, Locked
from kardam.messages import Verdict
from kardam.protocol import (
    CHUNK_BYTES,
    Bytes,
    ProtocolError,
    VersionMismatch,
    decode_up,
    encode,
)
from kardam.ring import Key
from kardam.router import BACKLOG_MAX, Router, bound
from kardam.sessions import Sessions

log = logging.getLogger(__name__)

# Is told of every verdict, and of the seconds that judging and applying took.
Observe = Callable[[Verdict, float], None]

# Returns when what happened so far may be known.
Settle = Callable[[], None]

# Seconds between looks at the clock: for deadlines, and for a socket that should have woken us.
TICK = 0.2

# Frames that nobody could have meant, in so many seconds: they take a fifth of the time, in which
# nobody else is heard.
JUNK_MAX, JUNK_SECONDS = 400_000, 10.0

# Seconds for uploads that are under way at the end; and until a port that was given up is free.
DRAIN_SECONDS = 5.0
REBIND_SECONDS = 5.0


class Server:
    """What is running inside a `serve` block."""

    def __init__(
        self,
        sessions: Sessions,
        context: zmq.Context[zmq.Socket[bytes]],
        bind: str,
        observe: Observe,
        settle: Settle | None,
        seconds: float,
        locked: Locked | None,
        gate: Gate | None,
        memory_limit: int | None,
    ) -> None:
        self.sessions = sessions
        self._locked, self._gate = locked, gate
        self._observe = observe
        self._context = context
        self._open(bind)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._watch = memory.Watch(sessions.explained, memory_limit)
        # How often the socket was closed, with all that lay in it, because of what lay in it.
        self.relieved = 0
        self._junk_until = 0.0
        self._complaints = Complaints()
        self._violations = sessions.stats.violations
        self._settle = settle
        # What is to be sent once that is settled which it tells of.
        self._held: list[tuple[Peer, Sequence[Bytes]]] = []
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time() - seconds
        self._drained = asyncio.Event()
        # Whether a look is on its way, since the last one left something to read.
        self._more = False
        self._crashed: asyncio.Future[None] = self._loop.create_future()

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._loop.time() - self._began

    def books(self) -> dict[str, Any]:
        """How the run stands, and every worker's row."""
        return self.sessions.books(self.now)

    def _open(self, bind: str) -> None:
        secret = self._locked.secret if self._locked is not None else None
        self._socket = bound(self._context, bind, secret)
        # Room for a model and the next, however large.
        chunks = self.sessions.descent.model.x.nbytes // CHUNK_BYTES
        self._router = Router(self._socket, self._deliver, BACKLOG_MAX + 2 * chunks)
        self._descriptors = [int(self._socket.get(zmq.FD))]
        if self._gate is not None:
            self._descriptors.append(self._gate.descriptor)

    def close(self) -> None:
        """Let go of the socket; last words have LINGER_MS."""
        self._socket.close()

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
        self._listen()
        try:
            self._enroll()
            self._look()
            while not self._crashed.done():
                await asyncio.wait({self._crashed}, timeout=TICK)
                self._enroll()
                self._do(self.sessions.tick(self.now))
                self._router.forget_all_but(self.sessions.peers)
                self._look()
                self._complain()
                self._see_to_junk()
            self._crashed.result()
        finally:
            self._deafen()

    def _listen(self) -> None:
        for descriptor in self._descriptors:
            self._loop.add_reader(descriptor, self._wake)

    def _deafen(self) -> None:
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)

    def _complain(self) -> None:
        violations = self.sessions.stats.violations
        self._complaints.add("messages against the protocol", violations - self._violations)
        self._complaints.add("peers that do not read what they asked for", self._router.dropped)
        self._violations, self._router.dropped = violations, 0
        self._complaints.tell(self.now)

    def _see_to_junk(self) -> None:
        """Let go of what lies in the socket, where that is more than anybody means well with."""
        if self._watch.exceeded():
            self._relieve("memory grew beyond what the work explains")
        elif self._router.junk > JUNK_MAX:
            self._relieve("messages of very many frames took the time")
        elif self.now >= self._junk_until:
            self._router.junk, self._junk_until = 0, self.now + JUNK_SECONDS

    def _relieve(self, why: str) -> None:
        """Close the socket with all that lies in it, and open another in its place. Peers come back
        by themselves, and hold what they held. It takes some milliseconds, in which there is
        nobody to serve.
        """
        self._deafen()
        self._socket.close(linger=0)
        until = self._loop.time() + REBIND_SECONDS
        while True:
            try:
                self._open(self.endpoint)
                break
            except Unreachable:  # the port is not free yet
                if self._loop.time() > until:
                    raise
                time.sleep(0.001)
        self._listen()
        self._watch.relieved()
        self.relieved += 1
        self._complaints.add(f"connections closed, since {why}")
        self._look()

    def _wake(self) -> None:
        # Where more was left it is our turn anyway, and twice in a round of the loop is too much.
        if not self._more:
            self._look()

    def _look(self) -> None:
        self._more = False
        # The last look that was asked for may come after the end.
        if self._crashed.done() or self._socket.closed:
            return
        try:
            more = self._gate is not None and self._gate.look(self.now)
            if self._router.look() or more:
                self._more = True
                self._loop.call_soon(self._look)
            self._release()
        except Exception as error:
            self._crashed.set_exception(error)

    def _enroll(self) -> None:
        """Whoever was enrolled or revoked in the meantime is, from now on."""
        if self._locked is not None:
            self._do(self.sessions.enroll(self._locked.enrolled(), self.now))

    def _deliver(self, peer: Peer, key: Key, frames: list[memoryview]) -> None:
        try:
            message, body = decode_up(frames)
        except VersionMismatch as mismatch:
            self._do(self.sessions.mismatched(peer, str(mismatch)))
        except ProtocolError as error:
            log.debug("%s sent what is no message: %s", peer.hex(), error)
            self._do(self.sessions.violated(peer, key))
        else:
            self._do(self.sessions.receive(peer, message, body, self.now, key))

    def _do(self, effects: list[Effect]) -> None:
        pending = deque(effects)
        while pending:
            match pending.popleft():
                case Send(peer=peer, message=message, body=body):
                    if self._settle is None:
                        self._router.send(peer, encode(message, body))
                    else:
                        self._held.append((peer, encode(message, body)))
                case Judge(gradient=gradient):
                    began = time.perf_counter()
                    verdict = self.sessions.descent.receive(gradient)
                    took = time.perf_counter() - began
                    pending.extend(self.sessions.judged(verdict, self.now))
                    self._observe(verdict, took)
        if self.sessions.drained:
            self._drained.set()

    def _release(self) -> None:
        """Send what is held: one settlement for all that came in one look at the socket. Those who
        come while the disk is written to wait for the next, which has the more to settle.
        """
        if self._settle is not None and self._held:
            self._settle()
            held, self._held = self._held, []
            for peer, frames in held:
                self._router.send(peer, frames)

    def _halt(self, reason: str) -> None:
        self._do(self.sessions.halt(reason))
        self._release()


@contextlib.asynccontextmanager
async def serve(
    sessions: Sessions,
    bind: str,
    observe: Observe = lambda verdict, took: None,
    seconds: float = 0.0,
    settle: Settle | None = None,
    locked: Locked | None = None,
    memory_limit: int | None = None,
) -> AsyncIterator[Server]:
    """Serve for as long as the block runs: ready inside, gone after; a crash comes out of it.

    `bind` is an endpoint like tcp://127.0.0.1:0, 0 for any free port; `seconds` have gone before.
    What `settle` is given for leaves after it has returned. `locked`: under CURVE, for those alone
    who are enrolled. A process of more bytes than `memory_limit` closes its connections, and opens
    the port again; by default, of 256 MiB more than its work explains.
    Raises Unreachable where the port is taken or the address is not ours.
    """
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        gate = None
        if locked is not None:
            gate = Gate(context, sessions.knows)
            stack.callback(gate.close)
        server = Server(
            sessions, context, bind, observe, settle, seconds, locked, gate, memory_limit
        )
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
        finally:
            server.close()
