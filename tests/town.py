"""A server's sessions and any number of links on a fake wire, in virtual time. Only the wire is
fake.

Every message is encoded and decoded on its way; nothing waits and nothing is random.
"""

import math
import os
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import numpy as np

from kardam.exchange import Effect, Judge, Peer, Send
from kardam.keys import Tokens
from kardam.link import Action, Lease, Link, News, Reconnect, Say, Tell, Vanish
from kardam.messages import Declared, Down, Gradient, Judged, Lent, Manifest, Part, Role, Up, Vector
from kardam.protocol import CHUNK_BYTES, Bytes, ProtocolError, decode_down, decode_up, encode
from kardam.recipe import Recipe
from kardam.ring import Entry, Key
from kardam.sessions import Sessions, Terms
from kardam.shared import SharedDesk, SharedShelf
from kardam.stats import Stats

T = TypeVar("T", bound=News)


class Host:
    """A link, what it was told, and whether its line is up."""

    def __init__(self, link: Link, peer: Peer, key: Key = "") -> None:
        self.link = link
        self.peer = peer
        # Whose secret it has proved to hold, where there are keys.
        self.key = key
        self.up = True
        self.told: list[News] = []
        self.confused = 0
        self.back_at = math.inf
        # What is lost on its way to it, and all that comes behind.
        self.deaf: type[Down] | None = None

    def last(self, kind: type[T]) -> T:
        """The newest news of this kind."""
        return next(news for news in reversed(self.told) if isinstance(news, kind))

    def heard(self, kind: type[News]) -> int:
        return sum(isinstance(news, kind) for news in self.told)


class Town:
    """One server, its workers, and the clock. `d` numbers; `quorum` of them must be there."""

    def __init__(
        self,
        n: int = 4,
        d: int = 3,
        quorum: int = 1,
        preset: str = "none",
        gather: str = "arrival",
        chunk: int = CHUNK_BYTES,
        shares: bool = False,
    ) -> None:
        self.n, self.d, self.chunk = n, d, chunk
        self.now = 0.0
        self.quorum = quorum
        self.preset = preset
        self.gather = gather
        self.shares = shares
        # Of models and gradients, over the wire.
        self.bytes = 0
        self.secrets = count()
        self.peers = count()
        self.tokens = Tokens(n, lambda: f"secret {next(self.secrets)}")
        self.hosts: dict[Peer, Host] = {}
        self.sent: list[Up | Down] = []
        self.restart()

    def restart(self) -> None:
        """A new server in the place of the old, which remembers nobody but by token."""
        recipe = Recipe.of(n=self.n, preset=self.preset, gather=self.gather)
        descent = recipe.descent(np.zeros(self.d, np.float32))
        terms = Terms(
            manifest=Manifest((("x", (self.d,)),)),
            epoch=f"epoch {next(self.secrets)}",
            seed=5,
            task="digits",
            quorum=self.quorum,
            split="by_label",
            chunk=self.chunk,
        )
        self.sessions = Sessions(descent, Stats(self.n, recipe.f), self.tokens, terms, self.now)
        # Real memory, with its descriptors.
        self.shelf = SharedShelf(self.d, self.n) if self.shares else None
        if self.shelf is not None:
            self.sessions.exchange.share(self.shelf)

    # --- people ---

    def enroll(self, *keys: Key) -> None:
        """These keys may come, as workers, and no others."""
        wire: deque[Callable[[], None]] = deque()
        enrolled = {key: Entry("worker", key) for key in keys}
        self._effects(self.sessions.enroll(enrolled, self.now), wire)
        self._settle(wire)

    def join(
        self, role: Role = "worker", worker: int = 0, token: str | None = None, key: Key = ""
    ) -> Host:
        """A new peer, which has said hello."""
        tokens = self.tokens
        if token is None:
            token = {"operator": tokens.operator, "evaluator": tokens.evaluator}.get(role)
        desk = None
        if self.shelf is not None and role == "worker":
            by, pair = self.shelf.admit(worker)
            desk = SharedDesk(by, pair)
            os.close(pair.slot)
        token = token or tokens.issue(worker)
        host = Host(Link(role, token, lambda: 1.0, desk=desk), self._peer(), key)
        self.hosts[host.peer] = host
        self.act(host, host.link.connected(self.now))
        return host

    def everybody(self) -> list[Host]:
        return [self.join(worker=worker) for worker in range(self.n)]

    def reconnect(self, host: Host) -> None:
        """A new line, so a new name on the server's side."""
        wire: deque[Callable[[], None]] = deque()
        self._rename(host, wire)
        self._settle(wire)

    def _rename(self, host: Host, wire: deque[Callable[[], None]]) -> None:
        del self.hosts[host.peer]
        host.peer, host.up = self._peer(), True
        self.hosts[host.peer] = host
        self._actions(host, host.link.connected(self.now), wire)

    def _peer(self) -> Peer:
        return f"peer {next(self.peers)}".encode()

    # --- what they do ---

    def pull(self, host: Host) -> Lease | None:
        before = host.heard(Lease)
        self.act(host, host.link.pull(self.now))
        return host.last(Lease) if host.heard(Lease) > before else None

    def push(
        self, host: Host, ticket: int, g: Vector, declared: Declared | None = None
    ) -> Judged | None:
        before = host.heard(Judged)
        self.act(host, host.link.push(Gradient(0, ticket, g, declared, 0.5, 8), self.now))
        return host.last(Judged) if host.heard(Judged) > before else None

    def answer(self, host: Host, g: Vector) -> Judged | None:
        lease = self.pull(host)
        assert lease is not None
        return self.push(host, lease.ticket, g)

    def act(self, host: Host, actions: list[Action]) -> None:
        """Do as a shell does, until nobody has anything to say."""
        wire: deque[Callable[[], None]] = deque()
        self._actions(host, actions, wire)
        self._settle(wire)

    def say(self, host: Host, message: Up, body: Bytes = b"") -> None:
        """Say something that the link would not."""
        self.act(host, [Say(message, body)])

    def tick(self, seconds: float) -> None:
        """Let time pass in steps of a tenth of a second."""
        for _ in range(round(seconds * 10)):
            self.now = round(self.now + 0.1, 6)
            wire: deque[Callable[[], None]] = deque()
            for host in list(self.hosts.values()):
                if host.up:
                    self._actions(host, host.link.tick(self.now), wire)
                elif self.now >= host.back_at:
                    host.back_at = math.inf
                    self._rename(host, wire)
            self._effects(self.sessions.tick(self.now), wire)
            self._settle(wire)

    # --- the wire ---

    def _settle(self, wire: deque[Callable[[], None]]) -> None:
        while wire:
            wire.popleft()()

    def _actions(self, host: Host, actions: list[Action], wire: deque[Callable[[], None]]) -> None:
        for action in actions:
            match action:
                case Say() if host.up:
                    wire.append(self._upward(host, encode(action.message, action.body), wire))
                case Tell():
                    host.told.append(action.news)
                case Vanish():
                    host.up, host.back_at = False, self.now + action.seconds
                case Reconnect():
                    wire.append(lambda: self._rename(host, wire))
                case Say():
                    pass

    def _upward(
        self, host: Host, frames: list[Bytes], wire: deque[Callable[[], None]]
    ) -> Callable[[], None]:
        def arrive() -> None:
            message, body = decode_up(frames)
            self.sent.append(message)
            self.bytes += len(body)
            self._effects(self.sessions.receive(host.peer, message, body, self.now, host.key), wire)

        return arrive

    def _effects(self, effects: list[Effect], wire: deque[Callable[[], None]]) -> None:
        pending = deque(effects)
        while pending:
            match pending.popleft():
                case Send(peer=peer, message=message, body=body):
                    wire.append(self._downward(peer, encode(message, body), wire))
                case Judge(gradient=gradient):
                    verdict = self.sessions.descent.receive(gradient)
                    pending.extend(self.sessions.judged(verdict, self.now))

    def _downward(
        self, peer: Peer, frames: list[Bytes], wire: deque[Callable[[], None]]
    ) -> Callable[[], None]:
        def arrive() -> None:
            host = self.hosts.get(peer)
            if host is not None and host.up:
                message, body = decode_down(frames)
                self.sent.append(message)
                self.bytes += len(body) if isinstance(message, Lent | Judged | Part) else 0
                if host.deaf is not None and isinstance(message, host.deaf):
                    host.up = False
                    return
                try:
                    actions = host.link.receive(message, body, self.now)
                except ProtocolError:
                    host.confused += 1
                else:
                    self._actions(host, actions, wire)

        return arrive
