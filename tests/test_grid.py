"""A grid plays a cell once, loses nothing when it is killed, and its tables are those of its cells.

Cells of two virtual seconds: what they come to is no matter here.
"""

import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import cells, grid, report
from bench.report import DEFAULT, HONEST, Place, Row
from workers.attacks import ATTACKS

TINY = ["--rule", "none", "--rule", "sync bulyan", "--condition", "iid"]
TINY += ["--attack", "no attack", "--attack", "sign_flip:scale=10"]
TINY += ["--seeds", "1", "--decide", "1", "--seconds", "2"]
CELLS = 4

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


def ran(out: Path, *words: str) -> tuple[str, str]:
    """Standard output and error."""
    result = CliRunner().invoke(grid.main, [*TINY, *words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_cell_is_played_once_and_again_only_if_something_changed(
    tmp_path: Path, plays: list[cells.Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said = ran(tmp_path)
    assert len(plays) == len(set(plays)) == CELLS
    assert f"{CELLS} different cells, {CELLS} of them to be played\nabout " in said
    again, said = ran(tmp_path)
    assert len(plays) == CELLS
    assert f"{CELLS} different cells, 0 of them to be played" in said
    assert again == first
    ran(tmp_path, "--seconds", "3")
    assert len(plays) == 2 * CELLS
    monkeypatch.setattr(cells, "code_version", lambda: "another")
    ran(tmp_path)
    assert len(plays) == 3 * CELLS


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
    assert len(plays) == CELLS - 2
    whole, _ = ran(tmp_path / "whole")
    assert resumed == whole
    told = [(tmp_path / run / "grid.json").read_text() for run in ("killed", "whole")]
    assert told[0] == told[1]


@pytest.mark.slow
def test_several_processes_come_to_the_same(tmp_path: Path) -> None:
    assert ran(tmp_path / "one")[0] == ran(tmp_path / "two", "--jobs", "2")[0]


def test_the_tables_are_those_of_the_cells(tmp_path: Path) -> None:
    shown, _ = ran(tmp_path, "--seeds", "2", "--decide", "2")
    # The files again, without the code that made the tables.
    found: dict[tuple[str, bool], list[float]] = {}
    for path in sorted((tmp_path / "cells").glob("*.json")):
        told = json.loads(path.read_text())
        (at, accuracy) = told["played"]["curve"][-1]
        assert at == told["seconds"] == 2
        rule = "none" if told["recipe"]["gather"] == "arrival:m=1" else "sync bulyan*"
        lied = any(member["attack"] != "honest" for member in told["members"])
        found.setdefault((rule, lied), []).append(accuracy)
    means = {place: statistics.fmean(accuracies) for place, accuracies in found.items()}
    assert {len(accuracies) for accuracies in found.values()} == {2}
    for rule in ("none", "sync bulyan*"):
        line = f"| {rule} | {means[rule, False]:.3f} | {means[rule, True]:.3f} |"
        assert line in shown
        worst = min(means[rule, False], means[rule, True])
        assert f"| {rule} | {worst:.3f} | " in shown.partition("over all of it")[2]
    told = json.loads((tmp_path / "grid.json").read_text())
    assert len(told) == CELLS
    for row in told:
        mean = means[row["rule"] + "*" * row["starred"], row["attack"] != HONEST]
        assert row["accuracy"] == pytest.approx(mean)
        assert row["loss"] == pytest.approx(100 * (means["none", False] - mean))
    cells_shown = (tmp_path / "cells.md").read_text().splitlines()
    assert len(cells_shown) == 2 + CELLS


def test_the_heat_map_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran(tmp_path)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


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
        if grid.starred(Place("digits", size[0], size[1], "iid", HONEST, rule, 0))
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
    return Row(at, seeds, False, 0.9, loss, within, 1.0, 1.0, 0.0, 0.0, 9.0, 1.0)


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
