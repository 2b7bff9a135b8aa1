"""What the README shows is what is there: its examples run, and its tables name everything."""

import re
from pathlib import Path

import pytest

from kardam.aggregators import AGGREGATORS
from kardam.dampening import DAMPENINGS
from kardam.errors import EXIT_CODES
from kardam.filters import STAGES
from kardam.gathering import GATHERINGS
from kardam.optimizers import OPTIMIZERS
from kardam.rates import RATES
from kardam.recipe import PRESETS
from tests.test_house import MODULES
from tests.test_run import kardam
from workers.attacks import ATTACKS
from workers.latency import LATENCIES
from workers.speeds import SPEEDS
from workers.tasks import SPLITS, TASKS

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(marker: str) -> str:
    """The fenced block that follows `<!-- marker -->`."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found is not None, marker
    return found[1]


@pytest.mark.slow
def test_the_example_of_ones_own_model_works_when_pasted(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block("example: mine.py"))
    program, *words = block("example: run").split()
    assert program == "kardam"
    code, books, err = kardam(*words, "--json", "--quiet", "--seed", "0", cwd=tmp_path)
    assert code == 0, err
    assert books["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("flag", "table"),
    [
        ("--preset", PRESETS),
        ("--filter", STAGES),
        ("--dampening", DAMPENINGS),
        ("--rate", RATES),
        ("--optimizer", OPTIMIZERS),
        ("--gather", GATHERINGS),
        ("--aggregator", AGGREGATORS),
        ("--attack", ATTACKS),
        ("--task", TASKS),
        ("--split", SPLITS),
        ("--latency", LATENCIES),
        ("--speeds", SPEEDS),
    ],
)
def test_the_table_of_choices_names_every_choice(flag: str, table: dict[str, object]) -> None:
    (row,) = re.findall(rf"^\| .*`{flag}`.*$", README, re.MULTILINE)
    missing = [name for name in table if f"`{name}" not in row and name != "honest"]
    assert missing == []


def test_the_map_of_the_house_names_every_room() -> None:
    house = re.search(r"## The house\n\n```\n(.*?)```", README, re.DOTALL)
    assert house is not None
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert sorted(room for room in rooms if not re.search(rf"\b{room}\b", house[1])) == []


def test_the_exit_codes_are_all_told() -> None:
    told = re.search(r"Exit codes: (.*?)\n\n", README, re.DOTALL)
    assert told is not None
    assert {int(code) for code in re.findall(r"\b\d+\b", told[1])} == EXIT_CODES.keys()
