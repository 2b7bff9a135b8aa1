"""What the README shows is what is there: its examples run, and its tables name everything."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kardam.aggregators import AGGREGATORS
from kardam.dampening import DAMPENINGS
from kardam.errors import EXIT_CODES
from kardam.experiment import GALLERY
from kardam.filters import STAGES
from kardam.gathering import GATHERINGS
from kardam.lens import MEMORIES
from kardam.messages import Verdict
from kardam.optimizers import OPTIMIZERS
from kardam.rates import RATES
from kardam.recipe import PRESETS
from kardam.records import Records, entry
from kardam.trusted import TRUSTED
from tests.test_cli import Kardam
from tests.test_cli import kardam as command  # the fixture
from tests.test_house import MODULES
from tests.test_run import SECONDS, finished, kardam, lines, look, ran, started, until
from workers.attacks import ATTACKS
from workers.latency import LATENCIES
from workers.speeds import SPEEDS
from workers.tasks import SPLITS, TASKS

__all__ = ["command"]

# What a verdict may know, or not.
NUMBERS = [name for name, kind in Verdict.__annotations__.items() if kind is float]

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


def words_of(line: str, port: int) -> list[str]:
    """A pasted line, at another port; the program's name left out."""
    program, *words = line.replace("5555", str(port)).split()
    assert program == "kardam"
    return words


@pytest.mark.slow
def test_the_lines_to_live_with_a_server_work_when_pasted(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (serve,) = block("live: serve").splitlines()
    (watch,) = block("live: watch").splitlines()
    with ExitStack() as shells:
        server = shells.enter_context(started(*words_of(serve, port), cwd=tmp_path))
        lines(server, "kardam work")
        for line in block("live: inject").splitlines():
            lines(shells.enter_context(started(*words_of(line, port), cwd=tmp_path)), "at work")
        with started(*words_of(watch, port), cwd=tmp_path) as watching:
            assert watching.stdout is not None
            seen = iter(watching.stdout.readline, "")
            next(line for line in seen if "running" in line)
            server.send_signal(signal.SIGINT)
            assert watching.wait(timeout=60) == 0
        code, _, err = finished(server)
        kept = re.search(
            r"kept:  (runs/mine/checkpoints/(\d+)[.\d]*); to go on: --resume runs/mine", err
        )
        assert code == 0, err
        assert kept is not None, err
        assert (tmp_path / kept[1] / "model.safetensors").is_file()
        again = shells.enter_context(started(*words_of(serve, port), cwd=tmp_path))
        assert lines(again, r"goes on from .*/(\d+)")[1] == kept[2]
        endpoint = f"tcp://127.0.0.1:{port}"
        until(lambda: look(endpoint)["updates"] > int(kept[2]))


@pytest.mark.slow
def test_the_lines_of_experiments_as_files_work_when_pasted(tmp_path: Path) -> None:
    dry, run, resume = block("live: experiment").splitlines()
    command, _, path = dry.partition(" > ")
    code, out, err = ran(*words_of(command, 0), cwd=tmp_path)
    assert code == 0, err
    (tmp_path / path).write_text(out)
    for line, goal in ((run, 1000), (resume, 1500)):
        code, _, err = ran(*words_of(line, 0), cwd=tmp_path)
        assert code == 0, err
        summary = json.loads((tmp_path / "runs" / "skewed" / "summary.json").read_text())
        assert summary["delivered"] >= goal
    (simulate,) = block("live: simulate").splitlines()
    code, _, err = ran(*words_of(simulate, 0), cwd=tmp_path)
    assert code == 0, err


def test_the_journals_columns_are_all_told_of() -> None:
    table = README.partition("## What happened, provably")[2].partition("What is not known")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    known: Any = dict.fromkeys(NUMBERS, 1.0)
    one = Verdict(1, 2, True, "", 3, **known)
    assert sorted(told) == sorted(entry(one, 1.0, "fingerprint"))


def test_a_line_of_the_journal_is_a_flat_object_as_pandas_wants_it(tmp_path: Path) -> None:
    with Records.create(tmp_path, "", keep=1) as records:
        records.verdict(Verdict(1, 2, False, "growth", 3, growth=math.inf), 1.0, "ff")
        records.flush()
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert {type(value) for value in json.loads(line).values()} <= {int, float, str, bool}
    assert 'read_json("runs/lose/journal.jsonl", lines=True)' in block("provably: pandas")


@pytest.mark.slow
def test_the_lines_that_play_a_run_again_work_when_pasted(tmp_path: Path) -> None:
    simulate, *rest = block("provably: record").splitlines()
    code, _, err = ran(*words_of(simulate, 0), cwd=tmp_path)
    assert code == 0, err
    replay, middle, explain = (ran(*words_of(line, 0), cwd=tmp_path) for line in rest)
    assert replay[0] == middle[0] == explain[0] == 0
    assert "the same: " in replay[1]
    assert "honest, replayed" in middle[1]
    assert explain[1].startswith("Worker 7 (")
    assert "Refused" in explain[1]


@contextmanager
def script(name: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python file that stands there, at work while the block runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, name], cwd=cwd, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_the_training_loop_works_when_pasted_from_the_module_to_the_module(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("net.py", "loop.py", "after.py"):
        (tmp_path / name).write_text(block(f"loop: {name}").replace("5555", str(port)))
    new, serve = block("loop: serve").splitlines()
    code, _, err = ran(*words_of(new, port), cwd=tmp_path)
    assert code == 0, err
    with started(*words_of(serve, port), cwd=tmp_path) as server:
        lines(server, "kardam work")
        with script("loop.py", tmp_path) as one, script("loop.py", tmp_path) as other:
            assert server.wait(timeout=SECONDS) == 0
            for process in (one, other):
                _, err = process.communicate(timeout=SECONDS)
                assert (process.returncode, err) == (0, "")
    for line in block("loop: export").splitlines():
        code, out, err = ran(*words_of(line, port), cwd=tmp_path)
        assert code == 0, err
        assert "1.weight" in out or "show" not in line
    with script("after.py", tmp_path) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert float(out) > 0.9, err


TUTORIAL = re.findall(r"<!-- (tutorial: \w+|movies) -->", README)


@pytest.mark.slow
def test_the_lines_that_sweep_and_draw_leave_what_they_say(tmp_path: Path) -> None:
    lose, sweep, draw = (block(name).strip() for name in ("tutorial: lose", "sweep", "picture"))
    simulate, compare = sweep.splitlines()
    for line in (lose, draw, simulate, compare):
        words = [
            str(word)
            for pattern in words_of(line, 0)
            for word in (sorted(tmp_path.glob(pattern)) if "*" in pattern else [pattern])
        ]
        code, _, err = ran(*words, cwd=tmp_path)
        assert code == 0, err
    assert (tmp_path / "runs/lose/figures/growth.png").is_file()
    assert len(list((tmp_path / "runs/presets").iterdir())) == 8
    assert (tmp_path / "runs/compared/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("marker", TUTORIAL)
def test_the_lines_of_the_tutorial_show_what_it_says(marker: str, tmp_path: Path) -> None:
    books = []
    for line in block(marker).splitlines():
        code, found, err = kardam(*words_of(line, 0), "--json", "--quiet", cwd=tmp_path)
        assert code == 0, err
        books.append(found)
    used = [book["byzantine"]["admitted"] / (book["byzantine"]["delivered"] or 1) for book in books]
    match marker.removeprefix("tutorial: "):
        case "win":
            assert (books[0]["accuracy"] < 0.2, used[0] > 0.9) == (True, True)
        case "lose":
            assert (books[0]["accuracy"] > 0.9, books[0]["byzantine"]["admitted"]) == (True, 10)
        case "knob":
            assert (books[0]["accuracy"] < 0.2, used[0] > 0.5) == (True, True)
        case "hidden":
            ours, growth, plain, nobody = (book["accuracy"] for book in books)
            part = [book["byzantine_share"] for book in books]
            assert 0.03 < part[0] < 0.1 < 0.2 < part[1] < part[2] == 0.3
            assert plain < 0.7 < growth < ours < nobody
        case "tcp":
            assert books[0]["accuracy"] > 0.85
            assert used[0] < 0.1
        case _:  # the recommender
            assert books[0]["loss"] < 1.3


@pytest.mark.parametrize("name", [file.stem for file in GALLERY.glob("*.toml")])
def test_an_experiment_of_the_gallery_is_found_by_its_name_and_told_of(
    command: Kardam, name: str
) -> None:
    assert f"`{name}`" in README
    first, *_ = (GALLERY / f"{name}.toml").read_text().splitlines()
    assert first.startswith("# ")
    code, out, err = command("simulate", name, "--dry-run")
    assert (code, "arrivals" in out) == (0, True), err


@pytest.mark.parametrize(
    ("flag", "table"),
    [
        ("--preset", PRESETS),
        ("--filter", {**STAGES, **TRUSTED}),
        ("--dampening", DAMPENINGS),
        ("--rate", RATES),
        ("--optimizer", OPTIMIZERS),
        ("--gather", GATHERINGS),
        ("--aggregator", AGGREGATORS),
        ("--memory", MEMORIES),
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
