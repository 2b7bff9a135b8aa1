"""Where does staleness hurt, and which dampening helps?

    python -m bench.dampening --out dampening.json

Simulated clusters of ten honest workers on virtual time; every dampening at every rate, from the
same seeds: once without a filter, to see dampening alone, and once under the default preset.
"""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kardam.dampening import Dampening
from kardam.growth import Evidence
from kardam.recipe import Recipe
from workers.crew import Member, crew
from workers.objective import LocalObjective, Network
from workers.simulation import secrets, simulate
from workers.tasks import Task, load_task
from workers.tasks.splits import deal
from workers.worker import Worker

N = 10
LATENCY = "lognormal:mean=1,sigma=0.5"
DAMPENINGS = ("constant", "inverse", "exponential", "curvature")
EVERY = 50  # arrivals between two evaluations
COMMON = (0.1, 0.4)  # the default rate, and one beyond what constant bears at equal speeds

SCENARIOS: dict[str, dict[str, Any]] = {
    "equal speeds": {},
    "3 stragglers x10": {"stragglers": "3:factor=10"},
    "5 stragglers x20": {"stragglers": "5:factor=20"},
    "speeds 1:20": {"speeds": "uniform:low=1,high=20"},
    "3 stragglers x10 hold classes 0-2": {"stragglers": "3:factor=10"},
}


class Trial(NamedTuple):
    """One run: what was asked, and what was measured. `seconds` are virtual, to the target."""

    scenario: str
    preset: str
    dampening: str
    rate: float
    seed: int
    accuracy: float
    slow: float  # accuracy on classes 0, 1 and 2
    seconds: float
    weight: float  # mean Lambda of stale gradients and fresh ones
    staleness: float


class Watched(Dampening):
    """A dampening, and the weights that it gave."""

    def __init__(self, inner: Dampening) -> None:
        self.inner, self.compares = inner, inner.compares
        self.weights: list[float] = []

    def weigh(self, evidence: Evidence) -> float:
        self.weights.append(self.inner.weigh(evidence))
        return self.weights[-1]


def images(path: Path, seed: int) -> Task:
    """An MLP on an .npz of x_train, y_train, x_test and y_test: images of 0 to 255, classes."""
    data = np.load(path, allow_pickle=False)
    x, test = (
        torch.tensor(data[key].reshape(len(data[key]), -1), dtype=torch.float32) / 255
        for key in ("x_train", "x_test")
    )
    y, labels = (torch.tensor(data[key], dtype=torch.int64) for key in ("y_train", "y_test"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    return Task(model, (x, y), (test, labels))


def shares(task: Task, members: Sequence[Member], seed: int) -> list[NDArray[np.int64]]:
    """Classes 0, 1 and 2 among the stragglers alone, all else among the others."""
    slow = sum(member.straggler for member in members)
    low = task.train[1].numpy() < 3
    rare, rest = np.flatnonzero(low), np.flatnonzero(~low)
    return [
        *(rare[part] for part in deal("iid", rare, slow, seed)),
        *(rest[part] for part in deal("iid", rest, len(members) - slow, seed)),
    ]


def hire(scenario: str, network: Network, seed: int) -> list[Worker]:
    members = crew(n=N, seed=seed, latency=LATENCY, **SCENARIOS[scenario])
    parts = deal("iid", network.task.train[1].numpy(), N, seed)
    if "classes" in scenario:
        parts = shares(network.task, members, seed)
    return [
        member.worker(LocalObjective(network, part), seed, board=None)
        for member, part in zip(members, parts, strict=True)
    ]


def trial(
    task: Task,
    scenario: str,
    preset: str,
    dampening: str,
    rate: float,
    seed: int,
    arrivals: int,
    target: float,
) -> Trial:
    network = Network(task)
    recipe = Recipe.of(N, preset=preset, dampening=dampening, rate=f"constant:gamma={rate}")
    descent = recipe.descent(network.x, chance=secrets(seed))
    watched = descent.dampening = Watched(descent.dampening)
    curve: list[tuple[float, float]] = []
    staleness = []
    run = simulate(descent, hire(scenario, network, seed))
    for count, (now, verdict) in enumerate(islice(run, arrivals), 1):
        staleness.append(verdict.staleness)
        if count % EVERY == 0:
            curve.append((now, network.evaluate(descent.model.x)[1]))
    inputs, targets = task.test
    slow = targets < 3
    with torch.no_grad():  # the parameters are those of the last evaluation
        guessed = task.model(inputs[slow]).argmax(1)
    return Trial(
        scenario=scenario,
        preset=preset,
        dampening=dampening,
        rate=rate,
        seed=seed,
        accuracy=float(np.mean([accuracy for _, accuracy in curve[-5:]])),
        slow=float((guessed == targets[slow]).float().mean()),
        seconds=next((now for now, accuracy in curve if accuracy >= target), math.inf),
        weight=float(np.mean(watched.weights)),
        staleness=float(np.mean(staleness)),
    )


def cell(trials: Sequence[Trial]) -> str:
    """Median accuracy with its spread, and the median of the seconds to the target."""
    accuracies = [trial.accuracy for trial in trials]
    seconds = median(trial.seconds for trial in trials)
    return f"{median(accuracies):.3f} ({min(accuracies):.3f}-{max(accuracies):.3f}), " + (
        f"{seconds:.0f} s" if seconds < math.inf else "never"
    )


def best(trials: Sequence[Trial]) -> list[Trial]:
    """The trials at the rate that reaches the target first; if none does, the most accurate."""
    rates = {trial.rate for trial in trials}

    def merit(rate: float) -> tuple[float, float]:
        own = [trial for trial in trials if trial.rate == rate]
        return median(t.seconds for t in own), -median(t.accuracy for t in own)

    chosen = min(rates, key=merit)
    return [trial for trial in trials if trial.rate == chosen]


def tables(trials: Sequence[Trial], target: float) -> Iterator[str]:
    """Markdown: a table for each preset."""
    for preset in dict.fromkeys(trial.preset for trial in trials):
        yield f"\nPreset `{preset}`: final accuracy (lowest-highest seed), seconds to {target}\n"
        yield (
            "| workers | dampening | best rate | at it | "
            + " | ".join(f"at {rate}" for rate in COMMON)
            + " | mean Λ at 0.1 | classes 0-2 at 0.1 |"
        )
        yield "|---" * 7 + "|"
        for scenario, dampening in product(SCENARIOS, DAMPENINGS):
            own = [
                t
                for t in trials
                if (t.preset, t.scenario, t.dampening) == (preset, scenario, dampening)
            ]
            if not own:
                continue
            at = {rate: [t for t in own if t.rate == rate] for rate in COMMON}
            chosen = best(own)
            yield (
                f"| {scenario} | `{dampening}` | {chosen[0].rate} | {cell(chosen)} | "
                + " | ".join(cell(at[rate]) for rate in COMMON)
                + f" | {median(t.weight for t in at[0.1]):.2f}"
                + f" | {median(t.slow for t in at[0.1]):.3f} |"
            )


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="An .npz of images.")
@click.option("--arrivals", default=1500, show_default=True, help="Gradients a run.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--target", default=0.92, show_default=True, help="Accuracy to be reached.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write every trial (JSON).")
def main(data: Path | None, arrivals: int, seeds: int, target: float, out: Path | None) -> None:
    """Each dampening at each rate, with and without stragglers."""
    torch.set_num_threads(1)
    plan = [
        *product(SCENARIOS, ["none"], DAMPENINGS, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)),
        *product(SCENARIOS, ["middle"], ("constant", "curvature"), (0.1, 0.2, 0.4, 0.8)),
    ]
    trials = []
    for (scenario, preset, dampening, rate), seed in product(plan, range(seeds)):
        task = load_task("digits", seed) if data is None else images(data, seed)
        trials.append(trial(task, scenario, preset, dampening, rate, seed, arrivals, target))
    for line in tables(trials, target):
        print(line)
    if out is not None:
        out.write_text(json.dumps([trial._asdict() for trial in trials], indent=1) + "\n")


if __name__ == "__main__":
    main()
