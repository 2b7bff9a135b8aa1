"""Which rule holds where? Attacks x conditions x rules x tasks x seeds, on virtual time.

    python -m bench.grid --small
    python -m bench.grid --condition iid --out runs/grid

Says beforehand how many cells there are and how long they will take; what was played is kept under
--out, so that the same line goes on where it was interrupted. All cells of a seed have the same
data, split, first model and draws of every worker, and the same virtual time, of which the grid
says how far from its plateau it leaves plain SGD without attack. Each rule has the rate that serves
it best without attack (bench/rates.py).
"""

import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import click

from bench import rates, report
from bench.cells import Cell, Played, keep, kept, play
from bench.report import DEFAULT, HONEST, PLAIN, Place
from kardam.__main__ import entry
from kardam.errors import UsageError
from kardam.recipe import Recipe
from workers.attacks import ATTACKS, Knows
from workers.board import private
from workers.crew import attack_of, crew

# --- the battery ---

NONE = {"preset": "none"}

# Flags, as `Recipe.of` has them, but for {n}.
RULES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: NONE,
    "dynsgd": {**NONE, "dampening": "inverse"},
    "paper_literal": {"preset": "paper_literal"},
    "paper": {"preset": "paper"},
    "middle": {"preset": "middle"},
    "basgd": {**NONE, "gather": "basgd", "aggregator": "trimmed_mean"},
    "ctma": {**NONE, "gather": "ctma"},
    "throttle": {**NONE, "gather": "throttle"},
    "fedbuff+median": {**NONE, "gather": "buffered", "aggregator": "median"},
    # As Krum's and Bulyan's authors have it: a round is all n, however slow.
    "sync krum": {**NONE, "gather": "synchronous:m={n}", "aggregator": "krum"},
    "sync bulyan": {**NONE, "gather": "synchronous:m={n}", "aggregator": "bulyan"},
    "sync median": {**NONE, "gather": "synchronous", "aggregator": "median"},
    # With data of the server's own, which none of the others has.
    "zeno": {**NONE, "filter": "zeno", "root_examples": 100},
    "afl_guard": {**NONE, "filter": "afl_guard", "root_examples": 100},
    DEFAULT: {},
}

# Plain SGD behind a filter: at the rate that suits plain SGD. (For paper_literal, which freezes,
# no rate does.) Each other rule is at the one that suits itself.
AT_THE_RATE_OF_PLAIN = ("paper_literal", "middle", DEFAULT)

# Where the search for it begins: those that make fewer or shorter steps of as many gradients need
# a higher one.
START = 0.1
STARTS = {"dynsgd": 0.8, "paper": 0.4, "basgd": 0.8, "throttle": 0.8, "fedbuff+median": 0.4}
STARTS |= {"sync krum": 0.8, "sync bulyan": 0.8, "sync median": 0.8}


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

# How long a task is trained: a convex problem of 1,000 numbers is learned in a minute, digits are
# not. (Each grid says how far from the plateau that is.)
SECONDS = 800.0

SMALL: Mapping[str, tuple[str, ...]] = {
    "tasks": ("synthetic:d=1000",),
    "conditions": ("iid", "by_label", "flood"),
    "attacks": (HONEST, "sign_flip:scale=10", "label_flip", "ipm:epsilon=6"),
}
SMALL_SECONDS = 120.0

# Virtual seconds of the runs that tell how long all others will take; and where liars ask the
# filter thirty times for each lie.
CALIBRATION, CALIBRATION_OF_LIARS = 20.0, 5.0

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


def cell(place: Place, seconds: float, rate: float = START) -> Cell:
    """The run that stands at this place of the grid."""
    condition = CONDITIONS[place.condition]
    who: dict[str, Any] = {"latency": LATENCY, **condition.who}
    if place.attack != HONEST:
        who |= {"byzantine": place.f, "attack": place.attack + condition.joins}
    members = crew(n=place.n, seed=place.seed, **who)
    flags = {**RULES[place.rule], "rate": f"constant:gamma={rate:g}"}
    rules = recipe(place.n, place.f, flags)
    return Cell(place.task, rules, tuple(members), condition.split, place.seed, seconds)


def tuned_at(place: Place) -> Place:
    """Where the rate is sought that holds here: without attack, all data alike."""
    rule = PLAIN if place.rule in AT_THE_RATE_OF_PLAIN else place.rule
    return place._replace(condition="iid", attack=HONEST, rule=rule, seed=0)


# --- playing it ---


class Grid:
    """Cells that are played once each, and kept in a folder; at the best rate of each rule, once
    they are `tune`d.
    """

    def __init__(
        self, folder: Path, seconds: float, seeds: int, jobs: int, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.seconds, self.seeds = seconds, seeds
        self._jobs = jobs
        self.say = say
        # What each rate came to that was tried.
        self._tried: defaultdict[Place, dict[float, float]] = defaultdict(dict)

    def rate(self, place: Place) -> float:
        """The best that was tried so far for the rule that stands there."""
        tried = self._tried[tuned_at(place)]
        return rates.best(tried) if tried else STARTS.get(tuned_at(place).rule, START)

    def cell(self, place: Place) -> Cell:
        """The cell of this place, at its rate."""
        return cell(place, self.seconds, self.rate(place))

    def longer(self, place: Place) -> Cell:
        """The same run twice as long, which tells the plateau that it comes to."""
        return replace(self.cell(place), seconds=2 * self.seconds)

    def recall(self, places: Iterable[Place]) -> None:
        """Take up the search for the rates where it was left."""
        for at in _searched(places):
            while trials := self._trials(at):
                known = {c: kept(c, self.folder) for trial in trials for c in trial.cells}
                if not all(known.values()):
                    break
                self._learn(trials, {c: played for c, played in known.items() if played})

    def tune(self, places: Iterable[Place]) -> None:
        """Find the rates of all rules that stand there, in waves."""
        searched = _searched(places)
        while wave := [trial for at in searched for trial in self._trials(at)]:
            self._learn(wave, self._play({c: trial.at for trial in wave for c in trial.cells}))

    def _learn(self, trials: Iterable["Trial"], played: Mapping[Cell, Played]) -> None:
        for at, rate, cells in trials:
            self._tried[at][rate] = fmean(played[c].accuracy for c in cells)

    def _trials(self, at: Place) -> list["Trial"]:
        """The rates to be tried next for the rule that stands there."""
        seeds = [at._replace(seed=seed) for seed in range(self.seeds)]
        return [
            Trial(at, rate, [cell(of, self.seconds, rate) for of in seeds])
            for rate in rates.wanted(self._tried[at], self.rate(at))
        ]

    def play(self, places: Iterable[Place]) -> dict[Place, Played]:
        """All of these, and the attack-free plain runs that they are held against."""
        cells = {of: self.cell(of) for place in places for of in (place.reference, place)}
        played = self._play({c: place for place, c in cells.items()})
        return {place: played[c] for place, c in cells.items()}

    def play_longer(self, places: Iterable[Place]) -> dict[Place, Played]:
        """The attack-free plain runs of these, twice as long."""
        cells = {place.reference: self.longer(place.reference) for place in places}
        played = self._play({c: place for place, c in cells.items()})
        return {place: played[c] for place, c in cells.items()}

    def _play(self, cells: Mapping[Cell, Place]) -> dict[Cell, Played]:
        found = {c: played for c in cells if (played := kept(c, self.folder))}
        missing = [c for c in cells if c not in found]
        began = shown = time.perf_counter()
        for count, (c, played) in enumerate(self._played(missing), start=1):
            found[c] = played
            if (now := time.perf_counter()) - shown >= PROGRESS or count == len(missing):
                shown = now
                self.say(f"{now - began:5.0f} s  {count} of {len(missing)} cells")
        return found

    def _played(self, cells: list[Cell]) -> Iterator[tuple[Cell, Played]]:
        if self._jobs == 1 or len(cells) < 2:
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

    # --- beforehand ---

    def foretell(self, places: Iterable[Place]) -> None:
        """Say how many cells there are, and how long those will take that were not played yet: of
        each rule, from a short run of it. The rates where the search for the best begins stand for
        those where it ends.
        """
        every = dict.fromkeys(of for place in places for of in (place.reference, place))
        cells = {self.cell(place): place for place in every}
        cells |= {self.longer(of): of for place in every if (of := place.reference)}
        for at in _searched(every):
            cells |= {c: at for trial in self._trials(at) for c in trial.cells}
        missing = {c: place for c, place in cells.items() if kept(c, self.folder) is None}
        self.say(
            f"{len(every)} places in the grid, {len(cells)} different cells,"
            f" {len(missing)} of them to be played"
        )
        if missing:
            took = self._took(missing) / self._jobs
            self.say(
                f"about {_span(took)} on {self._jobs} process(es), and more for each rule whose"
                " best rate lies farther off"
            )

    def _took(self, missing: Mapping[Cell, Place]) -> float:
        paces: dict[tuple[str, int, str, str], tuple[float, float]] = {}
        total = 0.0
        for c, place in missing.items():
            asks = place.attack != HONEST and _asks_the_filter(place.attack)
            kind = (place.task, place.n, place.rule, place.attack if asks else HONEST)
            if kind not in paces:
                short = min(CALIBRATION_OF_LIARS if asks else CALIBRATION, self.seconds)
                like = place._replace(condition="iid", attack=kind[-1])
                began = time.perf_counter()
                took = play(cell(like, short, self.rate(place))).took
                # Loading the task takes as long for a long run.
                paces[kind] = (time.perf_counter() - began - took, took / short)
            loading, pace = paces[kind]
            rho = CONDITIONS[place.condition].rho
            quick = sum((rho if m.byzantine else 1.0) / m.factor for m in c.members) / place.n
            total += loading + pace * c.seconds * quick
        return total


class Trial(NamedTuple):
    """A rate of the rule at this place, and the runs that tell its worth, one a seed."""

    at: Place
    rate: float
    cells: list[Cell]


def _searched(places: Iterable[Place]) -> list[Place]:
    """Where the rates are sought that these places, and their references, stand at."""
    return list(dict.fromkeys(tuned_at(at) for of in places for at in (of.reference, of)))


def _asks_the_filter(attack: str) -> bool:
    (board,) = private(n=4, f=1, d=0)
    return attack_of(attack, 0, board).knows == Knows.FILTER


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
    "--small",
    is_flag=True,
    help="A convex task, fewer conditions and attacks, one seed: one to three minutes.",
)
@click.option("--task", "tasks", multiple=True, help="[default: digits]")
@click.option("--size", "sizes", multiple=True, default=["10:3"], show_default=True, help="n:f.")
@click.option("--rule", "rules", multiple=True, type=click.Choice(list(RULES)), help="[all]")
@click.option(
    "--condition", "conditions", multiple=True, type=click.Choice(list(CONDITIONS)), help="[all]"
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    help="As --attack of a run; honest for none.  [the battery]",
)
@click.option("--seeds", type=int, help="0 to so many.  [default: 3; 1 if small]")
@click.option(
    "--decide", type=int, help="Seeds where the default fails its line.  [default: 10; 1 if small]"
)
@click.option(
    "--seconds",
    type=float,
    help=f"Virtual seconds of each run.  [default: {SECONDS:g}; {SMALL_SECONDS:g} if small]",
)
@click.option(
    "--jobs", type=int, default=os.cpu_count() or 1, help="Processes.  [default: one a core]"
)
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
    seconds: float | None,
    jobs: int,
    out: Path,
) -> None:
    """Every rule against every attack under every condition, each at the rate that serves it best
    without attack, and held against plain asynchronous SGD without attack under the same condition.
    """
    # Liars who are honest are none.
    attacks = tuple(dict.fromkeys(HONEST if a == "honest" else a for a in attacks))
    seeds = seeds or (1 if small else 3)
    decide = decide or (1 if small else 10)
    seconds = seconds or (SMALL_SECONDS if small else SECONDS)
    if not (seeds > 0 and decide > 0 and seconds > 0 and jobs > 0):
        raise UsageError("--seeds, --decide, --seconds and --jobs: expected more than 0")
    places = [
        Place(task, n, f, condition, attack, rule, seed)
        for task in tasks or (SMALL["tasks"] if small else ("digits",))
        for n, f in map(_size, sizes)
        for condition in conditions or (SMALL["conditions"] if small else CONDITIONS)
        for attack in attacks or (SMALL["attacks"] if small else BATTERY)
        for rule in rules or RULES
        for seed in range(seeds)
    ]
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(folder, seconds, seeds, jobs, lambda words: click.echo(words, err=True))
    try:
        grid.recall(places)
        grid.foretell(places)
        grid.say("the rates:")
        grid.tune(places)
        grid.say("the plateau of plain SGD:")
        longer = grid.play_longer(places)
        grid.say("the grid:")
        played = grid.play(places)
        rows = report.rows(places, played, longer, grid.cell)
        if decide > seeds and (more := undecided(rows, decide)):
            grid.say("more seeds where the default fails its line:")
            places = list(dict.fromkeys([*places, *more]))
            played = grid.play(places)
            rows = report.rows(places, played, longer, grid.cell)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what was played is kept in {folder}", err=True)
        sys.exit(130)
    print(report.text(rows))
    for path in report.write(rows, out):
        click.echo(f"written: {path}", err=True)


if __name__ == "__main__":
    entry(main)
