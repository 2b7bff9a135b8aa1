"""What run and simulate do with an experiment: one run, or a sweep, each run in its directory.

Never in here: how a run is done.
"""

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from kardam.errors import Stalled, UsageError
from kardam.experiment import axes
from kardam.flags import new_run
from kardam.outcome import Outcome
from kardam.records import EXPERIMENT, NOTHING, SUMMARY, Records
from kardam.sweep import Cell, cells, told
from kardam.verbs.printing import finish, print_experiment, show_sweep

# Where a run of a sweep is until it is done; a name that `runs/sweep/*` does not mean.
PART = ".running"


class Ready(NamedTuple):
    """A run that was checked and has not begun: its resolved experiment, and what begins it, which
    is told whether to be quiet.
    """

    experiment: str
    begin: Callable[[bool], Outcome]


# Checks choices, which it takes apart. Raises UsageError.
Prepare = Callable[[dict[str, Any]], Ready]


def play(
    prepare: Prepare, choices: dict[str, Any], *, dry_run: bool, quiet: bool, as_json: bool
) -> NoReturn:
    """The experiment of the command that runs, to its end."""
    if lists := axes():
        _sweep(prepare, choices, lists, dry_run=dry_run, quiet=quiet, as_json=as_json)
    ready = prepare(choices)
    if dry_run:
        print_experiment(ready.experiment)
    finish(ready.begin(quiet), as_json)


def _sweep(
    prepare: Prepare,
    choices: dict[str, Any],
    lists: dict[str, list[Any]],
    *,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> NoReturn:
    out = choices["out"] or new_run()
    if (out / EXPERIMENT).exists():
        raise UsageError(f"--out {out}: holds a single run; a sweep needs a directory of its own")
    part = out / f"{PART}-{time.time_ns()}"
    every = cells(lists)
    # All are checked before the first begins.
    ready = [prepare({**choices, **cell.choices, "out": part}) for cell in every]
    if dry_run:
        pairs = zip(every, ready, strict=True)
        print_experiment("\n".join(f"# {cell.name}\n{one.experiment}" for cell, one in pairs))
    due = [_is_due(out / cell.name, one) for cell, one in zip(every, ready, strict=True)]
    there = f"; {due.count(False)} are there already" if not all(due) else ""
    click.echo(f"{told(lists)}, in {out}{there}", err=True)
    _clear(out)
    code = 0
    begun = time.monotonic()
    for done, (cell, one) in enumerate(itertools.compress(zip(every, ready, strict=True), due)):
        left = _left(time.monotonic() - begun, done, due.count(True))
        click.echo(f"{done + 1} of {due.count(True)}  {cell.name}{left}", err=True)
        # Lines of progress are for one run; pictures in place are for many, too.
        outcome = one.begin(quiet or not sys.stderr.isatty())
        if outcome.code not in (0, Stalled.code):
            click.echo(f"ended: {outcome.ending.why}; the same line goes on from here", err=True)
            sys.exit(outcome.code)
        code = max(code, outcome.code)
        part.rename(out / cell.name)
    show_sweep([(cell.name, cell.choices, _summary(out, cell)) for cell in every], as_json)
    click.echo(f"to compare: kardam report {out}/*", err=True)
    sys.exit(code)


def _is_due(folder: Path, ready: Ready) -> bool:
    """Whether there is no such run yet. Raises UsageError where another one has its place."""
    if not folder.exists():
        return True
    file = folder / EXPERIMENT
    if not file.is_file() or file.read_text() != ready.experiment:
        raise UsageError(f"{folder}: there already, and not of this experiment; name another --out")
    return False


def _clear(out: Path) -> None:
    """Remove what runs that were cut off left. Raises UsageError where one is going on."""
    for part in out.glob(f"{PART}-*"):
        with Records.reopen(part, NOTHING, keep=1):
            shutil.rmtree(part)


def _left(seconds: float, done: int, all_: int) -> str:
    """How long the rest will take, if it is like what was done."""
    if not done:
        return ""
    rest = seconds / done * (all_ - done)
    return f"  ({rest / 60:.0f} min left)" if rest >= 90 else f"  ({rest:.0f} s left)"


def _summary(out: Path, cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / cell.name / SUMMARY).read_text())
    return found
