"""How long do rules over 20 vectors take, beside those of other libraries?

    python -m bench.aggregators

Milliseconds of CPU on one thread, the median of several calls, ours and theirs in turn on the same
vectors. What is not installed is skipped with a word: byzpy, byzfl and flwr can be put, with this
clone's own dependencies, into an environment of their own.
"""

import importlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from kardam.aggregators import AGGREGATORS
from kardam.messages import Vector
from kardam.spec import build

N, F = 20, 4

# A call, without what it is prepared with: their own types are made beforehand.
Call = Callable[[], Any]


def ours(vectors: Sequence[Vector]) -> dict[str, Call]:
    def call(name: str) -> Call:
        rule = build(name, AGGREGATORS, "--aggregator", n=N, f=F)
        return lambda: rule(vectors)

    return {name: call(name) for name in AGGREGATORS}


def byzpy(vectors: Sequence[Vector]) -> dict[str, Call]:
    """Its backend takes torch tensors."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    rules = {
        "median": ("coordinate_wise.median", "CoordinateWiseMedian", {}),
        "trimmed_mean": ("coordinate_wise.trimmed_mean", "CoordinateWiseTrimmedMean", {"f": F}),
        "geometric_median": ("geometric_wise.geometric_median", "GeometricMedian", {}),
        "krum": ("geometric_wise.krum", "Krum", {"f": F}),
        "multi_krum": ("geometric_wise.krum", "MultiKrum", {"f": F, "q": N - F - 2}),
        "centered_clipping": (
            "norm_wise.center_clipping",
            "CenteredClipping",
            {"c_tau": vectors[0].size ** 0.5, "M": 3},
        ),
    }
    tensors = [torch.from_numpy(v) for v in vectors]

    def call(module: str, name: str, words: dict[str, Any]) -> Call:
        rule = getattr(importlib.import_module(f"byzpy.aggregators.{module}"), name)(**words)
        return lambda: rule.aggregate(tensors)

    return {name: call(*rule) for name, rule in rules.items()}


def byzfl(vectors: Sequence[Vector], torched: bool) -> dict[str, Call]:
    """It takes numpy's arrays and torch's tensors."""
    library, torch = importlib.import_module("byzfl"), importlib.import_module("torch")
    torch.set_num_threads(1)
    stack = np.stack(vectors)
    given = torch.from_numpy(stack) if torched else stack
    rules = {
        "average": library.Average(),
        "median": library.Median(),
        "trimmed_mean": library.TrMean(f=F),
        "geometric_median": library.GeometricMedian(),
        "krum": library.Krum(f=F),
        "multi_krum": library.MultiKrum(f=F),
        "centered_clipping": library.CenteredClipping(L=3, tau=vectors[0].size ** 0.5),
    }

    def call(rule: Callable[[Any], Any]) -> Call:
        return lambda: rule(given)

    return {name: call(rule) for name, rule in rules.items()}


def flower(vectors: Sequence[Vector]) -> dict[str, Call]:
    """Its functions over arrays, without its messages; Bulyan as its two interfaces have it."""
    library = importlib.import_module("flwr.server.strategy.aggregate")
    results = [([v], 1) for v in vectors]
    krum = library.aggregate_krum
    return {
        "average": lambda: library.aggregate(results),
        "median": lambda: library.aggregate_median(results),
        "trimmed_mean": lambda: library.aggregate_trimmed_avg(results, F / N),
        "krum": lambda: krum(results, F, 0),
        "multi_krum": lambda: krum(results, F, N - F - 2),
        "bulyan": lambda: library.aggregate_bulyan(list(results), F, krum, to_keep=0),
    }


def flower_of_messages(vectors: Sequence[Vector]) -> dict[str, Call]:
    """Its newer interface, in which Bulyan selects once: from what a server would be sent."""
    app = importlib.import_module("flwr.app")
    strategies = importlib.import_module("flwr.serverapp.strategy")
    logging.getLogger("flwr").setLevel(logging.ERROR)

    def message(v: Vector) -> Any:
        arrays, metrics = app.ArrayRecord([v]), app.MetricRecord({"num-examples": 1})
        content = app.RecordDict({"arrays": arrays, "metrics": metrics})
        # A Message is made by a running app alone; this is what is read of one.
        return SimpleNamespace(content=content, has_error=lambda: False)

    # It takes its messages apart, so one call is all that they are good for.
    given = [[message(v) for v in vectors] for _ in range(CALLS)]
    rule = strategies.Bulyan(num_malicious_nodes=F)
    return {"bulyan": lambda: rule.aggregate_train(1, given.pop())}


PEERS: dict[str, Callable[[Sequence[Vector]], dict[str, Call]]] = {
    "byzpy": byzpy,
    "byzfl (numpy)": lambda vectors: byzfl(vectors, torched=False),
    "byzfl (torch)": lambda vectors: byzfl(vectors, torched=True),
    "flwr": flower,
    "flwr (messages)": flower_of_messages,
}

# Calls of each, the first of which is not counted.
CALLS = 6


def milliseconds(call: Call) -> float:
    """Of this thread's CPU, so that what else the machine does counts for nothing."""
    began = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - began)


def measured(calls: dict[str, Call]) -> dict[str, float]:
    """The median of each, taken in turn."""
    taken: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(CALLS):
        for who, call in calls.items():
            taken[who].append(milliseconds(call))
    return {who: statistics.median(times[1:]) for who, times in taken.items()}


def table(d: int, rows: dict[str, dict[str, float]], peers: Sequence[str]) -> str:
    """Milliseconds, and how many times as long the fastest of the others takes."""
    lines = [f"| d = {d:,} | kardam | {' | '.join(peers)} | best peer / kardam |"]
    lines.append("|---" * (len(peers) + 3) + "|")
    for rule, times in rows.items():
        others = [times[peer] for peer in peers if peer in times]
        ratio = f"{min(others) / times['kardam']:.1f}" if others else ""
        cells = [f"{times[who]:.1f}" if who in times else "" for who in ("kardam", *peers)]
        lines.append(f"| `{rule}` | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the figures.")
@click.option("--d", "sizes", type=int, multiple=True, default=(10**5, 10**6), show_default=True)
def main(path: Path | None, sizes: tuple[int, ...]) -> None:
    """Milliseconds a rule takes at n = 20 and f = 4, beside those of other libraries."""
    found: dict[int, dict[str, dict[str, float]]] = {}
    for d in sizes:
        chance = np.random.default_rng(0)
        vectors = [chance.standard_normal(d).astype(np.float32) for _ in range(N)]
        rules = {"kardam": ours(vectors)}
        for name, make in PEERS.items():
            try:
                rules[name] = make(vectors)
            except ImportError as error:
                print(f"{name}: skipped, {error}")
        found[d] = {
            rule: measured({who: calls[rule] for who, calls in rules.items() if rule in calls})
            for rule in AGGREGATORS
        }
        print(f"\n{table(d, found[d], [who for who in rules if who != 'kardam'])}", flush=True)
    if path is not None:
        libraries = {name: version(name) for name in ("numpy",)}
        path.write_text(json.dumps({"n": N, "f": F, "versions": libraries, "ms": found}, indent=1))


if __name__ == "__main__":
    main()
