"""kardam on a disk that takes its time: `python -m bench.slow_disk WRITE FSYNC VERB ...`, seconds
that each write of a log, and each fsync of a file, takes besides.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from workers.__main__ import main


def slow(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slowly(*its: Any) -> Any:
        time.sleep(seconds)
        return call(*its)

    return slowly


if __name__ == "__main__":
    write, fsync = float(sys.argv.pop(1)), float(sys.argv.pop(1))
    os.writev = slow(os.writev, write)
    os.fsync, os.fdatasync = slow(os.fsync, fsync), slow(os.fdatasync, fsync)
    main()
