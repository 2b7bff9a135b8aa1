"""A server to whoever works for it or asks: blocking calls, and a thread that keeps them alive.

Whoever waits for an answer drives the socket; while the owner computes, the keeper does, so that
training cannot silence it. A baton says whose turn it is: no answer passes from thread to thread.
What is said, and when, is the link's; how it is carried, the dealer's.
"""

import json
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
from kardam.dealer import Dealer
from kardam.errors import Denied, Unreachable, UsageError
from kardam.keys import Keys
from kardam.line import Line
from kardam.link import Action, Lease, Link, News, Welcomed
from kardam.messages import Books, Enrol, Enrolled, Gradient, Halt, Judged, Role
from kardam.messages import Denied as DeniedMessage
from kardam.protocol import PROTOCOL, Bytes, ProtocolError, decode_down, encode
from kardam.rooms import Desk

T = TypeVar("T", bound=News)

# Seconds between two looks at the socket and the clock while the owner computes.
TICK = 0.1


class Halted(Exception):
    """The server ended the run; the message says why."""


def check_endpoint(endpoint: str) -> str:
    """The endpoint, if it is `tcp://host:port`. Raises UsageError."""
    if _is_one(endpoint):
        return endpoint
    meant = f"tcp://{endpoint}"
    hint = f": did you mean {meant!r}?" if _is_one(meant) else ""
    raise UsageError(
        "expected an endpoint like tcp://127.0.0.1:5555, with a port from 0 to 65535, got"
        f" {endpoint!r}{hint}"
    )


def _is_one(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
        # Nothing before or after it, of which ZeroMQ would know nothing; and a name that can be.
        whole = endpoint == f"tcp://{parts.netloc}" and "@" not in endpoint
        return whole and port is not None and bool(host.encode("idna"))
    except ValueError:
        return False


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
            line.say(encode(Enrol(PROTOCOL, __version__, label, byzantine)))
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
        self._dealer = Dealer(
            self.endpoint, keys, self._link, self._news.append, lambda: 1 + chance.random()
        )
        self._baton = threading.Lock()
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="kardam-client", daemon=True)

    # --- the owner's side ---

    def __enter__(self) -> Self:
        self._dealer.begin()
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
                self._dealer.end()

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
            self._dealer.wish(wish)

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
                self._dealer.turn(seconds, self.patience)

    def _keep(self) -> None:
        """Drive the wire now and then while its owner computes."""
        try:
            while not self._ending.wait(TICK):
                # Who holds the baton drives.
                if self._baton.acquire(blocking=False):
                    try:
                        self._dealer.turn(0, self.patience)
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
