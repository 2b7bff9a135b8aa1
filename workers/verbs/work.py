"""kardam work: processes for somebody's server."""

import shlex
import sys
from dataclasses import replace
from typing import Any

import click
import uvloop

from kardam import daemon
from kardam.client import Client, check_endpoint, enrol, reach
from kardam.errors import UsageError
from kardam.messages import Enrolled
from kardam.spec import is_import_path, reads_file
from workers.crew import HONEST, Member, checked, without_sight
from workers.swarm import swarm
from workers.verbs.evaluation import PATIENCE
from workers.verbs.options import pace_options

# Seconds without a word from the server after which a worker gives up, whose server may have to be
# started again.
WORKER_PATIENCE = 600.0


@click.command("work", short_help="Workers for a server: honest, slow or lying.")
@click.argument("endpoint")
@click.option("--count", type=int, default=1, show_default=True, help="How many workers.")
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
    endpoint: str,
    count: int,
    straggler: float,
    task: str | None,
    split: str | None,
    patience: float,
    **choices: Any,
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
    kind = Member(0, factor=straggler, straggler=straggler > 1, **choices)
    without_sight(checked([kind]))
    reach(check_endpoint(endpoint), seconds=3.0)
    sys.exit(uvloop.run(_work(endpoint, count, kind, task, split, patience)))


async def _work(
    endpoint: str,
    count: int,
    kind: Member,
    task: str | None,
    split: str | None,
    patience: float,
) -> int:
    """The exit code."""
    places: list[Enrolled] = []
    try:
        # The places are taken first, so that `kardam stats` shows them while torch is loading.
        for _ in range(count):
            places.append(enrol(endpoint, kind.label, kind.byzantine, PATIENCE))
        with daemon.interrupts() as asked:
            terms = places[0]
            task, split = _agreed("task", task, terms.task), _agreed("split", split, terms.split)
            liars = count if kind.byzantine else 0
            async with swarm(task, split, terms.n, terms.seed, liars) as hands:
                await daemon.unless(asked, hands.opening())
                while places:
                    place = places.pop()
                    member = replace(kind, index=place.worker)
                    hands.work(member, endpoint, place.token, patience)
                click.echo(f"{count} at work for {endpoint}; Ctrl-C to leave", err=True)
                await hands.idle(asked)
                for name, fate in hands.deaths.items():
                    click.echo(f"worker {name}: {fate}", err=True)
                return max((fate.exit_code for fate in hands.deaths.values()), default=0)
    finally:
        # What nobody came to fill is free for the next.
        for place in places:
            with Client(endpoint, "worker", token=place.token, patience=PATIENCE):
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
