"""Who is refused for what it did before, and for how long.

Never in here: what was done, or by which measure.
"""

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass

from kardam.messages import WorkerId
from kardam.state import State, Stateful

# A term of 2^20 is for ever.
STRIKES_MAX = 20


@dataclass(slots=True)
class _Record:
    """How often a worker was convicted, less what is forgiven; when the last of either was, and
    when its term is over, in admissions of anybody.
    """

    strikes: int = 0
    since: int = 0
    until: int = 0


class Terms(Stateful):
    """A conviction costs `term` 2^(s-1) rounds, s being the strikes with this one; a strike is
    forgiven for `clean` rounds without another. A round is n admissions, of anybody, so that no
    flood makes it shorter.

    Without terms a liar lives at the edge: while it is refused, honest work undoes what it did, so
    that it looks honest again, and the model rests where it is just admitted.

    No more than a number of places serve at once, those with the most strikes first: where they are
    f, n - f work on, whatever honest work looks like.
    """

    def __init__(self, n: int, term: int, clean: int) -> None:
        if not (term >= 0 and clean >= 1):
            raise ValueError(f"expected term >= 0 and clean >= 1, got term={term}, clean={clean}")
        self.n = n
        self.term, self.clean = term, clean
        self._records: dict[WorkerId, _Record] = defaultdict(_Record)
        self._serving: set[WorkerId] = set()
        self._admissions = 0

    @property
    def serving(self) -> Set[WorkerId]:
        """Who does."""
        return self._serving

    def strikes(self, worker: WorkerId) -> int:
        """Of how many convictions it is not forgiven yet."""
        record = self._records.get(worker)
        return record.strikes if record is not None else 0

    @property
    def now(self) -> int:
        """Admissions of anybody."""
        return self._admissions

    def long_ago(self, then: int) -> bool:
        """Whether `clean` rounds have gone by."""
        return self._admissions - then >= self.n * self.clean

    def admit(self) -> None:
        """An answer of somebody was admitted."""
        self._admissions += 1

    def serves(self, worker: WorkerId, *, guilty: bool, places: int) -> bool:
        """Whether this worker is refused, after an answer that shows it `guilty` or not; of those
        that are, no more than `places` serve. A term that ends while it is goes on until it is
        not, and costs it no further strike.
        """
        record, now = self._records[worker], self._admissions
        if worker in self._serving:
            if guilty or now < record.until:
                return True
            self._serving.remove(worker)
            record.since = now
        elif guilty:
            strikes = min(record.strikes + 1, STRIKES_MAX)
            # Without a place there is no conviction: f others are to blame.
            if self._has_place_for(strikes, places):
                record.strikes, record.since = strikes, now
                record.until = now + self.n * self.term * 2 ** (strikes - 1)
                self._serving.add(worker)
                return True
        elif record.strikes > 0 and self.long_ago(record.since):
            record.strikes -= 1
            record.since = now
        return False

    def _has_place_for(self, strikes: int, places: int) -> bool:
        """Whether who has so many may serve; where no place is free, who has fewer makes room."""
        if self.term == 0:
            return False
        if len(self._serving) < places:
            return True
        if not self._serving:
            return False
        freed = min(self._serving, key=lambda worker: (self._records[worker].strikes, worker))
        if self._records[freed].strikes >= strikes:
            return False
        self._serving.remove(freed)
        return True

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more."""
        self._serving.discard(worker)
        self._records.pop(worker, None)

    def state(self) -> State:
        return {
            "records": [
                [worker, its.strikes, its.since, its.until] for worker, its in self._records.items()
            ],
            "serving": sorted(self._serving),
            "admissions": self._admissions,
        }

    def restore(self, state: State) -> None:
        self._records.update((worker, _Record(*its)) for worker, *its in state["records"])
        self._serving, self._admissions = set(state["serving"]), state["admissions"]
