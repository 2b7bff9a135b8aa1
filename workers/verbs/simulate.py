"""kardam simulate: an experiment without a server, in one process."""

from pathlib import Path
from typing import Any

import click

from kardam.flags import (
    FromFile,
    chance_options,
    file_argument,
    json_option,
    new_run,
    out_options,
    recipe_of,
    recipe_options,
    resolved,
    until_of,
    until_options,
)
from kardam.live import Bar
from kardam.records import Records, check_new
from kardam.verbs.printing import finish, print_experiment
from workers.crew import crew
from workers.verbs.options import crew_options, end_some_time, quiet_option, task_option


@click.command("simulate", cls=FromFile)
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
