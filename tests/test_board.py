"""The liars' board: what was posted is read whole or not at all, whoever writes meanwhile."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.board import Board, private, shared


@pytest.mark.parametrize("make", [private, shared])
@given(posts=st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), max_size=20))
def test_everybody_reads_the_latest_post_of_each(make, posts: list[tuple[int, int]]) -> None:  # type: ignore[no-untyped-def]
    boards: list[Board] = make(n=10, f=4, d=3)
    latest: dict[int, int] = {}
    for place, value in posts:
        boards[place].post(np.full(3, value, np.float32))
        latest[place] = value
    expected = [[value] * 3 for _, value in sorted(latest.items())]
    for board in boards:
        seen = board.read()
        assert seen.shape == (len(latest), 3)
        assert seen.dtype == np.float32
        assert seen.tolist() == expected


def test_a_post_that_was_left_half_written_is_no_post() -> None:
    one, other = private(n=4, f=2, d=6)
    one.post(np.ones(6, np.float32))
    other.post(np.zeros(6, np.float32))
    one._posts[0, :3] = 2  # its owner died here
    assert one.read().tolist() == [[0] * 6]
    one.post(np.full(6, 2, np.float32))
    assert len(one.read()) == 2


def test_what_was_read_does_not_change_afterwards() -> None:
    (board,) = private(n=4, f=1, d=2)
    board.post(np.array([1, 2], np.float32))
    seen = board.read()
    board.post(np.array([3, 4], np.float32))
    assert seen.tolist() == [[1, 2]]


@pytest.mark.parametrize("make", [private, shared])
def test_where_nobody_lies_there_is_no_board(make) -> None:  # type: ignore[no-untyped-def]
    assert make(n=10, f=0, d=10) == []


# One process posts vectors of equal numbers, and computes in between as liars do; another looks on.
PROGRAM = """
import os, sys
import numpy as np
from workers.board import shared

WRITES, D = 200, 50_000
boards = shared(n=4, f=2, d=D)
writer = os.fork()
if writer == 0:
    for value in range(WRITES):
        boards[0].post(np.full(D, value, np.float32))
        for _ in range(5):
            np.ones(D, np.float32).cumsum()
    os._exit(0)
seen, ended = set(), False
while not ended:
    ended = os.waitpid(writer, os.WNOHANG)[0] == writer
    for post in boards[1].read():
        assert (post == post[0]).all(), "a torn vector"
        seen.add(float(post[0]))
assert WRITES - 1 in seen  # the last one stands
print(len(seen))
"""


def test_no_process_ever_reads_a_torn_vector_of_another() -> None:
    house = Path(__file__).parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=house, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 1  # it saw some while the other was at work
