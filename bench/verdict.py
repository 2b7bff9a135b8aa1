"""What does a verdict cost, by stage, against d and n; and what does the memory take?

    python -m bench.verdict

A descent by the default recipe is driven directly, without workers: random gradients of random
workers. Microseconds of CPU of one thread, the lowest decile of the verdicts that admit, which do
everything: what it takes where nobody else fills the caches. Every second one is timed by
its stages, by wrapping what the descent calls, and the others as a whole. What `consensus` needs
once in so many verdicts for its centre is in no lowest decile, and stands apart: its mean over all.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

from kardam.consensus import Consensus
from kardam.descent import Descent
from kardam.growth import History
from kardam.messages import Gradient, Vector, Verdict
from kardam.recipe import DEFAULT_PRESET, PRESETS, Recipe
from kardam.state import nbytes

# Of each stage the name it is printed under: what is called, and what it does there.
STAGES = {
    "look": "the norm of g and its trace",
    "growth": "the two distances of a growth",
    "judge": "all stages of the filter, the clip's scale included",
    "step": "the optimizer: the update itself",
    "follow": "the trace of the new model",
}

# Gradients that stand for all: more than the processor's caches hold at d = 10^7.
POOL = 4


class Clock:
    """Seconds of this thread, by stage, of one verdict at a time."""

    def __init__(self) -> None:
        self.wholes: list[float] = []
        self.stages: list[dict[str, float]] = []
        # Seconds of all moves of the centre.
        self.moving = 0.0
        self._now: dict[str, float] = defaultdict(float)

    def watched(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*given)
            finally:
                self._now[stage] += time.thread_time() - began

        return timed

    def moves(self, call: Callable[[Consensus], None]) -> Callable[[Consensus], None]:
        def timed(stage: Consensus) -> None:
            began = time.thread_time()
            call(stage)
            self.moving += time.thread_time() - began

        return timed

    def whole(self, call: Callable[[], Verdict]) -> None:
        began = time.thread_time()
        told = call()
        taken = time.thread_time() - began
        if told.admitted:
            self.wholes.append(taken)

    def by_stage(self, call: Callable[[], Verdict]) -> None:
        self._now = defaultdict(float)
        told = call()
        if told.admitted:
            self.stages.append(self._now)

    def microseconds(self, verdicts: int) -> dict[str, float]:
        """Of each stage, of a whole verdict, of what of it is no arithmetic over vectors; and of
        what moves cost each of so many.
        """
        found = {stage: decile([taken[stage] for taken in self.stages]) for stage in STAGES}
        found["all"] = decile(self.wholes)
        found["centre"] = 1e6 * self.moving / verdicts
        found["books"] = found["all"] - sum(found[stage] for stage in STAGES if stage != "judge")
        return found


def decile(seconds: list[float]) -> float:
    """The lowest, in microseconds."""
    return 1e6 * float(np.quantile(seconds, 0.1))


@contextmanager
def watching(descent: Descent, clock: Clock) -> Iterator[None]:
    """While the block runs, the descent's stages are timed."""
    lens, rules = descent._lens, descent.filter
    with (
        patch.object(lens, "look", clock.watched("look", lens.look)),
        patch.object(lens, "follow", clock.watched("follow", lens.follow)),
        patch.object(History, "add", _method(clock, History.add)),
        patch.object(rules, "judge", clock.watched("judge", rules.judge)),
        patch.object(rules, "scale", clock.watched("judge", rules.scale)),
        patch.object(rules, "admit", clock.watched("judge", rules.admit)),
        patch.object(descent.optimizer, "step", clock.watched("step", descent.optimizer.step)),
    ):
        yield


def _method(clock: Clock, call: Callable[..., Any]) -> Callable[..., Any]:
    timed = clock.watched("growth", call)
    return lambda self, *given: timed(self, *given)


class Town:
    """Workers who answer in an order of chance, with gradients of a pool."""

    def __init__(self, descent: Descent, seed: int) -> None:
        self.descent = descent
        self._chance = np.random.default_rng(seed)
        d = descent.model.x.size
        self._pool = [self._chance.standard_normal(d, np.float32) for _ in range(POOL)]

    def everybody(self) -> None:
        """One answer of each worker."""
        for worker in self._chance.permutation(self.descent.n).tolist():
            self.answer(worker)

    def anybody(self) -> Callable[[], Verdict]:
        """The next answer, as somebody will give it."""
        worker = int(self._chance.integers(self.descent.n))
        gradient = self._gradient(worker)
        return lambda: self.descent.receive(gradient)

    def answer(self, worker: int) -> Verdict:
        return self.descent.receive(self._gradient(worker))

    def _gradient(self, worker: int) -> Gradient:
        loan = self.descent.lend(worker)
        # A length of its own for each, so that about half are clipped.
        length = np.float32(self._chance.uniform(0.9, 1.1))
        g: Vector = length * self._pool[int(self._chance.integers(POOL))]
        return Gradient(worker, loan.ticket, g)


def cost(n: int, d: int, memory: str, filter: str, verdicts: int) -> dict[str, float]:
    """Microseconds by stage, and bytes that are kept for each worker."""
    chance = np.random.default_rng(0)
    recipe = Recipe.of(n, filter=filter, rate="constant:gamma=0.001", memory=memory)
    descent = recipe.descent(chance.standard_normal(d, np.float32), chance=chance)
    town, clock = Town(descent, seed=1), Clock()
    # A start-up, and then a pair of answers from each, so that all is known that can be.
    while not descent.filter.ready:
        town.everybody()
    town.everybody()
    with patch.object(Consensus, "_move", clock.moves(Consensus._move)):
        for _ in range(verdicts):
            clock.whole(town.anybody())
            with watching(descent, clock):
                clock.by_stage(town.anybody())
    return {**clock.microseconds(2 * verdicts), "bytes": kept(descent) / n}


def kept(descent: Descent) -> int:
    """Bytes of all that the server remembers of its workers' answers, its filter included, each
    array once; without the model itself.
    """
    state, x = descent.state(), descent.model.x
    known = {name: state[name] for name in ("histories", "loans", "filter")}
    return nbytes({**known, "x": x}) - x.nbytes


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the figures.")
@click.option("--filter", default=PRESETS[DEFAULT_PRESET].filter, show_default=True)
@click.option("--most-d", default=10**7, show_default=True, help="The longest gradient.")
@click.option("--most-n", default=10**5, show_default=True, help="The most workers.")
def main(path: Path | None, filter: str, most_d: int, most_n: int) -> None:
    """Microseconds a verdict takes, by stage, against d and n, exact and sketched."""
    found = []
    head = (
        "| memory | n | d | "
        + " | ".join(STAGES)
        + " | all | but the step | books | centre | bytes a worker |"
    )
    print(f"{filter}\n\n{head}\n{'|---' * (head.count('|') - 1)}|")
    sizes = [(10, 10**power) for power in (4, 5, 6, 7)]
    crowds = [(10**power, 1000) for power in (2, 3, 4, 5)]
    for n, d in [*sizes, *crowds]:
        if d > most_d or n > most_n:
            continue
        for memory in ("exact", "sketched:k=512"):
            verdicts = min(1000, max(60, 10**8 // d))
            row = cost(n, d, memory, filter, verdicts)
            found.append({"memory": memory, "n": n, "d": d, **row})
            cells = [f"{row[stage]:,.0f}" for stage in (*STAGES, "all")]
            rest = [row["all"] - row["step"], row["books"], row["centre"], row["bytes"]]
            cells += [f"{figure:,.0f}" for figure in rest]
            print(f"| {memory} | {n:,} | {d:,} | {' | '.join(cells)} |", flush=True)
    if path is not None:
        path.write_text(json.dumps({"filter": filter, "verdicts": found}, indent=1))


if __name__ == "__main__":
    main()
