"""A disk that takes its time, under real processes: the run goes on, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kardam import checkpoint
from tests.test_run import SECONDS, at_work, finished, kardam, until

HOUSE = Path(__file__).parents[1]
RUN = ("run", "--workers", "4", "--seed", "1", "--json")
OFTEN = ("--checkpoint-updates", "20")


@contextmanager
def slowly(write: str, fsync: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`kardam` with these words, where a write and an fsync take so many seconds more."""
    with tempfile.TemporaryDirectory() as nowhere:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.slow_disk", write, fsync, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=nowhere,
            env={**os.environ, "PYTHONPATH": str(HOUSE)},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=SECONDS)


def verdicts(out: Path) -> int:
    text = (out / "journal.jsonl").read_text()
    return len([json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "fsync", "words"),
    [
        pytest.param("0.5", "0", OFTEN, id="writes"),
        pytest.param("0", "0.3", OFTEN, id="checkpoints"),
        pytest.param("0", "0.05", (*OFTEN, "--durable"), id="durable"),
    ],
)
def test_a_run_on_a_slow_disk_trains_and_has_written_all_at_its_end(
    tmp_path: Path, write: str, fsync: str, words: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    goal = ("--arrivals", "300", "--out", str(out))
    with slowly(write, fsync, *RUN, *goal, *words) as process:
        code, books, err = finished(process)
    assert (code, books["deaths"], "WARNING" in err) == (0, {}, False), err
    assert books["refused"].keys().isdisjoint({"late", "unasked", "misdeclared"})
    assert [row["violations"] for row in books["workers"]] == [0] * 4
    assert verdicts(out) == books["delivered"] >= 300
    newest = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    assert checkpoint.updates(newest) == books["updates"]


@pytest.mark.slow
def test_a_run_killed_on_a_slow_disk_has_its_last_whole_checkpoint_and_one_unfinished_at_most(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    folder = out / "checkpoints"
    unfinished: list[int] = []

    def writing() -> bool:
        unfinished.append(len(list(folder.glob(checkpoint.UNFINISHED + "*"))))
        newest = checkpoint.newest(folder)
        return unfinished[-1] > 0 and newest is not None and checkpoint.updates(newest) > 0

    endless = ("--arrivals", "100000", "--out", str(out))
    with slowly("0.1", "0.3", *RUN, *endless, *OFTEN) as process:
        at_work(process)
        until(writing)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=SECONDS)
    newest = checkpoint.newest(folder)
    assert newest is not None
    before = checkpoint.updates(newest)
    assert max(unfinished) == 1
    goal = ("--arrivals", str(before + 500), "--json")
    code, books, err = kardam("run", "--resume", str(out), *goal)
    assert (code, f"goes on from {newest}" in err) == (0, True), err
    assert books["updates"] > before
    assert verdicts(out) == books["delivered"]
