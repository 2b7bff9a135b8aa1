"""Which rule holds where? Attacks x conditions x rules x tasks x seeds, on virtual time.

    python -m bench.grid --small
    python -m bench.grid --jobs 2 --out runs/grid

Says beforehand how many cells there are and how long they will take; what was played is kept under
--out, so that the same line goes on where it was interrupted. All cells of a seed have the same
data, split, first model and draws of every worker, and the same virtual time.
"""

import os

# One compute thread a process, said before numpy and torch look.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from bench import report
from bench.cells import Cell, Played, keep, kept, play
from bench.report import DEFAULT, HONEST, PLAIN, Place
from kardam.__main__ import entry
from kardam.errors import UsageError
from kardam.recipe import Recipe
from workers.attacks import ATTACKS
from workers.crew import crew

# --- the battery ---

NONE = {"preset": "none"}
ROUNDS = {**NONE, "gather": "synchronous", "rate": "constant:gamma=1"}
# As Krum's and Bulyan's authors have it: a round is all n, however slow.
ROUNDS_OF_ALL = {**ROUNDS, "gather": "synchronous:m={n}"}

# Flags, as `Recipe.of` has them, but for {n}. Those that make fewer or shorter steps of as many
# gradients have another rate: of 0.1, 0.3 and 1 the one that served them best on digits, iid,
# without attack. Not tried for dynsgd, sync bulyan, zeno and afl_guard, so no verdict on those.
RULES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: NONE,
    "dynsgd": {**NONE, "dampening": "inverse"},
    "paper": {"preset": "paper"},
    "middle": {"preset": "middle"},
    "basgd": {
        **NONE,
        "gather": "basgd",
        "aggregator": "trimmed_mean",
        "rate": "constant:gamma=1",
    },
    "ctma": {**NONE, "gather": "ctma"},
    "throttle": {**NONE, "gather": "throttle", "rate": "constant:gamma=1"},
    "fedbuff+median": {
        **NONE,
        "gather": "buffered",
        "aggregator": "median",
        "rate": "constant:gamma=0.3",
    },
    "sync krum": {**ROUNDS_OF_ALL, "aggregator": "krum"},
    "sync bulyan": {**ROUNDS_OF_ALL, "aggregator": "bulyan"},
    "sync median": {**ROUNDS, "aggregator": "median"},
    # With data of the server's own, which none of the others has.
    "zeno": {**NONE, "filter": "zeno", "root_examples": 100},
    "afl_guard": {**NONE, "filter": "afl_guard", "root_examples": 100},
    DEFAULT: {},
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What the world is like: whose data, how quick everybody is (`who`, as `crew` has it), and
    what joins the attack.
    """

    split: str = "iid"
    who: Mapping[str, str] = field(default_factory=dict)
    joins: str = ""
    rho: float = 1.0


CONDITIONS: Mapping[str, Condition] = {
    "iid": Condition(),
    "dirichlet": Condition(split="dirichlet:alpha=0.5"),
    "by_label": Condition(split="by_label"),
    "speeds": Condition(who={"speeds": "1:20"}),
    "flood": Condition(joins="+flood:rho=10", rho=10.0),
    "stragglers": Condition(
        who={"stragglers": "2:factor=10", "latency": "pareto:mean=1,alpha=1.5"}
    ),
}

# In what strengths an attack is tried, and joined with which lie where it is none by itself; each
# other one of the table is tried once, as it is. A flood is a condition.
STRENGTHS: Mapping[str, tuple[str, ...]] = {
    "honest": (),
    "flood": (),
    "sign_flip": ("sign_flip:scale=1", "sign_flip:scale=10"),
    "alie": ("alie", "alie:z=1.5"),
    "ipm": ("ipm:epsilon=0.5", "ipm:epsilon=6"),
    "burst": ("sign_flip:scale=10+burst",),
    "timed": ("sign_flip:scale=3+timed:exponent=0.5",),
    "late": ("sign_flip:scale=10+late",),
    "stops": ("sign_flip:scale=10+stops",),
}
BATTERY = (HONEST, *(text for name in ATTACKS for text in STRENGTHS.get(name, (name,))))

# Seconds of computing, on the mean: so a virtual second is about one answer of everybody.
LATENCY = "lognormal:mean=1,sigma=0.5"

SMALL: Mapping[str, tuple[str, ...]] = {
    "rules": tuple(RULES),
    "conditions": ("iid", "by_label", "flood"),
    "attacks": (HONEST, "sign_flip:scale=10", "label_flip", "alie:z=1.5"),
}

# Virtual seconds of the runs that tell how long all others will take.
CALIBRATION = 20.0

# Real seconds between two lines of progress.
PROGRESS = 20.0


def recipe(n: int, f: int, flags: Mapping[str, Any]) -> Recipe:
    """The rule at f, or at the largest smaller f that it can be had at. Raises UsageError for a
    rule that is none at f = 0 either.
    """
    words: dict[str, Any] = dict(flags)
    if "gather" in words:
        words["gather"] = words["gather"].format(n=n)
    for legal in range(f, 0, -1):
        try:
            return Recipe.of(n=n, f=legal, **words)
        except UsageError:
            continue
    return Recipe.of(n=n, f=0, **words)


def cell(place: Place, seconds: float) -> Cell:
    """The run that stands at this place of the grid."""
    condition = CONDITIONS[place.condition]
    who: dict[str, Any] = {"latency": LATENCY, **condition.who}
    if place.attack != HONEST:
        who |= {"byzantine": place.f, "attack": place.attack + condition.joins}
    members = crew(n=place.n, seed=place.seed, **who)
    rules = recipe(place.n, place.f, RULES[place.rule])
    return Cell(place.task, rules, tuple(members), condition.split, place.seed, seconds)


# --- playing it ---


class Grid:
    """Cells that are played once each, and kept in a folder."""

    def __init__(self, folder: Path, seconds: float, jobs: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.seconds = seconds
        self._jobs = jobs
        self.say = say

    def play(self, places: Iterable[Place]) -> dict[Place, Played]:
        """All of these, and the attack-free plain runs that they are held against."""
        every = dict.fromkeys(of for place in places for of in (place.reference, place))
        cells = {place: cell(place, self.seconds) for place in every}
        different = {c: place for place, c in reversed(cells.items())}
        found = {c: played for c in different if (played := kept(c, self.folder))}
        missing = {c: place for c, place in reversed(different.items()) if c not in found}
        self.say(
            f"{len(cells)} places in the grid, {len(different)} different cells,"
            f" {len(missing)} of them to be played"
        )
        if missing:
            self._foretell(missing)
        began = shown = time.perf_counter()
        for count, (c, played) in enumerate(self._played(list(missing)), start=1):
            found[c] = played
            if (now := time.perf_counter()) - shown >= PROGRESS or count == len(missing):
                shown = now
                self.say(f"{now - began:5.0f} s  {count} of {len(missing)} cells")
        return {place: found[c] for place, c in cells.items()}

    def _played(self, cells: list[Cell]) -> Iterator[tuple[Cell, Played]]:
        if self._jobs == 1:
            for c in cells:
                yield c, keep(c, self.folder)
            return
        with ProcessPoolExecutor(self._jobs, get_context("spawn")) as pool:
            asked = {pool.submit(keep, c, self.folder): c for c in cells}
            try:
                for answer in as_completed(asked):
                    yield asked[answer], answer.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _foretell(self, missing: Mapping[Cell, Place]) -> None:
        """How long it will take: of each rule, from a short run of it without attack."""
        paces: dict[tuple[str, int, str], tuple[float, float]] = {}
        short = min(CALIBRATION, self.seconds)
        total = 0.0
        for c, place in missing.items():
            kind = (place.task, place.n, place.rule)
            if kind not in paces:
                began = time.perf_counter()
                took = play(cell(place._replace(condition="iid", attack=HONEST), short)).took
                # Loading the task takes as long for a long run.
                paces[kind] = (time.perf_counter() - began - took, took / short)
            loading, pace = paces[kind]
            rho = CONDITIONS[place.condition].rho
            rates = sum((rho if m.byzantine else 1.0) / m.factor for m in c.members) / place.n
            total += loading + pace * self.seconds * rates
        self.say(f"about {_span(total / self._jobs)} on {self._jobs} process(es)")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def undecided(rows: Iterable[report.Row], seeds: int) -> list[Place]:
    """The default rule's cells that fail their line, with as many seeds as shall decide."""
    return [
        row.place._replace(seed=seed)
        for row in rows
        if row.place.rule == DEFAULT and row.loss > row.line
        for seed in range(seeds)
    ]


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise UsageError(f"--size: expected n:f like 10:3, got {text!r}")
    n, f = int(match[1]), int(match[2])
    if not n > 3 * f > 0:
        raise UsageError(f"--size {text}: expected n > 3f > 0")
    return n, f


@click.command()
@click.option(
    "--small", is_flag=True, help="Fewer conditions and attacks, one seed: some seven minutes."
)
@click.option("--task", "tasks", multiple=True, default=["digits"], show_default=True)
@click.option("--size", "sizes", multiple=True, default=["10:3"], show_default=True, help="n:f.")
@click.option("--rule", "rules", multiple=True, type=click.Choice(list(RULES)), help="[all]")
@click.option(
    "--condition", "conditions", multiple=True, type=click.Choice(list(CONDITIONS)), help="[all]"
)
@click.option("--attack", "attacks", multiple=True, help="As --attack of a run.  [the battery]")
@click.option("--seeds", type=int, help="0 to so many.  [default: 3; 1 if small]")
@click.option(
    "--decide", type=int, help="Seeds where the default fails its line.  [default: 10; 1 if small]"
)
@click.option("--seconds", default=400.0, show_default=True, help="Virtual seconds of each run.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/grid"), show_default=True
)
def main(
    small: bool,
    tasks: tuple[str, ...],
    sizes: tuple[str, ...],
    rules: tuple[str, ...],
    conditions: tuple[str, ...],
    attacks: tuple[str, ...],
    seeds: int | None,
    decide: int | None,
    seconds: float,
    jobs: int,
    out: Path,
) -> None:
    """Every rule against every attack under every condition, each held against plain asynchronous
    SGD without attack under the same condition.
    """
    seeds = seeds or (1 if small else 3)
    decide = decide or (1 if small else 10)
    if not (seeds > 0 and decide > 0 and seconds > 0 and jobs > 0):
        raise UsageError("--seeds, --decide, --seconds and --jobs: expected more than 0")
    places = [
        Place(task, n, f, condition, attack, rule, seed)
        for task in tasks
        for n, f in map(_size, sizes)
        for condition in conditions or (SMALL["conditions"] if small else CONDITIONS)
        for attack in attacks or (SMALL["attacks"] if small else BATTERY)
        for rule in rules or RULES
        for seed in range(seeds)
    ]
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(folder, seconds, jobs, lambda words: click.echo(words, err=True))
    try:
        played = grid.play(places)
        if decide > seeds and (more := undecided(report.rows(places, played, starred), decide)):
            grid.say("more seeds where the default fails its line:")
            places = list(dict.fromkeys([*places, *more]))
            played = grid.play(places)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what was played is kept in {folder}", err=True)
        sys.exit(130)
    rows = report.rows(places, played, starred)
    print(report.text(rows))
    for path in report.write(rows, out):
        click.echo(f"written: {path}", err=True)


def starred(place: Place) -> bool:
    """Whether the rule stands there at a smaller f than there are liars."""
    return recipe(place.n, place.f, RULES[place.rule]).f < place.f


if __name__ == "__main__":
    entry(main)
