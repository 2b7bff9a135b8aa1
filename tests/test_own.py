"""A user's own attack, aggregator and filter, as the README has them: from a file of theirs, by
import path.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house import HOUSE
from tests.test_readme import block

OWN = block("own: own.py")
FILTERED, GATHERED = ((*line.split()[2:], "--seed", "1") for line in block("own: run").splitlines())


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
