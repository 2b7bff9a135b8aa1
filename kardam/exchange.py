"""Models down, gradients up, verdicts back: what a server and the workers that are there exchange.

Who waits for a model, whose vectors need not travel; `uploads` knows what is on its way up. Never
in here: who anybody is (a hello, a token, a key), or what a gradient is worth.
"""

from dataclasses import dataclass
from typing import NamedTuple

from kardam.descent import Descent
from kardam.messages import (
    UNASKED,
    Declared,
    Down,
    Gradient,
    Grant,
    Judged,
    Lent,
    Part,
    Pull,
    Push,
    Vector,
    Verdict,
    WorkerId,
)
from kardam.protocol import Bytes, vector
from kardam.rooms import Shelf
from kardam.stats import Stats
from kardam.uploads import Uploads

# What the socket calls a peer; random at each connection, and nobody's identity.
Peer = bytes


class Send(NamedTuple):
    """To do: send this message to this peer."""

    peer: Peer
    message: Down
    body: Bytes = b""


class Judge(NamedTuple):
    """To do: have this gradient judged, and tell `judged` the verdict."""

    gradient: Gradient


Effect = Send | Judge


@dataclass(slots=True, eq=False)
class _Partner:
    """A worker that is there."""

    peer: Peer
    # Whether its models and gradients need not travel.
    shared: bool
    # To be served once its gradient is judged.
    then: Pull | None = None


class Exchange:
    """All vectors of one server. Models go out while `quorum` workers are there, in chunks of so
    many bytes. What returns effects returns what to do, in order.
    """

    def __init__(self, descent: Descent, stats: Stats, quorum: int, chunk: int) -> None:
        self.quorum = quorum
        self.uploads = Uploads(descent.model.x.size, descent.f, chunk)
        self.draining = False
        self._descent = descent
        self._stats = stats
        self._chunk = chunk
        self._nbytes = descent.model.x.nbytes
        # Memory that workers on this machine see as well, if there is any.
        self._shelf: Shelf | None = None
        self._partners: dict[WorkerId, _Partner] = {}
        # Who asked for a model, and when.
        self._waiting: dict[WorkerId, tuple[Pull, float]] = {}

    def share(self, shelf: Shelf) -> None:
        """Models are made where workers on this machine can see them, from now on."""
        self._shelf = shelf
        self._descent.move_into(shelf.room)

    # --- who is there ---

    @property
    def quorate(self) -> bool:
        """Whether enough workers are there for models to go out."""
        return len(self._partners) >= self.quorum

    def open(self, worker: WorkerId, peer: Peer, holds: tuple[int, ...], memory: str) -> bool:
        """This worker is there, and still has what was lent under those tickets. Whether its
        vectors need not travel, since it sees our memory.
        """
        self._descent.forget(worker, but=holds)
        shelf = self._shelf
        shared = shelf is not None and memory == shelf.name and worker in shelf
        self._partners[worker] = _Partner(peer, shared)
        return shared

    def close(self, worker: WorkerId) -> None:
        """It is not. What it reserved is free; its loans are forgotten when it is there again."""
        self._partners.pop(worker, None)
        self._waiting.pop(worker, None)
        self.uploads.end(worker)

    def lost(self, worker: WorkerId) -> None:
        """This worker's process is no more: nobody will answer what it was lent."""
        self._descent.forget(worker)
        if self._shelf is not None:
            self._shelf.vacate(worker)

    def drain(self) -> None:
        """Lend no more models and begin no more uploads; those under way may finish."""
        self.draining = True
        self._waiting.clear()

    # --- models down ---

    def pull(self, worker: WorkerId, pull: Pull, now: float) -> list[Effect]:
        """It wants the newest model; it may have to wait for others to be there."""
        if not self._descent.may_lend(worker):
            return self._violated(worker)
        if not self.draining:
            self._waiting[worker] = pull, now
        return self.serve(now)

    def serve(self, now: float) -> list[Effect]:
        """Lend to all who wait and need wait no longer."""
        if not (self._waiting and self.quorate):
            return []
        self._excuse()
        effects: list[Effect] = []
        for worker in [worker for worker in self._waiting if self._descent.due(worker)]:
            pull, asked = self._waiting.pop(worker)
            self._stats.served(now - asked)
            partner = self._partners[worker]
            loan = self._descent.lend(worker, hold=partner.shared)
            effects += self.model(partner.peer, loan.ticket, pull.have, now, partner.shared)
        return effects

    def _excuse(self) -> None:
        """Where the run needs newcomers to go on at all, they are none."""
        new = [worker for worker in self._descent.probation.workers if worker in self._partners]
        if new and len(self._partners) - len(new) < self.quorum:
            for worker in new:
                self._descent.excuse(worker)

    def model(
        self, peer: Peer, ticket: int, have: int, now: float, shared: bool = False
    ) -> list[Effect]:
        """The newest model for this peer, who has version `have`: its place, its bytes, or that
        this is it.
        """
        model = self._descent.model
        if have == model.version:
            return [Send(peer, Lent(ticket, model.version, 0))]
        self._stats.moved(0, self._nbytes, now)
        if shared and self._shelf is not None:
            place = self._shelf.place(model.x)
            if place is not None:
                return [Send(peer, Lent(ticket, model.version, 0, place))]
        body, chunk = model.x.data.cast("B"), self._chunk
        if len(body) <= chunk:
            return [Send(peer, Lent(ticket, model.version, 0), body)]
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        return [
            Send(peer, Lent(ticket, model.version, len(parts))),
            *(Send(peer, Part(ticket, i), part) for i, part in enumerate(parts)),
        ]

    # --- gradients up ---

    def push(self, worker: WorkerId, push: Push, body: Bytes, now: float) -> list[Effect]:
        """It has a gradient, or the gradient is here."""
        if self.draining:
            return []  # too late to be under way; what it is told next is that the run is over
        if worker in self.uploads:
            return self._violated(worker)
        partner = self._partners[worker]
        partner.then = Pull(push.have) if push.have is not None else None
        if self._descent.lent(worker, push.ticket) is None:
            return self._refuse(worker, push.ticket, UNASKED, now)
        if push.shared and partner.shared and self._shelf is not None:
            self._stats.moved(self._nbytes, 0, now)
            return [Judge(_gradient(worker, push, self._shelf.take(worker)))]
        if not len(body):
            self.uploads.ask(worker, push, now)
            return self.grant(now)
        if not self.uploads.spend(worker):
            return self._refuse(worker, push.ticket, "ungranted", now)
        if len(body) != self._nbytes:
            return self._refuse(worker, push.ticket, "malformed", now)
        self._stats.moved(len(body), 0, now)
        return [Judge(_gradient(worker, push, vector(body)))]

    def grant(self, now: float) -> list[Effect]:
        """Give leave to whoever asked first, while the budget lasts."""
        return [
            Send(self._partners[upload.worker].peer, Grant(upload.push.ticket))
            for upload in self.uploads.grant(now)
        ]

    def part(self, worker: WorkerId, part: Part, body: Bytes, now: float) -> list[Effect]:
        """A chunk of what was granted."""
        upload = self.uploads.under_way(worker, part.ticket)
        if upload is None and self.uploads.behind(worker, part.ticket):
            return []
        if upload is None:
            return self._violated(worker)
        if not upload.take(part, body, now):
            self.uploads.end(worker)
            return self._refuse(worker, part.ticket, "malformed", now)
        self._stats.moved(len(body), 0, now)
        if (g := upload.complete) is None:
            return []
        self.uploads.end(worker)
        return [Judge(_gradient(worker, upload.push, g)), *self.grant(now)]

    def abort_late(self, now: float) -> list[Effect]:
        """Wait no longer for chunks that have not come in time."""
        effects: list[Effect] = []
        for upload in self.uploads.late(now):
            self.uploads.give_up(upload)
            effects += self._refuse(upload.worker, upload.push.ticket, "late", now)
        return effects

    def _refuse(self, worker: WorkerId, ticket: int, rule: str, now: float) -> list[Effect]:
        return self.judged(self._descent.refuse(worker, ticket, rule), now)

    def _violated(self, worker: WorkerId) -> list[Effect]:
        self._stats.violated(worker)
        return []

    # --- verdicts back ---

    def judged(self, verdict: Verdict, now: float) -> list[Effect]:
        """A gradient was judged: book it, and tell the worker only yes, or the rule's name."""
        self._stats.record(verdict, now)
        effects: list[Effect] = []
        partner = self._partners.get(verdict.worker)
        if partner is not None:
            if partner.then is not None:
                then, partner.then = partner.then, None
                effects = self.pull(verdict.worker, then, now)
            # Saves the question and the waiting, for whoever delivered.
            delivered = verdict.staleness >= 0 and not self.draining
            if not delivered:
                # What it had was for that gradient; both sides must agree.
                self.uploads.spend(verdict.worker)
            credit = delivered and not partner.shared and self.uploads.credit(verdict.worker)
            lent: int | None = None
            place: int | None = None
            parts = 0
            body: Bytes = b""
            match effects:
                # One message for both, where the model need not be waited for.
                case [Send(partner.peer, Lent(lent, _, parts, place), body), *effects]:
                    pass
                case _:
                    pass
            told = Judged(
                ticket=verdict.ticket,
                admitted=verdict.admitted,
                rule=verdict.rule,
                version=verdict.updates,
                credit=credit,
                lent=lent,
                parts=parts,
                place=place,
            )
            effects = [Send(partner.peer, told, body), *effects]
        # In rounds, others may have waited for the update that this one made.
        return effects + self.grant(now) + self.serve(now)


def _gradient(worker: WorkerId, push: Push, g: Vector) -> Gradient:
    declared = None
    if push.growth is not None and push.since is not None:
        declared = Declared(push.growth, push.since)
    return Gradient(worker, push.ticket, g, declared, push.loss, push.examples)
