"""A user's own attack, aggregator and filter, as the README has them: from a file of theirs, by
import path.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture
from tests.test_house import HOUSE
from tests.test_readme import block

OWN = block("own: own.py")
FILTERED, GATHERED = ((*line.split()[2:], "--seed", "1") for line in block("own: run").splitlines())


# Mistakes that are made: a call that raises, and answers of another kind.
SLIPS = """
import numpy as np
from kardam.stage import Stage
from workers.attacks import Attack
class Raises(Attack):
    def corrupt(self, g, rng):
        return g.gradient
class Short(Attack):
    def corrupt(self, g, rng):
        return g[:3]
class Judges(Stage):
    def judge(self, seen):
        return seen.length > 1
class Truth(Stage):
    def judge(self, seen):
        return seen.norm > 1
def everything(n, f):
    return lambda vectors: vectors
def whatever(n, f):
    return lambda vectors: vectors[0].astype(object)
class Noise(Attack):
    def corrupt(self, g, rng):
        return g + 1e-6 * rng.normal(size=g.shape)  # of float64
"""


class Slipping:
    """The command in this process, from a folder of its own where slips.py is."""

    def __init__(self, kardam: Kardam, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "slips.py").write_text(SLIPS)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        self._kardam = kardam

    def __call__(self, verb: str, *words: str) -> tuple[int, str, str]:
        line = ("--task", "synthetic", *words, "--json", "--quiet")
        try:
            return self._kardam(verb, *line)
        finally:
            sys.modules.pop("slips", None)


@pytest.fixture
def slipping(kardam: Kardam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slipping:
    return Slipping(kardam, tmp_path, monkeypatch)


def simulated(folder: Path, *words: str) -> tuple[int, str, str]:
    (folder / "own.py").write_text(OWN)
    # The house by its path, and own.py by the folder that the user stands in.
    program = f"import sys; sys.path.insert(0, {str(HOUSE)!r}); from workers.__main__ import main"
    ran = subprocess.run(
        [sys.executable, "-c", f"{program}; main()", "simulate", *words, "--json", "--quiet"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_ones_own_attack_and_filter_are_named_by_their_import_path(tmp_path: Path) -> None:
    code, out, err = simulated(tmp_path, *FILTERED)
    assert code == 0, err
    books = json.loads(out)
    assert books["refused"] == {"short": books["byzantine"]["delivered"]}
    assert books["byzantine"]["admitted"] == 0 < books["honest"]["admitted"]


def test_ones_own_aggregator_is_named_by_its_import_path(tmp_path: Path) -> None:
    code, out, err = simulated(tmp_path, *GATHERED)
    assert code == 0, err
    assert json.loads(out)["updates"] > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "synthetic", "--attack", "own:Shout:lout=2"), "did you mean 'loud'"),
        (("--task", "synthetic", "--filter", "own:Shorts"), "did you mean 'Short'"),
    ],
)
def test_a_slip_in_ones_own_is_one_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    code, _, err = simulated(tmp_path, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


ROUNDS = ("--preset", "none", "--gather", "synchronous", "--aggregator")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--byzantine", "3", "--attack", "slips:Raises"), "in Raises.corrupt: raised Attri"),
        (("--byzantine", "3", "--attack", "slips:Short"), "corrupt, got one of shape (3,)"),
        (("--filter", "slips:Judges"), "slips.py, line 13, in Judges.judge: raised Attri"),
        (("--filter", "slips:Truth"), "expected None or a Refusal of a stage's judge, got"),
        ((*ROUNDS, "slips:everything"), "(1000,) of the aggregator, got [array"),
        ((*ROUNDS, "slips:whatever"), "got one of shape (1000,) and type object"),
    ],
)
def test_what_ones_own_does_wrong_in_a_run_is_one_sentence_that_says_where(
    words: tuple[str, ...], said: str, slipping: Slipping
) -> None:
    code, _, err = slipping("simulate", "--arrivals", "300", *words)
    assert code == 3, err
    assert said in err
    assert err.count("\n") <= 2, err


def test_a_worker_whose_own_attack_raises_dies_of_a_sentence(slipping: Slipping) -> None:
    words = ("--arrivals", "100", "--byzantine", "1", "--attack", "slips:Raises")
    code, out, err = slipping("run", *words)
    assert code == 0, err
    assert "slips.py, line 7, in Raises.corrupt: raised Attri" in json.loads(out)["deaths"]["9"]
    assert "Traceback" not in err


def test_ones_own_attack_may_compute_in_float64(slipping: Slipping) -> None:
    words = ("--arrivals", "100", "--preset", "none", "--byzantine", "1")
    code, out, err = slipping("simulate", *words, "--attack", "slips:Noise")
    assert code == 0, err
    assert json.loads(out)["byzantine"]["admitted"] > 0
