"""A DEALER socket around a Link, with blocking calls, and a thread that keeps it alive meanwhile.

Whoever waits for an answer drives the socket; while the owner computes, the keeper does, so that
training cannot silence it. A baton says whose turn it is: no answer passes from thread to thread.
What is said, and when, is the link's; how the socket is made, the line's.
"""

import json
import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import zmq

from kardam import __version__
from kardam.errors import Denied, Unreachable, UsageError
from kardam.keys import Keys
from kardam.line import Line
from kardam.link import Action, Lease, Link, News, Reconnect, Say, Tell, Vanish, Welcomed
from kardam.messages import Books, Enrol, Enrolled, Gradient, Halt, Judged, Role
from kardam.messages import Denied as DeniedMessage
from kardam.protocol import PROTOCOL, Bytes, ProtocolError, decode_down, encode
from kardam.rooms import Desk

log = logging.getLogger(__name__)

T = TypeVar("T", bound=News)

# Seconds between two looks at the socket and the clock while the owner computes.
TICK = 0.1

# Between reconnections, seconds: doubling from the first to the last, and up to twice by jitter.
BACKOFF_FIRST, BACKOFF_LAST = 0.2, 5.0

# Flags as plain numbers; see kardam.server.
NOW, READABLE, WRITABLE = int(zmq.NOBLOCK), int(zmq.POLLIN), int(zmq.POLLOUT)

# Last words have this long, in milliseconds.
LINGER_MS = 1000


class Halted(Exception):
    """The server ended the run; the message says why."""


def check_endpoint(endpoint: str) -> str:
    """The endpoint, if it is `tcp://host:port`. Raises UsageError."""
    parts = urlsplit(endpoint)
    try:
        good = parts.scheme == "tcp" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"expected an endpoint like tcp://127.0.0.1:5555, got {endpoint!r}")
    return endpoint


def reach(endpoint: str, seconds: float) -> None:
    """Raise Unreachable, with the cause, unless something listens there."""
    parts = urlsplit(check_endpoint(endpoint))
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=seconds).close()
    except socket.gaierror as error:
        raise Unreachable(
            f"{endpoint}: no such host {parts.hostname!r} ({error.strerror})"
        ) from error
    except OSError as error:
        raise Unreachable(
            f"{endpoint}: nobody listens there ({error.strerror or error})"
        ) from error


def enrol(
    endpoint: str, label: str, byzantine: bool, patience: float, keys: Keys | None = None
) -> Enrolled:
    """Ask a server for a worker's place: on this machine for a token, too. Raises Denied, or
    Unreachable.
    """
    with zmq.Context() as context:
        line = Line(context, check_endpoint(endpoint), keys)
        try:
            line.socket.send_multipart(encode(Enrol(PROTOCOL, __version__, label, byzantine)))
            until = time.monotonic() + patience
            while not line.socket.poll(int(1000 * TICK)):
                if (failure := line.failure()) is not None:
                    raise failure
                if time.monotonic() > until:
                    raise Unreachable(
                        f"{endpoint}: no answer for {patience:g} s; is it a kardam server?"
                    )
            answer, _ = decode_down(line.socket.recv_multipart())
        except ProtocolError as error:
            raise Unreachable(f"{endpoint} is no kardam server: {error}") from error
        finally:
            line.close(linger=0)
    match answer:
        case Enrolled():
            return answer
        case DeniedMessage():
            raise Denied(f"{endpoint}: {answer.reason}")
        case _:
            raise Unreachable(f"{endpoint} is no kardam server: it answers {answer}")


class Client:
    """A connection to a server, as a context: welcome inside, gone after.

    `patience`: after so many seconds without a word from the server, calls raise Unreachable. They
    raise Denied where the server said no, and Halted once it ended the run. `token` or `keys` say
    who it is. With a `desk` vectors go through memory that both see, as long as the server sees it.
    """

    def __init__(
        self,
        endpoint: str,
        role: Role,
        *,
        token: str = "",
        keys: Keys | None = None,
        label: str = "",
        byzantine: bool = False,
        patience: float = 30.0,
        desk: Desk | None = None,
    ) -> None:
        self.endpoint = check_endpoint(endpoint)
        self.patience = patience
        self.epoch = ""
        # Jitter needs no seed: it moves no number that a run reports.
        chance = random.Random()
        self._link = Link(role, token, lambda: 0.8 + 0.4 * chance.random(), label, byzantine, desk)
        self._news: deque[tuple[News, Bytes] | BaseException] = deque()
        self._wire = _Wire(
            self.endpoint, keys, self._link, self._news.append, lambda: 1 + chance.random()
        )
        self._baton = threading.Lock()
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="kardam-client", daemon=True)

    # --- the owner's side ---

    def __enter__(self) -> Self:
        self._wire.begin()
        self._keeper.start()
        try:
            self._await(Welcomed)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye and let go; idempotent."""
        self._ending.set()
        if self._keeper.ident is not None:
            self._keeper.join()
            with self._baton:
                self._wire.end()

    def pull(self) -> Lease:
        """The newest model."""
        self._wish(self._link.pull)
        return self._await(Lease)[0]

    def push(self, gradient: Gradient) -> Judged:
        """Deliver the answer to a lease; the verdict on it."""
        self._wish(lambda now: self._link.push(gradient, now))
        return self._await(Judged)[0]

    def exchange(self, gradient: Gradient) -> tuple[Judged, Lease]:
        """`push`, and `pull` the moment after the verdict, in one journey instead of two."""
        self._wish(lambda now: self._link.push(gradient, now, pull=True))
        return self._await(Judged)[0], self._await(Lease)[0]

    def vanish(self, seconds: float) -> None:
        """Be away for so many seconds, then come back as the same: no goodbye, no heartbeats.

        Blocks meanwhile; patience does not run out. What is held can be pushed afterwards.
        """
        self._wish(lambda now: self._link.vanish(seconds))
        time.sleep(seconds)

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass, infinitely many included. Raises at once what `pull` would."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            while self._news:
                self._note(self._news.popleft())
            self._turn(min(left, TICK))

    def query(self) -> dict[str, Any]:
        """The server's books (operators only)."""
        self._wish(self._link.query)
        return dict(json.loads(bytes(self._await(Books)[1])))

    def report(self, version: int, loss: float, accuracy: float) -> None:
        """What an evaluator found of a version."""
        self._wish(lambda now: self._link.report(version, loss, accuracy))

    def _wish(self, wish: Callable[[float], list[Action]]) -> None:
        with self._baton:
            self._wire.wish(wish)

    def _await(self, kind: type[T]) -> tuple[T, Bytes]:
        """The next news of this kind; welcomes on the way are noted, ends are raised."""
        while True:
            while not self._news:
                self._turn(TICK)
            news, body = self._note(self._news.popleft())
            if isinstance(news, kind):
                return news, body

    def _turn(self, seconds: float) -> None:
        """Drive the wire until something comes, for so many seconds at most."""
        if self._ending.is_set():
            raise Halted("this client was closed")
        with self._baton:
            if not self._news:
                self._wire.turn(seconds, self.patience)

    def _keep(self) -> None:
        """Drive the wire now and then while its owner computes."""
        try:
            while not self._ending.wait(TICK):
                # Who holds the baton drives.
                if self._baton.acquire(blocking=False):
                    try:
                        self._wire.turn(0, self.patience)
                    finally:
                        self._baton.release()
        except BaseException as error:
            self._news.append(error)

    def _note(self, item: tuple[News, Bytes] | BaseException) -> tuple[News, Bytes]:
        if isinstance(item, BaseException):
            raise item
        news, _ = item
        match news:
            case Welcomed():
                self.terms, self.manifest = news.terms, news.manifest
                self.epoch = news.terms.epoch
            case DeniedMessage():
                raise Denied(f"{self.endpoint}: {news.reason}")
            case Halt():
                raise Halted(news.reason)
            case Lease() | Judged() | Books():
                pass
        return item


class _Wire:
    """The socket, for one thread at a time."""

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
        self._heard = 0.0
        # Whether the server has ever answered.
        self._welcome = False
        self._failures = 0
        self._open_at = 0.0

    def begin(self) -> None:
        """Be ready for the first turn."""
        self._context = zmq.Context()
        self._heard = time.monotonic()

    def wish(self, wish: Callable[[float], list[Action]]) -> None:
        """Do what the link makes of the owner's wish."""
        now = time.monotonic()
        self._do(wish(now), now)
        self._flush()

    def turn(self, seconds: float, patience: float) -> None:
        """Hear what comes within so many seconds, until something came, and see to what is due.

        Raises Unreachable when the server has been silent for `patience`.
        """
        if self._line is None and time.monotonic() >= self._open_at:
            self._open(time.monotonic())
        readable = self._wait(seconds)
        now = time.monotonic()
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
