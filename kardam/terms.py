"""Who is refused for what it did before, and for how long.

Never in here: what was done, or by which measure.
"""

from collections import defaultdict
from collections.abc import Set
from dataclasses import astuple, dataclass

from kardam.messages import WorkerId
from kardam.state import State, Stateful

# How many times as long as the last a term is, and as the first at most.
FACTOR, LONGEST = 8, 16

# However often a worker was convicted, so many times `clean` rounds forgive it.
STRIKES_MAX = 20


@dataclass(slots=True)
class _Record:
    """How often a worker was convicted, less what is forgiven; and in admissions of anybody, when
    the last of either was, when its term is over, and when its parole after that.
    """

    strikes: int = 0
    since: int = 0
    until: int = 0
    parole: int = 0


class Terms(Stateful):
    """A conviction costs term min(8^(s-1), 16) rounds, s being the strikes with this one; a strike
    is forgiven for `clean` rounds without another. A round is n admissions, of anybody, so that no
    flood makes it shorter.

    Without terms a liar lives at the edge: while it is refused, honest work undoes what it did, so
    that it looks honest again, and the model rests where it is just admitted. Nothing shows a liar
    while it is refused, so a term ends by itself; once free it pushes the model until it is seen,
    for some 15 rounds, of which the second term and those after it are many times as long. None is
    longer still, since an honest worker's data are not fit while it serves.

    *Parole.* For `term` rounds after a term its worker's weight is 1/s: the harm of a lie that is
    seen in time is less. No longer, since who counts for less does less harm, by which it would be
    seen; nor the first time, since an honest worker's data must be fit again.

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

    def weight(self, worker: WorkerId) -> float:
        """1/s on parole, s being the strikes that are not forgiven; else 1."""
        record = self._records.get(worker)
        if record is None or self._admissions >= record.parole:
            return 1.0
        return 1 / max(1, record.strikes)

    def convicted(self, worker: WorkerId) -> bool:
        """Whether it was, and not all of that is forgiven."""
        record = self._records.get(worker)
        return record is not None and record.strikes > 0

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
            self._release(worker)
        elif guilty:
            strikes = min(record.strikes + 1, STRIKES_MAX)
            # Without a place there is no conviction: f others are to blame.
            if self._has_place_for(strikes, places):
                record.strikes, record.since = strikes, now
                record.until = now + self.n * self.term * min(FACTOR ** (strikes - 1), LONGEST)
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
        if not 0 < len(self._serving) <= places:
            return False
        freed = min(self._serving, key=lambda worker: (self._records[worker].strikes, worker))
        if self._records[freed].strikes >= strikes:
            return False
        self._release(freed)
        return True

    def _release(self, worker: WorkerId) -> None:
        self._serving.remove(worker)
        record, now = self._records[worker], self._admissions
        record.since, record.parole = now, now + self.n * self.term

    def forget(self, worker: WorkerId) -> None:
        """This worker is no more."""
        self._serving.discard(worker)
        self._records.pop(worker, None)

    def state(self) -> State:
        return {
            "records": [[worker, *astuple(its)] for worker, its in self._records.items()],
            "serving": sorted(self._serving),
            "admissions": self._admissions,
        }

    def restore(self, state: State) -> None:
        self._records.update((worker, _Record(*its)) for worker, *its in state["records"])
        self._serving, self._admissions = set(state["serving"]), state["admissions"]
