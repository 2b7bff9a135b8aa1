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
from kardam.shared import shelf
from kardam.verbs.printing import announce
from workers.crew import Member, crew, liars_among, without_sight
from workers.swarm import EVALUATOR, Swarm, swarm
from workers.verbs.evaluation import (
    EVALUATE_EVERY,
    PATIENCE,
    last_evaluation,
    unmeasured,
    with_deaths,
)
from workers.verbs.options import crew_options, end_some_time, quiet_option, task_option
from workers.verbs.playing import Ready, play


@click.command("run", short_help="A server and its workers on this machine.", cls=FromFile)
@file_argument
@task_option
@recipe_options
@crew_options
@until_options
@bind_options
@record_options
@chance_options
@click.option(
    "--transport",
    type=click.Choice(["shared", "tcp"]),
    default="shared",
    show_default=True,
    help="How models and gradients move: through memory that server and workers share, or as bytes"
    " over TCP. Messages are TCP's in both.",
)
@dashboard_option
@quiet_option
@json_option
def run_command(
    experiment: Path | None, dry_run: bool, quiet: bool, as_json: bool, **choices: Any
) -> None:
    """A server and all of its workers on this machine; progress, and a summary.

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
    plan, shares = plan_of(choices), choices.pop("transport") == "shared"
    members = without_sight(crew(n=plan.recipe.n, seed=plan.seed, **choices))
    return Ready(plan.experiment, lambda quiet: uvloop.run(run(plan, members, quiet, shares)))


async def run(plan: Plan, members: list[Member], quiet: bool, shares: bool = True) -> Outcome:
    """One run, from its server and its processes to their end, who `shares` memory where that can
    be; how it ended.
    """
    n, liars = plan.recipe.n, liars_among(members)
    async with swarm(plan.task, plan.split, n, plan.seed, liars) as hands:
        with daemon.interrupts() as asked:
            manifest, x = await daemon.unless(asked, hands.opening())
        memory = shelf(manifest.d, n) if shares else None
        async with daemon.running(plan, manifest, x) as running:
            server = running.server
            if memory is not None:
                server.sessions.exchange.share(memory)
            hands.evaluate(server.endpoint, running.evaluator(), EVALUATE_EVERY, PATIENCE)
            for member in members:
                shows = running.worker(member.index, member.label, member.byzantine)
                hands.work(member, server.endpoint, shows, PATIENCE, memory)
            if not quiet:
                announce(running, plan, join=False)
            elif running.link:
                click.echo(running.link, err=True)
            with Bar(quiet) as bar:
                ended: set[str] = set()

                def look() -> str:
                    bar.show(server.books, server.now)
                    for name in hands.fates.keys() - ended - {EVALUATOR}:
                        server.sessions.lost(int(name), server.now)
                    ended.update(hands.fates)
                    return _too_few(hands, plan.recipe.quorum, n) or unmeasured(plan.until, hands)

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
