"""A user's own attack, aggregator and filter, from a file outside the package, by import path."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house import HOUSE

OWN = """
import numpy as np
from kardam.messages import Refusal
from kardam.stage import Stage
from workers.attacks import Attack

class Shout(Attack):
    def __init__(self, loud: float = 9.0): self.loud = loud
    def corrupt(self, g, rng): return np.float32(self.loud) * g

class Short(Stage):
    def __init__(self, n, f, most: float = 1.0): self.most = most
    def judge(self, seen): return Refusal("short", seen.norm) if seen.norm > self.most else None

def second(n, f): return lambda vectors: np.sort(vectors, axis=0)[1]
"""


def simulated(folder: Path, *words: str) -> tuple[int, str, str]:
    (folder / "own.py").write_text(OWN)
    words = ("simulate", "--task", "synthetic", "--arrivals", "300", "--byzantine", "3", *words)
    # The house by its path, and own.py by the folder that the user stands in.
    program = f"import sys; sys.path.insert(0, {str(HOUSE)!r}); from workers.__main__ import main"
    ran = subprocess.run(
        [sys.executable, "-c", f"{program}; main()", *words, "--json", "--quiet"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_ones_own_attack_and_filter_are_named_by_their_import_path(tmp_path: Path) -> None:
    words = ("--attack", "own:Shout:loud=1e6", "--filter", "own:Short:most=100", "--seed", "1")
    code, out, err = simulated(tmp_path, *words)
    assert code == 0, err
    books = json.loads(out)
    assert books["refused"] == {"short": books["byzantine"]["delivered"]}
    assert books["byzantine"]["admitted"] == 0 < books["honest"]["admitted"]


def test_ones_own_aggregator_is_named_by_its_import_path(tmp_path: Path) -> None:
    rules = ("--preset", "none", "--gather", "synchronous", "--aggregator", "own:second")
    code, out, err = simulated(tmp_path, *rules)
    assert code == 0, err
    assert json.loads(out)["updates"] > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "own:Shout:lout=2"), "did you mean 'loud'"),
        (("--filter", "own:Shorts"), "did you mean 'Short'"),
    ],
)
def test_a_slip_in_ones_own_is_one_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    code, _, err = simulated(tmp_path, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
