"""The binary `kardam`: the server's verbs, and those that know tasks, workers and lies."""

import os

# One compute thread a process, said before numpy and torch look: many processes share these cores.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import asyncio
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop

from kardam import daemon
from kardam.__main__ import (
    announce,
    checkpoint_group,
    cli,
    entry,
    finish,
    print_experiment,
    serve_model,
)
from kardam.checkpoint import save_model
from kardam.client import Client, check_endpoint, enrol, reach
from kardam.errors import TaskError, UsageError
from kardam.flags import (
    FromFile,
    bind_options,
    chance_options,
    dashboard_option,
    file_argument,
    json_option,
    new_run,
    options,
    out_options,
    plan_of,
    recipe_of,
    recipe_options,
    record_options,
    resolved,
    until_of,
    until_options,
)
from kardam.key_verbs import MY_KEY
from kardam.keys import Keys, Pass
from kardam.kits import visitors
from kardam.live import Bar
from kardam.messages import Enrolled
from kardam.outcome import Outcome
from kardam.plan import Plan
from kardam.records import Records, check_new
from kardam.server import Server
from kardam.spec import is_import_path, reads_file
from kardam.view import Books
from workers.crew import HONEST, Member, checked, crew, liars_among, without_sight
from workers.swarm import EVALUATOR, Swarm, swarm

# A run that is not told when it is enough takes some twenty seconds.
DEFAULT_ARRIVALS = 4000

# Seconds between two evaluations of the held-out data.
EVALUATE_EVERY = 0.5

# Seconds without a word from the server after which a process of ours gives up; and a worker that
# somebody else's server may have to be started again for.
PATIENCE = 30.0
WORKER_PATIENCE = 600.0

# Seconds that the newest model may wait for its evaluation at the end.
EVALUATION_SECONDS = 10.0

task_option = click.option(
    "--task",
    default="digits",
    show_default=True,
    help="What is trained: digits, npz:path=..., synthetic:d=..., or your own package.module:attr.",
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
pace_options = options(
    click.option(
        "--latency",
        default="lognormal:mean=0.02,sigma=0.5",
        show_default=True,
        help="Seconds that computing an answer takes; a trace: trace:path=FILE, one number a line.",
    ),
    click.option(
        "--network",
        default="constant",
        show_default=True,
        help="Seconds that a model takes down, and a gradient up, besides the real way; constant"
        " alone is 0.",
    ),
)


crew_options = options(
    click.option(
        "--byzantine", type=int, default=0, show_default=True, help="How many really lie."
    ),
    click.option(
        "--attack",
        default="sign_flip:scale=10",
        show_default=True,
        help="What those that lie do; joined with +: sign_flip:scale=10+flood:rho=10.",
    ),
    click.option("--stragglers", default="", help="How many are slow, and how slow: 2:factor=10."),
    pace_options,
    click.option(
        "--speeds",
        default="equal",
        show_default=True,
        help="Each worker's own factor: lognormal:sigma=1, or 1:20, from 1 to 20 in equal ratios.",
    ),
    click.option(
        "--outages",
        default="",
        help="How many vanish now and then, and how: 2:every=20,seconds=5, the mean seconds between"
        " two outages, and of each.",
    ),
)


def end_some_time(choices: dict[str, Any]) -> None:
    """A run that nobody told when it is enough is enough after DEFAULT_ARRIVALS."""
    if all(choices[name] is None for name in ("updates", "arrivals", "seconds", "target")):
        choices["arrivals"] = click.get_current_context().params["arrivals"] = DEFAULT_ARRIVALS


# --- run and serve: a server, and processes of its own ---


@cli.command("run", cls=FromFile)
@file_argument
@task_option
@recipe_options
@crew_options
@until_options
@bind_options
@record_options
@chance_options
@dashboard_option
@quiet_option
@json_option
def run_command(
    experiment: Path | None,
    task: str,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """A server and all of its workers on this machine, over TCP; progress, and a summary.

    EXPERIMENT.toml has the flags as keys, like byzantine = 3; flags given here count more.

    \b
    Examples: ten workers, three of whom lie and two of whom are slow; the same again, longer
      kardam run --workers 10 --byzantine 3 --attack sign_flip:scale=10 \\
                 --stragglers 2:factor=10 --arrivals 4000 --out runs/liars
      kardam run runs/liars/experiment.toml --arrivals 8000
      kardam run --resume runs/liars --arrivals 8000
    """
    end_some_time(choices)
    plan = plan_of(choices, task)
    members = without_sight(crew(n=plan.recipe.n, seed=plan.seed, **choices))
    if dry_run:
        print_experiment(plan.experiment)
    finish(uvloop.run(_run(plan, members, quiet)), as_json)


async def _run(plan: Plan, members: list[Member], quiet: bool) -> Outcome:
    liars = liars_among(members)
    async with swarm(plan.task, plan.split, plan.recipe.n, plan.seed, liars) as hands:
        manifest, x = await hands.opening()
        async with daemon.running(plan, manifest, x) as run:
            server = run.server
            hands.evaluate(server.endpoint, run.evaluator(), EVALUATE_EVERY, PATIENCE)
            for member in members:
                shows = run.worker(member.index, member.label, member.byzantine)
                hands.work(member, server.endpoint, shows, PATIENCE)
            if not quiet:
                announce(run, plan, join=False)
            elif run.link:
                click.echo(run.link, err=True)
            with Bar(quiet) as bar:

                def look() -> str:
                    bar.show(server.books, server.now)
                    return _too_few(hands, plan.recipe.quorum, plan.recipe.n)

                ending = await run.wait(look)
            await _last_evaluation(server, hands)
            return run.outcome(ending, _with_deaths(server.books(), hands))


def _too_few(hands: Swarm, quorum: int, workers: int) -> str:
    """Why the run cannot go on, where more of its own workers died than it bears; else empty."""
    # Nobody was sent away yet: whoever has ended, however well, is missed.
    fates = dict(hands.fates)
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


@cli.command("serve", cls=FromFile)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--task", help="What is trained, in place of MODEL: as for run.")
@recipe_options
@until_options
@bind_options
@record_options
@chance_options
@dashboard_option
@json_option
def serve_command(
    model: Path | None, task: str | None, dry_run: bool, as_json: bool, **choices: Any
) -> None:
    """Serve a model until Ctrl-C: MODEL, a safetensors file, or the first model of --task.

    With --task, held-out loss and accuracy are reported, and workers need no --task of their own,
    unless it is yours: code, or a file.

    \b
    Examples: a new server; one that goes on where it was, whatever ended it
      kardam serve --task digits --bind tcp://127.0.0.1:5555
      kardam serve --task digits --bind tcp://127.0.0.1:5555 --out runs/mine --resume auto
    """
    if (model is None) == (task is None):
        raise UsageError("expected a MODEL file or --task, and not both")
    plan = plan_of(choices, task or "")
    if dry_run:
        print_experiment(plan.experiment)
    finish(uvloop.run(serve_model(model, plan) if model else _serve_task(plan)), as_json)


async def _serve_task(plan: Plan) -> Outcome:
    async with swarm(plan.task, plan.split, plan.recipe.n, plan.seed) as hands:
        manifest, x = await hands.opening()
        async with daemon.running(plan, manifest, x) as run:
            server = run.server
            hands.evaluate(server.endpoint, run.evaluator(), EVALUATE_EVERY, PATIENCE)
            announce(run, plan)
            ending = await run.wait()
            await _last_evaluation(server, hands)
            return run.outcome(ending.as_wished(), _with_deaths(server.books(), hands))


# --- simulate: no server, and one process ---


@cli.command("simulate", cls=FromFile)
@file_argument
@task_option
@recipe_options
@crew_options
@click.option(
    "--root-examples",
    type=int,
    help="Training examples that the server has of its own, for zeno and afl_guard.",
)
@until_options
@chance_options
@out_options
@quiet_option
@json_option
def simulate_command(
    experiment: Path | None,
    task: str,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """The same experiment on virtual time, in one process: the seed is the run.

    Seconds are those of the latencies, not of this machine. EXPERIMENT.toml is as for run.

    \b
    Examples:
      kardam simulate --byzantine 3 --attack alie:z=1.5 --arrivals 3000 --seed 1
      kardam simulate runs/liars/experiment.toml
    """
    end_some_time(choices)
    recipe = recipe_of(choices)
    text = resolved(click.get_current_context(), recipe)
    until, out = until_of(choices), choices.pop("out") or new_run()
    seed, split = choices.pop("seed"), choices.pop("split")
    members = crew(n=recipe.n, seed=seed, **choices)
    check_new(out)
    if dry_run:
        print_experiment(text)
    # Torch is loaded by those who compute, and no other verb of this process does.
    from workers import laboratory

    with Records.create(out, text, keep=1) as records, Bar(quiet) as bar:
        one = laboratory.Experiment(recipe, members, task, split, seed, records)
        outcome = one.run(until, bar)
    finish(outcome, as_json)


# --- checkpoint new: a first model of anybody's module ---


@checkpoint_group.command("new")
@click.argument("module")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Its weights."
)
def new_command(module: str, file: Path, seed: int) -> None:
    """Write the first model of MODULE to FILE, for kardam serve: its trained parameters by name.

    MODULE is a function or class of yours that gives a torch.nn.Module, or a task.

    \b
    Examples:
      kardam checkpoint new mine:Net model.safetensors
      kardam checkpoint new mine:Net:hidden=64 model.safetensors --seed 1
    """
    # Torch is loaded by those who need a module, and no other verb of this process does.
    from workers.parameters import manifest_of, trained, vector_of
    from workers.tasks import load_module

    named = trained(load_module(module, "MODULE", seed))
    save_model(file, manifest_of(named), vector_of(named))
    click.echo(f"{file}: {manifest_of(named).d:,} numbers of {module}", err=True)


# --- work: processes for somebody's server ---


@cli.command("work")
@click.argument("where", nargs=-1, required=True, metavar="ENDPOINT|KIT...")
@click.option("--count", type=int, default=1, show_default=True, help="How many workers.")
@click.option("--server-key", help="Of the server at ENDPOINT, as it printed it.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="A file of kardam keys new, to be known by there.  [default: yours, made at first use]",
)
@click.option("--attack", default=HONEST, show_default=True, help="What they do to their answers.")
@click.option("--straggler", type=float, default=1.0, help="Take so many times as long.")
@pace_options
@click.option(
    "--outages",
    default="",
    help="Vanish now and then, and come back: every=20,seconds=5, the mean seconds between two"
    " outages, and of each.",
)
@click.option("--task", help="What is trained. [default: what the server says]")
@click.option("--split", help="Who holds which data. [default: what the server says]")
@click.option(
    "--patience",
    type=float,
    default=WORKER_PATIENCE,
    show_default=True,
    help="Seconds of silence borne.",
)
def work_command(
    where: tuple[str, ...],
    count: int,
    server_key: str | None,
    key: Path | None,
    straggler: float,
    task: str | None,
    split: str | None,
    patience: float,
    **choices: Any,
) -> None:
    """Join the server at ENDPOINT with one or more workers: honest, slow or lying.

    Where it lets in only who is enrolled, a worker is a key: that of each KIT (kardam keys kit), or
    your own (kardam keys new), with --server-key.

    \b
    Examples:
      kardam work tcp://127.0.0.1:5555
      kardam work tcp://127.0.0.1:5555 --count 3 --attack sign_flip:scale=10
      kardam work alice.kit
      kardam work tcp://10.0.0.5:5555 --server-key 5f0c...
    """
    if count < 1:
        raise UsageError(f"--count: expected at least 1, got {count}")
    endpoint, held = visitors(where, count, server_key, key or MY_KEY)
    if not straggler >= 1:
        raise UsageError(f"--straggler: expected a factor of at least 1, got {straggler}")
    kind = Member(0, factor=straggler, straggler=straggler > 1, **choices)
    without_sight(checked([kind]))
    reach(check_endpoint(endpoint), seconds=3.0)
    sys.exit(uvloop.run(_work(endpoint, held, kind, task, split, patience)))


async def _work(
    endpoint: str,
    held: Sequence[Keys | None],
    kind: Member,
    task: str | None,
    split: str | None,
    patience: float,
) -> int:
    """The exit code."""
    places: list[tuple[Enrolled, Keys | None]] = []
    count = len(held)
    try:
        # The places are taken first, so that `kardam stats` shows them while torch is loading.
        for keys in held:
            place = enrol(endpoint, kind.label, kind.byzantine, PATIENCE, keys)
            places.append((place, keys))
        with daemon.interrupts() as asked:
            terms, _ = places[0]
            task, split = _agreed("task", task, terms.task), _agreed("split", split, terms.split)
            liars = count if kind.byzantine else 0
            async with swarm(task, split, terms.n, terms.seed, liars) as hands:
                await hands.opening()
                while places:
                    place, keys = places.pop()
                    member = replace(kind, index=place.worker)
                    hands.work(member, endpoint, Pass(place.token, keys), patience)
                click.echo(f"{count} at work for {endpoint}; Ctrl-C to leave", err=True)
                await hands.idle(asked)
                for name, fate in hands.deaths.items():
                    click.echo(f"worker {name}: {fate}", err=True)
                return max((abs(fate.code) for fate in hands.deaths.values()), default=0)
    finally:
        # What nobody came to fill is free for the next.
        for place, keys in places:
            with Client(endpoint, "worker", token=place.token, keys=keys, patience=PATIENCE):
                pass


def _agreed(knob: str, ours: str | None, theirs: str) -> str:
    """The task or split to build. A server may name what is kardam's own, but nothing to be
    imported, and no file to be read, where its owner did not name it himself.
    """
    if ours is not None:
        return ours
    if not theirs:
        raise UsageError(f"the server names no {knob}: give --{knob}")
    if is_import_path(theirs):
        raise UsageError(
            f"the server's {knob} is {theirs!r}, which is not kardam's own: to import it here, say"
            f" --{knob} {theirs}"
        )
    if reads_file(theirs, f"the server's {knob}"):
        raise UsageError(
            f"the server's {knob} is {theirs!r}: to read such a file of yours, say"
            f" --{knob} {shlex.quote(theirs)}, with its path here"
        )
    return theirs


def main() -> NoReturn:
    """The console script."""
    entry(cli)


if __name__ == "__main__":
    main()
