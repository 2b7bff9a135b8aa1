"""`kardam simulate` is the experiment of `kardam run`, and a function of its seed to the byte."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kardam.descent import Descent
from kardam.messages import Gradient, Verdict
from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture
from tests.test_run import kardam as processes

FLAGS = [
    "--byzantine",
    "3",
    "--attack",
    "sign_flip:scale=10",
    "--stragglers",
    "2:factor=10",
    "--seed",
    "5",
]
PROMISED = ("experiment.toml", "journal.jsonl", "metrics.jsonl", "summary.json")
RECORDED = ("recording/0001/000001.tape", "checkpoints/000000000/model.safetensors")


def simulated(kardam: Kardam, out: Path, *words: str) -> dict[str, Any]:
    code, books, err = kardam("simulate", *words, "--json", "--quiet", "--out", str(out))
    assert code == 0, err
    told: dict[str, Any] = json.loads(books)
    return told


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(
    kardam: Kardam, tmp_path: Path
) -> None:
    for name, seed in (("one", "5"), ("same", "5"), ("other", "6")):
        words = (*FLAGS, "--arrivals", "400", "--seed", seed, "--record")
        simulated(kardam, tmp_path / name, *words)
    for name in (*PROMISED, *RECORDED):
        one, same, other = (tmp_path / run / name for run in ("one", "same", "other"))
        assert one.read_bytes() == same.read_bytes() != other.read_bytes()


def test_its_books_are_those_of_its_journal(kardam: Kardam, tmp_path: Path) -> None:
    books = simulated(kardam, tmp_path / "run", *FLAGS, "--arrivals", "400")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == books
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    journal = [json.loads(line) for line in lines]
    assert len(journal) == books["delivered"] == 400
    assert sum(line["admitted"] for line in journal) == books["admitted"]
    assert journal[-1]["updates"] == books["updates"]
    assert books["byzantine"]["delivered"] == sum(line["worker"] >= 7 for line in journal)


def test_a_task_that_cannot_be_had_leaves_no_directory(kardam: Kardam, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = kardam("simulate", "--task", "npz:path=no.npz", "--out", str(run))
    assert (code, "no.npz" in err, run.exists()) == (2, True, False)
    simulated(kardam, run, "--task", "synthetic:d=10", "--arrivals", "20")


def test_one_that_is_interrupted_in_the_middle_of_a_step_can_be_replayed(
    kardam: Kardam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, turns = Descent.receive, itertools.count(1)

    def interrupted(descent: Descent, gradient: Gradient) -> Verdict:
        verdict = receive(descent, gradient)
        if next(turns) == 40:
            raise KeyboardInterrupt  # the model has moved, and nobody heard of it
        return verdict

    monkeypatch.setattr(Descent, "receive", interrupted)
    words = ("--preset", "none", "--task", "synthetic:d=10", "--record", "--quiet")
    code, _, err = kardam("simulate", *words, "--out", str(tmp_path / "run"))
    assert (code, "ended: interrupted" in err) == (130, True)
    code, told, err = kardam("replay", str(tmp_path / "run"), "--json")
    assert code == 0, err
    assert json.loads(told)["verdicts"] == 39


def test_it_says_when_nobody_answers_any_more(kardam: Kardam, tmp_path: Path) -> None:
    words = ("--byzantine", "10", "--attack", "silent", "--out", str(tmp_path / "run"))
    code, _, err = kardam("simulate", *words)
    assert (code, "stalled: nobody answers any more" in err) == (4, True)


def test_a_file_of_run_is_a_file_of_simulate(kardam: Kardam, tmp_path: Path) -> None:
    _, text, _ = kardam("run", *FLAGS, "--arrivals", "50", "--dry-run")
    (tmp_path / "a.toml").write_text(text)
    books = simulated(kardam, tmp_path / "run", str(tmp_path / "a.toml"))
    assert books["delivered"] == 50


@pytest.mark.slow
def test_sockets_and_simulation_agree_as_closely_as_asynchrony_permits(
    kardam: Kardam, tmp_path: Path
) -> None:
    # The draws of every worker are the same. Whose answer is first is not: that is the machine's,
    # so each run is another sample of one distribution, and not the same numbers.
    words = (*FLAGS, "--arrivals", "1800", "--latency", "lognormal:mean=0.04,sigma=0.5")
    virtual = simulated(kardam, tmp_path / "virtual", *words)
    code, real, err = processes("run", *words, "--json", "--quiet", "--out", str(tmp_path / "real"))
    assert code == 0, err
    assert real.keys() == virtual.keys()
    # One look at a model that is still learning, and every step moves it: within a tenth.
    assert real["accuracy"] == pytest.approx(virtual["accuracy"], abs=0.1)
    assert real["slowdown"] == pytest.approx(virtual["slowdown"], abs=0.08)
    assert real["byzantine_share"] == pytest.approx(virtual["byzantine_share"], abs=0.08)
    assert real["staleness"]["median"] == pytest.approx(virtual["staleness"]["median"], abs=2)
