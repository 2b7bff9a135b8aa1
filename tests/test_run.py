"""The main job, on real processes: whoever dies, it goes on or says why, and leaves no orphan."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kardam.client import Client
from kardam.keys import published
from kardam.kits import Folder, pair_at
from kardam.ring import Entry

KARDAM = [sys.executable, "-m", "workers"]
SECONDS = 60  # every process here ends by itself within this, or is ended
PAUSE = 0.02  # seconds between two looks at what other processes do


@contextlib.contextmanager
def started(*words: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """`kardam` with these words, ended when the block is."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with tempfile.TemporaryDirectory() as nowhere:
        process = subprocess.Popen(
            [*KARDAM, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or nowhere,
            env=environment,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=SECONDS)


def finished(process: subprocess.Popen[str]) -> tuple[int, Any, str]:
    """Exit code, standard output as JSON (None if it is none), and standard error."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, json.loads(out) if out.startswith("{") else None, err


def kardam(*words: str, cwd: Path | None = None) -> tuple[int, Any, str]:
    with started(*words, cwd=cwd) as process:
        return finished(process)


def ran(*words: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `kardam` with these words."""
    with started(*words, cwd=cwd) as process:
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err


def lines(process: subprocess.Popen[str], wanted: str) -> re.Match[str]:
    """Read standard error until a line matches."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(wanted, line):
            return match
    raise AssertionError(f"no line matched {wanted!r}")


def watch(terminal: int, gone: threading.Event) -> None:
    """Read what a terminal shows, and close it when it is to be gone."""
    while not gone.is_set():
        if select.select([terminal], [], [], PAUSE)[0]:
            os.read(terminal, 4096)
    os.close(terminal)


def look(endpoint: str) -> Any:
    """The books of a server that this user started."""
    shows = published(endpoint)
    assert shows is not None
    with Client(endpoint, "operator", token=shows.token, keys=shows.keys) as operator:
        return operator.query()


def at_work(process: subprocess.Popen[str]) -> str:
    """Wait until a run has received a hundred gradients; its endpoint."""
    endpoint = lines(process, r"kardam stats (tcp://127\.0\.0\.1:\d+)")[1]
    until(lambda: look(endpoint)["delivered"] > 100)
    return endpoint


def children(pid: int) -> set[int]:
    """All living descendants of a process."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[1]) == pid and stat[0] != "Z":
            child = int(path.parent.name)
            found |= {child} | children(child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    """Wait for something that other processes will bring about; the suite's own bound ends it.

    It looks now and then: a test that spins takes the core from those it waits for.
    """
    pause = threading.Event()
    while not true():
        pause.wait(PAUSE)


def test_the_main_job_trains_though_three_of_ten_lie_and_two_are_slow() -> None:
    code, books, err = kardam(
        "run", "--json", "--quiet", "--seed", "1", "--arrivals", "2000",
        *("--byzantine", "3", "--attack", "sign_flip:scale=10", "--stragglers", "2:factor=10"),
    )  # fmt: skip
    assert code == 0, err
    assert books["accuracy"] > 0.85
    assert books["loss"] < 0.6
    assert 2000 <= books["delivered"] <= 2000 + 10
    assert books["delivered"] == books["admitted"] + sum(books["refused"].values())
    assert books["delivered"] == books["honest"]["delivered"] + books["byzantine"]["delivered"]
    assert books["byzantine"]["admitted"] < 0.1 * books["byzantine"]["delivered"]
    assert books["slowdown"] > 0.3
    assert books["updates"] > 500
    assert books["seconds"] < 60
    assert books["deaths"] == {}
    assert [row["worker"] for row in books["workers"]] == list(range(10))
    for row in books["workers"]:
        assert row["delivered"] > 5
        assert row["byzantine"] or row["share"] > 0.1
    assert "misdeclared" not in books["refused"]


def test_without_a_filter_the_same_liars_leave_chance() -> None:
    code, books, _ = kardam(
        "run", "--json", "--quiet", "--preset", "none", "--arrivals", "800", "--byzantine", "3"
    )
    assert code == 0
    assert books["accuracy"] < 0.3
    assert books["refused"].keys() <= {"nonfinite"}  # the model itself diverges


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "delivered"),
    [
        # How many answers of a liar there are to one of an honest worker. (The machine may have no
        # more to give to a flood.)
        pytest.param("alie+flood:rho=10", (1.5, 10.5), id="flood over the board"),
        pytest.param("silent", (0.0, 0.0), id="silent"),
        # What was answered before is refused once more, and no delivery.
        pytest.param("replay:age=3", (0.7, 1.3), id="replay"),
        pytest.param("constant+burst:seconds=1,answers=5", (0.01, 1.0), id="burst"),
    ],
)
def test_liars_who_collude_or_choose_their_time_do_so_on_sockets(
    attack: str, delivered: tuple[float, float]
) -> None:
    code, books, err = kardam(
        *("run", "--json", "--quiet", "--seed", "1", "--arrivals", "1000"),
        *("--byzantine", "3", "--attack", attack, "--latency", "constant:seconds=0.05"),
    )
    assert (code, books["deaths"]) == (0, {}), err
    assert books["accuracy"] > 0.5
    low, high = delivered
    each = [row["delivered"] for row in books["workers"]]
    assert low <= (sum(each[7:]) / 3) / (sum(each[:7]) / 7) <= high
    assert [row["state"] for row in books["workers"]] == ["alive"] * 10
    assert [row["byzantine"] for row in books["workers"]] == [False] * 7 + [True] * 3
    assert ("unasked" in books["refused"]) == attack.startswith("replay")


def test_what_is_malformed_goes_over_sockets_and_is_refused_at_once() -> None:
    code, books, err = kardam(
        *("run", "--json", "--quiet", "--seed", "1", "--arrivals", "1000", "--preset", "none"),
        *("--byzantine", "3", "--attack", "malformed", "--latency", "constant:seconds=0.02"),
    )
    assert (code, books["deaths"]) == (0, {}), err
    assert books["refused"].keys() == {"malformed", "nonfinite"}
    assert books["byzantine"]["delivered"] > 150
    assert books["byzantine"]["admitted"] == 0
    assert books["honest"]["admitted"] == books["honest"]["delivered"]
    assert [row["state"] for row in books["workers"]] == ["alive"] * 10


def test_if_a_worker_dies_the_run_goes_on_and_the_summary_says_so() -> None:
    with started("run", "--json", "--arrivals", "1500") as process:
        at_work(process)
        (nursery,) = {pid for pid in children(process.pid) if children(pid)}
        victim = max(children(nursery))
        os.kill(victim, signal.SIGKILL)
        code, books, err = finished(process)
    assert code == 0, err
    assert list(books["deaths"].values()) == ["killed by signal 9"]
    assert books["delivered"] >= 1500


def test_if_more_workers_die_than_it_bears_the_run_ends_and_says_why() -> None:
    with started("run", "--workers", "4", "--seconds", "40") as process:
        at_work(process)
        (nursery,) = {pid for pid in children(process.pid) if children(pid)}
        for victim in sorted(children(nursery))[1:3]:  # the first is the evaluator
            os.kill(victim, signal.SIGKILL)
        code, _, err = finished(process)
    assert code == 4
    assert "2 workers are left and 3 are needed" in err
    assert "killed by signal 9" in err


@pytest.mark.slow
def test_a_worker_with_outages_is_missed_and_comes_back_to_deliver() -> None:
    # By this seed worker 0 is there for 2.3 seconds, away for 6.2, and there again for 5.7.
    words = ("--workers", "4", "--seed", "12", "--seconds", "100")
    with started("run", "--json", *words, "--outages", "1:every=2,seconds=5") as process:
        endpoint = lines(process, r"kardam stats (tcp://127\.0\.0\.1:\d+)")[1]

        def row() -> Any:
            return look(endpoint)["workers"][0]

        until(lambda: row()["state"] == "missing")
        before = row()
        until(lambda: row()["state"] == "alive" and row()["delivered"] > before["delivered"] + 5)
        process.send_signal(signal.SIGINT)
        code, books, err = finished(process)
    assert code == 130, err
    assert before["label"] == "outages"
    assert before["delivered"] > 0
    assert books["deaths"] == {}
    assert "misdeclared" not in books["refused"]


@pytest.mark.slow
def test_if_the_evaluator_dies_training_goes_on() -> None:
    with started("run", "--json", "--workers", "4", "--arrivals", "1000") as process:
        at_work(process)
        (nursery,) = {pid for pid in children(process.pid) if children(pid)}
        os.kill(min(children(nursery)), signal.SIGKILL)
        code, books, err = finished(process)
    assert code == 0, err
    assert books["deaths"] == {"evaluator": "killed by signal 9"}
    assert books["delivered"] >= 1000


# Whose evaluation goes wrong while there is a file called `broken`. (The trial has few examples.)
FRAGILE = """
import math
from pathlib import Path
import torch
from workers.tasks import Task, load_task

class Model(torch.nn.Linear):
    def forward(self, x):
        if not self.training and len(x) > 100 and Path("broken").exists():
            if Path("broken").read_text() == "nan":
                return math.nan * super().forward(x)
            raise ValueError("the weather is bad")
        return super().forward(x)

def task():
    digits = load_task("digits", 0)
    return Task(Model(64, 10), digits.train, digits.test)
"""


def test_an_evaluator_that_raises_is_told_of_at_once_and_the_run_goes_on_and_resumes(
    tmp_path: Path,
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    words = ("--task", "fragile:task", "--workers", "4", "--arrivals", "100000", "--json")
    with started("run", *words, "--out", "run", cwd=tmp_path) as process:
        endpoint = at_work(process)
        until(lambda: look(endpoint)["accuracy"] is not None)
        (tmp_path / "broken").write_text("raise")
        said = lines(process, "evaluator")
        assert said.string.strip().endswith(
            "the evaluator: the task raised ValueError: the weather is bad; training goes on"
            " without it"
        )
        before = look(endpoint)["delivered"]
        until(lambda: look(endpoint)["delivered"] > before + 100)
        process.send_signal(signal.SIGINT)
        code, books, err = finished(process)
    assert (code, "Traceback" in err) == (130, False)
    assert books["deaths"] == {"evaluator": "the task raised ValueError: the weather is bad"}
    (tmp_path / "broken").unlink()
    goal = str(books["delivered"] + 200)
    code, more, err = kardam("run", "--resume", "run", "--arrivals", goal, "--json", cwd=tmp_path)
    assert (code, more["deaths"]) == (0, {}), err
    assert more["updates"] > books["updates"]
    assert more["held_out"][-1][0] > books["updates"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("run", "--workers", "4"), ("serve", "--bind", "tcp://127.0.0.1:0")]
)
def test_a_run_to_an_accuracy_that_nobody_measures_any_more_ends_and_says_why(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "broken").write_text("raise")
    goal = ("--task", "fragile:task", "--target", "0.99")
    code, _, err = kardam(*words, *goal, "--json", cwd=tmp_path)
    assert (code, "Traceback" in err) == (4, False)
    why = "nobody measures --target 0.99 any more; the evaluator: the task raised ValueError"
    assert f"ended: stalled: {why}: the weather is bad" in err


@pytest.mark.slow
def test_an_evaluator_that_finds_nan_is_no_news_for_training(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "broken").write_text("nan")
    words = ("--task", "fragile:task", "--workers", "4", "--arrivals", "300", "--out", "run")
    code, books, err = kardam("run", *words, "--json", cwd=tmp_path)
    assert (code, books["loss"], books["deaths"]) == (0, None, {}), err
    (tmp_path / "broken").unlink()
    code, more, err = kardam("run", "--resume", "run", "--arrivals", "500", "--json", cwd=tmp_path)
    assert (code, more["loss"] < 2.3) == (0, True), err


def test_if_the_parent_is_killed_no_orphan_stays() -> None:
    with started("run", "--seconds", "60") as process:
        at_work(process)
        orphans = children(process.pid)
        assert len(orphans) == 1 + 1 + 10  # the nursery, the evaluator, ten workers
        process.kill()
        process.wait(timeout=SECONDS)
        until(lambda: not any(map(alive, orphans)))


@pytest.mark.parametrize(
    ("number", "why", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_the_first_signal_ends_a_run_in_order_with_its_summary(
    number: signal.Signals, why: str, code: int
) -> None:
    with started("run", "--json", "--seconds", "60") as process:
        at_work(process)
        family = children(process.pid)
        process.send_signal(number)
        got, books, err = finished(process)
        until(lambda: not any(map(alive, family)))
    assert (got, f"ended: {why}" in err) == (code, True)
    assert books["status"] == "ended"
    assert books["accuracy"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_whoever_loses_the_terminal_finds_the_run_kept_and_goes_on(
    quiet: list[str], tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    words = ["run", "--seconds", "60", "--seed", "1", "--out", str(tmp_path / "run"), *quiet]
    # It leads a session, whose terminal this is; and hears of its end, as nobody does under nohup.
    begin = "import fcntl, os, signal, sys, termios; os.setsid(); "
    begin += "fcntl.ioctl(0, termios.TIOCSCTTY, 0); signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    process = subprocess.Popen(
        [sys.executable, "-c", begin + "os.execv(sys.argv[1], sys.argv[1:])", *KARDAM, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    os.close(theirs)
    gone = threading.Event()
    watcher = threading.Thread(target=watch, args=(ours, gone))
    watcher.start()
    try:
        journal = tmp_path / "run" / "journal.jsonl"
        until(lambda: journal.exists() and journal.stat().st_size > 10_000)
        family = children(process.pid)
        assert len(family) > 10
        gone.set()
        assert process.wait(timeout=SECONDS) == 129
        until(lambda: not any(map(alive, family)))
    finally:
        gone.set()
        watcher.join()
        process.kill()
        process.wait()
    updates = json.loads((tmp_path / "run" / "summary.json").read_text())["updates"]
    assert updates > 0
    more = ["--updates", str(updates), "--json"]
    code, books, err = kardam("run", "--resume", str(tmp_path / "run"), *more)
    assert (code, books["updates"]) == (0, updates), err


def test_a_second_signal_ends_it_at_once() -> None:
    with started("run", "--seconds", "60") as process:
        at_work(process)
        family = children(process.pid)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SECONDS) in (130, -signal.SIGINT)
        until(lambda: not any(map(alive, family)))


def test_a_daemon_is_joined_by_liars_from_another_shell_and_stats_shows_them() -> None:
    with started("serve", "--task", "digits", "--workers", "4", "--json") as server:
        endpoint = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+)")[1]
        with started("work", endpoint, "--count", "3") as honest:
            lines(honest, "3 at work")
            with started("work", endpoint, "--attack", "sign_flip:scale=10", "--straggler", "2"):

                def seen() -> bool:
                    rows = look(endpoint)["workers"]
                    return len(rows) == 4 and all(row["delivered"] > 20 for row in rows)

                until(seen)
                _, books, _ = kardam("stats", endpoint, "--json")
                assert books["status"] == "running"
                assert [row["byzantine"] for row in books["workers"]] == [False] * 3 + [True]
                assert books["workers"][3]["label"] == "sign_flip:scale=10, straggler x2"
                assert books["workers"][3]["share"] < 0.2
                code, _, err = kardam("work", endpoint)
                assert (code, "all n=4 workers are taken" in err) == (6, True)
            honest.send_signal(signal.SIGINT)
            assert honest.wait(timeout=SECONDS) == 0
            assert [row["state"] for row in look(endpoint)["workers"][:3]] == ["left"] * 3
        server.send_signal(signal.SIGTERM)
        code, books, err = finished(server)
    assert code == 0, err
    assert books["accuracy"] > 0.5


def test_only_whose_key_is_enrolled_works_for_a_server_with_keys(tmp_path: Path) -> None:
    words = ("--task", "digits", "--workers", "2", "--keys", "keys", "--json")
    with started("serve", *words, cwd=tmp_path) as server:
        said = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+) --server-key ([0-9a-f]{64})")
        stranger = ("work", said[1], "--server-key", said[2], "--key", "mine.json")
        code, _, err = kardam(*stranger, cwd=tmp_path)
        mine = pair_at(tmp_path / "mine.json").public
        assert (code, f"ask its operator for `kardam keys enroll ... {mine}`" in err) == (6, True)
        folder = Folder(tmp_path / "keys")
        folder.enroll(mine, Entry("worker", "me"))
        assert kardam("keys", "kit", "keys", "bob.kit", cwd=tmp_path)[0] == 0
        with started(*stranger, cwd=tmp_path), started("work", "bob.kit", cwd=tmp_path) as bob:

            def at_work() -> bool:
                rows = look(said[1])["workers"]
                return len(rows) == 2 and all(row["admitted"] > 20 for row in rows)

            until(at_work)
            code, _, err = kardam("stats", "bob.kit", cwd=tmp_path)
            assert (code, "enrolled as worker, and not as operator" in err) == (6, True)
            folder.revoke("bob")
            code, _, err = finished(bob)
            assert (code, "this key was revoked" in err) == (6, True)
            rows = look(said[1])["workers"]
            assert {(row["name"], row["state"]) for row in rows} == {
                ("me", "alive"),
                ("", "revoked"),
            }
        server.send_signal(signal.SIGTERM)
        code, _, err = finished(server)
    assert code == 0, err


def test_a_task_that_raises_while_training_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        import itertools
        import torch
        from workers.tasks import Task

        calls = itertools.count()

        def loss(outputs, targets):
            if next(calls) > 20:
                raise ValueError("the weather is bad")
            return torch.nn.functional.cross_entropy(outputs, targets)

        def bad():
            x, y = torch.zeros(20, 2), torch.zeros(20, dtype=torch.int64)
            return Task(torch.nn.Linear(2, 2), (x, y), (x, y), loss=loss)
        """)
    )
    code, _, err = kardam("run", "--task", "mine:bad", "--seconds", "40", cwd=tmp_path)
    assert code == 3
    assert "the task raised ValueError: the weather is bad" in err
    assert "Traceback" not in err


def test_a_server_may_not_make_a_worker_import_what_its_owner_did_not_name(tmp_path: Path) -> None:
    own = "tests.test_worker:small_task"
    with started("serve", "--task", own, "--workers", "1") as server:
        endpoint = lines(
            server, r"kardam work (tcp://127\.0\.0\.1:\d+) --task tests\.test_worker:small_task$"
        )[1]
        code, _, err = kardam("work", endpoint)
        assert (code, f"say --task {own}" in err) == (2, True)
        code, _, err = kardam("work", endpoint, "--task", "digits")
        assert code == 3
        assert "here is '0.bias' of shape (32,) where the server has '0.bias' of shape (3,)" in err


def test_a_server_may_not_make_a_worker_read_a_file_that_its_owner_did_not_name(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).normal(size=(200, 4))
    np.savez(tmp_path / "theirs.npz", x=x, y=x[:, 0] > 0)
    (tmp_path / "elsewhere").mkdir()
    np.savez(tmp_path / "elsewhere" / "ours.npz", x=x, y=x[:, 0] > 0)
    words = ("--task", "npz:path=theirs.npz,model=linear", "--split", "by_label", "--workers", "1")
    with started("serve", *words, cwd=tmp_path) as server:
        endpoint = lines(server, r"kardam work (tcp://127\.0\.0\.1:\d+)")[1]
        code, _, err = kardam("work", endpoint, cwd=tmp_path)
        assert (code, "say --task npz:path=theirs.npz,model=linear, with its" in err) == (2, True)
        ours = "npz:path=ours.npz,model=linear"
        with started("work", endpoint, "--task", ours, cwd=tmp_path / "elsewhere"):
            until(lambda: look(endpoint)["admitted"] > 20)


def test_who_is_terminated_while_torch_is_loading_ends_at_once_with_its_code() -> None:
    with started("run") as process:
        until(lambda: any("torch" in mapped(pid) for pid in children(process.pid)))
        born = children(process.pid)
        process.terminate()
        code, _, err = finished(process)
    assert code == 143
    assert err.strip() == "kardam: terminated before it began"
    assert not any(alive(pid) for pid in born)


def mapped(pid: int) -> str:
    """The files that a process has in its memory."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def test_a_task_that_calls_exit_while_it_is_loaded_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "hasty.py").write_text("import sys\n\n\ndef task():\n    sys.exit(5)\n")
    code, _, err = kardam("run", "--task", "hasty:task", cwd=tmp_path)
    assert code == 3
    assert err.strip() == "kardam: hasty:task: called sys.exit(5) while it was loaded"
