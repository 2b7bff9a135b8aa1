"""A peer's half of the protocol, as a state machine: the twin of sessions.

What was asked for and is still to come, over any number of reconnections. It owns no socket, no
thread, no clock; the shell (client) gives it words, seconds and chance.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kardam import __version__
from kardam.messages import (
    ITEM,
    Again,
    Beat,
    Books,
    Bye,
    Denied,
    Down,
    Gradient,
    Grant,
    Halt,
    Hello,
    Judged,
    Lent,
    Manifest,
    Model,
    Part,
    Pull,
    Push,
    Query,
    Report,
    Role,
    Up,
    Vector,
    Welcome,
)
from kardam.protocol import PROTOCOL, Bytes, ProtocolError, decode_manifest, digest, vector
from kardam.rooms import Desk

# Seconds. Ten beats without an answer, and the line is taken for dead; later while something is
# asked, since then a beat may wait behind a chunk. A request that is not answered for so long,
# though the server beats, is asked again.
SILENT = 10.0
SILENT_ASKED = 30.0
FORGOTTEN = 60.0

# Seconds in which a hello may be under way; then, if the server still does not know us, it is lost.
GREETING = 3.0

# A vector on its way takes a second more for so many bytes: a slow line, not a forgotten request.
BYTES_A_SECOND = 30_000


@dataclass(frozen=True, slots=True, eq=False)
class Say:
    """To do: send this to the server."""

    message: Up
    body: Bytes = b""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """To do: close the socket, wait (with back-off), open another, and call `connected`."""


@dataclass(frozen=True, slots=True)
class Vanish:
    """To do: close the socket, wait for so many seconds, open another, and call `connected`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Welcomed:
    """News: the server took us. `anew`: it knows nothing of what went before."""

    terms: Welcome
    manifest: Manifest
    anew: bool


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """News: a model to answer, under this ticket (0 for an evaluator, who answers nothing)."""

    ticket: int
    model: Model


News = Welcomed | Lease | Judged | Books | Denied | Halt


@dataclass(frozen=True, slots=True, eq=False)
class Tell:
    """To do: tell the owner."""

    news: News
    body: Bytes = b""


Action = Say | Reconnect | Vanish | Tell


@dataclass(slots=True, eq=False)
class _Assembly:
    """A model on its way down."""

    lent: Lent
    buffer: Vector
    received: int = 0
    parts: int = 0


class Link:
    """One peer's conversation. At most one request is open at a time: a pull, a push, or a query.

    Every method takes the second `now` and returns what to do, in order.
    """

    def __init__(
        self,
        role: Role,
        token: str,
        jitter: Callable[[], float],
        label: str = "",
        byzantine: bool = False,
        desk: Desk | None = None,
    ) -> None:
        memory = desk.name if desk is not None else ""
        self._hello = Hello(PROTOCOL, __version__, role, token, label, byzantine, (), memory=memory)
        # Where the server sees the same, as it says when it welcomes us.
        self._desk = desk
        # A factor around 1, so that a thousand workers do not beat as one.
        self._jitter = jitter
        self.terms: Welcome | None = None
        # Whether the server has welcomed us on this line; before, it would not know who asks.
        self._welcomed = False
        self._manifest: Manifest | None = None
        self._digest = ""
        self._heard = self._beat_at = self._greeted = 0.0
        self._request: Pull | Push | Query | None = None
        self._asked = 0.0
        self._gradient: Bytes = b""
        self._credit = False
        self._assembly: _Assembly | None = None
        self._model: Model | None = None
        self._held: list[int] = []

    # --- what the owner wants ---

    def pull(self, now: float) -> list[Action]:
        """Ask for the newest model; a Lease will tell."""
        return self._ask(Pull(self._have()), now)

    def push(self, gradient: Gradient, now: float, pull: bool = False) -> list[Action]:
        """Answer a lease; a Judged will tell. With `pull` a Lease will follow, as if asked for the
        moment after the verdict.
        """
        declared = gradient.declared
        self._gradient = gradient.g.view(np.uint8).data
        push = Push(
            ticket=gradient.ticket,
            growth=declared.growth if declared else None,
            since=declared.since if declared else None,
            loss=gradient.loss,
            examples=gradient.examples,
            have=self._have() if pull else None,
        )
        return self._ask(push, now)

    def query(self, now: float) -> list[Action]:
        """Ask for the books."""
        return self._ask(Query(), now)

    def report(self, version: int, loss: float, accuracy: float) -> list[Action]:
        """Tell what was found of a version; nobody answers."""
        return [Say(Report(version, loss, accuracy))]

    def vanish(self, seconds: float) -> list[Action]:
        """Be away for so long, without a word before or during it. What is held stays held."""
        self._welcomed = False
        return [Vanish(seconds)]

    def bye(self) -> list[Action]:
        """Leave, for good."""
        return [Say(Bye())]

    @property
    def _nbytes(self) -> int:
        """Of a model, and of a gradient; 0 before we know."""
        return ITEM * self._manifest.d if self._manifest is not None else 0

    def _shared(self) -> Desk | None:
        """The desk, while the server sees the same memory."""
        return self._desk if self.terms is not None and self.terms.shared else None

    def _have(self) -> int:
        return self._model.version if self._model is not None else -1

    def _ask(self, request: Pull | Push | Query, now: float) -> list[Action]:
        self._request, self._asked = request, now
        return self._say_request() if self._welcomed else []

    def _say_request(self) -> list[Action]:
        request = self._request
        desk = self._shared()
        # The slot is as long as a gradient should be.
        if isinstance(request, Push) and desk and len(self._gradient) == self._nbytes:
            desk.put(self._gradient)
            return [Say(replace(request, shared=True))]
        if isinstance(request, Push) and self._credit:
            self._credit = False
            # A push without a body asks, or announces parts: a vector of no numbers is one of them.
            if 0 < len(self._gradient) <= self._chunk():
                return [Say(request, self._gradient)]
            return [Say(request), *self._parts(request.ticket)]
        return [Say(request)] if request is not None else []

    # --- what happens ---

    def connected(self, now: float) -> list[Action]:
        """There is a (new) socket: say hello."""
        self._heard = self._asked = self._greeted = now
        self._beat_at = now + self._jitter()
        self._assembly = None
        self._welcomed = self._credit = False
        return [Say(replace(self._hello, holds=tuple(self._held), digest=self._digest))]

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        if now - self._heard > (SILENT_ASKED if self._request else SILENT):
            self._welcomed = False
            return [Reconnect()]
        if self.terms is not None and self._request and now - self._asked > self._forgotten():
            return self.connected(now)
        if self.terms is not None and now >= self._beat_at:
            self._beat_at = now + self.terms.beat * self._jitter()
            return [Say(Beat())]
        return []

    def _forgotten(self) -> float:
        return FORGOTTEN + self._nbytes / BYTES_A_SECOND

    def receive(self, message: Down, body: Bytes, now: float) -> list[Action]:
        """The server said this. Raises ProtocolError where it makes no sense."""
        self._heard = now
        if isinstance(message, Lent | Part | Grant):
            if not self._welcomed:
                return []  # of before our hello, by which the server forgot it
            self._asked = now  # what was asked for is coming
        match message:
            case Welcome():
                return self._welcome(message, body, now)
            case Again():
                # While a hello is under way, its answer will do.
                lost = now - self._greeted > GREETING
                return self.connected(now) if self._welcomed or lost else []
            case Lent():
                return self._lent(message, body)
            case Part():
                return self._part(message, body)
            case Grant():
                return self._granted(message)
            case Judged():
                return self._judged(message, body)
            case Books():
                self._request = None
                return [Tell(message, body)]
            case Denied() | Halt():
                return [Tell(message)]
            case Beat():
                return []
            case _:
                raise ProtocolError(f"a {type(message).__name__} to nobody's question")

    def _welcome(self, welcome: Welcome, body: Bytes, now: float) -> list[Action]:
        anew = self.terms is None or self.terms.epoch != welcome.epoch
        actions: list[Action] = []
        if self._welcomed:
            # The answer to a hello that had seemed lost, after which we asked for something; of
            # another server it is not clear what it has heard of that: once more, in order.
            return self.connected(now) if anew else []
        if anew:
            self._manifest, self._digest = decode_manifest(body), digest(body)
            self._model, self._held = None, []
        self.terms, self._welcomed = welcome, True
        manifest = self._manifest
        assert manifest is not None  # decoded at the first welcome
        actions.append(Tell(Welcomed(welcome, manifest, anew)))
        self._asked = now
        if anew and isinstance(self._request, Push):
            # The server that lent this model is no more: nobody would know what it answers.
            lost = Judged(self._request.ticket, False, "restarted", 0, False, None, 0)
            actions += self._judged(lost)
        if isinstance(self._request, Pull):
            self._request = Pull(self._have())
        return actions + self._say_request()

    def _lent(self, lent: Lent, body: Bytes) -> list[Action]:
        if not isinstance(self._request, Pull) or self._manifest is None:
            raise ProtocolError("a model that nobody asked for")
        if lent.parts > 0:
            self._assembly = _Assembly(lent, np.empty(self._manifest.d, np.float32))
            return []
        if lent.place is not None:
            desk = self._shared()
            x = desk.copy(lent.place) if desk is not None else None
            if x is None:
                raise ProtocolError(f"a model in place {lent.place}, where we see none")
            return self._received(lent, x)
        if len(body):
            if len(body) != self._nbytes:
                raise ProtocolError(f"{len(body)} bytes of a model of {self._nbytes}")
            return self._received(lent, vector(body))
        if self._model is None or self._model.version != lent.version:
            raise ProtocolError(f"version {lent.version} was not sent")
        return self._leased(lent.ticket, self._model)

    def _part(self, part: Part, body: Bytes) -> list[Action]:
        assembly = self._assembly
        if assembly is None or part.ticket != assembly.lent.ticket:
            raise ProtocolError("a part of nothing")
        if part.index != assembly.parts:
            raise ProtocolError(f"expected part {assembly.parts}, got {part.index}")
        assembly.parts += 1
        place = assembly.buffer.data.cast("B")
        end = assembly.received + len(body)
        if end > len(place):
            raise ProtocolError(f"{end} bytes of a model of {len(place)}")
        place[assembly.received : end] = body
        assembly.received = end
        if end < len(place):
            return []
        self._assembly = None
        return self._received(assembly.lent, assembly.buffer)

    def _received(self, lent: Lent, x: Vector) -> list[Action]:
        x.flags.writeable = False
        self._model = Model(lent.version, x)
        return self._leased(lent.ticket, self._model)

    def _leased(self, ticket: int, model: Model) -> list[Action]:
        self._request = None
        if self._hello.role == "worker":
            self._held.append(ticket)
        return [Tell(Lease(ticket, model))]

    def _granted(self, grant: Grant) -> list[Action]:
        if not isinstance(self._request, Push) or grant.ticket != self._request.ticket:
            return []
        return self._parts(grant.ticket)

    def _parts(self, ticket: int) -> list[Action]:
        chunk = self._chunk()
        return [
            Say(Part(ticket, index), self._gradient[at : at + chunk])
            # Who was granted leave answers: a vector of no numbers is one empty part.
            for index, at in enumerate(range(0, max(len(self._gradient), 1), chunk))
        ]

    def _chunk(self) -> int:
        assert self.terms is not None  # a push is said after the welcome
        return self.terms.chunk

    def _judged(self, judged: Judged, body: Bytes = b"") -> list[Action]:
        self._credit = judged.credit
        if not isinstance(self._request, Push) or judged.ticket != self._request.ticket:
            return []
        self._held = [ticket for ticket in self._held if ticket > judged.ticket]
        have = self._request.have
        self._request = Pull(have) if have is not None else None
        self._gradient = b""
        if judged.lent is None or not self._welcomed:
            return [Tell(judged)]
        lent = Lent(judged.lent, judged.version, judged.parts, judged.place)
        return [Tell(judged), *self._lent(lent, body)]
