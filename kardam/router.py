"""A ROUTER socket that never blocks, and reads a bounded number of frames at a time.

It moves frames. Never in here: what they say.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

import zmq

from kardam.errors import Unreachable
from kardam.exchange import Peer
from kardam.gate import lock
from kardam.line import KEEPALIVE
from kardam.protocol import CHUNK_BYTES, HEADER_BYTES_MAX, Bytes
from kardam.ring import Key

# Seconds in one go, before other tasks have their turn: so many and what one message takes. A
# number of messages would say nothing, since one may cost 20 microseconds or 20 milliseconds.
SLICE = 0.002

# Frames of one message in one go.
FRAMES_BUDGET = 4096

# A peer for whom so many messages wait here does not read; what waits is thrown away.
BACKLOG_MAX = 1024

# Milliseconds that a peer may take to greet, and that last words may take.
HANDSHAKE_MS, LINGER_MS = 10_000, 1000

# Messages of one peer that may wait inside ZeroMQ, each way; each may be a chunk.
HIGH_WATER = 16

# Flags as plain numbers: pyzmq's own, which are enumerations, cost a microsecond each to combine.
NOW, MORE, READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)

# After the routing id. Further frames are read, since they came, and thrown away.
FRAMES_MAX = 2


class Router:
    """A ROUTER socket that never blocks, and calls `deliver(peer, key, frames)` for what comes;
    the key is what the peer has proved to hold, empty where there is no CURVE.

    ZeroMQ's descriptor is edge-triggered: it may stay silent while messages wait. So the socket's
    own state is asked again after every read and write, and at every `look`.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        deliver: Callable[[Peer, Key, list[memoryview]], None],
        backlog: int = BACKLOG_MAX,
    ) -> None:
        self._socket = socket
        self._locked = bool(socket.get(zmq.CURVE_SERVER))
        self._deliver = deliver
        self._most = backlog
        self._backlog: dict[Peer, deque[Sequence[Bytes]]] = {}
        # The message that is being read: whose, what of it is kept, and whether more is there.
        self._peer: Peer = b""
        self._key: Key = ""
        self._frames: list[memoryview] = []
        self._more = False
        # How often somebody did not read what was for him; frames that no message of ours has.
        self.dropped = 0
        self.junk = 0

    def send(self, peer: Peer, frames: Sequence[Bytes]) -> None:
        """Now, or as soon as the peer has room, in order; not at all where it is gone."""
        waiting = self._backlog.get(peer)
        if waiting is not None:
            waiting.append(frames)
            if len(waiting) > self._most:
                self.dropped += 1
                del self._backlog[peer]
        elif not self._try(peer, frames):
            self._backlog[peer] = deque([frames])

    def forget_all_but(self, peers: Collection[Peer]) -> None:
        """Nobody else gets what waits for him, but for one last word."""
        for peer in [p for p, waiting in self._backlog.items() if len(waiting) > 1]:
            if peer not in peers:
                del self._backlog[peer]

    def look(self) -> bool:
        """Read for a SLICE, write what waits; whether there is more to read."""
        until = time.perf_counter() + SLICE
        # To ask costs half of a receive that fails.
        while (more := self._readable()) and time.perf_counter() < until:
            self._read()
            if self._more:
                break  # one that goes on goes on another time
        if self._backlog:
            for peer in list(self._backlog):
                self._retry(peer)
            more = self._readable()
        return more

    def _readable(self) -> bool:
        return bool(self._socket.poll(0, READABLE))

    def _read(self) -> None:
        """Read a message, or FRAMES_BUDGET frames of it; and deliver it, if that was all."""
        if not self._more:
            frame = self._socket.recv(NOW, copy=False)
            # Of every message: a peer chooses its routing id, and can not choose this.
            self._key = str(frame.get("User-Id")) if self._locked else ""
            self._peer, self._frames = frame.bytes, []
            self._more = True  # a routing id never comes alone
        left = FRAMES_BUDGET
        while self._more and left > 0:
            frame = self._socket.recv(NOW, copy=False)
            self._more = frame.more
            if len(self._frames) <= FRAMES_MAX:
                self._frames.append(frame.buffer)
            else:
                self.junk += 1
            left -= 1
        if not self._more:
            self._deliver(self._peer, self._key, self._frames)

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


def bound(
    context: zmq.Context[zmq.Socket[bytes]], bind: str, secret: str | None = None
) -> zmq.Socket[bytes]:
    """A ROUTER socket that listens there, under CURVE if it has a secret. Raises Unreachable."""
    socket = context.socket(zmq.ROUTER)
    if secret is not None:
        lock(socket, secret)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.SNDHWM, HIGH_WATER)
    socket.set(zmq.RCVHWM, HIGH_WATER)
    socket.set(zmq.MAXMSGSIZE, CHUNK_BYTES + HEADER_BYTES_MAX)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    for option, value in KEEPALIVE.items():
        socket.set(option, value)
    try:
        socket.bind(bind)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        free = "tcp://127.0.0.1:0 takes any free port"
        raise Unreachable(f"--bind {bind}: {zmq.strerror(error.errno or 0)}; {free}") from error
    return socket
