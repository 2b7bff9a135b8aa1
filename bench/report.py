"""What a grid shows: a row for each cell over its seeds; tables in Markdown, JSON, a heat map.
Never in here: a run.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import t as student

from bench.cells import Cell, Played

HONEST = "no attack"
PLAIN = "none"
DEFAULT = "default"

# How many points the default may lose: without attack, under one, and under one in a worse world.
LINES = (0.5, 1.5, 3.0)

# How many points plain SGD without attack may be below its plateau, where runs are long enough.
NEAR = 0.5

# The share of the attack-free plain accuracy that is timed.
TARGET = 0.95

# Points of loss at which a heat map is darkest; how many attacks stand beside each other; and how a
# figure stands in its cell.
DARKEST = 20.0
ABREAST = 20
IN: Mapping[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}


class Place(NamedTuple):
    """Where in the grid."""

    task: str
    n: int
    f: int
    condition: str
    attack: str
    rule: str
    seed: int

    @property
    def reference(self) -> "Place":
        """Plain asynchronous SGD in the same world without attack."""
        return self._replace(attack=HONEST, rule=PLAIN)


class Row(NamedTuple):
    """One cell over its seeds, as means: accuracy; points lost against the attack-free plain run of
    the same seed, give or take `within` (half the 95 % interval; NaN of one seed), and points lost
    `throughout` the second half of the time, with dips that the end need not show; which share of
    honest gradients was admitted, and of those of the worst honest worker; which share of the
    liars' was, and theirs of all that was; virtual seconds to 95 % of the attack-free accuracy
    (infinite where a seed never came there), and how many times as long as the plain run's.

    `starred`: at a smaller f than there are liars, since n bears no more. `below`: so many points
    the plain run is below its plateau, in this world.
    """

    place: Place
    seeds: int
    starred: bool
    rate: str
    below: float
    accuracy: float
    loss: float
    within: float
    throughout: float
    honest: float
    worst: float
    byzantine: float
    byzantine_of_all: float
    seconds: float
    slower: float

    @property
    def line(self) -> float:
        """The points that the default may lose here."""
        if self.place.attack == HONEST:
            return LINES[0] if self.place.condition == "iid" else LINES[2]
        return LINES[1] if self.place.condition == "iid" else LINES[2]

    @property
    def verdict(self) -> str:
        """Whether it holds its line; `open` where the 95 % interval has it on both sides."""
        within = 0.0 if math.isnan(self.within) else self.within
        if self.loss <= self.line:
            return "holds" if self.loss + within <= self.line or self.seeds < 10 else "open"
        return "fails" if self.loss - within > self.line else "open"


def rows(
    places: Iterable[Place],
    played: Mapping[Place, Played],
    longer: Mapping[Place, Played],
    cell: Callable[[Place], Cell],
) -> list[Row]:
    """One a cell, in the order in which they first come; `longer` has the attack-free plain runs
    twice as long, of some seeds.
    """
    seeds: dict[Place, list[Place]] = {}
    for place in places:
        seeds.setdefault(place._replace(seed=0), []).append(place)
    below: dict[Place, list[float]] = {}
    for place, run in longer.items():
        points = 100 * (run.plateau - played[place].accuracy)
        below.setdefault(place._replace(seed=0), []).append(points)
    return [
        _row(at, of, played, cell(at), statistics.fmean(below[at.reference]))
        for at, of in seeds.items()
    ]


def _row(
    at: Place, places: Sequence[Place], played: Mapping[Place, Played], cell: Cell, below: float
) -> Row:
    runs = [played[place] for place in places]
    plain = [played[place.reference] for place in places]
    lost = [100 * (r.accuracy - own.accuracy) for own, r in zip(runs, plain, strict=True)]
    halves = [100 * (r.plateau - own.plateau) for own, r in zip(runs, plain, strict=True)]
    times = [seconds_to(own, TARGET * r.accuracy) for own, r in zip(runs, plain, strict=True)]
    theirs = [seconds_to(r, TARGET * r.accuracy) for r in plain]
    of = statistics.fmean
    return Row(
        place=at,
        seeds=len(runs),
        starred=cell.recipe.f < at.f,
        rate=cell.recipe.rate,
        below=below,
        accuracy=of(own.accuracy for own in runs),
        loss=of(lost),
        within=_within(lost),
        throughout=of(halves),
        honest=of(_share(own, byzantine=False) for own in runs),
        worst=of(_worst(own) for own in runs),
        byzantine=of(_share(own, byzantine=True) for own in runs),
        byzantine_of_all=of(_liars_part(own) for own in runs),
        seconds=of(times),
        slower=of(times) / of(theirs),
    )


def seconds_to(run: Played, accuracy: float) -> float:
    """The first evaluation at which it is reached; infinite where none is."""
    return next((at for at, reached in run.curve if reached >= accuracy), math.inf)


def _within(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean."""
    if len(values) < 2:
        return math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(student.ppf(0.975, len(values) - 1)) * error


def _share(run: Played, byzantine: bool) -> float:
    delivered = sum(w.delivered for w in run.work if w.byzantine == byzantine)
    admitted = sum(w.admitted for w in run.work if w.byzantine == byzantine)
    return admitted / delivered if delivered else math.nan


def _worst(run: Played) -> float:
    """Of the honest workers that delivered anything."""
    honest = [w.admitted / w.delivered for w in run.work if not w.byzantine and w.delivered]
    return min(honest, default=math.nan)


def _liars_part(run: Played) -> float:
    admitted = sum(w.admitted for w in run.work)
    return sum(w.admitted for w in run.work if w.byzantine) / admitted if admitted else math.nan


# --- tables ---


def text(rows: Sequence[Row]) -> str:
    """For each world (task, n, f, condition) the accuracies, rules down and attacks across; and for
    each task and size a line a rule over all of it.
    """
    parts = []
    for (task, n, f), block in groupby(rows, key=lambda row: row.place[:3]):
        of_task = list(block)
        for condition in dict.fromkeys(row.place.condition for row in of_task):
            world = [row for row in of_task if row.place.condition == condition]
            parts += [f"{task}, n={n}, f={f}, {condition}: accuracy", "", _accuracies(world), ""]
            parts += [_distance(world[0].below), ""]
        parts += [f"{task}, n={n}, f={f}: over all of it", "", _summary(of_task), ""]
    if any(row.starred for row in rows):
        parts.append("* at the largest f that the rule can be had at, which is fewer than lie.")
    return "\n".join(parts).rstrip()


def _accuracies(world: Sequence[Row]) -> str:
    attacks = list(dict.fromkeys(row.place.attack for row in world))
    lines = [["rule", *attacks]]
    for rule in dict.fromkeys(row.place.rule for row in world):
        own = {row.place.attack: row for row in world if row.place.rule == rule}
        lines.append([_name(own), *(f"{own[attack].accuracy:.3f}" for attack in attacks)])
    return table(lines)


def _distance(below: float) -> str:
    said = f"Plain SGD without attack is {below:.1f} points below its plateau here"
    return f"{said}." if below <= NEAR else f"{said}: these runs are too short (--seconds)."


def _name(own: Mapping[str, Row]) -> str:
    row = next(iter(own.values()))
    return row.place.rule + "*" * row.starred


class Total(NamedTuple):
    """A rule over many cells: those of the lowest accuracy, and where most is lost to plain SGD
    without attack, which differ where conditions do; on the mean of them, at the end and
    `throughout`; honest work and time where nobody lies.
    """

    rule: str
    rate: str
    lowest: Row
    worst: Row
    mean_loss: float
    throughout: float
    honest: float
    worst_worker: float
    byzantine_of_all: float
    slower: float


def totals(rows: Sequence[Row]) -> list[Total]:
    """One a rule."""
    found = []
    for rule in dict.fromkeys(row.place.rule for row in rows):
        own = [row for row in rows if row.place.rule == rule]
        free = [row for row in own if row.place.attack == HONEST]
        lied_to = [row for row in own if row.place.attack != HONEST]
        found.append(
            Total(
                rule=rule + "*" * own[0].starred,
                rate=own[0].rate,
                lowest=min(own, key=lambda row: row.accuracy),
                worst=max(own, key=lambda row: row.loss),
                mean_loss=statistics.fmean(row.loss for row in own),
                throughout=statistics.fmean(row.throughout for row in own),
                honest=min((row.honest for row in free), default=math.nan),
                worst_worker=min((row.worst for row in free), default=math.nan),
                byzantine_of_all=max((row.byzantine_of_all for row in lied_to), default=math.nan),
                slower=max((row.slower for row in free), default=math.nan),
            )
        )
    return found


def _summary(rows: Sequence[Row]) -> str:
    head = ["rule", "rate", "lowest accuracy", "in", "most points lost", "in", "on the mean"]
    head += ["throughout", "honest admitted, no attack", "of the worst worker"]
    head += ["liars' part, most", "times as long to 95 %"]
    lines = [head]
    for total in totals(rows):
        lines.append(
            [
                total.rule,
                total.rate.removeprefix("constant:gamma="),
                f"{total.lowest.accuracy:.3f}",
                _cell(total.lowest.place),
                f"{total.worst.loss:.1f}",
                _cell(total.worst.place),
                f"{total.mean_loss:.1f}",
                f"{total.throughout:.1f}",
                f"{total.honest:.2f}",
                f"{total.worst_worker:.2f}",
                f"{total.byzantine_of_all:.2f}",
                f"{total.slower:.2f}",
            ]
        )
    return table(lines)


def _cell(place: Place) -> str:
    return f"{place.attack}, {place.condition}"


def cells(rows: Sequence[Row]) -> str:
    """All that is known of every cell, a line each."""
    head = ["task", "n:f", "condition", "attack", "rule", "seeds", "accuracy", "points lost", "±"]
    head += ["throughout", "honest admitted", "of the worst worker", "liars' admitted"]
    head += ["liars' part", "seconds to 95 %", "line"]
    lines = [head]
    for row in rows:
        task, n, f, condition, attack, rule, _ = row.place
        where = [task, f"{n}:{f}", condition, attack, rule + "*" * row.starred, str(row.seeds)]
        figures = [f"{row.accuracy:.3f}", f"{row.loss:.1f}", f"{row.within:.1f}"]
        figures += [f"{row.throughout:.1f}"]
        shares = (row.honest, row.worst, row.byzantine, row.byzantine_of_all)
        figures += [f"{share:.2f}" for share in shares]
        verdict = row.verdict if rule == DEFAULT else ""
        lines.append([*where, *figures, f"{row.seconds:.0f}", verdict])
    return table(lines)


def table(lines: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first line is its head."""
    head, *body = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    marked = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in marked)


# --- files ---


def write(rows: Sequence[Row], out: Path) -> list[Path]:
    """The rows as grid.json and cells.md, and a heat map grid.png where matplotlib is installed."""
    told = [
        {**row.place._asdict(), **_plain(row), "line": row.line, "verdict": row.verdict}
        for row in rows
    ]
    for entry in told:
        entry.pop("seed")
    (out / "grid.json").write_text(json.dumps(told, indent=1) + "\n")
    (out / "cells.md").write_text(cells(rows) + "\n")
    written = [out / "grid.json", out / "cells.md"]
    try:
        heat_map(rows, out / "grid.png")
    except ModuleNotFoundError:  # the extra `bench` has it
        return written
    return [*written, out / "grid.png"]


def _plain(row: Row) -> dict[str, object]:
    """Its figures as JSON has them: what is no number is null."""
    figures = {name: value for name, value in row._asdict().items() if name != "place"}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }


def heat_map(rows: Sequence[Row], path: Path) -> None:
    """Points lost: a panel for each world, rules down and attacks across. The colours get darker
    and darker, so that they can be told apart in grey, too.
    """
    from matplotlib.figure import Figure

    panels = [list(of) for _, of in groupby(rows, key=lambda row: row.place[:4])]
    attacks = list(dict.fromkeys(row.place.attack for row in rows))
    rules = list(dict.fromkeys(row.place.rule for row in rows))
    # Only conditions stand beside each other, where rules have the same f, and the same stars.
    conditions = len({row.place.condition for row in rows})
    fit = [
        k for k in range(1, conditions + 1) if conditions % k == 0 and k * len(attacks) <= ABREAST
    ]
    across = max(fit, default=1)
    down = len(panels) // across
    size = (2.2 + 0.5 * across * len(attacks), down * (0.6 + 0.25 * len(rules)) + 2.2)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for at, axes in enumerate(grid.flat):  # as many as there are panels
        lost = {(row.place.rule, row.place.attack): row.loss for row in panels[at]}
        points = [[lost.get((rule, attack), math.nan) for attack in attacks] for rule in rules]
        image = axes.pcolormesh(
            points, cmap="YlOrRd", vmin=0, vmax=DARKEST, edgecolors="white", linewidth=1
        )
        for y, line in enumerate(points):
            for x, value in enumerate(line):
                dark = value > 0.6 * DARKEST
                axes.text(
                    x + 0.5, y + 0.5, _points(value), color="white" if dark else "black", **IN
                )
        task, n, f, condition = panels[at][0].place[:4]
        axes.set_title(f"{task}, n={n}, f={f}\n{condition}", fontsize=9)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        first, last = at % across == 0, at + across >= len(panels)
        stars = {row.place.rule: "*" * row.starred for row in panels[at]}
        names = [rule + stars[rule] for rule in rules] if first else []
        axes.set_yticks([y + 0.5 for y in range(len(names))], names, fontsize=8)
        axes.set_xticks([x + 0.5 for x in range(len(attacks))] if last else [])
        if last:
            axes.set_xticklabels(
                attacks, fontsize=8, rotation=45, ha="right", rotation_mode="anchor"
            )
        for side in axes.spines.values():
            side.set_visible(False)
    figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        extend="max",
        aspect=40,
        label="points of accuracy lost against plain SGD without attack",
    )
    figure.savefig(path, dpi=150)


def _points(value: float) -> str:
    """As short as it can be read: 0.3, 12; 0.0 for what rounds to it from below."""
    if math.isnan(value):
        return ""
    return f"{round(value, 1) + 0.0:.1f}" if value < 9.95 else f"{value:.0f}"
