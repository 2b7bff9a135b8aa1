"""The server's half of the protocol, as a state machine: what a peer said and when, to what to do.

Who is connected, who waits for a model, who is missing; `uploads` knows what is on its way up. It
owns no socket and reads no clock; it knows the algorithm only as loans and verdicts.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kardam import __version__
from kardam.descent import Descent
from kardam.keys import Tokens
from kardam.messages import (
    NOBODY,
    UNASKED,
    Activity,
    Again,
    Beat,
    Books,
    Bye,
    Declared,
    Denied,
    Down,
    Enrol,
    Enrolled,
    Gradient,
    Grant,
    Halt,
    Hello,
    Judged,
    Lent,
    Manifest,
    Part,
    Pull,
    Push,
    Query,
    Report,
    Role,
    Up,
    Vector,
    Verdict,
    Welcome,
    WorkerId,
)
from kardam.protocol import CHUNK_BYTES, Bytes, digest, encode_manifest, vector
from kardam.ring import Entry, Key, Ring
from kardam.roll import Roll
from kardam.rooms import Shelf
from kardam.state import State, nbytes
from kardam.stats import Stats
from kardam.uploads import Uploads

# What the socket calls a peer; random at each connection, and nobody's identity.
Peer = bytes

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


@dataclass(frozen=True, slots=True, eq=False)
class Send:
    """To do: send this message to this peer."""

    peer: Peer
    message: Down
    body: Bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """To do: have this gradient judged, and tell `Sessions.judged` the verdict."""

    gradient: Gradient


Effect = Send | Judge


@dataclass(slots=True, eq=False)
class Session:
    """One peer that said Hello and was welcome."""

    peer: Peer
    role: Role
    worker: WorkerId
    key: Key
    heard: float
    state: Activity = "idle"
    # Whether its models and gradients need not travel.
    shared: bool = False
    # To be served once its gradient is judged.
    then: Pull | None = None


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
        self.draining = False
        # Memory that workers on this machine see as well, if there is any.
        self.shelf: Shelf | None = None
        # How much of the way is gone at this second, 0 to 1; 0 where there is no goal.
        self.progress: Callable[[float], float] = lambda now: 0.0
        # Whether the run ends with this server; else workers are to look for the next one.
        self._over = True
        self._sessions: dict[Peer, Session] = {}
        self._workers: dict[WorkerId, Session] = {}
        self._roll = Roll(descent.n, tokens, self._begin, now)
        self._uploads = Uploads(descent.model.x.size, descent.f, terms.chunk)
        # Who asked for a model, and when.
        self._waiting: dict[WorkerId, tuple[Pull, float]] = {}
        # When time last passed here.
        self._ticked = now
        self._manifest = encode_manifest(terms.manifest)
        self._digest = digest(self._manifest)
        self._nbytes = descent.model.x.nbytes

    def share(self, shelf: Shelf) -> None:
        """Models are made where workers on this machine can see them, from now on."""
        self.shelf = shelf
        self.descent.settle(shelf.room)

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
                session.state = message.state
                return [Send(peer, Beat("idle"))]
            case Bye():
                self._drop(session, "left", now)
                return self._grant(now)
            case Pull() if session.role == "worker":
                return self._pull(session, message, now)
            case Push() if session.role == "worker":
                return self._push(session, message, body, now)
            case Part() if session.role == "worker":
                return self._part(session, message, body, now)
            case Pull() if session.role == "evaluator":
                return self._model(session, 0, message.have, now)
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
        """A gradient was judged: book it, and tell the worker only yes, or the rule's name."""
        self.stats.record(verdict, now)
        effects: list[Effect] = []
        session = self._workers.get(verdict.worker)
        if session is not None:
            if session.then is not None:
                then, session.then = session.then, None
                effects = self._pull(session, then, now)
            # Saves the question and the waiting, for whoever delivered.
            delivered = verdict.staleness >= 0 and not self.draining
            if not delivered:
                # What it had was for that gradient; both sides must agree.
                self._uploads.spend(verdict.worker)
            credit = delivered and not session.shared and self._uploads.credit(verdict.worker)
            told = Judged(
                ticket=verdict.ticket,
                admitted=verdict.admitted,
                rule=verdict.rule,
                version=verdict.updates,
                credit=credit,
                lent=None,
                parts=0,
            )
            body: Bytes = b""
            match effects:
                case [Send(peer=session.peer, message=Lent() as lent, body=body), *effects]:
                    # One message for both, where the model need not be waited for.
                    told = replace(told, lent=lent.ticket, parts=lent.parts, place=lent.place)
                case _:
                    pass
            effects = [Send(session.peer, told, body), *effects]
        # In rounds, others may have waited for the update that this one made.
        return effects + self._grant(now) + self._serve_waiting(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: some are gone, some uploads are late."""
        if now - self._ticked > MISSING:
            self._excuse_silence(now - self._ticked, now)
        self._ticked = now
        effects: list[Effect] = []
        for session in [s for s in self._sessions.values() if now - s.heard > GONE]:
            self._drop(session, "gone", now)
        for upload in self._uploads.late(now):
            self._uploads.give_up(upload)
            effects += self._refuse(upload.worker, upload.push.ticket, "late", now)
        return effects + self._grant(now) + self._serve_waiting(now)

    def _excuse_silence(self, seconds: float, now: float) -> None:
        """This server was stopped, or stood before a slow disk: it does not know who was silent."""
        for session in self._sessions.values():
            session.heard = min(session.heard + seconds, now)
        self._uploads.excuse(seconds, now)

    def drain(self, over: bool = True) -> None:
        """Lend no more models and begin no more uploads; those under way may finish. Unless it is
        `over`, the run will go on, and workers are not to leave.
        """
        self.draining, self._over = True, over
        self._waiting.clear()

    @property
    def drained(self) -> bool:
        return self.draining and not self._uploads

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
        return self._uploads.reserved

    def explained(self) -> int:
        """Bytes that the server may have by its work, at the most: what was learned, uploads, and
        the models that workers may have or be on their way to.
        """
        models = (3 * self.descent.n + 4) * self._nbytes
        return nbytes(self.descent.state()) + self._uploads.budget + models

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
        if self.draining and identity.role == "worker":
            # It was away when the others were told.
            return [Send(peer, Halt("the run is over"))] if self._over else []
        if self.draining:
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
        session = Session(peer, identity.role, identity.worker, key, now)
        self._sessions[peer] = session
        if session.role == "worker":
            self._workers[session.worker] = session
            self._roll.places.take(session.worker)
            self.descent.forget(session.worker, but=hello.holds)
            shelf = self.shelf
            if shelf is not None and hello.memory == shelf.name:
                session.shared = session.worker in shelf
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
            shared=session.shared,
        )
        effects.append(Send(peer, welcome, self._manifest))
        return effects + self._grant(now) + self._serve_waiting(now)

    def _enrol(self, peer: Peer, enrol: Enrol, now: float, key: Key) -> list[Effect]:
        if self.draining:
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
        return effects + self._grant(now) if effects else effects

    def expect(self, worker: WorkerId, label: str, byzantine: bool, now: float) -> str:
        """A token for this worker, who is on his way from now on."""
        self.stats.label(worker, label, byzantine)
        return self._roll.expect(worker, now)

    def lost(self, worker: WorkerId, now: float) -> None:
        """This worker's process is no more: nobody will answer what it was lent."""
        if (session := self._workers.get(worker)) is not None:
            self._drop(session, "gone", now)
        self.descent.forget(worker)
        if self.shelf is not None:
            self.shelf.vacate(worker)

    def _drop(self, session: Session, why: str, now: float) -> None:
        """End a session. What it reserved is free; its loans are forgotten at the next hello."""
        self._sessions.pop(session.peer, None)
        if session.role == "worker":
            self._workers.pop(session.worker, None)
            self._waiting.pop(session.worker, None)
            self._roll.places.leave(session.worker, why, now)
            self._uploads.end(session.worker)

    # --- models down ---

    def _pull(self, session: Session, pull: Pull, now: float) -> list[Effect]:
        if not self.descent.may_lend(session.worker):
            return self.violated(session.peer, session.key)
        if not self.draining:
            self._waiting[session.worker] = pull, now
        return self._serve_waiting(now)

    def _serve_waiting(self, now: float) -> list[Effect]:
        if len(self._workers) < self.terms.quorum:
            return []
        self._excuse()
        effects: list[Effect] = []
        for worker in [worker for worker in self._waiting if self.descent.due(worker)]:
            pull, asked = self._waiting.pop(worker)
            self.stats.served(now - asked)
            session = self._workers[worker]
            loan = self.descent.lend(worker, hold=session.shared)
            effects += self._model(session, loan.ticket, pull.have, now)
        return effects

    def _excuse(self) -> None:
        """Where the run needs newcomers to go on at all, they are none."""
        new = [worker for worker in self.descent.probation.workers if worker in self._workers]
        if new and len(self._workers) - len(new) < self.terms.quorum:
            for worker in new:
                self.descent.excuse(worker)

    def _model(self, session: Session, ticket: int, have: int, now: float) -> list[Effect]:
        peer, model = session.peer, self.descent.model
        if have == model.version:
            return [Send(peer, Lent(ticket, model.version, 0))]
        self.stats.moved(0, self._nbytes, now)
        if session.shared and self.shelf is not None:
            place = self.shelf.place(model.x)
            if place is not None:
                return [Send(peer, Lent(ticket, model.version, 0, place))]
        body, chunk = model.x.data.cast("B"), self.terms.chunk
        if len(body) <= chunk:
            return [Send(peer, Lent(ticket, model.version, 0), body)]
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        return [
            Send(peer, Lent(ticket, model.version, len(parts))),
            *(Send(peer, Part(ticket, i), part) for i, part in enumerate(parts)),
        ]

    # --- gradients up ---

    def _push(self, session: Session, push: Push, body: Bytes, now: float) -> list[Effect]:
        if self.draining:
            return []  # too late to be under way; what it is told next is that the run is over
        worker = session.worker
        if worker in self._uploads:
            return self.violated(session.peer, session.key)
        session.then = Pull(push.have) if push.have is not None else None
        if self.descent.lent(worker, push.ticket) is None:
            return self._refuse(worker, push.ticket, UNASKED, now)
        if push.shared and session.shared and self.shelf is not None:
            self.stats.moved(self._nbytes, 0, now)
            return [Judge(_gradient(worker, push, self.shelf.take(worker)))]
        if not len(body):
            self._uploads.ask(worker, push, now)
            return self._grant(now)
        if not self._uploads.spend(worker):
            return self._refuse(worker, push.ticket, "ungranted", now)
        if len(body) != self._nbytes:
            return self._refuse(worker, push.ticket, "malformed", now)
        self.stats.moved(len(body), 0, now)
        return [Judge(_gradient(worker, push, vector(body)))]

    def _grant(self, now: float) -> list[Effect]:
        """Give leave to whoever asked first, while the budget lasts."""
        return [
            Send(self._workers[upload.worker].peer, Grant(upload.push.ticket))
            for upload in self._uploads.grant(now)
        ]

    def _part(self, session: Session, part: Part, body: Bytes, now: float) -> list[Effect]:
        upload = self._uploads.under_way(session.worker, part.ticket)
        if upload is None and self._uploads.behind(session.worker, part.ticket):
            return []
        if upload is None:
            return self.violated(session.peer, session.key)
        if not upload.take(part, body, now):
            self._uploads.end(session.worker)
            return self._refuse(session.worker, part.ticket, "malformed", now)
        self.stats.moved(len(body), 0, now)
        if (g := upload.complete) is None:
            return []
        self._uploads.end(session.worker)
        return [Judge(_gradient(session.worker, upload.push, g)), *self._grant(now)]

    def _refuse(self, worker: WorkerId, ticket: int, rule: str, now: float) -> list[Effect]:
        return self.judged(self.descent.refuse(worker, ticket, rule), now)

    # --- the books ---

    def status(self) -> str:
        """One word, or two, on how the run stands."""
        if self.draining:
            return "ended" if self.drained else "draining"
        if len(self._workers) < self.terms.quorum:
            return f"waiting ({len(self._workers)} of {self.terms.quorum})"
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
        """What a server needs to go on in the place of this one. Open loans and uploads are not in
        it: whoever has one learns from the new epoch that it is void.
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


def _gradient(worker: WorkerId, push: Push, g: Vector) -> Gradient:
    declared = None
    if push.growth is not None and push.since is not None:
        declared = Declared(push.growth, push.since)
    return Gradient(worker, push.ticket, g, declared, push.loss, push.examples)
