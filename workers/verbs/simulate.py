"""kardam simulate: an experiment, or a sweep of them, without a server and in one process."""

from pathlib import Path
from typing import Any

import click

from kardam.errors import UsageError
from kardam.experiment import FromFile, resolved
from kardam.flags import (
    chance_options,
    file_argument,
    json_option,
    new_run,
    out_options,
    recipe_of,
    recipe_options,
    record_option,
    until_of,
    until_options,
)
from kardam.live import Bar
from kardam.outcome import Outcome
from kardam.records import Records, check_new
from workers.crew import crew
from workers.verbs.options import crew_options, end_some_time, quiet_option, task_option
from workers.verbs.playing import Ready, play


@click.command(
    "simulate", short_help="The same on virtual time: seconds for minutes.", cls=FromFile
)
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
@record_option
@quiet_option
@json_option
def simulate_command(
    experiment: Path | None, dry_run: bool, quiet: bool, as_json: bool, **choices: Any
) -> None:
    """The same experiment on virtual time, in one process: the seed is the run.

    Seconds are those of the latencies, not of this machine. EXPERIMENT.toml is as for run.

    \b
    Examples: one run; one as a file tells it; and a sweep
      kardam simulate --byzantine 3 --attack alie:z=1.5 --arrivals 3000 --seed 1
      kardam simulate runs/liars/experiment.toml
      kardam simulate presets --out runs/presets
    """
    end_some_time(choices)
    play(prepare, choices, dry_run=dry_run, quiet=quiet, as_json=as_json)


def prepare(choices: dict[str, Any]) -> Ready:
    everything = dict(choices)
    recipe = recipe_of(choices)
    experiment = resolved(everything, recipe)
    until, out = until_of(choices), choices.pop("out") or new_run()
    task, seed, split = choices.pop("task"), choices.pop("seed"), choices.pop("split")
    record = choices.pop("record")
    members = crew(n=recipe.n, seed=seed, **choices)
    if record and recipe.root_examples:
        raise UsageError(
            "--record: a recording has what workers sent, and not what the server found on its"
            " --root-examples; leave one of them away"
        )
    check_new(out)

    def begin(quiet: bool) -> Outcome:
        # Torch is loaded by those who compute, and no other verb of this process does.
        from workers import laboratory

        # Who has no task leaves no directory.
        one = laboratory.Experiment(recipe, members, task, split, seed)
        with Records.create(out, experiment, keep=1) as records, Bar(quiet) as bar:
            return one.run(until, bar, records, record)

    return Ready(experiment, begin)
