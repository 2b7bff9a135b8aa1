"""How much of what is admitted one worker may own: a limit on the fast, liars or not.

Never in here: a weight that arrivals can buy, since they cost nothing to make; or a clock.
"""

import math
from collections import deque

from kardam.growth import Evidence, Population
from kardam.messages import NOBODY, Refusal, WorkerId
from kardam.stage import Stage
from kardam.state import State

# Who says nothing in so many times as many admissions as are looked at is absent.
ABSENT = 3


class Throttle(Stage):
    """No worker owns much more of the last `rounds` n admissions than the (f'+1)-th most admitted.

        a_p  <  factor * a_(f'+1) + 2,    f' = f - how many are absent

    a_p being how many of them p owns, and a_(f'+1) the (f'+1)-th largest of these numbers. As at
    most f lie or are absent, that is at most what the fastest honest worker owns, so that liars,
    however often they answer, are admitted at most `factor` times as often as it; two are free, so
    that the first has a place.

    Absent is who says nothing while others own three times as many admissions: for his sake the
    fastest of the others need not be held to a slower one. Not who is refused: he may be honest,
    and framed, and the f who framed him are there.

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
        self._owners: deque[WorkerId] = deque(maxlen=rounds * n)
        self._owned = Population()
        self._patience = ABSENT * rounds * n
        self._admissions = 0
        # When each was heard last, in admissions: who was heard longest ago stands first.
        self._heard: dict[WorkerId, int] = {}

    def judge(self, evidence: Evidence) -> Refusal | None:
        worker = evidence.worker
        self._heard.pop(worker, None)
        self._heard[worker] = self._admissions
        owned, rank = self._owned.get(worker), self._liars() + 1
        # Whoever was never admitted is not in the ranks, and owns none.
        ranked = self._owned.largest(rank) if len(self._owned) >= rank else 0.0
        most = self.factor * ranked + 2
        return None if owned < most else Refusal("throttle", owned, 0, most, False)

    def _liars(self) -> int:
        """f': how many of those who are there may lie."""
        since = self._admissions - self._patience
        if since < 0:
            return self.f  # too early to miss anybody
        # The one who is judged was heard now.
        while self._heard[worker := next(iter(self._heard))] < since:
            del self._heard[worker]
        return max(self.f - (self.n - len(self._heard)), 0)

    def admit(self, evidence: Evidence) -> None:
        self._admissions += 1
        full = len(self._owners) == self._owners.maxlen
        leaves = self._owners[0] if full else NOBODY
        self._owners.append(evidence.worker)
        if leaves == evidence.worker:
            return
        if leaves != NOBODY:
            self._count(leaves, -1)
        self._count(evidence.worker, 1)

    def forget(self, worker: WorkerId) -> None:
        self._heard.pop(worker, None)
        # What he owned stays in the window, and is nobody's.
        self._owned.forget(worker)
        for at, owner in enumerate(self._owners):
            if owner == worker:
                self._owners[at] = NOBODY

    def _count(self, worker: WorkerId, more: int) -> None:
        self._owned[worker] = self._owned.get(worker) + more

    def state(self) -> State:
        return {
            "owners": list(self._owners),
            "admissions": self._admissions,
            "heard": [[worker, at] for worker, at in self._heard.items()],
        }

    def restore(self, state: State) -> None:
        for worker in state["owners"]:
            self._owners.append(worker)
            if worker != NOBODY:
                self._count(worker, 1)
        self._admissions = state["admissions"]
        self._heard = {worker: at for worker, at in state["heard"]}
