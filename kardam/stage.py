"""What a filter is: a rule over evidence, and a chain of rules, which is a rule.

A stage may learn from all that it *judges*, and from what becomes of it. Never in here: a rule of
its own, or the name of one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from kardam.errors import TaskError
from kardam.growth import Evidence, Trace
from kardam.messages import Refusal, WorkerId
from kardam.state import State, Stateful


class Slowdown(NamedTuple):
    """Between which shares of honest gradients a rule admits: without liars, and with f of them.

    Assumes workers of equal rate whose growths do not depend on their speed (Kardam, theorem on the
    slowdown).
    """

    without: float
    low: float
    high: float


class Reading(NamedTuple):
    """What a rule compares of a gradient, and the band it is compared with: low <= value <= high is
    admitted. NaN for bounds that are not known yet.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


class Stage(Stateful):
    """One rule of a chain. This one admits everything as it is."""

    # Whether it needs growth, hence a memory of the workers' answers.
    compares = False

    # Whether it compares vectors with others than those it was shown, so that no trace of them
    # (see lens) will do.
    exact = False

    @property
    def ready(self) -> bool:
        """Whether it knows enough to judge. Until every stage does, the start-up rule moves the
        model.
        """
        return True

    def judge(self, evidence: Evidence) -> Refusal | None:
        """None to admit. Shown every gradient once, in order, whatever other stages say."""
        return None

    def reading(self, evidence: Evidence) -> Reading | None:
        """For people to see, of a gradient just judged; None where the rule has no band."""
        return None

    def scale(self, evidence: Evidence) -> float:
        """What an admitted gradient is multiplied by: in (0, 1], but where the server has a length
        of its own to go by.
        """
        return 1.0

    def admit(self, evidence: Evidence) -> None:
        """Told of each gradient that all stages admitted."""

    def refuse(self, evidence: Evidence, refusal: Refusal) -> None:
        """Told of each that was refused after start-up, and why: by the first stage that did, or by
        the gathering.
        """

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more; who will be called so is another, and has shown nothing."""

    def start(self, g: Trace, x: Trace) -> None:
        """Told of each start-up update: traces of the median that moved the model, and of the model
        it moved.
        """

    def slowdown(self) -> Slowdown | None:
        """The share of honest work it admits, where theory knows one."""
        return None


class Chain(Stage):
    """All of its stages, in order: refused if one refuses, scaled by all. An empty chain admits
    everything.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.compares = any(stage.compares for stage in self.stages)
        self.exact = any(stage.exact for stage in self.stages)

    @property
    def ready(self) -> bool:
        return all(stage.ready for stage in self.stages)

    def judge(self, evidence: Evidence) -> Refusal | None:
        refusals = [stage.judge(evidence) for stage in self.stages]
        first = next((refusal for refusal in refusals if refusal is not None), None)
        if first is not None and not isinstance(first, Refusal):
            raise TaskError(f"expected None or a Refusal of a stage's judge, got {first!r}")
        return first

    def reading(self, evidence: Evidence) -> Reading | None:
        """Of the first stage that has a band."""
        for stage in self.stages:
            if (reading := stage.reading(evidence)) is not None:
                return reading
        return None

    def scale(self, evidence: Evidence) -> float:
        return math.prod(stage.scale(evidence) for stage in self.stages)

    def admit(self, evidence: Evidence) -> None:
        for stage in self.stages:
            stage.admit(evidence)

    def refuse(self, evidence: Evidence, refusal: Refusal) -> None:
        for stage in self.stages:
            stage.refuse(evidence, refusal)

    def forget(self, worker: WorkerId) -> None:
        for stage in self.stages:
            stage.forget(worker)

    def start(self, g: Trace, x: Trace) -> None:
        for stage in self.stages:
            stage.start(g, x)

    def slowdown(self) -> Slowdown | None:
        known = [bounds for stage in self.stages if (bounds := stage.slowdown()) is not None]
        return known[0] if len(known) == 1 else None

    def state(self) -> State:
        return {"stages": [stage.state() for stage in self.stages]}

    def restore(self, state: State) -> None:
        for stage, its in zip(self.stages, state["stages"], strict=True):
            stage.restore(its)
