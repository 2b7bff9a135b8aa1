"""What stands out is named, with the knob to turn; what does not is left in peace."""

import io
from typing import Any

import pytest
from rich.console import Console

from kardam import view
from kardam.diagnosis import KNOBS, lost, of_run, of_workers
from kardam.filters import STAGES
from kardam.messages import Verdict
from kardam.stats import Stats


def books(status: str = "running", **changed: dict[str, Any]) -> dict[str, Any]:
    """Five workers alike, but for what is `changed` of worker 0."""
    stats = Stats(5, 1)
    for worker in range(5):
        for turn in range(40):
            admitted = turn % 2 == 0
            rule = "" if admitted else "growth"
            stats.record(Verdict(worker, turn, admitted, rule, turn), turn / 4)
    told = {"status": status, **stats.snapshot(10.0)}
    for row in told["workers"]:
        row["state"] = "alive"
    told["workers"][0] |= changed.get("worker", {})
    return told | changed.get("run", {})


def test_among_workers_alike_nobody_stands_out() -> None:
    told = books()
    assert of_workers(told) == [""] * 5
    assert of_run(told) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "missing"}, "absent"),
        ({"state": "gone"}, "absent"),
        ({"state": "left"}, "left"),
        ({"per_second": 0.4}, "slow x10"),
        ({"per_second": 0.0}, "slow x999"),
        ({"share": 0.1}, "refused"),
        ({"share": 0.0, "per_second": 0.4}, "slow x10, refused"),
        ({"share": 0.0, "delivered": 9}, ""),  # too early to say
        ({"share": 0.9}, ""),
    ],
)
def test_a_slow_an_absent_and_a_refused_worker_stand_out(
    changes: dict[str, Any], words: str
) -> None:
    told = books(worker={"per_second": 4.0, **changes})
    for row in told["workers"][1:]:
        row["per_second"] = 4.0
    assert of_workers(told)[0] == words
    page = Console(width=140, record=True, file=io.StringIO())
    page.print(view.report(told))
    assert words in " ".join(page.export_text().split())


def test_a_run_that_waits_says_for_whom_and_what_helps() -> None:
    words = of_run(books("waiting (2 of 4)"))
    assert "waiting (2 of 4): models go out when n - f = 4 workers are there" in words
    assert "--workers" in words


@pytest.mark.parametrize("rule", [*KNOBS, "a rule of my own"])
def test_a_run_that_admits_nothing_names_the_rule_and_the_knob(rule: str) -> None:
    since = {"startup": 3, rule: 100}
    told = books(run={"since_admitted": since})
    assert f"100 of the last 103 gradients refused by {rule}" in of_run(told)
    assert of_run(told) == lost(since) == view.line(told)


def test_every_rule_that_can_refuse_has_its_hint() -> None:
    assert set(STAGES) - {"clip"} <= set(KNOBS)
