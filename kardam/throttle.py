"""How much of what is admitted one worker may own: a limit on the fast, liars or not.

Never in here: arrivals, which cost nothing to make, or a clock.
"""

import math
from collections import deque

from kardam.growth import Evidence, Population
from kardam.messages import NOBODY, Refusal, WorkerId
from kardam.stage import Stage
from kardam.state import State, Stateful

# Whoever owns none of so many times as many admissions as are looked at is absent.
ABSENT = 3


class _Window(Stateful):
    """Whose the last `size` admissions are, and how many of them each worker owns."""

    def __init__(self, size: int) -> None:
        self._owners: deque[WorkerId] = deque(maxlen=size)
        self.owned = Population()

    @property
    def full(self) -> bool:
        return len(self._owners) == self._owners.maxlen

    def add(self, worker: WorkerId) -> None:
        leaves = self._owners[0] if self.full else NOBODY
        self._owners.append(worker)
        if leaves != worker:
            self._count(leaves, -1)
            self._count(worker, 1)

    def forget(self, worker: WorkerId) -> None:
        # What he owned stays in the window, and is nobody's.
        self.owned.forget(worker)
        for at, owner in enumerate(self._owners):
            if owner == worker:
                self._owners[at] = NOBODY

    def _count(self, worker: WorkerId, more: int) -> None:
        if worker == NOBODY:
            return
        if (owns := self.owned.get(worker) + more) > 0:
            self.owned[worker] = owns
        else:
            self.owned.forget(worker)

    def state(self) -> State:
        return {"owners": list(self._owners)}

    def restore(self, state: State) -> None:
        for worker in state["owners"]:
            self.add(worker)


class Throttle(Stage):
    """No worker owns much more of the last `rounds` n admissions than the (f'+1)-th most admitted.

        a_p  <  factor * a_(f'+1) + 2,    f' = f - how many are absent

    a_p being how many of them p owns, and a_(f'+1) the (f'+1)-th largest of these numbers. As at
    most f lie or are absent, that is at most what the fastest honest worker owns, so that liars,
    however often they answer, are admitted at most `factor` times as often as it; two are free, so
    that the first has a place. Absent are those who own none of three times as many admissions:
    with them, the fastest of the others would be held to a slower one for nothing.

    At a factor of 2, f of 3f + 1 who flood own about half of what is admitted where the others are
    equally fast. At 3 it is six tenths, and gradients that are honest, and a little late, push the
    model past where it was going, until it breaks (bench/RESULTS.md, floods).

    It counts admissions: neither a flood nor silence of f moves the bound of the others, and the
    n - f workers from the (f+1)-th on are never refused, so that somebody is used as long as f + 1
    answer. After the capped weights that are asked for where Dahan and Levy (NeurIPS 2024) count
    updates, and THROTTLE (Otsuka et al. 2026).
    """

    def __init__(self, n: int, f: int, factor: float = 2.0, rounds: int = 10) -> None:
        if not 1 <= factor < math.inf:
            raise ValueError(f"expected a finite factor >= 1, got {factor}")
        if not rounds >= 1:
            raise ValueError(f"expected rounds >= 1, got {rounds}")
        self.n, self.f, self.factor = n, f, factor
        self._recent, self._long = _Window(rounds * n), _Window(ABSENT * rounds * n)

    def judge(self, evidence: Evidence) -> Refusal | None:
        recent = self._recent.owned
        owned, rank = recent.get(evidence.worker), self._liars() + 1
        # Whoever was never admitted is not in the ranks, and owns none.
        ranked = recent.largest(rank) if len(recent) >= rank else 0.0
        most = self.factor * ranked + 2
        return None if owned < most else Refusal("throttle", owned, 0, most, False)

    def _liars(self) -> int:
        """f': how many of those who are there may lie."""
        absent = self.n - len(self._long.owned) if self._long.full else 0
        return max(self.f - absent, 0)

    def admit(self, evidence: Evidence) -> None:
        self._recent.add(evidence.worker)
        self._long.add(evidence.worker)

    def forget(self, worker: WorkerId) -> None:
        self._recent.forget(worker)
        self._long.forget(worker)

    def state(self) -> State:
        return self._long.state()  # whose end is the other

    def restore(self, state: State) -> None:
        self._recent.restore(state)
        self._long.restore(state)
