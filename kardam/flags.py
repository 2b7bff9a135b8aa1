"""The flags that verbs share, and what they mean together. Never in here: what a verb does."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from kardam.aggregators import AGGREGATORS
from kardam.errors import UsageError
from kardam.experiment import resolved, resumed
from kardam.kits import KEYS
from kardam.lens import MEMORIES
from kardam.optimizers import OPTIMIZERS
from kardam.plan import Every, Plan, Until, is_public
from kardam.recipe import (
    DEFAULT_AGGREGATOR,
    DEFAULT_GATHER,
    DEFAULT_MEMORY,
    DEFAULT_OPTIMIZER,
    DEFAULT_PRESET,
    DEFAULT_RATE,
    PRESETS,
    Recipe,
)
from kardam.records import check_new

Command = TypeVar("Command", bound=Callable[..., Any])

# Where runs go that are not told where.
RUNS = Path("runs")


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
        help="A filter and a dampening. "
        + " ".join(f"{name}: {its.says}." for name, its in PRESETS.items()),
    ),
    click.option("--filter", help="Stages joined by +, like growth:band=upper+frequency; or none."),
    click.option("--dampening", help="constant, inverse, exponential:alpha=0.2 or curvature."),
    click.option(
        "--rate",
        default=DEFAULT_RATE,
        show_default=True,
        help="The learning rate: constant, step:every=1000 or cosine:updates=5000.",
    ),
    click.option(
        "--optimizer",
        default=DEFAULT_OPTIMIZER,
        show_default=True,
        help=f"What makes a step of a gradient: {', '.join(OPTIMIZERS)}.",
    ),
    click.option(
        "--gather",
        default=DEFAULT_GATHER,
        show_default=True,
        help="Of which gradients an update is made: arrival, buffered:m=7 or synchronous.",
    ),
    click.option(
        "--aggregator",
        default=DEFAULT_AGGREGATOR,
        show_default=True,
        help=f"The rule over what is gathered: {', '.join(AGGREGATORS)}.",
    ),
    click.option(
        "--memory",
        default=DEFAULT_MEMORY,
        show_default=True,
        help=f"How workers' answers are remembered: {', '.join(MEMORIES)}:k=512; auto is sketched"
        " where vectors are long.",
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
    click.option(
        "--keys",
        type=click.Path(path_type=Path),
        help="Let in only who is enrolled in this folder (kardam keys), under CURVE.  [default: of"
        " RUN/keys, where others reach --bind]",
    ),
    click.option(
        "--insecure", is_flag=True, help="Let in anybody who reaches --bind, whoever that is."
    ),
    click.option(
        "--memory-limit",
        type=int,
        metavar="MIB",
        help="Close all connections where the server has more memory: they come back, and what was"
        " sent to fill it does not.  [default: 256 MiB beyond what its work explains]",
    ),
)

dashboard_option = click.option(
    "--dashboard",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve a page to look at, /health, /ready and /metrics on this port of loopback; 0 is any"
    " free one.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")

file_argument = click.argument(
    "experiment", type=click.Path(path_type=Path), required=False, metavar="[EXPERIMENT]"
)

out_options = options(
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="The run's directory, a new one.  [default: runs/ and the time]",
    ),
    click.option("--dry-run", is_flag=True, help="Print the resolved experiment, and do nothing."),
)

record_option = click.option(
    "--record", is_flag=True, help="Keep every gradient, too, as it arrived: for kardam replay."
)

record_options = options(
    out_options,
    record_option,
    click.option(
        "--durable",
        is_flag=True,
        help="Have each gradient on the disk before its verdict leaves: no crash loses one.",
    ),
    click.option(
        "--resume",
        metavar="PATH|auto",
        help="Go on with the run in PATH, or from one of its checkpoints in a new --out; auto: with"
        " --out if it is there, else begin it.",
    ),
    click.option("--checkpoint-updates", type=int, help="Keep a checkpoint every so many updates."),
    click.option(
        "--checkpoint-seconds",
        type=float,
        default=30.0,
        show_default=True,
        help="Keep one every so many seconds.",
    ),
    click.option(
        "--keep", type=int, default=3, show_default=True, help="How many checkpoints stay."
    ),
)

chance_options = options(
    click.option(
        "--split",
        default="iid",
        show_default=True,
        help="Who holds which data: iid, dirichlet:alpha=0.5 or by_label:share=0.5.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**31 - 1),
        default=0,
        show_default=True,
        help="Everything that chance touches.",
    ),
)


# --- what they mean together ---


def recipe_of(choices: dict[str, Any]) -> Recipe:
    """The Recipe that `recipe_options` describe, taken out of the parsed choices."""
    return Recipe.of(
        n=choices.pop("workers"),
        f=choices.pop("f"),
        preset=choices.pop("preset"),
        filter=choices.pop("filter"),
        dampening=choices.pop("dampening"),
        rate=choices.pop("rate"),
        optimizer=choices.pop("optimizer"),
        gather=choices.pop("gather"),
        aggregator=choices.pop("aggregator"),
        memory=choices.pop("memory"),
        root_examples=choices.pop("root_examples", None) or 0,
    )


def until_of(choices: dict[str, Any]) -> Until:
    """The Until that `until_options` describe, taken out of the parsed choices."""
    names = ("updates", "arrivals", "seconds", "target")
    return Until(**{name: choices.pop(name) for name in names})


def new_run() -> Path:
    """Where a run goes that is not told where."""
    return RUNS / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"


def plan_of(choices: dict[str, Any]) -> Plan:
    """The Plan that task, recipe, until, bind, record and chance options describe, taken out of the
    choices.
    """
    everything = dict(choices)
    recipe = recipe_of(choices)
    experiment = resolved(everything, recipe)
    until = until_of(choices)
    bind, keys, insecure = (choices.pop(name) for name in ("bind", "keys", "insecure"))
    every = Every(choices.pop("checkpoint_updates"), choices.pop("checkpoint_seconds"))
    keep, out, resume = (choices.pop(name) for name in ("keep", "out", "resume"))
    if keep < 1:
        raise UsageError(f"--keep: expected at least 1, got {keep}")
    found = resumed(resume, out) if resume is not None else None
    in_place = found is not None and found.whole and out in (None, found.run)
    if found is not None and in_place:
        out = found.run
    elif out is None:
        out = new_run()
    if not in_place:
        check_new(out)
    if keys is not None and insecure:
        raise UsageError(f"expected --keys {keys} or --insecure, and not both")
    if keys is None and is_public(bind) and not insecure:
        # Who was enrolled for a run is so for what goes on from it.
        keys = (found.run if found is not None else out) / KEYS
    return Plan(
        recipe=recipe,
        bind=bind,
        until=until,
        every=every,
        keep=keep,
        seed=choices.pop("seed"),
        task=choices.pop("task", None) or "",
        split=choices.pop("split"),
        experiment=experiment,
        out=out,
        checkpoint=found.checkpoint if found is not None else None,
        in_place=in_place,
        dashboard=choices.pop("dashboard"),
        record=choices.pop("record"),
        durable=choices.pop("durable"),
        keys=keys,
        memory_limit=choices.pop("memory_limit"),
    )
