"""Whoever is killed, and whenever: it comes back, nothing is lost but what came after the last
checkpoint, and the model ends trained.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import gt
from pathlib import Path
from typing import Any

import pytest

from kardam import checkpoint
from kardam.client import enrol
from kardam.records import endpoint as listened
from tests.puppet import PHASES, Puppet
from tests.test_run import SECONDS, finished, kardam, lines, look, started, until

# A model of two chunks, so that there is a middle between them.
HOUSE = Path(__file__).parents[1]
TASK = "digits:hidden=3600"


def serving(out: Path, *words: str) -> tuple[str, ...]:
    """The command of a daemon that goes on by itself, as its supervisor would give it again."""
    return (
        *("serve", "--task", TASK, "--workers", "4", "--json"),
        *("--out", str(out), "--resume", "auto", "--checkpoint-updates", "10", *words),
    )


def joining(endpoint: str, count: int) -> tuple[str, ...]:
    return ("work", endpoint, "--count", str(count), "--latency", "constant:seconds=0.01")


@contextmanager
def puppet(endpoint: str, token: str, phase: str) -> Iterator[Puppet]:
    one = Puppet(endpoint, token)
    try:
        one.reach(phase)
        yield one
    finally:
        one.close()


def delivered(endpoint: str) -> list[int]:
    return [row["delivered"] for row in look(endpoint)["workers"]]


def kept(out: Path) -> int:
    """The updates of the newest checkpoint."""
    newest = checkpoint.newest(out / "checkpoints")
    return updates(newest) if newest else 0


def updates(path: Path) -> int:
    return int(path.name.partition(".")[0])


def kill_server(server: subprocess.Popen[str], endpoint: str, out: Path, phase: str) -> None:
    """Without a word, while a worker is just there."""
    if phase == "during a checkpoint":
        until(lambda: any((out / "checkpoints").glob(checkpoint.UNFINISHED + "*")))
        server.kill()
    else:
        token = enrol(endpoint, "puppet", False, SECONDS).token
        with puppet(endpoint, token, phase):
            server.kill()
    server.wait(timeout=SECONDS)


@pytest.mark.slow
def test_a_server_killed_in_every_phase_goes_on_where_it_was_with_the_workers_it_had(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with started(*serving(out)) as server:
        endpoint = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+)")[1]
        with started(*joining(endpoint, 3)) as workers:
            until(lambda: kept(out) > 0)
            kill_server(server, endpoint, out, "during a checkpoint")
            for phase in PHASES:
                before = kept(out)
                with started(*serving(out)) as again:
                    assert int(lines(again, r"goes on from .*/(\d+)")[1]) == before
                    until(lambda: kept(out) > before)  # noqa: B023  # called within the turn
                    kill_server(again, endpoint, out, phase)
                    assert workers.poll() is None
            before = kept(out)
            goal = ("--updates", str(before + 50))
            with started(*serving(out, *goal)) as last:
                code, books, err = finished(last)
    assert code == 0, err
    assert books["updates"] >= before + 50
    assert books["accuracy"] > 0.6
    assert "misdeclared" not in books["refused"]
    assert all(row["delivered"] > 10 for row in books["workers"][:3])
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert len(journal) == books["delivered"]
    assert sum(line["admitted"] for line in journal) == books["admitted"]


@pytest.mark.slow
def test_a_worker_killed_in_any_phase_holds_nothing_back_and_may_return(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(*serving(out)) as server:
        endpoint = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+)")[1]
        with started(*joining(endpoint, 3)):
            until(lambda: kept(out) > 0)
            token = enrol(endpoint, "puppet", False, SECONDS).token
            for phase in PHASES:
                program = [sys.executable, "-m", "tests.puppet", endpoint, token, phase]
                with subprocess.Popen(
                    program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HOUSE
                ) as victim:
                    assert victim.stdout is not None
                    assert victim.stdout.readline() == b"there\n"
                    victim.kill()
                before = delivered(endpoint)
                until(lambda: all(map(gt, delivered(endpoint)[:3], before[:3])))  # noqa: B023
            with puppet(endpoint, token, "mid-chunk"):  # the same worker again, by its token
                assert look(endpoint)["workers"][3]["state"] == "alive"
        server.send_signal(signal.SIGTERM)
        code, books, err = finished(server)
    assert code == 0, err
    assert books["updates"] > 0


def test_ctrl_c_keeps_a_checkpoint_and_says_where_and_resume_goes_on_from_it(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with started("run", "--seconds", "60", "--out", str(out), "--json") as process:
        endpoint = lines(process, r"kardam stats (tcp://127\.0\.0\.1:\d+)")[1]
        until(lambda: look(endpoint)["updates"] > 50)
        process.send_signal(signal.SIGINT)
        code, books, err = finished(process)
    newest = checkpoint.newest(out / "checkpoints")
    assert code == 130
    assert newest is not None
    assert updates(newest) == books["updates"]
    assert f"kept:  {newest}; to go on: --resume {out}" in err
    assert json.loads((out / "summary.json").read_text()) == books

    goal = str(books["delivered"] + 300)
    code, more, err = kardam("run", "--resume", str(out), "--arrivals", goal, "--json")
    assert code == 0, err
    assert f"goes on from {newest}" in err
    assert more["updates"] > books["updates"]
    assert more["delivered"] >= books["delivered"] + 300
    assert more["seconds"] > books["seconds"]
    assert listened(out) in err


@pytest.mark.slow
def test_one_checkpoint_may_begin_another_run_and_the_old_one_stays_as_it_is(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, err = kardam(
        *("run", "--arrivals", "400", "--checkpoint-updates", "50", "--json", "--quiet"),
        *("--out", str(first), "--keep", "100"),
    )
    assert code == 0, err
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    oldest = min((first / "checkpoints").iterdir())
    code, more, err = kardam(
        *("run", "--resume", str(oldest), "--out", str(second), "--bind", "tcp://127.0.0.1:0"),
        *("--arrivals", "600", "--json", "--quiet"),
    )
    assert code == 0, err
    assert more["delivered"] >= 600
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    journal = (second / "journal.jsonl").read_text().splitlines()
    assert json.loads(journal[0])["updates"] >= updates(oldest)


def test_another_recipe_may_not_go_on_from_what_this_one_learned(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = kardam("run", "--arrivals", "100", "--quiet", "--json", "--out", str(out))
    assert code == 0, err
    for flag, value, words in [
        ("--filter", "clip", "--filter: expected 'growth:band=relative"),
        ("--task", "digits:hidden=8", "its model is not made like this one"),
    ]:
        code, _, err = kardam("run", "--resume", str(out), flag, value)
        assert (code, words in err, "Traceback" in err) == (2, True, False), err


def test_a_disk_that_is_full_ends_no_training_and_is_told_with_its_own_code(
    tmp_path: Path,
) -> None:
    # No file may grow beyond 20 KiB, which is the same to a program as a full disk.
    words = [*("run", "--arrivals", "600", "--json", "--quiet", "--record", "--out", "run")]
    command = f"ulimit -f 20; exec {sys.executable} -m workers {' '.join(words)}"
    ran = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        timeout=SECONDS,
        check=False,
    )
    books: Any = json.loads(ran.stdout)
    assert ran.returncode == 7, ran.stderr
    assert books["delivered"] >= 600
    assert "journal.jsonl: File too large; it ends here; training goes on" in ran.stderr
    assert "no checkpoint could be written" in ran.stderr
    assert "000001.tape: File too large; it ends here; training goes on" in ran.stderr
    assert ran.stderr.count("lost:  run/") == 3
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    assert all(json.loads(line) for line in journal.splitlines())
