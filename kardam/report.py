"""One page on one or several runs that stands alone, and its pictures as files for a paper.

Never in here: how a picture is drawn (figures), or what a run is (chronicle).
"""

import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from kardam import __version__, figures
from kardam.chronicle import Chronicle, read_all
from kardam.errors import Unwritable
from kardam.view import number, percent

PAGE = "report.html"
PICTURES = "figures"
DPI = 300

# Of so many runs each has its own pictures and its table of workers, and a column in the others; of
# more each has a row, and a report of its own for the rest.
EACH_MAX = 3

# Of an experiment, what tells runs apart.
CHOICES = (
    *("task", "preset", "filter", "dampening", "gather", "aggregator", "rate", "optimizer"),
    *("workers", "f", "byzantine", "attack", "stragglers", "latency", "split", "seed"),
)


class Picture(NamedTuple):
    """A figure, the name of its files, and what it shows."""

    name: str
    figure: Figure
    caption: str


def write(folders: Sequence[Path], out: Path) -> Path:
    """Read these runs, and leave a page and pictures in `out`; the page's path.

    Raises UsageError for what is no run, Unwritable where there is no place for a report.
    """
    runs = read_all(folders)
    try:
        (out / PICTURES).mkdir(parents=True, exist_ok=True)
        with figures.style():
            drawn = [(picture, _save(picture, out / PICTURES)) for picture in _pictures(runs)]
        (out / PAGE).write_text(_page(runs, drawn))
    except OSError as error:
        raise Unwritable(f"{error.filename}: {error.strerror}") from error
    return out / PAGE


# --- pictures ---


def _pictures(runs: Sequence[Chronicle]) -> Iterator[Picture]:
    if any(run.evaluations for run in runs):
        words = "against time (left) and against model updates (right)"
        yield Picture("accuracy", figures.accuracy(runs), f"Accuracy on held-out data {words}.")
        most = f"up to {figures.LOSS_MOST} times what it was at first"
        yield Picture("loss", figures.loss(runs), f"Loss on held-out data {words}, {most}.")
    yield Picture(
        "throughput",
        figures.throughput(runs),
        "Gradients per second: delivered to the server, and admitted by it.",
    )
    yield Picture(
        "staleness",
        figures.staleness(runs),
        "How many updates the model had seen between a worker's pull and its gradient.",
    )
    for run in runs if len(runs) <= EACH_MAX else ():
        of = f" in {run.name}" if len(runs) > 1 else ""
        end = f"-{re.sub(r'[^A-Za-z0-9_.-]', '_', run.name)}" if len(runs) > 1 else ""
        if figures.has_band(run):
            some = _some(run, figures.PANELS_MAX)
            yield Picture(
                f"growth{end}",
                figures.growth(run),
                f"The growth of each worker{of} as the filter compares it, a point a gradient, and"
                " the band that it has to lie in; what lies outside is grey, and moved nothing."
                f" In red: who lies, by his owner's word.{some}",
            )
        some = _some(run, figures.BARS_MAX)
        yield Picture(
            f"verdicts{end}",
            figures.verdicts(run),
            f"What became of each worker's gradients{of}. In red: who lies, by his owner's"
            f" word.{some}",
        )


def _some(run: Chronicle, most: int) -> str:
    return f" {most} of {run.n} workers are shown, liars first." if run.n > most else ""


def _save(picture: Picture, folder: Path) -> str:
    """Write it as PNG and SVG; the SVG."""
    picture.figure.savefig(folder / f"{picture.name}.png", dpi=DPI, facecolor="white")
    text = io.StringIO()
    # Salted by its name: no two pictures of a page share an id, and the same run is the same file.
    with mpl.rc_context({"svg.hashsalt": picture.name}):
        picture.figure.savefig(text, format="svg", dpi=DPI, metadata={"Date": None})
    svg = text.getvalue()
    (folder / f"{picture.name}.svg").write_text(svg)
    return svg


# --- the page ---

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --grid: #dcdcdc; --soft: #5a5a5a;
  --blue: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #15171a; --grid: #34383d; --soft: #a6a6a6; --blue: #4fa9dc }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2.5rem }
.wide { overflow-x: auto } .wide + .wide { margin-top: 1.5rem }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid var(--grid);
  vertical-align: top }
td { white-space: nowrap }
.facts td + td { white-space: normal; overflow-wrap: anywhere; min-width: 6rem }
.workers :is(td, th):nth-child(n+3):nth-child(-n+6) { text-align: right }
figure { margin: 2rem 0 } figcaption { color: var(--soft); font-size: .9rem }
svg { width: 100%; min-width: 36rem; height: auto }
svg text { fill: currentColor }
footer { color: var(--soft); font-size: .85rem; margin-top: 3rem }
"""


def _page(runs: Sequence[Chronicle], drawn: Sequence[tuple[Picture, str]]) -> str:
    few = len(runs) <= EACH_MAX
    title = ", ".join(run.name for run in runs) if few else f"{len(runs)} runs"
    body = [
        f"<h1>{escape(title)}</h1>",
        "<h2>Summary</h2>",
        _summaries(runs),
        *[_figure(picture, svg) for picture, svg in drawn],
    ]
    for run in runs if few else ():
        body += [f"<h2>Workers of {escape(run.name)}</h2>", _workers(run)]
    body += ["<h2>What was chosen</h2>", _choices(runs)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>kardam: {escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + f"<footer>kardam {__version__}; the pictures stand beside this page in {PICTURES}/, as"
        " SVG and as PNG.</footer></body></html>\n"
    )


def _figure(picture: Picture, svg: str) -> str:
    """The picture in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    # Groups are numbered anew in each picture, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for colour, ours in (
        (figures.INK, "currentColor"),
        (figures.GRID, "var(--grid)"),
        (figures.BLUE.lower(), "var(--blue)"),
    ):
        svg = svg.replace(colour, ours)
    label = f'<svg role="img" aria-label="{escape(picture.caption)}"'
    svg = svg.replace("<svg", label, 1)
    return (
        f'<figure id="{escape(picture.name)}"><div class="wide">{svg}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _summaries(runs: Sequence[Chronicle]) -> str:
    return _side_by_side(runs, [_summary(run) for run in runs])


def _summary(run: Chronicle) -> dict[str, str]:
    books = run.books
    staleness, seconds = books["staleness"], books["seconds"]
    bounds = books["slowdown_bounds"]
    whose = "honest" if books["slowdown_of"] == "honest" else "all"
    return {
        "accuracy": number(books["accuracy"], ".3f"),
        "loss": number(books["loss"], ".3g"),
        "updates": f"{books['updates']:,}",
        "seconds": f"{seconds:,.1f}",
        "gradients": f"{books['delivered']:,}",
        "gradients/s": f"{books['delivered'] / max(seconds, 1e-9):,.0f}",
        "admitted": f"{books['admitted']:,}",
        "slowdown": f"{percent(books['slowdown'])} of {whose}",
        "bounds": f"{percent(bounds['without'])} without liars, {percent(bounds['low'])} to"
        f" {percent(bounds['high'])} with f={books['f']}"
        if bounds
        else "-",
        "liars' share": percent(books["byzantine_share"])
        if books["slowdown_of"] == "honest"
        else "-",
        "staleness": f"median {staleness['median']}, 95 % {staleness['p95']}, max"
        f" {staleness['max']}",
    }


def _workers(run: Chronicle) -> str:
    journal = run.journal
    rows = []
    for worker in figures.shown(run, figures.BARS_MAX):
        own = journal.worker == worker
        mine = own & ~journal.admitted
        refused = Counter(itertools.compress(journal.rule, mine))
        stale = journal.staleness[own & (journal.staleness >= 0)]
        rows.append(
            [
                str(worker),
                run.label(worker) or "honest",
                f"{own.sum():,}",
                f"{(own & journal.admitted).sum():,}",
                percent((own & journal.admitted).sum() / own.sum()),
                f"{sorted(stale)[len(stale) // 2]}" if len(stale) else "-",
                ", ".join(f"{rule} {count:,}" for rule, count in refused.most_common()),
            ]
        )
    heads = ["worker", "what it is", "delivered", "admitted", "share", "median staleness"]
    return _table([*heads, "refused"], rows, kind="workers")


def _choices(runs: Sequence[Chronicle]) -> str:
    chosen = [{choice: str(run.experiment.get(choice, "-")) for choice in CHOICES} for run in runs]
    differ = [name for name in CHOICES if len({its[name] for its in chosen}) > 1]
    same = {name: value for name, value in chosen[0].items() if name not in differ}
    rows = [[name, value] for name, value in same.items() if value not in ("", "-")]
    apart = _side_by_side(runs, [{name: its[name] for name in differ} for its in chosen])
    return (apart if differ else "") + _table(["", "in all of them" if differ else ""], rows)


def _side_by_side(runs: Sequence[Chronicle], facts: Sequence[dict[str, str]]) -> str:
    """A column a run where they are few, else a row."""
    if len(runs) <= EACH_MAX:
        rows = [[name, *[its[name] for its in facts]] for name in facts[0]]
        return _table(["", *[run.name for run in runs]], rows)
    rows = [[run.name, *its.values()] for run, its in zip(runs, facts, strict=True)]
    return _table(["", *facts[0]], rows, kind="runs")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "facts") -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    table = f'<table class="{kind}"><tr>{cells(heads, "th")}</tr>{lines}</table>'
    return f'<div class="wide">{table}</div>'
