"""Who is new in a run that is going on: how many answers it has given, and how many it owes.

Never in here: what an answer is worth, or who may come at all.
"""

from kardam.messages import Refusal, WorkerId
from kardam.state import State, Stateful

# So many answers, each to another version. Growth takes two to be measured at all; five show four
# growths, whose lower median is no single one's, and a mean direction with 0.45 of the noise of one
# (see Consensus). It is a moment for a fast worker, and five answers for a slow one.
ANSWERS = 5


class Probation(Stateful):
    """Newcomers. Theirs is judged and remembered, and is not admitted; nor does it move a bound
    that others are held to: n is of the others.
    """

    def __init__(self, answers: int = ANSWERS) -> None:
        self.answers = answers
        # How many each has given, and the newest version among them.
        self._new: dict[WorkerId, tuple[int, int]] = {}

    def __contains__(self, worker: WorkerId) -> bool:
        return worker in self._new

    def __len__(self) -> int:
        return len(self._new)

    @property
    def workers(self) -> list[WorkerId]:
        """Who is new."""
        return list(self._new)

    def begin(self, worker: WorkerId) -> None:
        """This worker is new."""
        self._new[worker] = 0, -1

    def end(self, worker: WorkerId) -> None:
        """It is no longer, whatever it has shown."""
        self._new.pop(worker, None)

    def answered(self, worker: WorkerId, version: int) -> Refusal | None:
        """Why this answer is not admitted; None where the worker is not new. The last that is owed
        is refused as well.
        """
        if worker not in self._new:
            return None
        given, newest = self._new[worker]
        self._new[worker] = given + (version > newest), max(version, newest)
        if self._new[worker][0] >= self.answers:
            self.end(worker)
        return Refusal("probation", given, self.answers)

    def state(self) -> State:
        return {"new": [[worker, *its] for worker, its in self._new.items()]}

    def restore(self, state: State) -> None:
        self._new = {worker: (given, newest) for worker, given, newest in state["new"]}
