"""What stands out in the books, in words: of a worker, and of a run that does not get on, with the
knob to turn.

Reads plain values. Never in here: a rule that decides anything; these are hints for people.
"""

import statistics
from collections.abc import Mapping
from typing import Any

Books = Mapping[str, Any]
Row = Mapping[str, Any]

# A worker stands out when it is so many times slower, or so much less of it is admitted, than the
# median worker; and not before it has answered so often.
APART = 3.0
ANSWERS = 10

# Nothing admitted for so many gradients a worker: worth a word long before the run is given up.
WORRYING = 5

KNOBS = {
    "growth": "widen the band (growth:c=..., or low=...,high=...), or assume fewer liars (--f)",
    "consensus": "histories differ more than this bears: a larger far and out, or a smaller near",
    "echo": "histories are alike, as those of colluders are: a smaller echo",
    "throttle": "few workers do all the work: a larger factor",
    "twice": "a buffer waits for other workers: a smaller m (--gather)",
    "frequency": "too few workers take turns: assume fewer liars (--f), or leave out frequency",
    "server_growth": "this rule freezes by its nature: take another --preset",
    "unmeasured": "no growth can be measured while the model stands still: a larger --rate",
    "nonfinite": "the model or the gradients have left the numbers: a smaller --rate",
    "malformed": "workers answer with another model's gradients: check their --task",
    "probation": "whoever is new is heard, and counts after five answers",
    "stale": "rounds leave the slow behind: a smaller m (--gather synchronous:m=...)",
    "late": "gradients take too long to arrive: check the line",
}


def of_run(books: Books) -> str:
    """Why the run does not get on, and what to turn; empty where it does."""
    status = str(books["status"])
    if status.startswith("waiting"):
        n, f = books["n"], books["f"]
        return (
            f"{status}: models go out when n - f = {n - f} workers are there; start more"
            " (kardam work), or serve fewer (--workers)"
        )
    since = books["since_admitted"]
    if sum(since.values()) < WORRYING * books["n"]:
        return ""
    return lost(since)


def lost(since: Mapping[str, int]) -> str:
    """What refused the last gradients, and what to turn."""
    rule, count = max(since.items(), key=lambda item: item[1])
    knob = KNOBS.get(rule, f"see what {rule!r} asks for")
    return f"{count:,} of the last {sum(since.values()):,} gradients refused by {rule}: {knob}"


def of_workers(books: Books) -> list[str]:
    """How each worker differs from most, in the order of the rows; empty where it does not."""
    heard = [row for row in books["workers"] if row["delivered"] >= ANSWERS]
    speed, share = (
        statistics.median(row[what] for row in heard) if heard else 0.0
        for what in ("per_second", "share")
    )
    return [_apart(row, speed, share) for row in books["workers"]]


def _apart(row: Row, speed: float, share: float) -> str:
    if row.get("violations"):
        return f"breaks the protocol ({row['violations']:,})"
    if row["state"] != "alive":
        return "absent" if row["state"] in ("missing", "gone") else str(row["state"])
    if row["delivered"] < ANSWERS:
        return ""
    words = []
    if speed > 0:
        slower = speed / max(row["per_second"], 1e-9)
        words += [f"slow x{min(slower, 999):.0f}"] * (slower >= APART)
    if row["share"] * APART <= share:
        words += ["refused"]
    return ", ".join(words)
