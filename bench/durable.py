"""What does it cost to keep every gradient, and to have it on the disk before its verdict leaves?

    python -m bench.durable

Workers cycle as in bench.throughput: full cycles a second of all together, against a server that
writes its journal, one that records as well, and one that waits for the disk. They take turns; a
ratio is the median of those within a turn. The recording lies where temporary files do: TMPDIR
chooses the disk, whose own time for a write of that size and its fdatasync stands beside.
"""

import os
import tempfile
import time
from statistics import median

import click

from bench.throughput import Rate, repetition
from bench.wires import kardam

PLAIN, RECORD, DURABLE = "journal", "--record", "--durable"


def disk_ms(size: int, times: int = 20) -> float:
    """Milliseconds to write so many bytes and have the disk say that it has them; the median."""
    took = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(b"\1" * size)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return 1e3 * median(took)


@click.command()
@click.option("--workers", default=4, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Measured in each repetition.")
@click.option("--repetitions", default=5, show_default=True)
def main(workers: int, seconds: float, repetitions: int) -> None:
    """Cycles a second with a journal alone, with --record and with --durable."""
    wires = {
        PLAIN: kardam(PLAIN, "none"),
        RECORD: kardam(RECORD, "none", record=True),
        DURABLE: kardam(DURABLE, "none", durable=True),
    }
    names = [*wires, f"{RECORD} / {PLAIN}", f"{DURABLE} / {PLAIN}"]
    print(f"| d | a write, ms | {' | '.join(names)} |")
    print("|---" * (len(names) + 2) + "|")
    for d in (10**4, 10**6):
        turns: list[dict[str, Rate]] = []
        for turn in range(repetitions):
            order = list(wires) if turn % 2 == 0 else list(reversed(wires))
            turns.append({name: repetition(wires[name], d, workers, seconds) for name in order})
        cycles = [f"{median(turn[name].cycles for turn in turns):,.4g}" for name in wires]
        ratios = [
            f"{median(turn[name].cycles / turn[PLAIN].cycles for turn in turns):.2f}"
            for name in (RECORD, DURABLE)
        ]
        print(f"| {d:,} | {disk_ms(4 * d):.2f} | {' | '.join([*cycles, *ratios])} |", flush=True)


if __name__ == "__main__":
    main()
