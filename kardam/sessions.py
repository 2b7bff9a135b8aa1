"""The server's half of the protocol, as a state machine: what a peer said and when, to what to do.

Who may speak, who is there, who is missing; `exchange` answers for models and gradients. It owns
no socket and reads no clock, and it sees no vector.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kardam import __version__
from kardam.descent import Descent
from kardam.exchange import Effect, Exchange, Peer, Send
from kardam.keys import Tokens
from kardam.messages import (
    NOBODY,
    Again,
    Beat,
    Books,
    Bye,
    Denied,
    Enrol,
    Enrolled,
    Halt,
    Hello,
    Manifest,
    Part,
    Pull,
    Push,
    Query,
    Report,
    Role,
    Up,
    Verdict,
    Welcome,
    WorkerId,
)
from kardam.protocol import CHUNK_BYTES, Bytes, digest, encode_manifest
from kardam.ring import Entry, Key, Ring
from kardam.roll import Roll
from kardam.state import State, nbytes
from kardam.stats import Stats

# Seconds. Workers beat once a second from a thread of their own, so three beats lost is news, and
# half a minute outlasts a reconnection with back-off.
BEAT = 1.0
MISSING = 3.5
GONE = 30.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server tells its workers; `quorum` of them must be there for models to go out. Vectors
    travel in chunks of so many bytes.
    """

    manifest: Manifest
    epoch: str
    seed: int
    task: str
    quorum: int = 1
    split: str = "iid"
    chunk: int = CHUNK_BYTES


@dataclass(slots=True, eq=False)
class Session:
    """One peer that said Hello and was welcome."""

    peer: Peer
    role: Role
    worker: WorkerId
    key: Key
    heard: float


class Sessions:
    """All peers of one server. Every method takes the second `now` and returns what to do, in
    order.
    """

    def __init__(
        self, descent: Descent, stats: Stats, tokens: Tokens, terms: Terms, now: float = 0.0
    ) -> None:
        self.descent = descent
        self.stats = stats
        self.terms = terms
        # How much of the way is gone at this second, 0 to 1; 0 where there is no goal.
        self.progress: Callable[[float], float] = lambda now: 0.0
        # Whether the run ends with this server; else workers are to look for the next one.
        self._over = True
        self._sessions: dict[Peer, Session] = {}
        self._workers: dict[WorkerId, Session] = {}
        self._roll = Roll(descent.n, tokens, self._begin, now)
        self.exchange = Exchange(descent, stats, terms.quorum, terms.chunk)
        # When time last passed here.
        self._ticked = now
        self._manifest = encode_manifest(terms.manifest)
        self._digest = digest(self._manifest)

    # --- events ---

    def receive(
        self, peer: Peer, message: Up, body: Bytes, now: float, key: Key = ""
    ) -> list[Effect]:
        """A peer said this, and has proved to hold the secret of this key, where there are keys."""
        session = self._sessions.get(peer)
        if key and (key not in self.ring or (session is not None and session.key != key)):
            return self.violated(peer, key)
        if isinstance(message, Hello):
            return self._hello(peer, message, now, key)
        if isinstance(message, Enrol):
            return self._enrol(peer, message, now, key)
        if session is None:
            return [Send(peer, Again())]
        session.heard = now
        match message:
            case Beat():
                return [Send(peer, Beat())]
            case Bye():
                self._drop(session, "left", now)
                return self.exchange.grant(now)
            case Pull() if session.role == "worker":
                return self.exchange.pull(session.worker, message, now)
            case Push() if session.role == "worker":
                return self.exchange.push(session.worker, message, body, now)
            case Part() if session.role == "worker":
                return self.exchange.part(session.worker, message, body, now)
            case Pull() if session.role == "evaluator":
                return self.exchange.model(peer, 0, message.have, now)
            case Report() if session.role == "evaluator":
                self.stats.evaluated(message.version, message.loss, message.accuracy, now)
                return []
            case Query() if session.role == "operator":
                return [Send(peer, Books(), json.dumps(self.books(now)).encode())]
            case _:
                return self.violated(peer, key)

    def mismatched(self, peer: Peer, how: str) -> list[Effect]:
        """A peer speaks another version; it is told so, in words that will never change."""
        return [Send(peer, Denied(f"{how}; the server is kardam {__version__}", final=True))]

    def knows(self, key: Key) -> bool:
        """Whether a handshake may end well for who holds this key; a stranger's is counted."""
        self.stats.strangers += key not in self.ring
        return key in self.ring

    def violated(self, peer: Peer, key: Key = "") -> list[Effect]:
        """A peer broke the protocol. It is counted, a worker's in its row, and that is all that it
        gets.
        """
        session = self._sessions.get(peer)
        worker = session.worker if session is not None else NOBODY
        if key and (session is None or session.key != key):
            # Whose name it used is not who it is.
            place = self.ring.place(key)
            worker = NOBODY if place is None else place
        self.stats.violated(worker)
        return []

    def judged(self, verdict: Verdict, now: float) -> list[Effect]:
        """A gradient was judged."""
        return self.exchange.judged(verdict, now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: some are gone, some uploads are late."""
        if now - self._ticked > MISSING:
            self._excuse_silence(now - self._ticked, now)
        self._ticked = now
        for session in [s for s in self._sessions.values() if now - s.heard > GONE]:
            self._drop(session, "gone", now)
        late = self.exchange.abort_late(now)
        return late + self.exchange.grant(now) + self.exchange.serve(now)

    def _excuse_silence(self, seconds: float, now: float) -> None:
        """This server was stopped, or stood before a slow disk: it does not know who was silent."""
        for session in self._sessions.values():
            session.heard = min(session.heard + seconds, now)
        self.exchange.uploads.excuse(seconds, now)

    def drain(self, over: bool = True) -> None:
        """Lend no more models and begin no more uploads; those under way may finish. Unless it is
        `over`, the run will go on, and workers are not to leave.
        """
        self._over = over
        self.exchange.drain()

    @property
    def drained(self) -> bool:
        return self.exchange.draining and not self.exchange.uploads

    @property
    def tokens(self) -> Tokens:
        """Who is who, where there are no keys."""
        return self._roll.tokens

    @property
    def ring(self) -> Ring:
        """Who may come, where there are keys."""
        return self._roll.ring

    @property
    def joined(self) -> int:
        """How many tokens or places somebody got since this server began."""
        return self.tokens.issues + self.ring.takes

    @property
    def peers(self) -> Collection[Peer]:
        """Who said hello, and is not gone."""
        return self._sessions.keys()

    @property
    def reserved(self) -> int:
        """Bytes that peers may have on the way."""
        return self.exchange.uploads.reserved

    def explained(self) -> int:
        """Bytes that the server may have by its work, at the most: what was learned, uploads, and
        the models that workers may have or be on their way to.
        """
        models = (3 * self.descent.n + 4) * self.descent.model.x.nbytes
        return nbytes(self.descent.state()) + self.exchange.uploads.budget + models

    def halt(self, reason: str) -> list[Effect]:
        """Tell everybody that it is over; workers only if the run is."""
        return [
            Send(session.peer, Halt(reason))
            for session in self._sessions.values()
            if self._over or session.role != "worker"
        ]

    # --- coming and going ---

    def _begin(self, worker: WorkerId) -> None:
        """Somebody else is this worker."""
        self.descent.begin(worker)
        self.stats.begin(worker)

    def _hello(self, peer: Peer, hello: Hello, now: float, key: Key) -> list[Effect]:
        identity = self._roll.identity(hello.role, hello.token, key)
        if isinstance(identity, Denied):
            return [Send(peer, identity)]
        if self.exchange.draining and identity.role == "worker":
            # It was away when the others were told.
            return [Send(peer, Halt("the run is over"))] if self._over else []
        if self.exchange.draining:
            return [Send(peer, Denied("the server is ending", final=True))]
        if hello.digest not in ("", self._digest) and identity.role != "operator":
            # The server that it knew is no more, and this one has another model.
            self.stats.violated(identity.worker)
            return [Send(peer, Denied("the model that is trained here is another", final=True))]
        effects: list[Effect] = []
        if (old := self._sessions.get(peer)) is not None:
            self._drop(old, "replaced", now)
        if (old := self._workers.get(identity.worker)) is not None:
            self._drop(old, "replaced", now)
            reason = f"somebody else said hello with this {'key' if key else 'token'}"
            effects.append(Send(old.peer, Denied(reason, final=True)))
        session, shared = Session(peer, identity.role, identity.worker, key, now), False
        self._sessions[peer] = session
        if session.role == "worker":
            self._workers[session.worker] = session
            self._roll.places.take(session.worker)
            shared = self.exchange.open(session.worker, peer, hello.holds, hello.memory)
            self.stats.label(session.worker, hello.label, hello.byzantine)
        welcome = Welcome(
            epoch=self.terms.epoch,
            worker=session.worker,
            n=self.descent.n,
            seed=self.terms.seed,
            task=self.terms.task,
            split=self.terms.split,
            beat=BEAT,
            chunk=self.terms.chunk,
            shared=shared,
        )
        effects.append(Send(peer, welcome, self._manifest))
        return effects + self.exchange.grant(now) + self.exchange.serve(now)

    def _enrol(self, peer: Peer, enrol: Enrol, now: float, key: Key) -> list[Effect]:
        if self.exchange.draining:
            return [Send(peer, Denied("the server is ending", final=True))]
        invited = self._roll.invite(key, now)
        if isinstance(invited, Denied):
            return [Send(peer, invited)]
        worker, token = invited
        if worker not in self._workers:
            self._roll.places.expect(worker, now)
            self.stats.label(worker, enrol.label, enrol.byzantine)
        enrolled = Enrolled(
            token=token,
            worker=worker,
            n=self.descent.n,
            seed=self.terms.seed,
            task=self.terms.task,
            split=self.terms.split,
        )
        return [Send(peer, enrolled)]

    def enroll(self, enrolled: Mapping[Key, Entry], now: float) -> list[Effect]:
        """These keys may come from now on, and no others: who is revoked is told, and its place is
        free.
        """
        effects: list[Effect] = []
        for key in self.ring.replace(enrolled):
            for session in [its for its in self._sessions.values() if its.key == key]:
                self._drop(session, "revoked", now)
                effects.append(Send(session.peer, Denied("this key was revoked", final=True)))
            if (worker := self._roll.strike(key, now)) is not None:
                self.descent.vacate(worker)
        return effects + self.exchange.grant(now) if effects else effects

    def expect(self, worker: WorkerId, label: str, byzantine: bool, now: float) -> str:
        """A token for this worker, who is on his way from now on."""
        self.stats.label(worker, label, byzantine)
        return self._roll.expect(worker, now)

    def lost(self, worker: WorkerId, now: float) -> None:
        """This worker's process is no more: nobody will answer what it was lent."""
        if (session := self._workers.get(worker)) is not None:
            self._drop(session, "gone", now)
        self.exchange.lost(worker)

    def _drop(self, session: Session, why: str, now: float) -> None:
        """End a session."""
        self._sessions.pop(session.peer, None)
        if session.role == "worker":
            self._workers.pop(session.worker, None)
            self._roll.places.leave(session.worker, why, now)
            self.exchange.close(session.worker)

    # --- the books ---

    def status(self) -> str:
        """One word, or two, on how the run stands."""
        if self.exchange.draining:
            return "ended" if self.drained else "draining"
        if not self.exchange.quorate:
            return f"waiting ({len(self._workers)} of {self.exchange.quorum})"
        return "running" if self.descent.filter.ready else "starting"

    def presence(self, worker: WorkerId, now: float) -> str:
        """alive, new (alive, and on probation), missing, or why it is absent: expected, left, gone,
        replaced, revoked; else unknown.
        """
        session = self._workers.get(worker)
        if session is not None:
            alive = "new" if worker in self.descent.probation else "alive"
            return alive if now - session.heard <= MISSING else "missing"
        return self._roll.places.why_absent(worker)

    def books(self, now: float) -> dict[str, Any]:
        """The stats, with what the sessions know: plain values for JSON."""
        books, names = self.stats.snapshot(now), self.ring.names
        for row in books["workers"]:
            row["state"] = self.presence(row["worker"], now)
            row["name"] = names.get(row["worker"], "")
        known = {"status": self.status(), "version": __version__, "progress": self.progress(now)}
        return {**known, **books}

    def metrics(self, now: float) -> dict[str, Any]:
        """One point of the run's time series: plain values for JSON."""
        return {"status": self.status(), "present": len(self._workers), **self.stats.metrics(now)}

    # --- checkpoints ---

    def state(self) -> State:
        """What a server needs to go on in the place of this one. Open uploads are not in it, and
        open loans are closed by it: whoever has one learns from the new epoch that it is void.
        """
        return {
            "descent": self.descent.state(),
            "stats": self.stats.state(),
            **self._roll.state(),
        }

    def restore(self, state: State, now: float) -> None:
        """Go on from there. Requires that nobody said hello yet; who has a token is expected."""
        self.descent.restore(state["descent"])
        self.descent.skip()
        self.stats.restore(state["stats"])
        self._roll.restore(state, now)
