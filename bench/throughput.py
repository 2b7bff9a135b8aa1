"""How many full cycles a second does the machine allow, and how many of them does kardam leave?

    python -m bench.throughput

A cycle: a worker process pulls the newest model of d float32 numbers, pushes a gradient that it
had beforehand, and hears the verdict. Servers and workers are processes of their own on this
machine; contestants take turns in short repetitions, so that what else the machine does hits them
alike. The figures are medians, in cycles a second of all workers together; in brackets stands the
processor time of a cycle, server + worker, in microseconds, kernel included, which other load
disturbs less. Ratios are medians of the ratios within a turn: first of cycles a second, and last of
processor time, turned so that more is better there, too.
"""

import contextlib
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import click

from bench.wires import DEFAULT_WIDE, Wire, gradients, kardam, missing, raw, ray_actor, torch_rpc
from kardam import pages

FORK = multiprocessing.get_context("fork")

WHOLE = 2**62  # a chunk that every message fits
CHUNKS = (2**20, 2**22, WHOLE)

# Seconds that all are at work before and after what is measured; and cycles before that.
WARM_SECONDS = 0.3
WARM_CYCLES = 3

# Seconds to wait for a word of a process; and for its end.
PATIENCE = 120
END_SECONDS = 10

RAW, UPDATED, RIDING = "raw ZeroMQ", "raw + update", "raw + update, one journey"
NONE, DEFAULT, SHARED = "kardam, no filter", "kardam, default", "kardam, default, shared memory"
TORCH, RAY = "torch.distributed.rpc", "Ray actor"

# Of each, above by below.
RATIOS = (
    (NONE, UPDATED),
    (NONE, RIDING),
    (DEFAULT, UPDATED),
    (DEFAULT, NONE),
    (DEFAULT, TORCH),
    (DEFAULT, RAY),
    (SHARED, RAW),
    (SHARED, TORCH),
    (SHARED, RAY),
)
# The same of processor time.
LIGHT = ((NONE, UPDATED), (DEFAULT, UPDATED), (SHARED, RAW))
SHORT = {
    UPDATED: "raw+",
    RIDING: "raw+ one journey",
    NONE: "none",
    DEFAULT: "default",
    RAW: "raw",
    SHARED: "shared",
    TORCH: "rpc",
    RAY: "Ray",
}

# The library of each peer.
PEERS = {TORCH: "torch", RAY: "ray"}


class Rate(NamedTuple):
    """What the workers of one repetition did: cycles a second in all, the share admitted, and the
    microseconds of processor time that a cycle took of the server and of the worker.
    """

    cycles: float
    admitted: float
    server_us: float
    worker_us: float


def contestants(d: int) -> Iterator[tuple[str, Wire]]:
    """Who takes part, by the name of the column; of several in one column the better counts."""
    # Chunks that are not smaller than the whole are the whole.
    sizes = [chunk for chunk in CHUNKS if chunk == WHOLE or chunk < 4 * d]
    for chunk in sizes:
        yield RAW, raw(chunk, update=False)
    for chunk in sizes:
        yield UPDATED, raw(chunk, update=True)
    for chunk in sizes:
        yield RIDING, raw(chunk, update=True, rides=True)
    yield NONE, kardam(NONE, "none")
    yield DEFAULT, kardam(DEFAULT, DEFAULT_WIDE)
    yield SHARED, kardam(SHARED, DEFAULT_WIDE, shares=True)
    for name, peer in ((TORCH, torch_rpc), (RAY, ray_actor)):
        if not missing(PEERS[name]):
            yield name, peer()


def repetition(wire: Wire, d: int, workers: int, seconds: float) -> Rate:
    """From the start of its processes to their end; counted is what happens when all are warm."""
    with contextlib.ExitStack() as stack:
        hear, tell = FORK.Pipe(duplex=False)
        server = start(stack, wire.serve, d, workers, tell.send)
        where = heard(hear, wire.name)
        meeting = FORK.Barrier(workers)
        for index in range(workers):
            start(stack, work, wire, where, index, d, meeting, seconds, tell, server)
        told = [heard(hear, wire.name) for _ in range(workers)]
    cycles = sum(one["cycles"] for one in told)
    # Each has measured the server over much the same time.
    seconds = mean(one["seconds"] for one in told)
    return Rate(
        cycles / seconds,
        sum(one["admitted"] for one in told) / cycles,
        1e6 * mean(one["server"] for one in told) / cycles,
        1e6 * sum(one["own"] for one in told) / cycles,
    )


def start(stack: contextlib.ExitStack, target: Callable[..., None], *rest: Any) -> int:
    """A process of its own, by its id; it ends with the stack."""
    process = FORK.Process(target=_begin, args=(target, *rest))
    process.start()
    stack.callback(_end, process)
    assert process.pid is not None
    return process.pid


def _begin(target: Callable[..., None], *rest: Any) -> None:
    pages.keep()  # what spares one a page fault spares it everybody
    target(*rest)


def _end(process: ForkProcess) -> None:
    process.terminate()
    process.join(END_SECONDS)
    process.kill()
    process.join()


def heard(hear: Connection, who: str, patience: float = PATIENCE) -> Any:
    """The next word of a process of ours."""
    if not hear.poll(patience):
        raise click.ClickException(f"{who}: nothing heard for {patience} s")
    return hear.recv()


def work(
    wire: Wire,
    where: Any,
    index: int,
    d: int,
    meeting: Barrier,
    seconds: float,
    tell: Connection,
    server: int,
) -> None:
    """A worker's process: cycles before, while and after they are counted."""
    with wire.work(where, index, d, gradients(index, d)) as cycle:
        for _ in range(WARM_CYCLES):
            cycle()
        meeting.wait()
        # What the others still load, or the server still writes, is over soon.
        start = time.monotonic() + WARM_SECONDS
        while time.monotonic() < start:
            cycle()
        begin = now = time.monotonic()
        own, others = time.process_time(), processor_seconds(server)
        cycles = admitted = 0
        while now < start + seconds:
            admitted += cycle()
            cycles += 1
            now = time.monotonic()
        told = {
            "cycles": cycles,
            "admitted": admitted,
            "seconds": now - begin,
            "own": time.process_time() - own,
            "server": processor_seconds(server) - others,
        }
        # The others are to be measured with this one at work.
        while time.monotonic() < start + seconds + WARM_SECONDS:
            cycle()
        tell.send(told)
        meeting.wait()


def processor_seconds(pid: int) -> float:
    """Of all threads of a process (Linux: the clock id of another process, CPUCLOCK_SCHED)."""
    return time.clock_gettime((~pid << 3) | 2)


def turns(
    d: int, workers: int, seconds: float, repetitions: int
) -> dict[str, dict[str, list[Rate]]]:
    """The rates of every contestant, by column and by name; a repetition is everybody's turn."""
    rates: dict[str, dict[str, list[Rate]]] = {}
    for turn in range(repetitions):
        wires = list(contestants(d))
        # Nobody is always first after somebody.
        for column, wire in wires if turn % 2 == 0 else reversed(wires):
            mine = rates.setdefault(column, {}).setdefault(wire.name, [])
            mine.append(repetition(wire, d, workers, seconds))
    return rates


def best(rates: dict[str, list[Rate]]) -> list[Rate]:
    """Of several ways to do the same the one with the better median."""
    return max(rates.values(), key=lambda own: median(rate.cycles for rate in own))


def ratio(rates: dict[str, dict[str, list[Rate]]], above: str, below: str) -> float:
    """The median over turns of one column by another."""
    pairs = zip(best(rates[above]), best(rates[below]), strict=True)
    return median(a.cycles / b.cycles for a, b in pairs)


def row(rates: dict[str, dict[str, list[Rate]]], d: int, workers: int) -> dict[str, Any]:
    """The figures of one d and one number of workers: plain values for JSON."""
    return {
        "d": d,
        "workers": workers,
        "cycles": {c: round(median(r.cycles for r in best(own)), 1) for c, own in rates.items()},
        "server_us": {
            c: round(median(r.server_us for r in best(own)), 1) for c, own in rates.items()
        },
        "worker_us": {
            c: round(median(r.worker_us for r in best(own)), 1) for c, own in rates.items()
        },
        "ratios": {
            f"{above} / {below}": round(ratio(rates, above, below), 3)
            for above, below in RATIOS
            if {above, below} <= rates.keys()
        },
        "processor ratios": {
            f"{above} / {below}": round(
                median(
                    (b.server_us + b.worker_us) / (a.server_us + a.worker_us)
                    for a, b in zip(best(rates[above]), best(rates[below]), strict=True)
                ),
                3,
            )
            for above, below in LIGHT
        },
        "all": {
            name: [[round(value, 4) for value in rate] for rate in one]
            for own in rates.values()
            for name, one in own.items()
        },
    }


def line(row: dict[str, Any], columns: Sequence[str]) -> str:
    """A row of the table in Markdown."""
    cycles = [
        f"{row['cycles'][c]:,.4g} ({row['server_us'][c]:,.0f} + {row['worker_us'][c]:,.0f})"
        if c in row["cycles"]
        else "-"
        for c in columns
    ]
    ratios = [
        f"{row['ratios'].get(f'{above} / {below}', float('nan')):.2f}" for above, below in RATIOS
    ]
    ratios += [f"{row['processor ratios'].get(f'{a} / {b}', float('nan')):.2f}" for a, b in LIGHT]
    return f"| {row['d']:,} | {row['workers']} | {' | '.join(cycles)} | {' | '.join(ratios)} |"


@click.command()
@click.option("--d", "sizes", type=int, multiple=True, help="[default: 10^4, 10^5, 10^6, 10^7]")
@click.option("--workers", "crews", type=int, multiple=True, help="[default: 2 and 8]")
@click.option("--seconds", default=1.0, show_default=True, help="Measured in each repetition.")
@click.option("--repetitions", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/throughput.json"))
def main(
    sizes: tuple[int, ...], crews: tuple[int, ...], seconds: float, repetitions: int, out: Path
) -> None:
    """Cycles a second on one machine: ZeroMQ alone, kardam, and peers."""
    for name in (name for name, library in PEERS.items() if missing(library)):
        print(f"{name} is not installed here, and left out", file=sys.stderr)
    columns = [
        RAW,
        UPDATED,
        RIDING,
        NONE,
        DEFAULT,
        SHARED,
        *(n for n in PEERS if not missing(PEERS[n])),
    ]
    heads = [*columns, *(f"{SHORT[above]} / {SHORT[below]}" for above, below in RATIOS)]
    heads += [f"processor, {SHORT[above]} / {SHORT[below]}" for above, below in LIGHT]
    print(f"| d | workers | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 2) + "|")
    rows = []
    for workers in crews or (2, 8):
        for d in sizes or (10**4, 10**5, 10**6, 10**7):
            # A second holds too few cycles of the largest.
            long = seconds * (3 if d >= 10**7 else 1)
            rows.append(row(turns(d, workers, long, repetitions), d, workers))
            print(line(rows[-1], columns), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": platform.platform(), "processors": os.cpu_count(), "rows": rows}
    out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
