"""One compute thread, so that sums come out the same to the last bit; hypothesis; a bound."""

import os
import signal
from collections.abc import Iterator

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# The seed is fixed: what passed passes again. HYPOTHESIS_PROFILE=explore draws new examples.
settings.register_profile("kardam", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "kardam"))

# Seconds. No test takes a quarter of it; one that waits for what never comes ends here.
TEST_SECONDS = 150


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Every test ends by itself."""

    def late(*_: object) -> None:
        raise TimeoutError(f"this test took more than {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
