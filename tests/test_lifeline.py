"""A process of ours ends with its parent, and when it is told to, whatever swallows that."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from kardam.errors import EXIT_CODES
from kardam.keys import Pass
from tests.test_run import alive, until
from workers.crew import Member
from workers.swarm import Fate, swarm

HOUSE = Path(__file__).parent.parent
SECONDS = 20


def ran(program: str, *arguments: str, keep: tuple[int, ...] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HOUSE,
        pass_fds=keep,
    )


def test_a_process_dies_with_its_parent_before_anything_is_loaded() -> None:
    theirs, ours = os.pipe()
    program = (
        "import signal, sys; from workers.lifeline import Lifeline; Lifeline(int(sys.argv[1]));"
        " print('there', flush=True); signal.pause()"
    )
    with ran(program, str(theirs), keep=(theirs,)) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        os.close(ours)
        assert process.wait(SECONDS) == 1


# An exception is ignored in a destructor: that the first one is lost there is what is tested.
SWALLOWED = """
import signal
from workers.lifeline import Terminated, leave_when_told
class Closing:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
class Broken:
    def __del__(self):
        raise ValueError("mistake")
leave_when_told()
Broken()
try:
    Closing()
    signal.pause()
except Terminated:
    print("goodbye", flush=True)
    signal.raise_signal(signal.SIGTERM)  # it is on its way, and says its goodbye to the end
    signal.pause()  # until it is asked for again, by the alarm
    print("goodbye again", flush=True)
"""


def test_who_is_told_to_leave_leaves_though_something_swallows_it() -> None:
    with ran(SWALLOWED) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert out == "goodbye\ngoodbye again\n"
    # Of another's mistake in a destructor Python tells as ever; of this there is nothing to say.
    assert "mistake" in err
    assert "Terminated" not in err
    assert process.returncode == 0


@pytest.mark.parametrize(("code", "meant"), [(0, 0), (3, 3), (-9, 9), (-15, 9)])
def test_a_killed_workers_command_has_a_code_that_is_told(code: int, meant: int) -> None:
    assert Fate(code, "").exit_code == meant
    assert meant in EXIT_CODES


def on(loop: str, play: Callable[[], Coroutine[Any, Any, dict[str, Fate]]]) -> dict[str, Fate]:
    run = asyncio.run if loop == "asyncio" else uvloop.run
    return run(play())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_children_of_a_nursery_that_was_killed_die_with_it_and_who_waits_for_them_hears_so(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One who is at work; one who is ordered before its end is heard of, and one after that."""

    async def play() -> dict[str, Fate]:
        asked = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(60), swarm("synthetic:d=10", "iid", 3, seed=0) as hands:

            def order(index: int) -> None:
                hands.work(Member(index), "tcp://127.0.0.1:1", Pass("token"), patience=60.0)

            await hands.opening()
            order(0)
            await hands.changed.wait()
            orphan = hands.pids["0"]
            hands._process.kill()
            order(1)
            await hands.idle(asked)
            order(2)
            await hands.idle(asked)
            until(lambda: not alive(orphan))
            return hands.deaths

    assert on(loop, play) == dict.fromkeys("012", Fate(1, "its nursery died"))
    (word,) = caplog.messages
    assert "the nursery died" in word


FORKING = """
import os, signal
from pathlib import Path
from workers.tasks import load_task

def task():
    if (pid := os.fork()) == 0:
        signal.alarm(120)  # it ends by itself, whatever becomes of the test
        signal.pause()
    Path("pid").write_text(str(pid))
    return load_task("synthetic:d=10", 0)
"""


# A child of the nursery opens files, of which one takes the number that the events had, and forks.
HANDED = """
import os
from pathlib import Path
from workers import nursery
from workers.tasks import load_task

def evaluate(**rest):
    mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    if os.fork() == 0:
        open_ = all(os.path.exists(f"/dev/fd/{number}") for number in mine)
        Path("open").write_text(str(open_))
        os._exit(0)
    os.wait()

nursery.evaluate = evaluate

def task():
    return load_task("synthetic:d=10", 0)
"""


def test_what_a_child_forks_keeps_all_files_of_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handed.py").write_text(HANDED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def play() -> dict[str, Fate]:
        asked = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(60), swarm("handed:task", "iid", 2, seed=0) as hands:
            await hands.opening()
            hands.evaluate("tcp://127.0.0.1:1", Pass("token"), 1.0, 60.0)
            await hands.idle(asked)
        return hands.deaths

    assert on("uvloop", play) == {}
    assert Path("open").read_text() == "True"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_end_waits_for_nobody_whom_a_task_forked_while_it_was_loaded(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forking.py").write_text(FORKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def play() -> dict[str, Fate]:
        async with asyncio.timeout(60), swarm("forking:task", "iid", 2, seed=0) as hands:
            await hands.opening()
        return hands.deaths

    assert on(loop, play) == {}
    orphan = int(Path("pid").read_text())
    assert alive(orphan)
    os.kill(orphan, signal.SIGKILL)
