"""One compute thread, so that sums come out the same to the last bit; hypothesis' manners."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The seed is fixed: what passed passes again. HYPOTHESIS_PROFILE=explore draws new examples.
settings.register_profile("kardam", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "kardam"))
