"""The parameter server without its sockets: lend a model, take back a gradient, judge, step.

The algorithm of the paper is this file. No clock, no chance, no network, and no idea of what the
vector means. One owner calls it; nothing in it waits.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from typing import NamedTuple

import numpy as np

from kardam.aggregators import clipped_median
from kardam.dampening import Dampening
from kardam.errors import UsageError
from kardam.events import Forgetting, Hear, Lending, Receiving, Refusing, Turning, unheard
from kardam.gathering import Buffered, Gathering, OnArrival, weighted
from kardam.growth import Change, Evidence, History, Trace
from kardam.lens import Exact, Lens, Look, Step
from kardam.messages import UNASKED, Gradient, HandOut, Model, Refusal, Vector, Verdict, WorkerId
from kardam.optimizers import SGD, Optimizer
from kardam.probation import Probation
from kardam.rates import Rate
from kardam.stage import Reading, Stage
from kardam.state import State, Stateful

# More than there will ever be between a state and the end of the process that told it.
TICKETS = 2**32

# One in work and one fetched ahead; it bounds the old models that are kept alive, 2n of them.
LOANS_MAX = 2


class Loan(NamedTuple):
    """What is remembered of a hand-out: not the model, which may be long, but its trace. `held` is
    the model where its worker reads it in our memory, which must not become another's meanwhile.
    """

    ticket: int
    version: int
    x: Trace
    held: Vector | None = None


class Descent(Stateful):
    """Asynchronous SGD over untrusted gradients.

        x_{t+1} = x_t - gamma_t (1/M) sum over M admitted gradients of Lambda c g

    with Lambda the dampening and c the clip of each (Kardam, section 3). That is a gathering on
    arrival and SGD; another `gathering` makes another vector of the Lambda c g, and another
    `optimizer` another step of that. `lens` says how vectors are remembered.

    Until every stage of the filter is ready, the start-up rule moves the model instead: the
    coordinate-wise median, clipped, of the first gradients of n - f distinct workers, again and
    again. It waits for no growth (which needs a model that moved) and no coalition of f owns it.

    `knobs` are the choices behind the rules, by their flags: a state goes only where they are the
    same. `hear` is told of everything that changes it, in order.
    """

    def __init__(
        self,
        x: Vector,
        *,
        n: int,
        f: int,
        filter: Stage,
        dampening: Dampening,
        rate: Rate,
        gathering: Gathering | None = None,
        optimizer: Optimizer | None = None,
        lens: Lens | None = None,
        knobs: Mapping[str, int | str] | None = None,
    ) -> None:
        self.n, self.f = n, f
        self.filter = filter
        self.dampening = dampening
        self.rate = rate
        self.gathering = gathering if gathering is not None else OnArrival()
        self.optimizer = optimizer if optimizer is not None else SGD()
        self.model = Model(0, _sealed(x.copy()))
        # Where a model is made: memory for d numbers that nobody else refers to.
        d = x.size
        self._room: Callable[[], Vector] = lambda: np.empty(d, np.float32)
        self._lens = lens if lens is not None else Exact()
        self._trace = self._lens.look(self.model.x).trace
        self._first = Buffered(n - f, clipped_median)
        self._compares = filter.compares or dampening.compares
        self._histories: dict[WorkerId, History] = defaultdict(History)
        self._lent: dict[WorkerId, list[Loan]] = {worker: [] for worker in range(n)}
        self._tickets = 0
        self.probation = Probation()
        self._knobs = dict(knobs or {})
        self.hear: Hear = unheard

    def move_into(self, room: Callable[[], Vector]) -> None:
        """Make models in what `room` gives from now on: memory of shape (d,) that nobody else has.
        The present one moves there.
        """
        self._room = room
        x = room()
        np.copyto(x, self.model.x)
        self.model = Model(self.model.version, _sealed(x))

    # --- loans ---

    def may_lend(self, worker: WorkerId) -> bool:
        """Whether this worker has fewer than two models to answer."""
        return len(self._lent[worker]) < LOANS_MAX

    def due(self, worker: WorkerId) -> bool:
        """Whether his answer to the current model would be of use. In rounds, who has given one or
        is about to is better left waiting.
        """
        if not self.gathering.rounds:
            return True
        lent = any(loan.version == self.model.version for loan in self._lent[worker])
        return not lent and self.gathering.refuse(worker, staleness=0) is None

    def lend(self, worker: WorkerId, hold: bool = False) -> HandOut:
        """Hand out the current model; requires `may_lend`. `hold` it until it is answered, for a
        worker that reads it where it lies.
        """
        if not self.may_lend(worker):
            raise ValueError(f"worker {worker} has {LOANS_MAX} models to answer already")
        self._tickets += 1
        held = self.model.x if hold else None
        self._lent[worker].append(Loan(self._tickets, self.model.version, self._trace, held))
        self.hear(Lending(worker, self._tickets), None)
        return HandOut(self._tickets, worker, self.model)

    def lent(self, worker: WorkerId, ticket: int) -> Loan | None:
        """The open loan of this worker under this ticket, if there is one."""
        for loan in self._lent[worker]:
            if loan.ticket == ticket:
                return loan
        return None

    def forget(self, worker: WorkerId, but: tuple[int, ...] = ()) -> None:
        """Close this worker's loans, except those under the tickets `but`."""
        if self._lent[worker]:
            self._lent[worker] = [loan for loan in self._lent[worker] if loan.ticket in but]
            self.hear(Forgetting(worker, but), None)

    def _give_back(self, worker: WorkerId, ticket: int) -> Loan | None:
        """Close a loan. Loans are answered in order: what was lent before it is forfeit."""
        loan = self.lent(worker, ticket)
        if loan is not None:
            self._lent[worker] = [other for other in self._lent[worker] if other.ticket > ticket]
        return loan

    def refuse(self, worker: WorkerId, ticket: int, rule: str) -> Verdict:
        """Close a loan, if it is open, for what went wrong before there was a gradient."""
        loan = self._give_back(worker, ticket)
        verdict = self._verdict(Gradient(worker, ticket, self.model.x[:0]), Refusal(rule), loan)
        self.hear(Refusing(worker, ticket, rule), verdict)
        return verdict

    # --- who comes into a run that is going on ---

    def vacate(self, worker: WorkerId) -> None:
        """This worker is no more: nothing of it is remembered, and nobody is held to it."""
        self._clear(worker)
        self.hear(Turning(worker, "vacate"), None)

    def _clear(self, worker: WorkerId) -> None:
        self._lent[worker] = []
        self._histories.pop(worker, None)
        self.filter.forget(worker)
        self.dampening.forget(worker)
        self.gathering.forget(worker)
        self.probation.end(worker)

    def begin(self, worker: WorkerId) -> None:
        """Somebody else is this worker from now on; after the first update, on probation."""
        self._clear(worker)
        if self.model.version > 0:
            self.probation.begin(worker)
        self.hear(Turning(worker, "begin"), None)

    def excuse(self, worker: WorkerId) -> None:
        """This worker counts from now on, whatever it owes."""
        self.probation.end(worker)
        self.hear(Turning(worker, "excuse"), None)

    # --- the way of one gradient ---

    def receive(self, gradient: Gradient) -> Verdict:
        """Judge one gradient, and step if it completes an update. Never raises for what a worker
        sent.
        """
        worker, ticket = gradient.worker, gradient.ticket
        if self.lent(worker, ticket) is None:
            return self.refuse(worker, ticket, UNASKED)
        if gradient.g.shape != self.model.x.shape or gradient.g.dtype != np.float32:
            return self.refuse(worker, ticket, "malformed")
        loan = self._give_back(worker, ticket)
        assert loan is not None  # it was there just now
        if worker in self.probation and not self.filter.ready:
            # The model may not move without it, and then it could never show what it owes.
            self.probation.end(worker)
        evidence = self._measure(gradient, loan)
        if evidence.norm < math.inf:
            verdict = self._judge(gradient, loan, evidence)
        else:
            self.filter.judge(evidence)
            verdict = self._verdict(gradient, Refusal("nonfinite", evidence.norm), loan, evidence)
        self.hear(Receiving(gradient), verdict)
        return verdict

    def _measure(self, gradient: Gradient, loan: Loan) -> Evidence:
        g, length = self._lens.look(gradient.g)
        change: Change | None = None
        if not length < math.inf:
            # It has no place in a history; what it shows is an infinite growth.
            change = Change(since=0, difference=math.inf, displacement=1.0)
        elif self._compares:
            history = self._histories[gradient.worker]
            change = history.add(gradient.ticket, loan.version, g, loan.x)
        return Evidence(
            worker=gradient.worker,
            staleness=self.model.version - loan.version,
            norm=length,
            change=change,
            declared=gradient.declared,
            g=g,
            x=loan.x,
            now=self._trace,
            tolerance=self._lens.tolerance,
            counts=gradient.worker not in self.probation,
        )

    def _judge(self, gradient: Gradient, loan: Loan, evidence: Evidence) -> Verdict:
        # The filter learns from every gradient, whatever becomes of it; dampening, from those of
        # whoever is not new.
        refusal = self.filter.judge(evidence)
        if (early := self.probation.answered(gradient.worker, loan.version)) is not None:
            return self._verdict(gradient, early, loan, evidence)
        dampening = self.dampening.weigh(evidence)
        if not self.filter.ready:
            return self._start_up(gradient, loan, evidence)
        if refusal is None:
            refusal = self.gathering.refuse(gradient.worker, evidence.staleness)
        if refusal is not None:
            self.filter.refuse(evidence, refusal)
            return self._verdict(gradient, refusal, loan, evidence, dampening=dampening)
        weight = dampening * self.filter.scale(evidence)
        self.filter.admit(evidence)
        if self.gathering.alone:
            self._step(gradient.g, weight, Look(evidence.g, evidence.norm))
        elif (g := self.gathering.add(gradient.worker, gradient.g, weight)) is not None:
            self._step(g)
        return self._verdict(gradient, None, loan, evidence, weight, dampening=dampening)

    def _start_up(self, gradient: Gradient, loan: Loan, evidence: Evidence) -> Verdict:
        if self._first.refuse(gradient.worker, evidence.staleness) is not None:
            return self._verdict(gradient, Refusal("startup"), loan, evidence)
        median = self._first.add(gradient.worker, gradient.g, 1.0)
        if median is not None:
            self.filter.start(self._lens.look(median).trace, evidence.now)
            self._step(median)
        return self._verdict(gradient, None, loan, evidence, weight=1.0, rule="startup")

    def _step(self, g: Vector, weight: float = 1.0, look: Look | None = None) -> None:
        """Move the model by weight g, at which there may have been a look."""
        t, x = self.model.version, self.model.x
        gamma, step = self.rate(t), None
        if self.optimizer.linear:
            # The weight of g is one of the rate, which costs no pass over g.
            gamma *= weight
            step = Step(-gamma, *look) if look is not None else None
        else:
            g = weighted(g, weight)
        self.model = Model(t + 1, _sealed(self.optimizer.step(x, g, gamma, self._room())))
        # Once a version, for all who will be lent it.
        self._trace = self._lens.follow(self._trace, x, self.model.x, step)

    # --- a question ---

    def foresee(self, worker: WorkerId, g: Vector) -> Verdict:
        """What `receive` would say of g now, in answer to the newest model lent to this worker.

        Nothing is learned: a copy of all that learns is asked, which makes it slow.
        """
        loans = self._lent[worker]
        twin = copy(self)
        twin.hear = unheard
        for learner in ("filter", "dampening", "gathering", "optimizer", "probation", "_first"):
            setattr(twin, learner, deepcopy(getattr(self, learner)))
        twin._lent = dict(self._lent)
        twin._histories = defaultdict(History)
        if (history := self._histories.get(worker)) is not None:
            twin._histories[worker] = copy(history)  # whose answers are never written to
        return twin.receive(Gradient(worker, loans[-1].ticket if loans else 0, g))

    # --- a life after this process ---

    def state(self) -> State:
        """Everything, the open loans among it: what was recorded after this answers them. (See
        `skip` for who goes on in another process.)
        """
        return {
            "knobs": dict(self._knobs),
            "version": self.model.version,
            "x": self.model.x,
            "lens": self._lens.state(),
            "trace": self._trace,
            "tickets": self._tickets,
            "loans": [
                [worker, loan.ticket, loan.version, loan.x]
                for worker, its in self._lent.items()
                for loan in its
            ],
            "histories": [[worker, its.state()] for worker, its in self._histories.items()],
            "first": self._first.state(),
            "probation": self.probation.state(),
            "filter": self.filter.state(),
            "dampening": self.dampening.state(),
            "gathering": self.gathering.state(),
            "optimizer": self.optimizer.state(),
        }

    def restore(self, state: State) -> None:
        """Go on from there. Raises UsageError where the state is of other knobs, another d, or
        another version of kardam.
        """
        for knob in sorted(self._knobs.keys() | state["knobs"].keys()):
            ours, theirs = self._knobs.get(knob), state["knobs"].get(knob)
            if ours != theirs:
                raise UsageError(f"{knob}: expected {theirs!r}, as in the state, got {ours!r}")
        if state["x"].shape != self.model.x.shape:
            raise UsageError(
                f"--task: expected a model of d={state['x'].size} numbers, as in the state, got"
                f" d={self.model.x.size}"
            )
        try:
            self._go_on_from(state)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"expected a state as this kardam keeps it, got that of another ({error!r}): resume"
                " with the one that kept it, or serve its model (kardam checkpoint export)"
            ) from error

    def _go_on_from(self, state: State) -> None:
        self.model = Model(state["version"], _sealed(state["x"]))
        self._lens.restore(state["lens"])
        self._trace = state["trace"]
        self._tickets = state["tickets"]
        for worker, *its in state["loans"]:
            self._lent[worker].append(Loan(*its))
        for worker, its in state["histories"]:
            self._histories[worker].restore(its)
        self._first.restore(state["first"])
        if "probation" in state:  # before there were keys, nobody was new
            self.probation.restore(state["probation"])
        self.filter.restore(state["filter"])
        self.dampening.restore(state["dampening"])
        self.gathering.restore(state["gathering"])
        self.optimizer.restore(state["optimizer"])

    def skip(self) -> None:
        """Close every loan, and lend on beyond every ticket that may be out, of the process that
        this one goes on for: who still holds one must not be taken for who was lent another.
        """
        self._lent = {worker: [] for worker in range(self.n)}
        self._tickets += TICKETS

    # --- records ---

    def _verdict(
        self,
        gradient: Gradient,
        refusal: Refusal | None,
        loan: Loan | None = None,
        evidence: Evidence | None = None,
        weight: float = 0.0,
        rule: str = "",
        dampening: float = math.nan,
    ) -> Verdict:
        """All that is known of this gradient, in one record; None refuses nothing."""
        seen = refusal if refusal is not None else Refusal(rule)
        reading = self.filter.reading(evidence) if evidence is not None else None
        compared = reading if reading is not None else Reading()
        version = loan.version if loan is not None else -1
        return Verdict(
            worker=gradient.worker,
            ticket=gradient.ticket,
            admitted=refusal is None,
            rule=seen.rule,
            value=seen.value,
            low=seen.low,
            high=seen.high,
            version=version,
            staleness=evidence.staleness if evidence is not None else -1,
            growth=evidence.growth if evidence is not None else math.nan,
            reading=compared.value,
            band_low=compared.low,
            band_high=compared.high,
            norm=evidence.norm if evidence is not None else math.nan,
            declared=gradient.declared.growth if gradient.declared is not None else math.nan,
            weight=weight,
            dampening=dampening,
            updates=self.model.version,
        )


def _sealed(x: Vector) -> Vector:
    """x, never to be written again: workers, memories and sockets hold references to it."""
    x.flags.writeable = False
    return x
