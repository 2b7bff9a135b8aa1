"""The books for human eyes: a line, and tables. Reads plain values; decides and computes nothing
new.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kardam import diagnosis
from kardam.diagnosis import Books
from kardam.sweep import Choices, flag, over_seeds


def line(books: Books) -> str:
    """One line on how the run stands."""
    staleness = books["staleness"]["median"]
    if words := diagnosis.of_run(books):
        return words
    return (
        f"{books['status']}  {number(books['accuracy'], '.3f')} accuracy  "
        f"{books['updates']:,} updates  {books['gradients_per_second']:.0f} gradients/s  "
        f"{_share(books['admitted'], books['delivered'])} admitted  staleness {staleness}"
    )


def report(books: Books, rows: int | None = None) -> Group:
    """Everything, as tables; of the workers at most so many `rows`, who stands out first."""
    words = diagnosis.of_run(books)
    trouble = [Text(words, style="bold red")] if words else []
    return Group(_run(books), *trouble, *_workers(books, rows))


def sweep(runs: Sequence[tuple[Choices, Books]]) -> Group:
    """A row a run: what was chosen, and what came of it; and where seeds differ, all seeds' row."""
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in runs[0][0]:
        table.add_column(flag(name), overflow="fold")
    for head in ("accuracy", "loss", "honest used", "lies used", "updates", "seconds"):
        table.add_column(head, justify="right")
    for choices, books in runs:
        table.add_row(
            *map(str, choices.values()),
            number(books["accuracy"], ".3f"),
            number(books["loss"], ".3g"),
            *[_share(tally["admitted"], tally["delivered"]) for tally in _sides(books)],
            f"{books['updates']:,}",
            f"{books['seconds']:.1f}",
        )
    return Group(table, *_over_seeds(runs))


def _sides(books: Books) -> tuple[Mapping[str, int], Mapping[str, int]]:
    return books["honest"], books["byzantine"]


def _over_seeds(runs: Sequence[tuple[Choices, Books]]) -> list[Table | Text]:
    groups = over_seeds([(choices, books["accuracy"]) for choices, books in runs])
    if not any(len(over.accuracies) > 1 for over in groups):
        return []
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in groups[0].choices:
        table.add_column(flag(name), overflow="fold")
    for head in ("seeds", "mean accuracy", "lowest", "highest"):
        table.add_column(head, justify="right")
    for over in groups:
        numbers = (over.mean, min(over.accuracies), max(over.accuracies))
        seeds = str(len(over.accuracies))
        table.add_row(*map(str, over.choices.values()), seeds, *[f"{it:.3f}" for it in numbers])
    return [Text(""), table]


def _run(books: Books) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    rate = books["bytes_per_second"]
    staleness = books["staleness"]
    rows = {
        "status": books["status"],
        "held out": f"accuracy {number(books['accuracy'], '.3f')}, "
        f"loss {number(books['loss'], '.3f' if (books['loss'] or 0) < 1e6 else '.3g')}",
        "updates": f"{books['updates']:,} in {books['seconds']:.1f} s "
        f"({books['updates_per_second']:.0f}/s)",
        "gradients": f"{books['delivered']:,} delivered, {books['admitted']:,} admitted "
        f"({books['gradients_per_second']:.0f}/s)",
        "refused": _reasons(books["refused"]) or "none",
        "bytes": f"{_bytes(rate['received'])}/s in, {_bytes(rate['sent'])}/s out",
        "staleness": f"median {staleness['median']}, 95 % {staleness['p95']},"
        f" max {staleness['max']}",
        "slowdown": _slowdown(books),
    }
    if books["strangers"]:
        rows["strangers"] = f"{books['strangers']:,} handshakes refused, of keys not enrolled"
    if (high := books["band"]["high"]) is not None:
        rows["growth"] = f"{number(books['band']['low'], '.3g')} to {high:.3g} is the band now"
    if books["slowdown_of"] == "honest":
        honest, byzantine = books["honest"], books["byzantine"]
        rows["honest"] = _tally(honest)
        rows["byzantine"] = (
            f"{_tally(byzantine)}; {percent(books['byzantine_share'])} of all admitted"
        )
    for name, fate in books.get("deaths", {}).items():
        rows[f"died: {name}"] = fate
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _workers(books: Books, rows: int | None) -> list[Table | Text]:
    told = list(zip(books["workers"], diagnosis.of_workers(books), strict=True))
    if left_out := max(len(told) - rows, 0) if rows is not None else 0:
        told.sort(key=lambda its: (not its[0]["byzantine"], not its[1]))
        told = sorted(told[:rows], key=lambda its: its[0]["worker"])
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("what it is", max_width=24)
    table.add_column("stands out")
    table.add_column("per s", justify="right", no_wrap=True)
    table.add_column("admitted", justify="right", no_wrap=True)
    table.add_column("stale", justify="right", no_wrap=True)
    table.add_column("growth", justify="right", no_wrap=True)
    table.add_column("refused")
    for row, apart in told:
        table.add_row(
            str(row["worker"]),
            _cut(_who(row)),
            _cut(apart),
            f"{row['per_second']:.1f}",
            f"{percent(row['share'])} of {row['delivered']:,}",
            str(row["staleness"]) if row["staleness"] >= 0 else "-",
            number(row["reading"], ".3g"),
            _cut(_reasons(row["refused"])),
            style=_style(row, apart),
        )
    rest = [Text(f"and {left_out:,} more", style="dim")] if left_out else []
    return [table, *rest]


def _who(row: Mapping[str, Any]) -> str:
    """What its operator calls it, if it has a key, and what it calls itself."""
    return ": ".join(filter(None, (row.get("name"), row["label"] or "honest")))


def _cut(words: str) -> Text:
    """On one line, as much as there is room for. What somebody calls himself is no markup."""
    return Text(words, no_wrap=True, overflow="ellipsis")


def _style(row: Mapping[str, Any], apart: str) -> str:
    if row["state"] != "alive":
        return "dim"
    if row["byzantine"] or "refused" in apart:
        return "red"
    return "yellow" if apart else ""


def _slowdown(books: Books) -> str:
    whose = (
        "of honest work" if books["slowdown_of"] == "honest" else "of all work (nobody is labelled)"
    )
    text = f"{percent(books['slowdown'])} {whose} admitted"
    if (bounds := books["slowdown_bounds"]) is not None:
        text += (
            f"; growth alone at equal speeds: {percent(bounds['without'])} without liars,"
            f" {percent(bounds['low'])} to {percent(bounds['high'])} with f={books['f']}"
        )
    return text


def _tally(tally: Mapping[str, int]) -> str:
    share = _share(tally["admitted"], tally["delivered"])
    return f"{tally['delivered']:,} delivered, {tally['admitted']:,} admitted ({share})"


def _reasons(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in refused.items())


def _share(part: int, whole: int) -> str:
    return percent(part / whole if whole else None)


def percent(share: float | None) -> str:
    """As people read it: nothing is nothing, and a little is not."""
    if share is None:
        return "-"
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def number(value: float | None, form: str) -> str:
    """In this form; a dash where it is not known."""
    return "-" if value is None else format(value, form)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
