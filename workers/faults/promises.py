"""What holds under any faults, looked at after every message: each promise with what it saw.

An oracle beside the sessions: it is told by the net whose line it really is, and by the workers
what they really computed. Never in here: anything that a server could know.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from kardam.descent import LOANS_MAX
from kardam.messages import UNASKED, Denied, Down, Gradient, Judged, Lent, Vector, Verdict, WorkerId
from kardam.sessions import Sessions
from workers.faults.lines import Line


class Broken(AssertionError):
    """A promise was not kept."""


class Made(NamedTuple):
    """How an honest gradient came about."""

    worker: WorkerId
    epoch: str
    ticket: int
    version: int


class Promises:
    """All of them, over all lives of one server. `honest`: the workers who do as they should;
    `rough`: the net loses or doubles messages alone, so that even they may confuse the server.
    """

    def __init__(self, honest: set[WorkerId], rough: bool) -> None:
        self._honest = honest
        self._rough = rough
        # Open loans of this life of the server: (worker, ticket) to version.
        self._lent: dict[tuple[WorkerId, int], int] = {}
        self._made: dict[bytes, Made] = {}
        # Fingerprints of what went into the model, in the order of the journal.
        self._admitted: list[tuple[int, bytes]] = []
        self._version = 0
        self._models: dict[tuple[str, int], bytes] = {}
        self.verdicts = 0

    def _must(self, true: bool, promise: str) -> None:
        if not true:
            raise Broken(promise)

    # --- what the workers did ---

    def made(self, gradient: Gradient, epoch: str, version: int, x: Vector) -> None:
        """An honest worker computed this, at x, for that loan."""
        self._made[gradient.g.tobytes()] = Made(gradient.worker, epoch, gradient.ticket, version)
        known = self._models.get((epoch, version))
        self._must(known == x.tobytes(), f"worker {gradient.worker} got another model {version}")

    def told(self, worker: WorkerId, denied: Denied) -> None:
        """An honest worker was turned away."""
        self._must(False, f"worker {worker} lost its identity: {denied.reason}")

    def welcomed(self, worker: WorkerId, as_whom: WorkerId) -> None:
        self._must(worker == as_whom, f"worker {worker} was welcomed as {as_whom}")

    def confused(self, worker: WorkerId, why: str) -> None:
        """An honest worker's link was told what makes no sense."""
        self._must(self._rough, f"worker {worker} was told what makes no sense: {why}")

    # --- what the server did ---

    def opened(self, sessions: Sessions, journal: list[Verdict]) -> None:
        """A server began, or goes on: nothing is lent, and its books are those of its journal."""
        self._lent.clear()
        self._version = sessions.descent.model.version
        self._admitted = [its for its in self._admitted if its[0] < len(journal)]
        self.verdicts = len(journal)
        self._model(sessions)
        self.books(sessions, journal)

    def sent(self, sessions: Sessions, line: Line | None, message: Down) -> None:
        """A message left for whoever is at the end of this line."""
        if isinstance(message, Lent) or (isinstance(message, Judged) and message.lent is not None):
            ticket = message.ticket if isinstance(message, Lent) else message.lent
            if line is not None and ticket:
                whose = getattr(line.owner, "index", None)
                self._must(
                    whose is not None and sessions.descent.lent(whose, ticket) is not None,
                    f"ticket {ticket} went to {whose}, to whom it was not lent",
                )
                self._lent[whose, ticket] = message.version  # type: ignore[index]

    def judged(self, sessions: Sessions, gradient: Gradient, verdict: Verdict) -> None:
        """This gradient got this verdict."""
        worker, g = gradient.worker, gradient.g.tobytes()
        key = worker, gradient.ticket
        made = self._made.get(g)
        if worker in self._honest:
            self._must(verdict.rule != "misdeclared", f"worker {worker} is honest and misdeclared")
            self._must(made is not None and made.worker == worker, f"{worker} never said that")
        if verdict.version >= 0:
            lent = self._lent.pop(key, None)
            self._must(lent is not None, f"ticket {key[1]} of worker {worker} was not open")
            self._must(lent == verdict.version, f"ticket {key[1]}: {verdict.version}, not {lent}")
            if made is not None and worker in self._honest:
                same = made.epoch == sessions.terms.epoch and made.ticket == verdict.ticket
                self._must(same, f"worker {worker}: {made} was taken for ticket {verdict.ticket}")
        if verdict.admitted:
            self._must(verdict.version >= 0, f"{verdict} was admitted and answers nothing")
            if worker in self._honest:
                again = any(other == g for _, other in self._admitted)
                self._must(not again, f"a gradient of worker {worker} was applied twice")
                self._admitted.append((self.verdicts - 1, g))
        step = sessions.descent.model.version - self._version
        self._must(step in (0, 1), f"one gradient made {step} updates")
        self._must(step == 0 or verdict.admitted, "a gradient that was refused moved the model")
        if step:
            self._version += 1
            self._model(sessions)

    def noted(self, verdict: Verdict) -> None:
        """This went into the journal: a gradient that was judged, or never came."""
        self.verdicts += 1
        wrong = verdict.rule in ("ungranted", "malformed") and verdict.worker in self._honest
        self._must(not wrong or self._rough, f"worker {verdict.worker} is honest: {verdict}")

    def _model(self, sessions: Sessions) -> None:
        model = sessions.descent.model
        self._must(bool(np.isfinite(model.x).all()), f"model {model.version} is not finite")
        self._models[sessions.terms.epoch, model.version] = model.x.tobytes()

    def heard(self, sessions: Sessions) -> None:
        """After any message."""
        uploads, descent = sessions.exchange.uploads, sessions.descent
        self._must(
            0 <= uploads.reserved <= uploads.budget,
            f"{uploads.reserved} bytes are reserved of {uploads.budget}",
        )
        for worker, loans in descent._lent.items():
            self._must(len(loans) <= LOANS_MAX, f"worker {worker} has {len(loans)} loans")

    # --- the books ---

    def books(self, sessions: Sessions, journal: list[Verdict]) -> None:
        """The books are what the journal adds up to."""
        stats, version = sessions.stats, sessions.descent.model.version
        self._must(stats.updates == version, f"{stats.updates} updates, and model {version}")
        last = journal[-1].updates if journal else 0
        self._must(last == version, f"the journal ends at {last}, and the model is {version}")
        refused = Counter(v.rule for v in journal if not v.admitted)
        booked = stats.total.refused - Counter({UNASKED: stats.total.refused[UNASKED]})
        self._must(booked == refused, f"refused {booked}, journal: {refused}")
        self._must(
            (stats.total.delivered, stats.total.admitted)
            == (len(journal), sum(v.admitted for v in journal)),
            f"{stats.total.delivered} delivered, {len(journal)} in the journal",
        )
        for worker, row in stats.workers.items():
            theirs = [v.admitted for v in journal if v.worker == worker]
            their = row.tally.delivered, row.tally.admitted
            self._must(their == (len(theirs), sum(theirs)), f"worker {worker}: {their}")
        weights = [v.weight for v in journal if v.admitted]
        self._must(all(math.isfinite(w) and w >= 0 for w in weights), "a weight is no number")

    def idle(self, sessions: Sessions) -> None:
        """Everybody has left."""
        self._must(not sessions.peers, f"{len(sessions.peers)} sessions are left")
        self._must(sessions.reserved == 0, f"{sessions.reserved} bytes are reserved for nobody")
        self._must(sessions.drained, "an upload is under way, and nobody is there")
