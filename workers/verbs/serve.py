"""kardam serve: a model, or the first model of a task with what evaluates it."""

from pathlib import Path
from typing import Any

import click
import uvloop

from kardam import daemon
from kardam.errors import UsageError
from kardam.experiment import FromFile
from kardam.flags import (
    bind_options,
    chance_options,
    dashboard_option,
    json_option,
    plan_of,
    recipe_options,
    record_options,
    until_options,
)
from kardam.outcome import Outcome
from kardam.plan import Plan
from kardam.verbs.printing import announce, finish, print_experiment
from kardam.verbs.serve import serve_model
from workers.swarm import swarm
from workers.verbs.evaluation import (
    EVALUATE_EVERY,
    PATIENCE,
    last_evaluation,
    unmeasured,
    with_deaths,
)


@click.command("serve", short_help="A server that workers join from other shells.", cls=FromFile)
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
      kardam serve --task digits --bind tcp://127.0.0.1:5555 \\
                   --out runs/mine --resume auto
    """
    if (model is None) == (task is None):
        raise UsageError("expected a MODEL file or --task, and not both")
    plan = plan_of({"model": model, "task": task, **choices})
    if dry_run:
        print_experiment(plan.experiment)
    finish(uvloop.run(serve_model(model, plan) if model else _serve_task(plan)), as_json)


async def _serve_task(plan: Plan) -> Outcome:
    async with swarm(plan.task, plan.split, plan.recipe.n, plan.seed) as hands:
        with daemon.interrupts() as asked:
            manifest, x = await daemon.unless(asked, hands.opening())
        async with daemon.running(plan, manifest, x) as run:
            server = run.server
            hands.evaluate(server.endpoint, run.evaluator(), EVALUATE_EVERY, PATIENCE)
            announce(run, plan)
            ending = await run.wait(lambda: unmeasured(plan.until, hands))
            await last_evaluation(server, hands)
            return run.outcome(ending.as_wished(), with_deaths(server.books(), hands))
