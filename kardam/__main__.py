"""Command line to objects, for the verbs that need no torch: serve, stats, report.

Only mains choose, and print. Imports are few: `kardam stats` must answer at once.
"""

import contextlib
import json
import logging
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop
from rich.console import Console

from kardam import __version__, daemon, live, view
from kardam.checkpoint import MODEL, kept, load, model_file, save_model
from kardam.client import Client, Halted, check_endpoint, reach
from kardam.errors import EXIT_CODES, KardamError, UsageError
from kardam.flags import (
    FromFile,
    bind_options,
    chance_options,
    dashboard_option,
    json_option,
    plan_of,
    recipe_options,
    record_options,
    until_options,
)
from kardam.growth import norm
from kardam.key_verbs import keys_group
from kardam.keys import Pass, published
from kardam.kits import address
from kardam.outcome import Outcome
from kardam.plan import Plan, is_public
from kardam.spec import is_import_path, reads_file
from kardam.view import Books

# Where a report on several runs goes that is not told where.
COMPARISON = Path("comparison")

# Columns, where standard output is no terminal.
PLAIN_WIDTH = 140

# --- what mains print ---


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
        # A pipe has no width, and wants whole lines.
        wide = None if sys.stdout.isatty() else PLAIN_WIDTH
        Console(width=wide).print(view.report(books))


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


# --- verbs ---


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes:\n"
    + "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items()),
)
@click.version_option(__version__, prog_name="kardam")
@click.option("-v", "--verbose", is_flag=True, help="Log what peers do wrong, too.")
def cli(verbose: bool) -> None:
    """A parameter server for asynchronous SGD with workers that nobody can trust."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(asctime)s  %(levelname)s  %(name)s  %(message)s",
    )


@cli.command("serve", cls=FromFile)
@click.argument("model", type=click.Path(path_type=Path))
@recipe_options
@until_options
@bind_options
@record_options
@chance_options
@dashboard_option
@json_option
def serve_command(model: Path, dry_run: bool, as_json: bool, **choices: Any) -> None:
    """Serve MODEL, a safetensors file, until Ctrl-C.

    \b
    Examples:
      kardam serve model.safetensors --bind tcp://127.0.0.1:5555
      kardam serve --resume runs/2026-11-24T18-53-36
    """
    plan = plan_of(choices, task="")
    if dry_run:
        print_experiment(plan.experiment)
    finish(uvloop.run(serve_model(model, plan)), as_json)


async def serve_model(model: Path, plan: Plan) -> Outcome:
    """Serve a safetensors file until it is enough."""
    # A run that goes on has its model with it; the file may be gone.
    manifest, x = load(model if plan.checkpoint is None else plan.checkpoint / MODEL)
    async with daemon.running(plan, manifest, x) as run:
        announce(run, plan)
        ending = await run.wait()
        return run.outcome(ending.as_wished(), run.server.books())


@cli.command("stats")
@click.argument("endpoint", metavar="ENDPOINT|KIT")
@click.option("--token", help="The operator's. [default: what this user's server left here]")
@click.option("--watch", is_flag=True, help="Again and again, until the run ends or Ctrl-C.")
@click.option(
    "--every", type=float, default=1.0, show_default=True, help="Seconds between two looks."
)
@json_option
def stats_command(
    endpoint: str, token: str | None, watch: bool, every: float, as_json: bool
) -> None:
    """What the server at ENDPOINT has done so far, and every worker's row.

    From elsewhere than its machine it takes KIT, an operator's: kardam keys kit --role operator.

    \b
    Examples:
      kardam stats tcp://127.0.0.1:5555
      kardam stats tcp://127.0.0.1:5555 --watch
    """
    if not every > 0:
        raise UsageError(f"--every: expected more than 0 seconds, got {every:g}")
    endpoint, keys = address(endpoint)
    reach(check_endpoint(endpoint), seconds=3.0)
    shows = Pass(token or "", keys) if token or keys else published(endpoint)
    if shows is None:
        raise UsageError(
            f"no operator's token for {endpoint} here: be the user who started it, on its machine,"
            " or give an operator's kit, or --token"
        )
    with Client(endpoint, "operator", token=shows.token, keys=shows.keys, patience=5.0) as client:
        if watch:
            _watch(client, every, as_json)
        else:
            show(client.query(), as_json)


def _watch(client: Client, every: float, as_json: bool) -> None:
    with live.Board(as_json) as board, contextlib.suppress(Halted, KeyboardInterrupt):
        while True:
            board.show(client.query())
            time.sleep(every)


cli.add_command(keys_group)


cli.add_command(keys_group)


# --- saved models ---


@cli.group("checkpoint")
def checkpoint_group() -> None:
    """Models that are kept: those of a run, or any safetensors file."""


path_argument = click.argument("path", type=click.Path(path_type=Path))


@checkpoint_group.command("list")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def list_command(run: Path, as_json: bool) -> None:
    """The checkpoints that RUN kept, oldest first.

    \b
    Example:
      kardam checkpoint list runs/mine
    """
    rows = [
        {
            "path": str(folder),
            "updates": int(folder.name.partition(".")[0]),
            "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        }
        for folder in kept(run)
    ]
    if as_json:
        click.echo(json.dumps({"checkpoints": rows}))
        return
    for row in rows:
        click.echo("{path}  {updates:>9,} updates  {bytes:>13,} bytes".format(**row))


@checkpoint_group.command("show")
@path_argument
@json_option
def show_command(path: Path, as_json: bool) -> None:
    """What the model at PATH is made of: a run (its newest), a checkpoint, or a safetensors file.

    \b
    Examples:
      kardam checkpoint show runs/mine
      kardam checkpoint show model.safetensors
    """
    file = model_file(path)
    manifest, x = load(file)
    parts = zip(manifest.tensors, manifest.places(), strict=True)
    rows = [
        {"name": name, "shape": shape, "rms": norm(x[place]) / max(math.prod(shape), 1) ** 0.5}
        for (name, shape), place in parts
    ]
    if as_json:
        click.echo(json.dumps({"path": str(file), "numbers": manifest.d, "tensors": rows}))
        return
    click.echo(f"{file}: {manifest.d:,} numbers in {len(rows)} tensors")
    wide = max(len(name) for name, _ in manifest.tensors)
    for (name, shape), row in zip(manifest.tensors, rows, strict=True):
        size = " x ".join(map(str, shape)) or "one number"
        click.echo(f"  {name:<{wide}}  {size:<16}  rms {row['rms']:.3g}")


@checkpoint_group.command("export")
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
def export_command(path: Path, file: Path) -> None:
    """Write the model at PATH (as for show) to FILE, float32 by its parameters' own names.

    In Python: model.load_state_dict(load_file("trained.safetensors"), strict=False)

    \b
    Example:
      kardam checkpoint export runs/mine trained.safetensors
    """
    source = model_file(path)
    manifest, x = load(source)
    save_model(file, manifest, x)
    click.echo(f"{file}: {manifest.d:,} numbers of {source}", err=True)


# --- a run, looked at again ---


@cli.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where to leave it.  [default: RUN; of several: comparison]",
)
def report_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Pictures and tables of a run, or of several side by side, from their directories.

    One page that stands alone, report.html, and the pictures as PNG and SVG in figures/ beside it.

    \b
    Examples:
      kardam report runs/liars
      kardam report runs/none runs/middle --out runs/compared
    """
    # Matplotlib takes a second to load, and no other verb needs it.
    from kardam import report

    where = out or (runs[0] if len(runs) == 1 else COMPARISON)
    click.echo(report.write(runs, where))


def entry(command: click.Command) -> NoReturn:
    """Run a command line; what a user did wrong ends in one sentence and a numbered exit."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except KardamError as error:
        click.echo(f"kardam: {error}", err=True)
        sys.exit(error.code)
    sys.exit(0)


if __name__ == "__main__":
    entry(cli)
