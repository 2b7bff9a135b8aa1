"""The socket of a peer, a DEALER: what its link says and hears, over one line after the other.

Never in here: what is said, or who waits for an answer.
"""

import logging
import time
from collections import deque
from collections.abc import Callable

import zmq

from kardam.errors import Unreachable
from kardam.keys import Keys
from kardam.line import Line
from kardam.link import Action, Link, News, Reconnect, Say, Tell, Vanish
from kardam.protocol import Bytes, ProtocolError, decode_down, encode

log = logging.getLogger(__name__)

# Between reconnections, seconds: doubling from the first to the last, and up to twice by jitter.
BACKOFF_FIRST, BACKOFF_LAST = 0.2, 5.0

# Flags as plain numbers; see kardam.router.
NOW, READABLE, WRITABLE = int(zmq.NOBLOCK), int(zmq.POLLIN), int(zmq.POLLOUT)

# Seconds without a turn, in which it was this process that was stopped, and not the server silent.
STOPPED = 1.0

# Last words have this long, in milliseconds.
LINGER_MS = 1000


class Dealer:
    """What a link has to say and hear, for one thread at a time; news go to `tell`. `backoff` is
    the factor by which a reconnection waits longer.
    """

    def __init__(
        self,
        endpoint: str,
        keys: Keys | None,
        link: Link,
        tell: Callable[[tuple[News, Bytes]], None],
        backoff: Callable[[], float],
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._link = link
        self._tell = tell
        self._backoff = backoff
        self._line: Line | None = None
        self._outbox: deque[list[Bytes]] = deque()
        self._heard = self._turned = 0.0
        # Whether the server has ever answered.
        self._welcome = False
        self._failures = 0
        self._open_at = 0.0

    def begin(self) -> None:
        """Be ready for the first turn."""
        self._context = zmq.Context()
        self._heard = self._turned = time.monotonic()

    def wish(self, wish: Callable[[float], list[Action]]) -> None:
        """Do what the link makes of the owner's wish."""
        now = time.monotonic()
        self._do(wish(now), now)
        self._flush()

    def turn(self, seconds: float, patience: float) -> None:
        """Hear what comes within so many seconds, until something came, and see to what is due.

        Raises Unreachable when the server has been silent for `patience`, and we listened.
        """
        if self._line is None and time.monotonic() >= self._open_at:
            self._open(time.monotonic())
        readable = self._wait(seconds)
        now = time.monotonic()
        if (stopped := now - self._turned) > STOPPED:
            self._heard = max(self._heard, min(self._heard + stopped, now))
        self._turned = now
        while readable:
            self._read(now)
            readable = self._wait(0)
        if self._line is not None:
            if (failure := self._line.failure()) is not None:
                self._close(linger=0)
                raise failure
            self._do(self._link.tick(now), now)
        self._flush()
        if now - self._heard > patience:
            self._close(linger=0)
            raise Unreachable(
                f"{self._endpoint}: nothing heard for {patience:g} s; is a kardam server there?"
            )

    def end(self) -> None:
        """Say goodbye where somebody listens, and let go."""
        if self._line is not None:
            self.wish(lambda now: self._link.bye())
            self._close(LINGER_MS)
        self._context.term()

    def _wait(self, seconds: float) -> bool:
        """Whether there is something to read; until there is, or room to write, or time is up."""
        if self._line is None:
            time.sleep(max(0, min(seconds, self._open_at - time.monotonic())))
            return False
        asked = READABLE | WRITABLE if self._outbox else READABLE
        return bool(self._line.socket.poll(int(1000 * seconds), asked) & READABLE)

    def _read(self, now: float) -> None:
        assert self._line is not None  # it is readable
        frames = self._line.socket.recv_multipart(NOW, copy=False)
        try:
            message, body = decode_down([frame.buffer for frame in frames])
            actions = self._link.receive(message, body, now)
        except ProtocolError as error:
            log.warning("%s sent what is no message: %s", self._endpoint, error)
            return
        self._heard, self._failures, self._welcome = now, 0, True
        self._do(actions, now)

    def _do(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case Say():
                    self._outbox.append(encode(action.message, action.body))
                case Tell():
                    self._tell((action.news, bytes(action.body)))
                case Reconnect():
                    self._close(linger=0)
                    if self._failures == 0:
                        log.warning("%s is silent; looking for it", self._endpoint)
                    wait = min(BACKOFF_LAST, BACKOFF_FIRST * 2**self._failures)
                    self._open_at = now + wait * self._backoff()
                    self._failures += 1
                case Vanish():
                    self._close(linger=0)
                    # Patience is for a silence that we did not choose: it begins at the return.
                    self._open_at = self._heard = now + action.seconds

    def _flush(self) -> None:
        while self._line is not None and self._outbox:
            try:
                self._line.socket.send_multipart(self._outbox[0], NOW, copy=False)
            except zmq.Again:
                return
            self._outbox.popleft()

    def _open(self, now: float) -> None:
        self._line = Line(self._context, self._endpoint, self._keys, patient=self._welcome)
        self._do(self._link.connected(now), now)

    def _close(self, linger: int) -> None:
        if self._line is not None:
            self._line.close(linger)
            self._line = None
            self._outbox.clear()
