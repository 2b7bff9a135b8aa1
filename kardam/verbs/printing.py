"""What verbs print: where a server is, the books, how a run ended. Never in here: a flag."""

import json
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from rich.console import Console, RenderableType

from kardam import __version__, daemon, view
from kardam.diagnosis import Books
from kardam.outcome import Outcome
from kardam.plan import Plan, is_public
from kardam.spec import is_import_path, reads_file
from kardam.sweep import Choices

# Columns, where standard output is no terminal.
PLAIN_WIDTH = 140


def announce(run: daemon.Run, plan: Plan, join: bool = True) -> None:
    """What is served, and the lines to paste."""
    endpoint, d = run.endpoint, run.server.sessions.terms.manifest.d
    recipe = plan.recipe
    # A worker imports no code and reads no file that its owner did not name.
    theirs = is_import_path(plan.task) or reads_file(plan.task, "--task")
    task = f" --task {shlex.quote(plan.task)}" if theirs else ""
    server_key = f" --server-key {run.key}" if run.key else ""
    lines = [
        f"kardam {__version__} serves {d:,} numbers to {recipe.n} workers, f={recipe.f}",
        f"  filter:    {recipe.filter}",
        *[f"  a worker:  kardam work {endpoint}{server_key}{task}"] * join,
        *(_admission(run, plan, task) if join else []),
        f"  a look:    kardam stats {endpoint}",
        *[f"  a page:    {run.link}"] * bool(run.link),
        f"  records:   {plan.out}",
        *[f"  goes on from {plan.checkpoint}"] * (plan.checkpoint is not None),
    ]
    click.echo("\n".join(lines), err=True)


def _admission(run: daemon.Run, plan: Plan, task: str) -> list[str]:
    """Who may come, and how that is changed; nothing on loopback, where anybody may."""
    if plan.keys is not None:
        keys = shlex.quote(str(plan.keys))
        return [
            f"  who may:   {len(run.server.sessions.ring)} are enrolled in {plan.keys}",
            f"  let in:    kardam keys enroll {keys} KEY --name NAME  (KEY is what they are told)",
            f"  or a kit:  kardam keys kit {keys} NAME.kit  (there: kardam work NAME.kit{task})",
        ]
    if is_public(plan.bind):
        return [f"  INSECURE:  whoever reaches {run.endpoint} may join, and read what travels"]
    return []


def show(books: Books, as_json: bool) -> None:
    """The books: tables for eyes, or one object for programs."""
    if as_json:
        click.echo(json.dumps(books))
    else:
        _print(view.report(books))


def show_sweep(runs: Sequence[tuple[str, Choices, Books]], as_json: bool) -> None:
    """The runs of a sweep by name, choices and summary: a table, or one object."""
    if as_json:
        keys = ("run", "choices", "summary")
        click.echo(json.dumps({"runs": [dict(zip(keys, run, strict=True)) for run in runs]}))
    else:
        _print(view.sweep([(choices, books) for _, choices, books in runs]))


def _print(what: RenderableType) -> None:
    # A pipe has no width, and wants whole lines.
    wide = None if sys.stdout.isatty() else PLAIN_WIDTH
    Console(width=wide).print(what)


def print_experiment(experiment: str) -> NoReturn:
    """What --dry-run is for."""
    click.echo(experiment, nl=False)
    sys.exit(0)


def finish(outcome: Outcome, as_json: bool) -> NoReturn:
    """Print how it ended and what of it is kept, and exit with its code."""
    show(outcome.books, as_json)
    click.echo(f"ended: {outcome.ending.why}", err=True)
    if outcome.kept is not None:
        click.echo(f"kept:  {outcome.kept}; to go on: --resume {outcome.folder}", err=True)
    for words in outcome.unwritten:
        click.echo(f"lost:  {words}", err=True)
    sys.exit(outcome.code)
