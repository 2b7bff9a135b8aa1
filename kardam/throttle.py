"""How much of what is admitted one worker may own: a limit on the fast, liars or not.

Never in here: arrivals, which cost nothing to make, or a clock.
"""

import math
from collections import deque

from kardam.growth import Evidence, Population
from kardam.messages import NOBODY, Refusal, WorkerId
from kardam.stage import Stage
from kardam.state import State


class Throttle(Stage):
    """No worker owns much more of the last `rounds` n admissions than the (f+1)-th most admitted.

        a_p  <  factor * a_(f+1) + 2

    a_p being how many of them p owns, and a_(f+1) the (f+1)-th largest of these numbers. That is
    at most what the fastest honest worker owns, so that f liars, however often they answer, are
    admitted at most `factor` times as often as it; two are free, so that the first has a place.
    Since n - f > 2f, what honest workers of equal speed own is more than what f liars do at a
    factor of 2. At 3, f who flood with gradients that are honest, and a little late, own the
    greater part, and push the model past where it was going, until it breaks.

    It counts admissions: neither a flood nor silence of f moves the bound of the others, and the
    n - f workers from the (f+1)-th on are never refused, so that somebody is used as long as f + 1
    answer. After the capped weights that are asked
    for where Dahan and Levy (NeurIPS 2024) count updates, and THROTTLE (Otsuka et al. 2026).
    """

    def __init__(self, n: int, f: int, factor: float = 2.0, rounds: int = 10) -> None:
        if not 1 <= factor < math.inf:
            raise ValueError(f"expected a finite factor >= 1, got {factor}")
        if not rounds >= 1:
            raise ValueError(f"expected rounds >= 1, got {rounds}")
        self.f, self.factor = f, factor
        self._owners: deque[WorkerId] = deque(maxlen=rounds * n)
        self._owned = Population()

    def judge(self, evidence: Evidence) -> Refusal | None:
        owned = self._owned.get(evidence.worker)
        # Whoever was never admitted is not in the ranks, and owns none.
        ranked = self._owned.largest(self.f + 1) if len(self._owned) > self.f else 0.0
        most = self.factor * ranked + 2
        return None if owned < most else Refusal("throttle", owned, 0, most, False)

    def admit(self, evidence: Evidence) -> None:
        full = len(self._owners) == self._owners.maxlen
        leaves = self._owners[0] if full else NOBODY
        self._owners.append(evidence.worker)
        if leaves == evidence.worker:
            return
        if leaves != NOBODY:
            self._count(leaves, -1)
        self._count(evidence.worker, 1)

    def forget(self, worker: WorkerId) -> None:
        # What he owned stays in the window, and is nobody's.
        self._owned.forget(worker)
        for at, owner in enumerate(self._owners):
            if owner == worker:
                self._owners[at] = NOBODY

    def _count(self, worker: WorkerId, more: int) -> None:
        self._owned[worker] = self._owned.get(worker) + more

    def state(self) -> State:
        return {"owners": list(self._owners)}

    def restore(self, state: State) -> None:
        for worker in state["owners"]:
            self._owners.append(worker)
            if worker != NOBODY:
                self._count(worker, 1)
