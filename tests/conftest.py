"""One compute thread, so that sums come out the same to the last bit; hypothesis' manners."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("kardam", deadline=None, print_blob=True)
settings.load_profile("kardam")
