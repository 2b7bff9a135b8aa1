"""A grid plays a cell once, loses nothing when it is killed, and its tables are those of its cells.

Cells of two virtual seconds: what they come to is no matter here.
"""

import json
import math
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import cells, grid, rates, report
from bench.report import DEFAULT, HONEST, Place, Row
from workers.attacks import ATTACKS

RULES = ["--rule", "none", "--rule", "sync bulyan"]
TINY = [*RULES, "--condition", "iid"]
TINY += ["--attack", "no attack", "--attack", "sign_flip:scale=10"]
TINY += ["--seeds", "1", "--decide", "1", "--seconds", "2", "--jobs", "1"]
PLACES = 4
# Besides those: a run twice as long, and half and double the rate of either rule.
FORETOLD = PLACES + 1 + 4

SIZES = ((10, 3), (15, 3), (20, 6), (27, 6))


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[cells.Cell]:
    """Every cell that is really played, as it happens."""
    seen: list[cells.Cell] = []

    def counted(cell: cells.Cell, play: Callable[..., cells.Played] = cells.play) -> cells.Played:
        seen.append(cell)
        return play(cell)

    monkeypatch.setattr(cells, "play", counted)
    return seen


def files(out: Path) -> list[dict[str, Any]]:
    """What is kept of each cell."""
    return [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]


def ran(out: Path, *words: str) -> tuple[str, str]:
    """Standard output and error."""
    result = CliRunner().invoke(grid.main, [*TINY, *words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_cell_is_played_once_and_again_only_if_something_changed(
    tmp_path: Path, plays: list[cells.Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said = ran(tmp_path)
    played = len(plays)
    assert played == len(set(plays)) >= FORETOLD
    assert f"{PLACES} places in the grid, {FORETOLD} different cells, {FORETOLD} of them" in said
    assert said.index("\nabout ") < said.index("\nthe rates:")
    again, said = ran(tmp_path)
    assert len(plays) == played
    assert f"{PLACES} places in the grid, 5 different cells, 0 of them to be played" in said
    assert again == first
    monkeypatch.setattr(cells, "code_version", lambda: "another")
    ran(tmp_path)
    assert len(plays) == 2 * played


def test_what_was_played_before_a_kill_is_not_played_again_and_nothing_differs(
    tmp_path: Path, plays: list[cells.Cell]
) -> None:
    # The process ends itself, without a word, in the middle of its third cell.
    program = f"""
import itertools, os, signal
from bench import cells, grid
play, count = cells.play, itertools.count(1)

def mortal(cell):
    if next(count) == 3:
        (folder / "of-this-cell.part").write_text("half a")
        os.kill(os.getpid(), signal.SIGKILL)
    return play(cell)

from pathlib import Path
folder = Path({str(tmp_path / "killed" / "cells")!r})
cells.play = mortal
grid.main({[*TINY, "--out", str(tmp_path / "killed")]!r})
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=cells.ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed" / "cells").glob("*.json"))) == 2
    resumed, _ = ran(tmp_path / "killed")
    left = len(plays)
    whole, _ = ran(tmp_path / "whole")
    assert left + 2 == len(plays) - left
    assert resumed == whole
    told = [(tmp_path / run / "grid.json").read_text() for run in ("killed", "whole")]
    assert told[0] == told[1]


@pytest.mark.slow
def test_several_processes_come_to_the_same(tmp_path: Path) -> None:
    assert ran(tmp_path / "one")[0] == ran(tmp_path / "two", "--jobs", "2")[0]


def test_the_tables_are_those_of_the_cells(tmp_path: Path) -> None:
    shown, _ = ran(tmp_path, "--seeds", "2", "--decide", "2")
    told = json.loads((tmp_path / "grid.json").read_text())
    rates = {row["rule"] + "*" * row["starred"]: row["rate"] for row in told}
    # The files again, without the code that made the tables.
    found: dict[tuple[str, bool], list[float]] = {}
    halves: dict[tuple[str, bool], list[float]] = {}
    for run in files(tmp_path):
        (at, accuracy) = run["played"]["curve"][-1]
        rule = "none" if run["recipe"]["gather"] == "arrival:m=1" else "sync bulyan*"
        lied = any(member["attack"] != "honest" for member in run["members"])
        if (at, run["recipe"]["rate"]) == (2, rates[rule]):
            found.setdefault((rule, lied), []).append(accuracy)
            half = [a for second, a in run["played"]["curve"] if second >= 1]
            halves.setdefault((rule, lied), []).append(statistics.fmean(half))
    means = {place: statistics.fmean(accuracies) for place, accuracies in found.items()}
    assert {len(accuracies) for accuracies in found.values()} == {2}
    for rule in ("none", "sync bulyan*"):
        line = f"| {rule} | {means[rule, False]:.3f} | {means[rule, True]:.3f} |"
        assert line in shown
        worst = min(means[rule, False], means[rule, True])
        rate = rates[rule].removeprefix("constant:gamma=")
        assert f"| {rule} | {rate} | {worst:.3f} | " in shown.partition("over all of it")[2]
    assert len(told) == PLACES
    for row in told:
        of = row["rule"] + "*" * row["starred"], row["attack"] != HONEST
        assert row["accuracy"] == pytest.approx(means[of])
        assert row["loss"] == pytest.approx(100 * (means["none", False] - means[of]))
        lost = [100 * (a - b) for a, b in zip(halves["none", False], halves[of], strict=True)]
        assert row["throughout"] == pytest.approx(statistics.fmean(lost))
    cells_shown = (tmp_path / "cells.md").read_text().splitlines()
    assert len(cells_shown) == 2 + PLACES


def test_the_heat_map_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran(tmp_path)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


# --- rates ---


def searched(start: float, accuracy: Callable[[float], float]) -> dict[float, float]:
    """Every rate that is tried, and what it comes to."""
    tried: dict[float, float] = {}
    while wave := rates.wanted(tried, start):
        tried |= {rate: accuracy(rate) for rate in wave}
    return tried


def hill(peak: float, rate: float) -> float:
    """Two points less for each doubling and halving."""
    return 0.9 - abs(math.log2(rate / peak)) / 50


def test_the_best_rate_stands_between_two_that_are_no_better() -> None:
    for start, peak in product((0.1, 0.8), (0.025, 0.1, 1.6)):
        tried = searched(start, partial(hill, peak))
        best = rates.best(tried)
        assert best == pytest.approx(peak)
        assert {best / 2, best, 2 * best} <= tried.keys()


def test_half_a_point_is_no_reason_for_another_rate() -> None:
    assert rates.best(searched(0.1, lambda rate: 0.9 + rate / 100)) == 0.1
    assert searched(0.1, lambda rate: 0.1).keys() == {0.05, 0.1, 0.2}


def test_each_rule_stands_at_the_best_of_the_rates_that_were_tried_without_attack(
    tmp_path: Path,
) -> None:
    ran(tmp_path, "--task", "synthetic", "--seconds", "20")
    told = json.loads((tmp_path / "grid.json").read_text())
    stands = {row["rule"]: row["rate"] for row in told}
    for rule, gather in (("none", "arrival:m=1"), ("sync bulyan", "synchronous:m=10")):
        came_to = {
            run["recipe"]["rate"]: cells.Played.of(run["played"]).accuracy
            for run in files(tmp_path)
            if run["recipe"]["gather"] == gather
            and run["seconds"] == 20
            and all(member["attack"] == "honest" for member in run["members"])
        }
        assert len(came_to) >= 3
        assert came_to[stands[rule]] >= max(came_to.values()) - rates.GAIN


def test_what_is_plain_sgd_behind_a_filter_stands_at_the_rate_of_plain_sgd() -> None:
    at = Place("digits", 10, 3, "flood", "nan", DEFAULT, 2)
    assert grid.tuned_at(at) == Place("digits", 10, 3, "iid", HONEST, "none", 0)
    assert grid.tuned_at(at._replace(rule="ctma")).rule == "ctma"


# --- how long ---


def test_the_grid_says_how_far_plain_sgd_is_below_the_plateau_of_a_run_twice_as_long(
    tmp_path: Path,
) -> None:
    for seconds, long_enough in ((2, False), (40, True)):
        out = tmp_path / str(seconds)
        shown, _ = ran(out, "--task", "synthetic", "--rule", "none", "--seconds", str(seconds))
        row = json.loads((out / "grid.json").read_text())[0]
        (longer,) = (run for run in files(out) if run["seconds"] == 2 * seconds)
        half = [a for at, a in longer["played"]["curve"] if at >= seconds]
        assert row["below"] == pytest.approx(100 * (statistics.fmean(half) - row["accuracy"]))
        assert (abs(row["below"]) <= report.NEAR) == long_enough
        assert ("these runs are too short" in shown) == (not long_enough)


# --- the battery ---


def test_every_attack_is_in_the_battery_under_every_rule_and_condition_of_every_size() -> None:
    assert grid.STRENGTHS.keys() <= ATTACKS.keys()
    tried = {part.partition(":")[0] for text in grid.BATTERY for part in text.split("+")}
    assert tried - {HONEST} == ATTACKS.keys() - {"honest", "flood"}
    for (n, f), condition, attack in product(SIZES, grid.CONDITIONS, grid.BATTERY):
        cell = grid.cell(Place("digits", n, f, condition, attack, DEFAULT, 0), 9.0)
        assert sum(member.byzantine for member in cell.members) == (f if attack != HONEST else 0)
    for (n, f), rule in product(SIZES, grid.RULES):
        assert 0 < grid.recipe(n, f, grid.RULES[rule]).f <= f


def test_a_rule_whose_precondition_fails_stands_at_its_largest_legal_f_and_is_starred() -> None:
    starred = {
        (size, rule)
        for size, rule in product(SIZES, grid.RULES)
        if grid.recipe(size[0], size[1], grid.RULES[rule]).f < size[1]
    }
    assert starred == {((10, 3), "sync bulyan"), ((20, 6), "sync bulyan")}
    assert grid.recipe(10, 3, grid.RULES["sync bulyan"]).f == 1  # 4f + 3 <= 10


def test_cells_of_one_seed_have_the_same_workers_but_for_their_lies() -> None:
    here = Place("digits", 10, 3, "speeds", HONEST, "none", 4)
    one = grid.cell(here, 9.0)
    other = grid.cell(here._replace(attack="nan", rule="paper"), 9.0)
    assert [m.factor for m in one.members] == [m.factor for m in other.members]
    assert (one.seed, one.split, one.seconds) == (other.seed, other.split, other.seconds)
    assert grid.cell(here._replace(seed=5), 9.0).members != one.members


def test_liars_who_are_honest_are_no_attack(tmp_path: Path) -> None:
    assert ran(tmp_path / "more", "--attack", "honest")[0] == ran(tmp_path / "as it was")[0]


def test_a_flood_without_attack_is_the_run_without_attack_and_not_played_again() -> None:
    iid = Place("digits", 10, 3, "iid", HONEST, "paper", 0)
    assert grid.cell(iid, 9.0).key == grid.cell(iid._replace(condition="flood"), 9.0).key


def test_a_cell_depends_on_the_code_that_plays_it_and_on_no_other() -> None:
    code = cells._closure("bench.cells")
    assert {"kardam.descent", "kardam.gathering.rivals", "workers.attacks.vectors"} <= code
    assert not code & {"kardam.server", "kardam.sessions", "workers.nursery", "bench.report"}


# --- lines ---


def a_row(loss: float, within: float, seeds: int, **place: str) -> Row:
    where = {"condition": "iid", "attack": "nan", "rule": DEFAULT, **place}
    at = Place("digits", 10, 3, where["condition"], where["attack"], where["rule"], 0)
    return Row(at, seeds, False, "", 0.0, 0.9, loss, within, 0.0, 1.0, 1.0, 0.0, 0.0, 9.0, 1.0)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ({"attack": HONEST}, 0.5),
        ({}, 1.5),
        ({"condition": "flood"}, 3.0),
        ({"condition": "speeds", "attack": HONEST}, 3.0),
    ],
)
def test_the_default_may_lose_so_many_points(place: dict[str, str], line: float) -> None:
    assert a_row(0.0, 0.0, 3, **place).line == line


def test_where_the_default_fails_its_line_ten_seeds_and_their_interval_decide() -> None:
    failing = a_row(1.6, 1.0, 3)
    more = grid.undecided([failing, a_row(1.4, 1.0, 3), a_row(9.0, 1.0, 3, rule="paper")], 10)
    assert more == [failing.place._replace(seed=seed) for seed in range(10)]
    assert [a_row(*of).verdict for of in ((1.6, 0.05, 10), (1.6, 0.5, 10), (1.4, 0.05, 10))] == [
        "fails",
        "open",
        "holds",
    ]


def test_the_time_to_a_target_is_that_of_the_first_evaluation_there() -> None:
    run = cells.Played([(0.0, 0.1), (1.0, 0.8), (2.0, 0.7), (3.0, 0.9)], [], 0, 0.0)
    assert report.seconds_to(run, 0.75) == 1.0
    assert report.seconds_to(run, 0.95) == float("inf")


def test_what_is_no_grid_is_one_sentence(tmp_path: Path) -> None:
    for words, said in (
        (["--size", "10"], "--size: expected n:f like 10:3, got '10'"),
        (["--attack", "sign_flop"], "did you mean 'sign_flip'"),
        (["--size", "9:3"], "--size 9:3: expected n > 3f > 0"),
        (["--task", "tests.test_tasks:regression"], "has no classes"),
    ):
        ran = CliRunner().invoke(grid.main, [*TINY, *words, "--out", str(tmp_path)])
        assert said in str(ran.exception)
