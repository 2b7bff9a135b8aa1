"""Memory that is kept: seen from outside, in a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import os
import numpy as np
from kardam import pages

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

{keep}
before = resident()
x = np.ones(10**7, np.float32)
del x
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("keep", "kept"), [("pages.keep()", True), ("", False)])
def test_a_process_that_keeps_its_pages_has_them_when_a_vector_is_gone(
    keep: str, kept: bool
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(ran.stdout) > 30_000_000) == kept
