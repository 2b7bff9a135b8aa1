"""What a run has done so far: counts of verdicts, by reason and by worker. Told of everything;
decides nothing.

No clock in here (seconds are given), and no rule reads it.
"""

import math
from collections import Counter, defaultdict, deque
from typing import Any, NamedTuple

from kardam.messages import NOBODY, UNASKED, Verdict, WorkerId
from kardam.stage import Slowdown
from kardam.state import State

# Rates are over the last so many seconds: long enough to be calm, short enough to show a change.
RATE_SECONDS = 10

# Refused in a row, of a worker, that is more than its bad luck.
STALLED_EACH = 20

# So many of the newest evaluations are kept; of older ones tell the metrics.
HELD_OUT_MAX = 500


class Tally:
    """Delivered, admitted, and refused by reason: of a worker, of all honest ones, of everybody.

    What answers no hand-out is refused, and not delivered: anybody can send as much of it as he
    likes, and would end a run of so many arrivals by it.
    """

    def __init__(self) -> None:
        self.delivered = 0
        self.admitted = 0
        self.refused: Counter[str] = Counter()

    def add(self, verdict: Verdict) -> None:
        self.delivered += answers(verdict)
        if verdict.admitted:
            self.admitted += 1
        else:
            self.refused[verdict.rule] += 1

    @property
    def share(self) -> float:
        """Admitted of delivered; NaN while nothing was delivered."""
        return self.admitted / self.delivered if self.delivered else math.nan

    def state(self) -> State:
        return {
            "delivered": self.delivered,
            "admitted": self.admitted,
            "refused": dict(self.refused),
        }

    def restore(self, state: State) -> None:
        self.delivered, self.admitted = state["delivered"], state["admitted"]
        self.refused = Counter(state["refused"])


def answers(verdict: Verdict) -> bool:
    """Whether it is of a gradient that answers a hand-out."""
    return verdict.rule != UNASKED


class Evaluation(NamedTuple):
    """What the evaluator found of the model after so many updates."""

    updates: int
    seconds: float
    loss: float
    accuracy: float


class Meter:
    """How much a second, over the last RATE_SECONDS whole seconds and the one that runs."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, float]] = deque()

    def add(self, amount: float, now: float) -> None:
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            amount += self._buckets.pop()[1]
        self._buckets.append((second, amount))
        while self._buckets[0][0] < second - RATE_SECONDS:
            self._buckets.popleft()

    def per_second(self, now: float) -> float:
        recent = [bucket for bucket in self._buckets if bucket[0] >= now - RATE_SECONDS]
        if not recent:
            return 0.0
        return sum(amount for _, amount in recent) / max(now - recent[0][0], 1.0)


class WorkerStats:
    """One worker's row."""

    _PLAIN = ("label", "byzantine", "staleness", "growth", "weight", "violations")

    def __init__(self) -> None:
        self.tally = Tally()
        self.rate = Meter()
        self.label = ""
        self.byzantine = False
        self.staleness = -1
        self.growth = math.nan
        self.weight = math.nan
        self.reading = math.nan
        self.violations = 0

    def state(self) -> State:
        plain = {name: getattr(self, name) for name in self._PLAIN}
        return {"tally": self.tally.state(), **plain}

    def restore(self, state: State) -> None:
        self.tally.restore(state["tally"])
        for name in self._PLAIN:
            setattr(self, name, state.get(name, 0))  # violations, in a state of before


class Stats:
    """The run's books.

    A worker's `label` and `byzantine` are what its owner says that it is, for reports alone. Where
    somebody is said to be Byzantine, `slowdown` is the share of honest work admitted, else of all.
    """

    def __init__(self, n: int, f: int, slowdown: Slowdown | None = None) -> None:
        self.n, self.f = n, f
        self.bounds = slowdown
        self.updates = 0
        self.total = Tally()
        self.honest = Tally()
        self.byzantine = Tally()
        self.started = 0
        # Why each gradient was refused since the last one was admitted, and of how many of each.
        self.since_admitted: Counter[str] = Counter()
        self._refused_since: Counter[WorkerId] = Counter()
        self.held_out: list[Evaluation] = []
        self.violations = 0
        # Handshakes that were refused, since this server began.
        self.strangers = 0
        # Of the filter, when it last read anything.
        self.band = math.nan, math.nan
        self.workers: dict[WorkerId, WorkerStats] = defaultdict(WorkerStats)
        # How many deliveries were how stale.
        self.stale: Counter[int] = Counter()
        # Bytes of models and gradients since this server began.
        self.received = self.sent = 0
        # Models lent, and the seconds that their askers waited in all.
        self.lent, self.waited = 0, 0.0
        self._delivered, self._updates = Meter(), Meter()
        self._received, self._sent = Meter(), Meter()

    # --- being told ---

    def label(self, worker: WorkerId, label: str, byzantine: bool) -> None:
        """What this worker's owner says that it is."""
        self.workers[worker].label = label
        self.workers[worker].byzantine = byzantine

    def begin(self, worker: WorkerId) -> None:
        """Somebody else is this worker from now on; what was counted in all stays."""
        self.workers.pop(worker, None)
        self._refused_since.pop(worker, None)

    def violated(self, worker: WorkerId) -> None:
        """A message that makes no sense where it came; NOBODY's if its peer is no worker."""
        self.violations += 1
        if worker != NOBODY:
            self.workers[worker].violations += 1

    def record(self, verdict: Verdict, now: float) -> None:
        """One verdict, at this second of the run."""
        row = self.workers[verdict.worker]
        for tally in (self.total, row.tally, self.byzantine if row.byzantine else self.honest):
            tally.add(verdict)
        if not answers(verdict):
            return
        self.started += verdict.admitted and verdict.rule == "startup"
        if verdict.admitted:
            self.since_admitted.clear()
            self._refused_since.clear()
        else:
            self.since_admitted[verdict.rule] += 1
            self._refused_since[verdict.worker] += 1
        self._delivered.add(1, now)
        row.rate.add(1, now)
        if verdict.updates > self.updates:
            self._updates.add(verdict.updates - self.updates, now)
            self.updates = verdict.updates
        if verdict.staleness >= 0:
            self.stale[verdict.staleness] += 1
            row.staleness = verdict.staleness
        if not math.isnan(verdict.growth):
            row.growth = verdict.growth
        if not math.isnan(verdict.reading):
            row.reading = verdict.reading
            self.band = verdict.band_low, verdict.band_high
        if verdict.admitted:
            row.weight = verdict.weight

    def evaluated(self, updates: int, loss: float, accuracy: float, now: float) -> None:
        """What the evaluator found of the model after so many updates; what is infinite it does not
        know, and no run reaches its goal by it.
        """
        loss, accuracy = (its if math.isfinite(its) else math.nan for its in (loss, accuracy))
        self.held_out.append(Evaluation(updates, now, loss, accuracy))
        del self.held_out[:-HELD_OUT_MAX]

    def moved(self, received: int, sent: int, now: float) -> None:
        """Bytes of models and gradients, over the wire or through shared memory."""
        self.received += received
        self.sent += sent
        self._received.add(received, now)
        self._sent.add(sent, now)

    def served(self, waited: float) -> None:
        """A worker got the model that it had asked for so many seconds ago."""
        self.lent += 1
        self.waited += waited

    # --- being asked ---

    @property
    def labelled(self) -> bool:
        """Whether anybody is said to be Byzantine."""
        return any(row.byzantine for row in self.workers.values())

    @property
    def accuracy(self) -> float:
        return self.held_out[-1].accuracy if self.held_out else math.nan

    @property
    def loss(self) -> float:
        return self.held_out[-1].loss if self.held_out else math.nan

    @property
    def stalled(self) -> bool:
        """Whether nothing was admitted for 50 n deliveries, of which n - f workers have had more
        than a few: the f who lie may be refused as often as they please, and end no run by it.
        """
        if self.since_admitted.total() < 50 * self.n:
            return False
        enough = sum(count >= STALLED_EACH for count in self._refused_since.values())
        return enough >= self.n - self.f

    def staleness(self, share: float) -> int:
        """The smallest staleness that so large a share of the deliveries do not exceed; 0 before
        any.
        """
        wanted = share * self.stale.total()
        seen = 0
        for tau in sorted(self.stale):
            seen += self.stale[tau]
            if seen >= wanted:
                return tau
        return 0

    def snapshot(self, now: float) -> dict[str, Any]:
        """Everything, as plain values for JSON; NaN and infinities as None."""
        return {
            **self.metrics(now),
            "held_out": [
                [updates, at, _plain(loss), _plain(accuracy)]
                for updates, at, loss, accuracy in self.held_out
            ],
            "workers": [self._row(worker, now) for worker in sorted(self.workers)],
        }

    def metrics(self, now: float) -> dict[str, Any]:
        """The numbers of the whole run: a snapshot without its history and its rows."""
        return {
            "accuracy": _plain(self.accuracy),
            "loss": _plain(self.loss),
            "delivered": self.total.delivered,
            "admitted": self.total.admitted,
            "refused": dict(self.total.refused.most_common()),
            "slowdown": _plain((self.honest if self.labelled else self.total).share),
            "slowdown_of": "honest" if self.labelled else "all",
            "slowdown_bounds": self.bounds._asdict() if self.bounds else None,
            "band": dict(zip(("low", "high"), map(_plain, self.band), strict=True)),
            "updates": self.updates,
            "seconds": round(now, 3),
            "n": self.n,
            "f": self.f,
            "startup": self.started,
            "since_admitted": dict(self.since_admitted),
            "violations": self.violations,
            "strangers": self.strangers,
            "updates_per_second": self._updates.per_second(now),
            "gradients_per_second": self._delivered.per_second(now),
            "bytes_per_second": {
                "received": self._received.per_second(now),
                "sent": self._sent.per_second(now),
            },
            "staleness": {
                "median": self.staleness(0.5),
                "p95": self.staleness(0.95),
                "max": max(self.stale, default=0),
            },
            "honest": _tally(self.honest),
            "byzantine": _tally(self.byzantine),
            "byzantine_share": _plain(
                self.byzantine.admitted / self.total.admitted if self.total.admitted else math.nan
            ),
        }

    # --- checkpoints ---

    def state(self) -> State:
        """All counts; rates begin anew, and so do readings."""
        return {
            "updates": self.updates,
            "started": self.started,
            "since_admitted": dict(self.since_admitted),
            "violations": self.violations,
            "tallies": [t.state() for t in (self.total, self.honest, self.byzantine)],
            "held_out": list(self.held_out),
            "staleness": [list(pair) for pair in self.stale.items()],
            "workers": [[worker, row.state()] for worker, row in self.workers.items()],
        }

    def restore(self, state: State) -> None:
        self.updates, self.started = state["updates"], state["started"]
        self.since_admitted = Counter(state["since_admitted"])
        self.violations = state["violations"]
        for tally, told in zip(
            (self.total, self.honest, self.byzantine), state["tallies"], strict=True
        ):
            tally.restore(told)
        self.held_out = [
            Evaluation(int(u), s, loss, accuracy) for u, s, loss, accuracy in state["held_out"]
        ]
        self.stale = Counter({tau: count for tau, count in state["staleness"]})
        for worker, row in state["workers"]:
            self.workers[worker].restore(row)

    def _row(self, worker: WorkerId, now: float) -> dict[str, Any]:
        row = self.workers[worker]
        return {
            "worker": worker,
            "label": row.label,
            "byzantine": row.byzantine,
            **_tally(row.tally),
            "share": _plain(row.tally.share),
            "refused": dict(row.tally.refused.most_common()),
            "per_second": row.rate.per_second(now),
            "growth": _plain(row.growth),
            "reading": _plain(row.reading),
            "staleness": row.staleness,
            "weight": _plain(row.weight),
            "violations": row.violations,
        }


def _tally(tally: Tally) -> dict[str, int]:
    return {"delivered": tally.delivered, "admitted": tally.admitted}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
