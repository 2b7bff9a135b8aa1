"""Command line to objects, for the verbs that need no torch: serve, stats.

Only mains choose, and print. Imports are few: `kardam stats` must answer at once.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import uvloop
from rich.console import Console

from kardam import __version__, daemon, view
from kardam.checkpoint import load
from kardam.client import Client, check_endpoint, reach
from kardam.errors import EXIT_CODES, KardamError, UsageError
from kardam.keys import published
from kardam.recipe import DEFAULT_PRESET, DEFAULT_RATE, PRESETS, Recipe
from kardam.view import Books

# Columns, where standard output is no terminal.
PLAIN_WIDTH = 140

Command = TypeVar("Command", bound=Callable[..., Any])


# --- options that several verbs share ---


def options(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several decorators as one, in reading order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


recipe_options = options(
    click.option("--workers", type=int, default=10, show_default=True, help="n: all workers."),
    click.option(
        "--f", type=int, help="Liars that the filter assumes, n > 3f. [default: the most]"
    ),
    click.option(
        "--preset",
        default=DEFAULT_PRESET,
        show_default=True,
        help=f"A filter and a dampening: {', '.join(PRESETS)}.",
    ),
    click.option("--filter", help="Stages joined by +, like growth:band=upper+frequency; or none."),
    click.option("--dampening", help="constant, inverse, exponential:alpha=0.2 or curvature."),
    click.option("--rate", default=DEFAULT_RATE, show_default=True, help="The learning rate."),
    click.option(
        "--per-update", type=int, default=1, show_default=True, help="M: gradients an update."
    ),
)

until_options = options(
    click.option("--updates", type=int, help="Stop after so many model updates."),
    click.option("--arrivals", type=int, help="Stop after so many delivered gradients."),
    click.option("--seconds", type=float, help="Stop after so many seconds."),
    click.option("--target", type=float, help="Stop at this held-out accuracy, 0 to 1."),
)

bind_options = options(
    click.option(
        "--bind",
        default="tcp://127.0.0.1:0",
        show_default=True,
        help="Where to listen; port 0 is any free one.",
    ),
    click.option("--insecure", is_flag=True, help="Let --bind be an address that others reach."),
)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


def recipe_of(choices: dict[str, Any]) -> Recipe:
    """The Recipe that `recipe_options` describe, taken out of the parsed choices."""
    return Recipe.of(
        n=choices.pop("workers"),
        f=choices.pop("f"),
        preset=choices.pop("preset"),
        filter=choices.pop("filter"),
        dampening=choices.pop("dampening"),
        rate=choices.pop("rate"),
        per_update=choices.pop("per_update"),
    )


def until_of(choices: dict[str, Any]) -> daemon.Until:
    """The Until that `until_options` describe, taken out of the parsed choices."""
    names = ("updates", "arrivals", "seconds", "target")
    return daemon.Until(**{name: choices.pop(name) for name in names})


def bind_of(choices: dict[str, Any]) -> str:
    """The endpoint that `bind_options` describe, taken out of the parsed choices."""
    return daemon.check_bind(choices.pop("bind"), choices.pop("insecure"))


# --- what mains print ---


def announce(run: daemon.Run, recipe: Recipe, join: bool = True) -> None:
    """What is served, and the lines to paste."""
    endpoint, d = run.server.endpoint, run.server.sessions.terms.manifest.d
    lines = [
        f"kardam {__version__} serves {d:,} numbers to {recipe.n} workers"
        f" (f={recipe.f}, {recipe.filter})",
        f"  a worker:  kardam work {endpoint}",
        f"  a look:    kardam stats {endpoint}",
    ]
    click.echo("\n".join(lines if join else [lines[0], lines[2]]), err=True)


def show(books: Books, as_json: bool) -> None:
    """The books: tables for eyes, or one object for programs."""
    if as_json:
        click.echo(json.dumps(books))
    else:
        # A pipe has no width, and wants whole lines.
        wide = None if sys.stdout.isatty() else PLAIN_WIDTH
        Console(width=wide).print(view.report(books))


def finish(ending: daemon.Ending, books: Books, as_json: bool) -> NoReturn:
    """Print how it ended, and exit with its code."""
    show(books, as_json)
    click.echo(f"ended: {ending.why}", err=True)
    sys.exit(ending.code)


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


@cli.command("serve")
@click.argument("model", type=click.Path(path_type=Path))
@recipe_options
@until_options
@bind_options
@click.option("--seed", type=int, default=0, show_default=True, help="Told to the workers.")
@click.option("--split", default="iid", show_default=True, help="Told to the workers.")
@json_option
def serve_command(model: Path, seed: int, split: str, as_json: bool, **choices: Any) -> None:
    """Serve MODEL, a safetensors file, until Ctrl-C.

    \b
    Example:
      kardam serve model.safetensors --bind tcp://127.0.0.1:5555
    """
    recipe, until, bind = recipe_of(choices), until_of(choices), bind_of(choices)
    finish(*uvloop.run(serve_model(model, recipe, bind, until, seed, split)), as_json)


async def serve_model(
    model: Path, recipe: Recipe, bind: str, until: daemon.Until, seed: int, split: str
) -> tuple[daemon.Ending, Books]:
    """Serve a safetensors file until it is enough; how it ended, and the books."""
    manifest, x = load(model)
    sessions = daemon.house(recipe, x, manifest, seed=seed, task="", split=split)
    async with daemon.running(sessions, bind, until) as run:
        announce(run, recipe)
        ending = await run.wait()
        return ending.as_wished(), sessions.books(run.server.now)


@cli.command("stats")
@click.argument("endpoint")
@click.option("--token", help="The operator's. [default: what this user's server left here]")
@json_option
def stats_command(endpoint: str, token: str | None, as_json: bool) -> None:
    """What the server at ENDPOINT has done so far, and every worker's row.

    \b
    Example:
      kardam stats tcp://127.0.0.1:5555
    """
    reach(check_endpoint(endpoint), seconds=3.0)
    secret = token or published(endpoint)
    if secret is None:
        raise UsageError(
            f"no operator's token for {endpoint} here: be the user who started it, on its machine,"
            " or give --token"
        )
    with Client(endpoint, "operator", token=secret, patience=5.0) as client:
        books = client.query()
    show(books, as_json)


def entry(group: click.Group) -> NoReturn:
    """Run a command line; what a user did wrong ends in one sentence and a numbered exit."""
    try:
        group.main(standalone_mode=False)
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
