"""The binary `kardam`: the server's verbs, and those that know tasks, workers and lies."""

import os

# One compute thread a process, said before numpy and torch look: many processes share these cores.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kardam import daemon, view
from kardam.__main__ import (
    announce,
    bind_of,
    bind_options,
    cli,
    entry,
    finish,
    json_option,
    options,
    recipe_of,
    recipe_options,
    serve_model,
    until_of,
    until_options,
)
from kardam.client import Client, check_endpoint, enrol, reach
from kardam.errors import TaskError, UsageError
from kardam.messages import Enrolled
from kardam.recipe import Recipe
from kardam.server import Server
from kardam.spec import is_import_path
from kardam.view import Books
from workers.crew import HONEST, Member, checked, crew, liars_among
from workers.swarm import EVALUATOR, Swarm, swarm

# A run that is not told when it is enough takes some twenty seconds.
DEFAULT_ARRIVALS = 4000

# Seconds between two evaluations of the held-out data.
EVALUATE_EVERY = 0.5

# Seconds without a word from the server after which a process of ours gives up.
PATIENCE = 30.0

# Seconds that the newest model may wait for its evaluation at the end.
EVALUATION_SECONDS = 10.0

# Seconds between lines of progress where there is no terminal.
PLAIN_EVERY = 5.0

task_option = click.option(
    "--task",
    default="digits",
    show_default=True,
    help="What is trained: digits, or your own package.module:attribute.",
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Everything that chance touches."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
pace_options = options(
    click.option(
        "--latency",
        default="lognormal:mean=0.02,sigma=0.5",
        show_default=True,
        help="Seconds that computing an answer takes.",
    ),
    click.option(
        "--network", default="constant", show_default=True, help="Seconds a message takes, one way."
    ),
)


class Shown:
    """Progress on standard error: a live line on a terminal, else a plain one now and then."""

    def __init__(self, run: daemon.Run, until: daemon.Until, quiet: bool) -> None:
        self._run, self._until, self._quiet = run, until, quiet
        console = Console(stderr=True)
        self._live = console.is_terminal and not quiet
        self._bar = Progress(
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._plain_at = PLAIN_EVERY

    def __enter__(self) -> "Shown":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self) -> None:
        """How the run stands, now."""
        sessions, now = self._run.server.sessions, self._run.server.now
        if self._live:
            gone = self._until.share(sessions.stats, now)
            line = view.line(sessions.books(now))
            self._bar.update(self._task, completed=gone, description=line)
        elif not self._quiet and now >= self._plain_at:
            self._plain_at += PLAIN_EVERY
            click.echo(f"{now:5.0f} s  {view.line(sessions.books(now))}", err=True)


# --- run and serve: a server, and processes of its own ---


@cli.command("run")
@task_option
@recipe_options
@click.option("--byzantine", type=int, default=0, show_default=True, help="How many really lie.")
@click.option(
    "--attack",
    default="sign_flip:scale=10",
    show_default=True,
    help="What those that lie do; joined with +: sign_flip:scale=10+flood:rho=10.",
)
@click.option("--stragglers", default="", help="How many are slow, and how slow: 2:factor=10.")
@pace_options
@click.option("--speeds", default="equal", show_default=True, help="Each worker's own factor.")
@until_options
@bind_options
@seed_option
@quiet_option
@json_option
def run_command(task: str, seed: int, quiet: bool, as_json: bool, **choices: Any) -> None:
    """A server and all of its workers on this machine, over TCP; progress, and a summary.

    \b
    Example: ten workers, three of whom lie and two of whom are slow
      kardam run --workers 10 --byzantine 3 --attack sign_flip:scale=10 \\
                 --stragglers 2:factor=10 --arrivals 4000
    """
    recipe, until, bind = recipe_of(choices), until_of(choices), bind_of(choices)
    if until == daemon.Until():
        until = daemon.Until(arrivals=DEFAULT_ARRIVALS)
    members = crew(n=recipe.n, seed=seed, **choices)
    finish(*uvloop.run(_run(recipe, members, task, seed, bind, until, quiet)), as_json)


async def _run(
    recipe: Recipe,
    members: list[Member],
    task: str,
    seed: int,
    bind: str,
    until: daemon.Until,
    quiet: bool,
) -> tuple[daemon.Ending, Books]:
    async with swarm(task, recipe.n, seed, liars_among(members)) as hands:
        manifest, x = await hands.opening()
        sessions = daemon.house(recipe, x, manifest, seed=seed, task=task)
        async with daemon.running(sessions, bind, until) as run:
            server = run.server
            hands.evaluate(server.endpoint, sessions.tokens.evaluator, EVALUATE_EVERY, PATIENCE)
            for member in members:
                token = sessions.expect(member.index, member.label, member.byzantine, server.now)
                hands.work(member, server.endpoint, token, PATIENCE)
            if not quiet:
                announce(run, recipe, join=False)
            with Shown(run, until, quiet) as shown:

                def look() -> str:
                    shown.show()
                    return _too_few(hands, recipe.quorum, recipe.n)

                ending = await run.wait(look)
            await _last_evaluation(server, hands)
            return ending, _with_deaths(sessions.books(server.now), hands)


def _too_few(hands: Swarm, quorum: int, workers: int) -> str:
    """Why the run cannot go on, where more of its own workers died than it bears; else empty."""
    fates = hands.deaths
    fates.pop(EVALUATOR, None)
    left = workers - len(fates)
    if not fates or left >= quorum:
        return ""
    name, fate = next(iter(fates.items()))
    if fate.code == TaskError.code:
        raise TaskError(f"worker {name}: {fate}")
    return f"{left} workers are left and {quorum} are needed; worker {name}: {fate}"


async def _last_evaluation(server: Server, hands: Swarm) -> None:
    """Wait until the newest model is evaluated, but not for long, and not for a dead evaluator."""
    stats = server.sessions.stats
    until = server.now + EVALUATION_SECONDS
    while server.now < until and EVALUATOR not in hands.deaths:
        if stats.held_out and stats.held_out[-1][0] >= stats.updates:
            break
        await asyncio.sleep(EVALUATE_EVERY / 10)


def _with_deaths(books: Books, hands: Swarm) -> Books:
    return {**books, "deaths": {name: str(fate) for name, fate in hands.deaths.items()}}


@cli.command("serve")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--task", help="What is trained, in place of MODEL: digits, or package.module:attr.")
@recipe_options
@until_options
@bind_options
@seed_option
@json_option
def serve_command(
    model: Path | None, task: str | None, seed: int, as_json: bool, **choices: Any
) -> None:
    """Serve a model until Ctrl-C: MODEL, a safetensors file, or the first model of --task.

    With --task, held-out loss and accuracy are reported, and workers need no --task of their own.

    \b
    Examples:
      kardam serve --task digits --bind tcp://127.0.0.1:5555
      kardam serve model.safetensors --workers 20 --f 4
    """
    recipe, until, bind = recipe_of(choices), until_of(choices), bind_of(choices)
    if (model is None) == (task is None):
        raise UsageError("expected a MODEL file or --task, and not both")
    if model is not None:
        served = serve_model(model, recipe, bind, until, seed)
    else:
        served = _serve_task(str(task), recipe, bind, until, seed)
    finish(*uvloop.run(served), as_json)


async def _serve_task(
    task: str, recipe: Recipe, bind: str, until: daemon.Until, seed: int
) -> tuple[daemon.Ending, Books]:
    async with swarm(task, recipe.n, seed) as hands:
        manifest, x = await hands.opening()
        sessions = daemon.house(recipe, x, manifest, seed=seed, task=task)
        async with daemon.running(sessions, bind, until) as run:
            hands.evaluate(run.server.endpoint, sessions.tokens.evaluator, EVALUATE_EVERY, PATIENCE)
            announce(run, recipe)
            ending = await run.wait()
            await _last_evaluation(run.server, hands)
            return ending.as_wished(), _with_deaths(sessions.books(run.server.now), hands)


# --- work: processes for somebody's server ---


@cli.command("work")
@click.argument("endpoint")
@click.option("--count", type=int, default=1, show_default=True, help="How many workers.")
@click.option("--attack", default=HONEST, show_default=True, help="What they do to their answers.")
@click.option("--straggler", type=float, default=1.0, help="Take so many times as long.")
@pace_options
@click.option("--task", help="What is trained. [default: what the server says]")
@click.option(
    "--patience", type=float, default=PATIENCE, show_default=True, help="Seconds of silence borne."
)
def work_command(
    endpoint: str, count: int, straggler: float, task: str | None, patience: float, **choices: Any
) -> None:
    """Join the server at ENDPOINT with one or more workers: honest, slow or lying.

    \b
    Examples:
      kardam work tcp://127.0.0.1:5555
      kardam work tcp://127.0.0.1:5555 --count 3 --attack sign_flip:scale=10
    """
    if count < 1:
        raise UsageError(f"--count: expected at least 1, got {count}")
    if not straggler >= 1:
        raise UsageError(f"--straggler: expected a factor of at least 1, got {straggler}")
    (kind,) = checked([Member(0, factor=straggler, straggler=straggler > 1, **choices)])
    reach(check_endpoint(endpoint), seconds=3.0)
    sys.exit(uvloop.run(_work(endpoint, count, kind, task, patience)))


async def _work(endpoint: str, count: int, kind: Member, task: str | None, patience: float) -> int:
    """The exit code."""
    places: list[Enrolled] = []
    try:
        # The places are taken first, so that `kardam stats` shows them while torch is loading.
        for _ in range(count):
            places.append(enrol(endpoint, kind.label, kind.byzantine, PATIENCE))
        with daemon.interrupts() as asked:
            terms = places[0]
            liars = count if kind.byzantine else 0
            async with swarm(_agreed(task, terms.task), terms.n, terms.seed, liars) as hands:
                await hands.opening()
                while places:
                    place = places.pop()
                    member = replace(kind, index=place.worker)
                    hands.work(member, endpoint, place.token, patience)
                click.echo(f"{count} at work for {endpoint}; Ctrl-C to leave", err=True)
                await hands.idle(asked)
                for name, fate in hands.deaths.items():
                    click.echo(f"worker {name}: {fate}", err=True)
                return max((abs(fate.code) for fate in hands.deaths.values()), default=0)
    finally:
        # What nobody came to fill is free for the next.
        for place in places:
            with Client(endpoint, "worker", token=place.token, patience=PATIENCE):
                pass


def _agreed(ours: str | None, theirs: str) -> str:
    """The task to build. A server may name one of kardam's own, but nothing else to be imported."""
    if ours is None and not theirs:
        raise UsageError("the server names no task: give --task")
    if ours is None and is_import_path(theirs):
        raise UsageError(
            f"the server trains {theirs!r}, which is not kardam's own: to import it here, say"
            f" --task {theirs}"
        )
    return ours if ours is not None else theirs


def main() -> NoReturn:
    """The console script."""
    entry(cli)


if __name__ == "__main__":
    main()
