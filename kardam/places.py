"""Which of the n workers are there, why the others are not, and whose place a newcomer may take.

Never in here: a connection, or what a worker does.
"""

from collections.abc import Iterable

from kardam.messages import WorkerId

# Seconds. Whoever says goodbye makes room at once; who is only gone may come back, and has so long.
VACANT = 60.0


class Places:
    """n places. At first nobody has taken one; `expected` are those who have a token already, of a
    server before this one, and may be on their way back.
    """

    def __init__(self, n: int, expected: Iterable[WorkerId], now: float) -> None:
        self.n = n
        self._taken: set[WorkerId] = set()
        # Why a worker who is not there is not, and since when.
        self._absent = {worker: ("expected", now) for worker in expected}

    def take(self, worker: WorkerId) -> None:
        """This worker is there."""
        self._absent.pop(worker, None)
        self._taken.add(worker)

    def leave(self, worker: WorkerId, why: str, now: float) -> None:
        """It is there no longer."""
        self._taken.discard(worker)
        self._absent[worker] = (why, now)

    def expect(self, worker: WorkerId, now: float) -> None:
        """It has been promised this place, and is on its way."""
        self._absent[worker] = ("expected", now)

    def vacancy(self, now: float) -> WorkerId | None:
        """A worker nobody is, or else one that left, or is gone for good. It keeps its history."""
        for worker in range(self.n):
            if worker not in self._taken and worker not in self._absent:
                return worker
        for worker, (why, since) in self._absent.items():
            if why == "left" or now - since > VACANT:
                return worker
        return None

    def why_absent(self, worker: WorkerId) -> str:
        """expected, left, gone, replaced or revoked; unknown where nobody was ever this worker."""
        return self._absent.get(worker, ("unknown", 0.0))[0]
