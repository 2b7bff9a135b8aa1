"""kardam serve MODEL: a file is served, and nobody here knows what it means."""

from pathlib import Path
from typing import Any

import click
import uvloop

from kardam import daemon
from kardam.checkpoint import MODEL, load
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


@click.command("serve", short_help="A server that workers join from other shells.", cls=FromFile)
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
    plan = plan_of({"model": model, **choices})
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
