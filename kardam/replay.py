"""Do it again: events upon a descent, and what another filter would have said of the same ones.

Never in here: a file, a clock, or a model that was not.
"""

from kardam.descent import Descent
from kardam.errors import Different
from kardam.events import Event, Forgetting, Lending, Receiving, Refusing, Turning
from kardam.lens import Look
from kardam.messages import Vector, Verdict


def again(descent: Descent, event: Event) -> Verdict | None:
    """What this event does to a descent; the verdict, if it makes one.

    Raises Different where it can not have been this descent's.
    """
    match event:
        case Lending(worker=worker, ticket=ticket):
            if not descent.may_lend(worker):
                raise Different(f"ticket {ticket}: worker {worker} has models to answer already")
            lent = descent.lend(worker).ticket
            if lent != ticket:
                raise Different(f"a model lent to worker {worker}: ticket {lent}, was {ticket}")
            return None
        case Forgetting(worker=worker, but=but):
            descent.forget(worker, but)
            return None
        case Turning(worker=worker, how=how):
            turn = {"vacate": descent.vacate, "begin": descent.begin, "excuse": descent.excuse}
            turn[how](worker)
            return None
        case Refusing(worker=worker, ticket=ticket, rule=rule):
            return descent.refuse(worker, ticket, rule)
        case Receiving(gradient=gradient):
            return descent.receive(gradient)


class Bystander(Descent):
    """Judges what another descent receives, and moves no model: that of the other is its own.

    So its growths, stalenesses and drifts are those of the recorded models, and what it says is of
    these alone: had its filter been in force, there would have been other models and other
    gradients, of which nothing is known.
    """

    def join(self, other: Descent) -> None:
        """Stand beside a descent all of whose loans are closed. What was learned before stays."""
        for worker in range(self.n):
            self.forget(worker)
        self._tickets = other._tickets
        self.model = other.model
        self._trace = self._lens.look(self.model.x).trace

    def follow(self, other: Descent) -> None:
        """Take over the other's model, if it has moved."""
        if other.model is not self.model:
            self._trace = self._lens.follow(self._trace, self.model.x, other.model.x, None)
            self.model = other.model

    def _step(self, g: Vector, weight: float = 1.0, look: Look | None = None) -> None:
        """Its updates are judgement alone."""
