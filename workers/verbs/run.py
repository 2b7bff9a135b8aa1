"""kardam run: a server, and processes of its own for workers."""

from pathlib import Path
from typing import Any

import click
import uvloop

from kardam import daemon
from kardam.errors import TaskError
from kardam.experiment import FromFile
from kardam.flags import (
    bind_options,
    chance_options,
    dashboard_option,
    file_argument,
    json_option,
    plan_of,
    recipe_options,
    record_options,
    until_options,
)
from kardam.live import Bar
from kardam.outcome import Outcome
from kardam.plan import Plan
from kardam.verbs.printing import announce
from workers.crew import Member, crew, liars_among, without_sight
from workers.swarm import EVALUATOR, Swarm, swarm
from workers.verbs.evaluation import EVALUATE_EVERY, PATIENCE, last_evaluation, with_deaths
from workers.verbs.options import crew_options, end_some_time, quiet_option, task_option
from workers.verbs.playing import Ready, play


@click.command(
    "run", short_help="A server and its workers on this machine, over TCP.", cls=FromFile
)
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
    experiment: Path | None, dry_run: bool, quiet: bool, as_json: bool, **choices: Any
) -> None:
    """A server and all of its workers on this machine, over TCP; progress, and a summary.

    EXPERIMENT.toml has the flags as keys, like byzantine = 3; flags given here count more. Where
    values are lists, like seed = [1, 2, 3], it is a sweep: all of its runs, one after another,
    each in a directory of its own in --out. What is there already is not done again.

    \b
    Examples: three of ten lie, and two are slow; the same, longer; from there on
      kardam run --workers 10 --byzantine 3 --attack sign_flip:scale=10 \\
                 --stragglers 2:factor=10 --arrivals 4000 --out runs/liars
      kardam run runs/liars/experiment.toml --arrivals 8000
      kardam run --resume runs/liars --arrivals 8000
    """
    end_some_time(choices)
    play(prepare, choices, dry_run=dry_run, quiet=quiet, as_json=as_json)


def prepare(choices: dict[str, Any]) -> Ready:
    plan = plan_of(choices)
    members = without_sight(crew(n=plan.recipe.n, seed=plan.seed, **choices))
    return Ready(plan.experiment, lambda quiet: uvloop.run(run(plan, members, quiet)))


async def run(plan: Plan, members: list[Member], quiet: bool) -> Outcome:
    """One run, from its server and its processes to their end; how it ended."""
    liars = liars_among(members)
    async with swarm(plan.task, plan.split, plan.recipe.n, plan.seed, liars) as hands:
        with daemon.interrupts() as asked:
            manifest, x = await daemon.unless(asked, hands.opening())
        async with daemon.running(plan, manifest, x) as running:
            server = running.server
            hands.evaluate(server.endpoint, running.evaluator(), EVALUATE_EVERY, PATIENCE)
            for member in members:
                shows = running.worker(member.index, member.label, member.byzantine)
                hands.work(member, server.endpoint, shows, PATIENCE)
            if not quiet:
                announce(running, plan, join=False)
            elif running.link:
                click.echo(running.link, err=True)
            with Bar(quiet) as bar:

                def look() -> str:
                    bar.show(server.books, server.now)
                    return _too_few(hands, plan.recipe.quorum, plan.recipe.n)

                ending = await running.wait(look)
            await last_evaluation(server, hands)
            return running.outcome(ending, with_deaths(server.books(), hands))


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
