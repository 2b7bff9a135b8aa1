"""A vector's fingerprint: 64 bits by which its bytes are known again.

xxh3_64 of the float32 numbers as they lie in memory (little-endian), as 16 hexadecimal digits. It
reads a vector as fast as memory gives it, so that it costs what a norm costs. It tells one vector
from another, and a disk's error; it is no signature, and who wants to can make two vectors of one
fingerprint. Never in here: any other hash.
"""

import numpy as np
import xxhash

from kardam.messages import Vector


def bytes_of(v: Vector) -> memoryview:
    """As they lie in memory, or would if they lay in order; not copied where they do."""
    return np.ascontiguousarray(v).view(np.uint8).data


def fingerprint(v: Vector) -> str:
    """16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(bytes_of(v))


def check(data: bytes | memoryview) -> int:
    """The same of any bytes, as a number."""
    return xxhash.xxh3_64_intdigest(data)
