"""What a page shows beside the books: the last verdicts of each worker, the last refusals, and how
the run has gone so far. Told of everything; decides nothing.

No clock in here (seconds are given), and memory is bounded however long a run is.
"""

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

from kardam import diagnosis, explain
from kardam.messages import Verdict, WorkerId

# So many of the newest verdicts of a worker, and of all refusals, are remembered.
TRACE, REFUSALS = 40, 12

# More workers than these can not be read, and cost the server time to tell of.
ROWS = 100

# A course has so many points, at most.
POINTS = 600

# What became of a gradient, as the page draws it.
ADMITTED, OUTSIDE, OTHERWISE = 0, 1, 2

_COURSE = ("seconds", "gradients_per_second", "updates_per_second")


class Course:
    """Rows over time, the whole of it: where there are too many, every second one is forgotten, and
    from then on only every second one is kept.
    """

    def __init__(self, most: int = POINTS) -> None:
        self._most = most
        self._every = 1
        self._skipped = 0
        self.rows: list[tuple[float | None, ...]] = []

    def add(self, row: tuple[float | None, ...]) -> None:
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self.rows.append(row)
        if len(self.rows) > self._most:
            self.rows = self.rows[::2]
            self._every *= 2


class Watch:
    """See `snapshot`."""

    def __init__(self) -> None:
        self._traces: dict[WorkerId, deque[Verdict]] = defaultdict(lambda: deque(maxlen=TRACE))
        self._refusals: deque[tuple[float, Verdict]] = deque(maxlen=REFUSALS)
        self._course = Course()

    def record(self, verdict: Verdict, now: float) -> None:
        """One verdict; called for each, so it only remembers."""
        self._traces[verdict.worker].append(verdict)
        if not verdict.admitted:
            self._refusals.append((now, verdict))

    def measure(self, metrics: Mapping[str, Any]) -> None:
        """How the run stands; called once in a while."""
        staleness = metrics["staleness"]
        its = (staleness["median"], staleness["p95"], metrics["loss"], metrics["accuracy"])
        self._course.add((*(metrics[name] for name in _COURSE), *its))

    def snapshot(self, books: Mapping[str, Any]) -> dict[str, Any]:
        """The books with all of this, as plain values for JSON; of very many workers, ROWS: those
        that are said to lie, then those that stand out.

        A row's `apart` is what stands out, its `trace` of its newest verdicts, oldest first: what
        became of it (ADMITTED, OUTSIDE of the band, or refused OTHERWISE), and what the filter
        compared. `course` has a row a moment: seconds, gradients and updates a second, median and
        95 % staleness, loss, held-out share.
        """
        rows = zip(books["workers"], diagnosis.of_workers(books), strict=True)
        shown = sorted(rows, key=lambda its: (not its[0]["byzantine"], not its[1]))[:ROWS]
        shown.sort(key=lambda its: its[0]["worker"])
        return {
            **{name: its for name, its in books.items() if name != "held_out"},
            "workers": [{**row, "apart": apart, "trace": self._trace(row)} for row, apart in shown],
            "of_workers": len(books["workers"]),
            "refusals": [_refusal(now, verdict) for now, verdict in reversed(self._refusals)],
            "course": self._course.rows,
            "trouble": diagnosis.of_run(books),
        }

    def _trace(self, row: Mapping[str, Any]) -> list[tuple[int, float | None]]:
        return [_fate(verdict) for verdict in self._traces[row["worker"]]]


def _fate(verdict: Verdict) -> tuple[int, float | None]:
    inside = verdict.band_low <= verdict.reading <= verdict.band_high
    banded = not math.isnan(verdict.band_high) and not math.isnan(verdict.reading)
    kind = ADMITTED if verdict.admitted else OUTSIDE if banded and not inside else OTHERWISE
    return kind, _plain(verdict.reading)


def _refusal(now: float, verdict: Verdict) -> dict[str, Any]:
    return {
        "seconds": round(now, 3),
        "worker": verdict.worker,
        "rule": verdict.rule,
        "staleness": verdict.staleness,
        "why": explain.why(verdict.rule, verdict.value, verdict.low, verdict.high),
    }


def _plain(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
