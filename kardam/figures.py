"""Pictures of runs, fit to print: a function each, from chronicles to a matplotlib figure.

Colours are Okabe and Ito's, which the colour-blind can tell apart; dashes, markers and hatches say
the same without colour. Never in here: files, or HTML.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kardam.chronicle import Chronicle, Floats
from kardam.stats import Evaluation

BLUE, RED, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
# On paper; a page may put its own in their place.
INK, GRID = "#1c1c1c", "#dcdcdc"
# What is outside of the band: to be seen on white and on black.
GREY = "#8c8c8c"

# A page's width, in inches, and the height of a row of panels.
WIDE, HIGH = 7.2, 2.7

# Letters of a legend that stand side by side on it.
LEGEND = 130

# A loss is shown up to so many times what it was at first.
LOSS_MOST = 100

# So many workers have a panel or a bar of their own, liars first; more can not be read.
PANELS_MAX, BARS_MAX, ACROSS = 20, 40, 5

STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Within, figures are made and saved in the house's style."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # Of letters that no font here has, a box stands in the PNG; the SVG has them.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def _figure(high: float) -> Figure:
    figure = Figure(figsize=(WIDE, high), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Figure, names: Sequence[str], **rest: Any) -> None:
    """Above the panels, in as many columns as there is room for."""
    columns = LEGEND // (max(map(len, names)) + 8)
    figure.legend(loc="outside upper center", ncols=min(max(columns, 1), 4), **rest)


def _plain(name: str) -> str:
    """As it is: matplotlib takes what is between dollars for mathematics, and leaves what begins
    with an underscore out of a legend.
    """
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _looks(runs: Sequence[Chronicle]) -> Iterator[tuple[Chronicle, dict[str, Any]]]:
    # On a dark page BLUE is next to SKY, so these two have dashes of their own.
    colours = cycle((BLUE, RED, GREEN, PURPLE, SKY, ORANGE))
    dashes = cycle(("-", "--", "-.", ":", (0, (4, 1, 1, 1, 1, 1))))
    for run, color, ls in zip(runs, colours, dashes, strict=False):
        yield run, {"color": color, "ls": ls}


def _against_time_and_updates(
    runs: Sequence[Chronicle], value: Callable[[Evaluation], float], name: str
) -> Figure:
    figure = _figure(HIGH)
    by_time, by_updates = figure.subplots(1, 2, sharey=True)
    for run, look in _looks(runs):
        values = [value(its) for its in run.evaluations]
        by_time.plot(
            [its.seconds for its in run.evaluations], values, label=_plain(run.name), **look
        )
        by_updates.plot([its.updates for its in run.evaluations], values, **look)
    by_time.set(xlabel="time (s)", ylabel=name)
    by_updates.set(xlabel="model updates")
    if len(runs) > 1:
        _legend(figure, [run.name for run in runs])
    return figure


def accuracy(runs: Sequence[Chronicle]) -> Figure:
    """Held-out accuracy, 0 to 1, against time and against updates."""
    figure = _against_time_and_updates(runs, lambda its: its.accuracy, "held-out accuracy")
    figure.axes[0].set_ylim(0, 1.02)
    return figure


def loss(runs: Sequence[Chronicle]) -> Figure:
    """Held-out loss, on a logarithmic scale, against time and against updates; no higher than
    LOSS_MOST times the first, since one run that diverges would leave no room for the others.
    """
    figure = _against_time_and_updates(runs, lambda its: its.loss, "held-out loss")
    axes = figure.axes[0]
    axes.set_yscale("log")
    losses = [its.loss for run in runs for its in run.evaluations if its.loss > 0]
    most = LOSS_MOST * max(run.evaluations[0].loss for run in runs if run.evaluations)
    if losses and max(losses) > most > 0:
        axes.set_ylim(min(losses) / 1.5, most)
    return figure


def throughput(runs: Sequence[Chronicle]) -> Figure:
    """Gradients a second, delivered and admitted, in forty equal spans of each run."""
    figure = _figure(HIGH)
    axes = figure.subplots()
    for run, look in _looks(runs):
        journal = run.journal
        edges = np.linspace(journal.seconds[0], max(journal.seconds[-1], 1e-9), 41)
        middles = (edges[1:] + edges[:-1]) / 2
        for chosen, width in ((slice(None), 1.3), (journal.admitted, 0.7)):
            counts, _ = np.histogram(journal.seconds[chosen], edges)
            axes.plot(middles, counts / np.diff(edges), **{**look, "lw": width})
    handles = [Line2D([], [], label=_plain(run.name), **look) for run, look in _looks(runs)]
    thick = [
        Line2D([], [], color=GREY, lw=width, label=label)
        for width, label in ((1.3, "delivered (thick)"), (0.7, "admitted (thin)"))
    ]
    axes.set(xlabel="time (s)", ylabel="gradients per second")
    axes.set_ylim(bottom=0)
    handles = [*(handles if len(runs) > 1 else []), *thick]
    _legend(figure, [str(handle.get_label()) for handle in handles], handles=handles)
    return figure


def staleness(runs: Sequence[Chronicle]) -> Figure:
    """Which share of the gradients was how stale."""
    figure = _figure(HIGH)
    axes = figure.subplots()
    most = max(int(run.journal.staleness.max()) for run in runs)
    step = -(-(most + 1) // 60)
    edges = np.arange(-0.5, most + step, step)
    for run, look in _looks(runs):
        known = run.journal.staleness[run.journal.staleness >= 0]
        counts, _ = np.histogram(known, edges)
        axes.stairs(counts / max(len(known), 1), edges, label=_plain(run.name), **look)
    bins = "" if step == 1 else f", in bins of {step}"
    axes.set(xlabel=f"staleness τ (updates{bins})", ylabel="share of gradients", yscale="log")
    if len(runs) > 1:
        _legend(figure, [run.name for run in runs])
    return figure


# --- who, and why ---


def shown(run: Chronicle, most: int) -> list[int]:
    """Workers to show: all who answered, or as many as can be read, liars first."""
    workers = [int(worker) for worker in np.unique(run.journal.worker)]
    first = sorted(workers, key=lambda worker: (not run.byzantine(worker), worker))[:most]
    return sorted(first)


def has_band(run: Chronicle) -> bool:
    """Whether its filter has a band, and came to hold anybody against it."""
    return bool(np.isfinite(run.journal.band_high).any())


def _limits(readings: Floats, *bands: Floats) -> tuple[float, float]:
    """From below to above all that matters, for a logarithmic axis."""
    positive = readings[(readings > 0) & np.isfinite(readings)]
    low, high = np.quantile(positive, [0.002, 0.998]) if len(positive) else (1.0, 1.0)
    for band in bands:
        inside = band[(band > 0) & np.isfinite(band)]
        if len(inside):
            low, high = min(low, inside.min()), max(high, inside.max())
    return float(low) / 1.5, float(high) * 1.5


def growth(run: Chronicle) -> Figure:
    """What the filter compares of each worker over time, and the band: outside of it, grey."""
    journal, workers = run.journal, shown(run, PANELS_MAX)
    down = -(-len(workers) // ACROSS)
    figure = _figure(0.9 + 1.35 * down)
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).flat
    low, high = _limits(journal.reading, journal.band_low, journal.band_high)
    banded = np.isfinite(journal.band_high)
    seconds = journal.seconds[banded]
    band = (np.maximum(journal.band_low[banded], low), journal.band_high[banded])
    # What is beyond the axis lies on its edge.
    readings = np.clip(journal.reading, low, high)
    inside = (journal.band_low <= journal.reading) & (journal.reading <= journal.band_high)
    for panel, worker in zip(panels, workers, strict=False):
        panel.fill_between(
            seconds, *band, step="post", color=SKY, alpha=0.35, lw=0, rasterized=True
        )
        own = (journal.worker == worker) & banded & ~np.isnan(journal.reading)
        for chosen, look in (
            (own & ~inside, {"color": GREY, "marker": "."}),
            (own & inside & journal.admitted, {"color": BLUE, "marker": "."}),
            (own & inside & ~journal.admitted, {"color": RED, "marker": "x", "linewidths": 0.6}),
        ):
            panel.scatter(journal.seconds[chosen], readings[chosen], s=6, rasterized=True, **look)
        _titled(panel, run, worker)
        panel.set_yscale("log")
        panel.set_ylim(low, high)
    for panel in list(panels)[len(workers) :]:
        panel.set_axis_off()
    figure.supxlabel("time (s)", fontsize=8)
    figure.supylabel("growth, as compared", fontsize=8)
    figure.legend(
        handles=[
            Patch(color=SKY, alpha=0.35, label="the band"),
            Line2D([], [], color=BLUE, marker=".", ls="", label="admitted"),
            Line2D([], [], color=GREY, marker=".", ls="", label="outside: refused"),
            Line2D([], [], color=RED, marker="x", ls="", ms=4, label="refused by another rule"),
        ],
        loc="outside upper center",
        ncols=4,
    )
    return figure


def _titled(panel: Axes, run: Chronicle, worker: int) -> None:
    label = run.label(worker)
    text = f"{worker}  {label}" if label else str(worker)
    liar = run.byzantine(worker)
    panel.set_title(
        _plain(text if len(text) <= 24 else f"{text[:23]}…"),
        loc="left",
        fontsize=7,
        color=RED if liar else INK,
        fontweight="bold" if liar else "normal",
    )


def verdicts(run: Chronicle) -> Figure:
    """Gradients of each worker: admitted, and refused by which rule."""
    journal, workers = run.journal, shown(run, BARS_MAX)
    figure = _figure(0.9 + 0.2 * len(workers))
    axes = figure.subplots()
    rules = np.array(journal.rule)
    kinds = [("admitted", journal.admitted, BLUE, "")]
    looks = cycle([(GREY, ""), (ORANGE, "///"), (PURPLE, "..."), (GREEN, "xxx"), (SKY, "---")])
    for rule, (colour, hatch) in zip(journal.refused, looks, strict=False):
        kinds.append((f"refused: {rule}", ~journal.admitted & (rules == rule), colour, hatch))
    left = np.zeros(len(workers))
    for name, chosen, colour, hatch in kinds:
        counts = np.bincount(journal.worker[chosen], minlength=run.n)[workers]
        axes.barh(
            range(len(workers)), counts, left=left, height=0.72, label=name,
            color=colour, hatch=hatch, edgecolor="white", lw=0.4,
        )  # fmt: skip
        left = left + counts
    names = [_plain(f"{worker}  {run.label(worker)}".strip()) for worker in workers]
    axes.set_yticks(range(len(workers)), names)
    for tick, worker in zip(axes.get_yticklabels(), workers, strict=True):
        tick.set_color(RED if run.byzantine(worker) else INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="gradients", ylabel="worker")
    figure.legend(loc="outside upper center", ncols=4)
    return figure
