"""Memory that a vector leaves is kept for the next one: one word to the C library, by a main.

Never in here: a vector.
"""

import ctypes

# From malloc.h of the GNU C library: above which size a piece of memory is mapped on its own, and
# given back to the system when it is free; and how much may be free at the end of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

BYTES = 2**30


def keep() -> None:
    """From now on, for this process. Does nothing where the C library is another.

    A model of d = 10^7 is 40 MB, and every update makes a new one; else each of its pages comes
    from the system, zeroed, and goes back. A cycle takes a third less processor time without that
    (bench.throughput). The price: a process stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, BYTES)
        mallopt(M_TRIM_THRESHOLD, BYTES)
