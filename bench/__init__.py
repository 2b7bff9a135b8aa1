"""Questions, each a script that prints a small table; none is imported by the product.

With one compute thread a process, said here before numpy and torch look.
"""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
