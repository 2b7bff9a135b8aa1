"""Who may finish a handshake under CURVE: ZeroMQ asks (ZAP, RFC 27), the ring answers.

On the server's own loop, like its other socket. Never in here: what a peer says once it is in, or a
clock.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import zmq

from kardam.ring import Entry, Key

log = logging.getLogger(__name__)

# Where ZeroMQ looks for whoever answers, in each context.
ENDPOINT = "inproc://zeromq.zap.01"

# What the data socket says that it is; ZeroMQ asks nobody where this is empty.
DOMAIN = b"kardam"

# Handshakes in one go, before other tasks have their turn.
BUDGET = 64

# Strangers who are told so in a second, and who may wait for it. A handshake takes half a
# millisecond of the one thread that moves everybody's bytes, and whoever waits for an answer begins
# no other. Who waits for too long is hung up on by ZeroMQ (HANDSHAKE_MS).
STRANGERS_A_SECOND = 20.0
WAITING_MAX = 200

# Strangers who are named in the log; more are only counted.
NAMED_MAX = 20

READABLE, NOW = int(zmq.POLLIN), int(zmq.NOBLOCK)


class Locked(NamedTuple):
    """A server under CURVE: its secret key, and who is enrolled at this moment."""

    secret: str
    enrolled: Callable[[], Mapping[Key, Entry]]


def lock(socket: zmq.Socket[bytes], secret: str) -> None:
    """CURVE on a server's socket, before it is bound; a Gate must be there by then."""
    socket.set(zmq.CURVE_SERVER, 1)
    socket.set(zmq.CURVE_SECRETKEY, bytes.fromhex(secret))
    socket.set(zmq.ZAP_DOMAIN, DOMAIN)


class Gate:
    """Answers each handshake, by the key that it has proved to hold: the enrolled at once, and of
    strangers a few a second.

    A reply is a status alone: what a stranger is to do, its client tells it (see line).
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], known: Callable[[Key], bool]
    ) -> None:
        self._known = known
        self._named: set[Key] = set()
        # Refusals that wait for their second, and how many may be said at this one.
        self._waiting: deque[list[bytes]] = deque()
        self._may, self._since = STRANGERS_A_SECOND, 0.0
        # ZeroMQ asks from many connections at once; a ROUTER need not answer in turn.
        self._socket = context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self.descriptor = int(self._socket.get(zmq.FD))

    def look(self, now: float) -> bool:
        """Answer up to BUDGET handshakes; whether there are more. To be called now and then at
        least, with the second it is, for those who wait.
        """
        more = True
        for _ in range(BUDGET):
            if not (more := bool(self._socket.poll(0, READABLE))):
                break
            self._answer(self._socket.recv_multipart(NOW))
        self._dismiss(now)
        return more

    def close(self) -> None:
        self._socket.close()

    def _answer(self, frames: list[bytes]) -> None:
        asker, empty, version, request, domain, address, _, mechanism, *credentials = frames
        key = credentials[0].hex() if mechanism == b"CURVE" and credentials else ""
        asked = [asker, empty, version, request]
        if domain == DOMAIN and self._known(key):
            self._socket.send_multipart([*asked, b"200", b"", key.encode(), b""], NOW)
            return
        self._name(key, address.decode(errors="replace"))
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append([*asked, b"400", b"not enrolled", b"", b""])

    def _dismiss(self, now: float) -> None:
        """Tell as many strangers as it is time for."""
        self._may += (now - self._since) * STRANGERS_A_SECOND
        self._may, self._since = min(self._may, STRANGERS_A_SECOND), now
        while self._waiting and self._may >= 1:
            self._may -= 1
            self._socket.send_multipart(self._waiting.popleft(), NOW)

    def _name(self, key: Key, address: str) -> None:
        if key not in self._named and len(self._named) < NAMED_MAX:
            self._named.add(key)
            log.warning("a stranger at %s is refused, with key %s", address, key)
