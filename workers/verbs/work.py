"""kardam work: processes for somebody's server."""

import contextlib
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import uvloop

from kardam import daemon
from kardam.client import Client, Halted, check_endpoint, enrol, reach
from kardam.errors import KardamError, UsageError
from kardam.keys import Keys, Pass
from kardam.kits import visitors
from kardam.messages import Enrolled
from kardam.spec import is_import_path, reads_file
from kardam.verbs.keys import MY_KEY
from workers.crew import HONEST, Member, checked, without_sight
from workers.swarm import swarm
from workers.verbs.options import pace_options

# Seconds without a word from the server after which a worker gives up, whose server may have to be
# started again.
WORKER_PATIENCE = 600.0

# Seconds until a server has answered that was just reached.
PATIENCE = 30.0

# A worker's place at the server, and what whoever fills it shows.
Place = tuple[Enrolled, Keys | None]


@click.command("work", short_help="Workers for a server: honest, slow or lying.")
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
    if not 1 <= straggler < math.inf:
        raise UsageError(f"--straggler: expected a factor of at least 1, got {straggler}")
    if not patience > 0:
        raise UsageError(f"--patience: expected more than 0 seconds, got {patience:g}")
    kind = Member(0, factor=straggler, straggler=straggler > 1, **choices)
    without_sight(checked([kind]))
    reach(check_endpoint(endpoint), seconds=3.0)
    places: list[Place] = []
    try:
        # The places are taken first, so that `kardam stats` shows them while torch is loading; and
        # before there is an event loop, which would hear Ctrl-C only after it.
        for keys in held:
            place = enrol(endpoint, kind.label, kind.byzantine, PATIENCE, keys)
            places.append((place, keys))
        sys.exit(uvloop.run(_work(endpoint, places, kind, task, split, patience)))
    finally:
        # What nobody came to fill is free for the next; if not at once, then after a minute.
        with contextlib.suppress(KardamError, Halted):
            for place, keys in places:
                with Client(endpoint, "worker", token=place.token, keys=keys, patience=PATIENCE):
                    pass


async def _work(
    endpoint: str,
    places: list[Place],
    kind: Member,
    task: str | None,
    split: str | None,
    patience: float,
) -> int:
    """The exit code, when all have ended; whose place was filled is no longer among them."""
    count, (terms, _) = len(places), places[0]
    with daemon.interrupts() as asked:
        task, split = _agreed("task", task, terms.task), _agreed("split", split, terms.split)
        liars = count if kind.byzantine else 0
        async with swarm(task, split, terms.n, terms.seed, liars) as hands:
            await daemon.unless(asked, hands.opening())
            while places:
                place, keys = places.pop()
                member = replace(kind, index=place.worker)
                hands.work(member, endpoint, Pass(place.token, keys), patience)
            click.echo(f"{count} at work for {endpoint}; Ctrl-C to leave", err=True)
            await hands.idle(asked)
            for name, fate in hands.deaths.items():
                click.echo(f"worker {name}: {fate}", err=True)
            return max((fate.exit_code for fate in hands.deaths.values()), default=0)


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
