"""Does it hold, with everything going wrong at once?

    python -m bench.soak                    ten minutes of real processes and sockets (--seconds)
    python -m bench.soak --seeds 5000       as many storms on virtual time
    python -m bench.soak --seed 17          one of them, told line by line
    python -m bench.soak --messages 1000000 as many messages of a grammar fuzzer, for the decoder

Ends with exit code 1 where a promise was broken, and says what plays it again.
"""

import json
import sys
import time
import warnings
from collections import Counter
from statistics import median
from typing import Any

import click

from bench.grammar import fuzz
from bench.havoc import soak
from workers.faults import Broken, Tale, play


def storms(first: int, seeds: int) -> tuple[dict[str, Any], list[str]]:
    """So many runs on virtual time: what came of them, and how to play again those that broke."""
    tales: list[Tale] = []
    broken: list[str] = []
    began = time.perf_counter()
    for seed in range(first, first + seeds):
        try:
            tales.append(play(seed))
        except Broken as error:
            broken.append(f"python -m bench.soak --seed {seed}: {error}")
    faults = Counter(fault.kind for tale in tales for fault in tale.scenario.faults)
    return {
        "seeds": seeds,
        "broken": len(broken),
        "faults": dict(faults),
        "verdicts": sum(tale.verdicts for tale in tales),
        "restarts": sum(tale.crashes for tale in tales),
        "calm_median": median([tale.calm for tale in tales] or [0.0]),
        "calm_max": max([tale.calm for tale in tales], default=0.0),
        "seconds": round(time.perf_counter() - began, 1),
    }, broken


def told(seed: int) -> list[str]:
    """Play one, and print it as it goes; what it broke."""
    try:
        tale = play(seed, click.echo)
    except Broken as error:
        return [str(error)]
    click.echo(
        f"{tale.verdicts:,} verdicts, {tale.updates:,} updates; well after {tale.calm:.1f} s"
    )
    return []


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--seconds", type=float, default=600.0, show_default=True, help="Of real processes.")
@click.option("--seeds", type=click.IntRange(1), help="So many storms on virtual time instead.")
@click.option("--first", type=click.IntRange(0), default=0, help="The first seed.")
@click.option("--seed", type=click.IntRange(0), help="One storm, told line by line.")
@click.option("--messages", type=click.IntRange(1), help="So many messages, for the decoder.")
@click.option("--json", "as_json", is_flag=True, help="One object in place of a table.")
def main(
    seconds: float,
    seeds: int | None,
    first: int,
    seed: int | None,
    messages: int | None,
    as_json: bool,
) -> None:
    # An attack with half-precision numbers overflows, which is its point.
    warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
    facts: dict[str, Any] = {}
    broken: list[str] = []
    if seed is not None:
        broken = told(seed)
    elif messages is not None:
        began = time.perf_counter()
        facts = {"messages": messages, **fuzz(messages, first)}
        facts["seconds"] = round(time.perf_counter() - began, 1)
    elif seeds is not None:
        facts, broken = storms(first, seeds)
    else:
        facts, broken = soak(seconds, first)
    if as_json:
        click.echo(json.dumps({**facts, "promises_broken": broken}))
    else:
        for name, value in facts.items():
            click.echo(f"{name:>24}  {value}")
        for line in broken:
            click.echo(f"BROKEN  {line}", err=True)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
