"""A file with lists is all of its runs: each as it would be alone, and none done twice."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.errors import UsageError
from kardam.records import EXPERIMENT, JOURNAL, METRICS, SUMMARY, Records
from kardam.sweep import cells, over_seeds, told
from tests.test_cli import Kardam, kardam
from tests.test_flags import here
from tests.test_run import ran

__all__ = ["here", "kardam"]  # fixtures

SMALL = 'task = "synthetic:d=10"\nworkers = 4\narrivals = 40\n'

axes = st.dictionaries(
    st.sampled_from(["attack", "seed", "preset", "root_examples"]),
    st.lists(st.integers(0, 9) | st.text(max_size=300), min_size=1, max_size=3, unique_by=str),
    min_size=1,
)


@given(axes=axes)
def test_there_is_a_run_for_every_choice_in_a_directory_of_its_own(
    axes: dict[str, list[int | str]],
) -> None:
    found = cells(axes)
    assert len(found) == math.prod(map(len, axes.values()))
    assert len({tuple(cell.choices.items()) for cell in found}) == len(found)
    assert len({cell.name for cell in found}) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9.,=_+-]{1,255}", cell.name) for cell in found)


def test_a_directory_is_named_by_what_was_chosen_and_the_last_list_is_the_fastest() -> None:
    found = cells({"attack": ["alie:z=1.5", "zero"], "root_examples": [1, 2]})
    assert [cell.name for cell in found] == [
        "attack=alie-z=1.5,root-examples=1",
        "attack=alie-z=1.5,root-examples=2",
        "attack=zero,root-examples=1",
        "attack=zero,root-examples=2",
    ]
    assert told({"attack": ["a", "b"], "root_examples": [1, 2]}) == (
        "4 runs: attack (2) x root-examples (2)"
    )


def test_a_slip_of_the_keyboard_is_not_a_thousand_runs() -> None:
    with pytest.raises(UsageError, match=r"seed \(30\) x f \(40\): expected at most 1,000"):
        cells({"seed": range(30), "f": range(40)})


def test_over_seeds_runs_are_one_and_those_without_an_accuracy_do_not_count() -> None:
    runs = [({"f": f, "seed": seed}, f + seed / 8) for f in (1, 2) for seed in (2, 4)]
    one, two, three = over_seeds([*runs, ({"f": 3, "seed": 2}, None), ({"f": 3, "seed": 4}, 0.5)])
    assert (one.choices, one.mean, one.accuracies) == ({"f": 1}, 1.375, [1.25, 1.5])
    assert (two.mean, three.accuracies) == (2.375, [0.5])


def bytes_of(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in (EXPERIMENT, JOURNAL, METRICS, SUMMARY)]


def test_each_run_of_a_sweep_is_that_run_alone_and_they_are_told_of_before_and_after(
    kardam: Kardam, here: Path
) -> None:
    lists = 'attack = ["zero", "sign_flip:scale=10"]\nseed = [1, 2]\nbyzantine = 1\n'
    (here / "s.toml").write_text(SMALL + lists)
    code, out, err = kardam("simulate", "s.toml", "--out", "all")
    assert code == 0, err
    assert err.startswith("4 runs: attack (2) x seed (2), in all\n1 of 4  attack=zero,seed=1\n")
    assert "kardam report all/*" in err
    assert len(re.findall(r"^(?:zero|sign_flip:scale=10) ", out, re.MULTILINE)) == 4 + 2
    assert "mean accuracy" in out
    assert len(list(here.joinpath("all").iterdir())) == 4
    alone = ["--attack", "sign_flip:scale=10", "--seed", "2", "--out", "alone"]
    assert kardam("simulate", "s.toml", *alone)[0] == 0
    swept = here / "all" / "attack=sign_flip-scale=10,seed=2"
    assert bytes_of(swept) == bytes_of(here / "alone")


def test_what_is_there_is_not_done_again_and_what_was_cut_off_is(
    kardam: Kardam, here: Path
) -> None:
    (here / "s.toml").write_text(SMALL + "seed = [1, 2]\n")
    kardam("simulate", "s.toml", "--out", "all", "--quiet")
    before = bytes_of(here / "all" / "seed=2")
    cut_off = here / "all" / ".running-7"
    Records.create(cut_off, "", keep=1).__exit__()
    (here / "s.toml").write_text(SMALL + "seed = [1, 2, 3]\n")
    code, out, err = kardam("simulate", "s.toml", "--out", "all", "--json")
    assert code == 0, err
    assert "3 runs: seed (3), in all; 2 are there already\n1 of 1  seed=3\n" in err
    assert bytes_of(here / "all" / "seed=2") == before
    assert not cut_off.exists()
    found = json.loads(out)["runs"]
    assert [run["choices"] for run in found] == [{"seed": seed} for seed in (1, 2, 3)]
    assert {run["summary"]["ending"] for run in found} == {"40 arrivals"}


def test_two_at_once_do_not_clear_away_each_others_work(kardam: Kardam, here: Path) -> None:
    (here / "s.toml").write_text(SMALL + "seed = [1, 2]\n")
    with Records.create(here / "all" / ".running-7", "", keep=1):
        code, _, err = kardam("simulate", "s.toml", "--out", "all")
    assert (code, "another kardam, which is running, writes there" in err) == (2, True)
    assert (here / "all" / ".running-7").exists()


def test_a_value_on_the_command_line_stands_in_place_of_a_list(kardam: Kardam, here: Path) -> None:
    (here / "s.toml").write_text(SMALL + 'seed = [1, 2]\npreset = ["none", "middle"]\n')
    _, out, _ = kardam("simulate", "s.toml", "--seed", "9", "--dry-run")
    assert re.findall(r"^# (.*)", out, re.MULTILINE) == ["preset=none", "preset=middle"]
    assert out.count("seed = 9\n") == 2
    assert 'filter = "none"' in out
    code, _, _ = kardam("simulate", "s.toml", "--seed", "9", "--preset", "none", "--out", "one")
    assert (code, (here / "one" / SUMMARY).is_file()) == (0, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = []", "s.toml: seed: expected one value or more, got []"),
        ("seed = [1, 2, 1]", "s.toml: seed: 1 stands there twice"),
        ("seed = [1, 'two']", "s.toml: seed: expected a whole number, got 'two'"),
        ("seed = [1, -2]", "-2 is not in the range"),
        ("seed = [[1], [2]]", "s.toml: seed: expected a whole number, got [1]"),
        ("preset = ['none', 'medle']", "unknown name 'medle'; did you mean 'middle'?"),
        ("f = [1, 2]", "expected n > 3f, got n=4, f=2"),
        ("attack = ['zero', 'sing_flip']", "did you mean 'sign_flip'"),
    ],
)
def test_what_is_wrong_with_one_of_the_runs_is_said_before_the_first(
    kardam: Kardam, here: Path, text: str, words: str
) -> None:
    (here / "s.toml").write_text(SMALL + text)
    code, out, err = kardam("simulate", "s.toml", "--out", "all")
    assert code == 2
    assert words in err
    assert "Traceback" not in out + err
    assert not (here / "all").exists()


def test_a_place_that_another_experiment_has_is_not_taken(kardam: Kardam, here: Path) -> None:
    (here / "s.toml").write_text(SMALL + "seed = [1, 2]\n")
    kardam("simulate", "s.toml", "--out", "all", "--quiet")
    code, _, err = kardam("simulate", "s.toml", "--out", "all", "--arrivals", "50")
    assert (code, "all/seed=1: there already, and not of this experiment" in err) == (2, True)
    code, _, err = kardam("simulate", "s.toml", "--out", "all/seed=1")
    assert (code, "holds a single run" in err) == (2, True)


def test_several_values_on_the_command_line_are_an_error_that_names_the_list(
    kardam: Kardam,
) -> None:
    code, _, err = kardam("simulate", "--seed", "1,2,3")
    assert (code, "are a list in a file: seed = [1, 2]" in err) == (2, True)


@pytest.mark.slow
def test_a_sweep_over_sockets_is_one_run_after_another(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SMALL + "byzantine = [0, 1]\n")
    code, out, err = ran("run", "s.toml", "--out", "all", "--json", cwd=tmp_path)
    assert code == 0, err
    liars = [run["summary"]["byzantine"]["delivered"] for run in json.loads(out)["runs"]]
    assert liars[0] == 0 < liars[1]
