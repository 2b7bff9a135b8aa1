"""Does a server that remembers sketches judge as one that remembers everything?

    python -m bench.memory

Simulations on scikit-learn's digits, ten workers of whom nobody or three lie; medians of the seeds.
"""

import statistics
from itertools import islice
from typing import Any, NamedTuple

import click

from kardam.recipe import Recipe
from workers.crew import crew
from workers.objective import Network
from workers.simulation import hire, secrets, simulate
from workers.tasks import load_task

N, LIARS = 10, 3
LATENCY = "lognormal:mean=1,sigma=0.5"
MEMORIES = ("exact", "sketched:k=512", "sketched:k=64")

# Flags of the recipe, and what the liars do (nothing: nobody lies).
CASES: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, ""),
    ({}, "sign_flip:scale=10"),
    ({}, "constant"),
    ({}, "label_flip"),
    ({}, "alie"),
    ({"filter": "consensus+clip"}, ""),
    ({"filter": "consensus+clip"}, "honest_plus_constant"),
    ({"preset": "none", "dampening": "curvature", "rate": "constant:gamma=0.2"}, ""),
)


class Trial(NamedTuple):
    """One run: its accuracy, and which shares of honest and lying answers were admitted."""

    accuracy: float
    honest: float
    lying: float
    misdeclared: int


def trial(recipe: dict[str, Any], attack: str, memory: str, seed: int, arrivals: int) -> Trial:
    lie: dict[str, Any] = {"attack": attack, "byzantine": LIARS} if attack else {}
    members = crew(n=N, seed=seed, latency=LATENCY, stragglers="2:factor=10", **lie)
    network = Network(load_task("digits", seed))
    chosen = Recipe.of(N, memory=memory, **recipe)
    descent = chosen.descent(network.x, chance=secrets(seed))
    told = [v for _, v in islice(simulate(descent, hire(members, network, seed)), arrivals)]
    admitted: dict[bool, list[bool]] = {True: [], False: []}
    for verdict in told:
        admitted[members[verdict.worker].byzantine].append(verdict.admitted)
    return Trial(
        network.evaluate(descent.model.x)[1],
        statistics.fmean(admitted[False]),
        statistics.fmean(admitted[True] or [0.0]),
        sum(verdict.rule == "misdeclared" for verdict in told),
    )


@click.command()
@click.option("--arrivals", default=2000, show_default=True, help="Gradients a run.")
@click.option("--seeds", default=3, show_default=True, help="How many.")
def main(arrivals: int, seeds: int) -> None:
    """Accuracy and shares admitted, by what the server remembers."""
    print(f"| recipe | attack | {' | '.join(MEMORIES)} |")
    print("|---" * (len(MEMORIES) + 2) + "|")
    for recipe, attack in CASES:
        cells = []
        for memory in MEMORIES:
            trials = [trial(recipe, attack, memory, seed, arrivals) for seed in range(seeds)]
            accuracy, honest, lying, misdeclared = map(statistics.median, zip(*trials, strict=True))
            liars = f"/{lying:.2f}" if attack else ""
            wrong = f", {misdeclared:g} misdeclared" if misdeclared else ""
            cells.append(f"{accuracy:.3f} ({honest:.2f}{liars}){wrong}")
        words = " ".join(f"{flag}={value}" for flag, value in recipe.items()) or "default"
        print(f"| {words} | {attack or 'none'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
