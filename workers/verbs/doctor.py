"""kardam doctor: what is wrong with this machine, or on the way to a server, and what to do."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
import uvloop

from kardam.doctor import endpoint as afar
from kardam.doctor import machine
from kardam.doctor.finding import Finding, fail, ok, warn
from kardam.errors import Interrupted, KardamError
from kardam.flags import RUNS, json_option
from kardam.plan import Every, Plan, Until
from kardam.recipe import Recipe
from workers.crew import crew
from workers.verbs.run import run

SIGNS = {"ok": "green", "warn": "yellow", "fail": "red"}

# A run that takes a second or two once torch is loaded: four workers, one of whom lies.
N, ARRIVALS, SECONDS_MAX = 4, 200, 20.0


@click.command("doctor", short_help="What is wrong here, or on the way to a server.")
@click.argument("endpoint", metavar="[ENDPOINT|KIT]", required=False)
@json_option
def doctor_command(endpoint: str | None, as_json: bool) -> None:
    """Look at this machine, and try a run of a second or two on it; or look at a server.

    This machine: versions, compute threads, a port, the place for tokens, the event loop, the
    disk, and last a real run over loopback. A server: its name, its port, its key, its version;
    by a KIT, also whether it lets that in.

    Each line is ok, warn or fail, and says what to do. The exit code is that of the first fail.

    \b
    Examples:
      kardam doctor
      kardam doctor tcp://127.0.0.1:5555
      kardam doctor alice.kit
    """
    found = []
    for finding in _machine() if endpoint is None else afar.look(endpoint):
        found.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        click.echo(json.dumps({"findings": [asdict(finding) for finding in found]}))
    sys.exit(next((finding.code for finding in found if finding.state == "fail"), 0))


def _show(finding: Finding) -> None:
    sign = click.style(f"{finding.state:<4}", fg=SIGNS[finding.state])
    click.echo(f"{sign}  {finding.name:<9}  {finding.told}")
    if finding.advice:
        click.echo(f"{'':<17}{finding.advice}")


def _machine() -> Iterator[Finding]:
    yield from machine.libraries()
    yield machine.threads(os.environ)
    yield machine.port()
    yield machine.token()
    yield uvloop.run(machine.loop())
    yield machine.disk(RUNS)
    yield _self_test()


def _self_test() -> Finding:
    """A real run: processes, torch, TCP, the default filter and a liar."""
    recipe = Recipe.of(n=N)
    members = crew(n=N, byzantine=recipe.f)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            recipe=recipe,
            bind="tcp://127.0.0.1:0",
            until=Until(arrivals=ARRIVALS, seconds=SECONDS_MAX),
            every=Every(None, SECONDS_MAX),
            keep=1,
            seed=0,
            task="synthetic:d=100",
            split="iid",
            experiment="",
            out=Path(folder),
        )
        try:
            outcome = uvloop.run(run(plan, members, quiet=True))
        except Interrupted:
            raise
        except KardamError as error:
            return fail(
                "self-test", str(error), "mend the first line above that is not ok", error.code
            )
    if outcome.ending.interrupted:
        raise Interrupted(f"{outcome.ending.why} in the self-test", outcome.ending.code)
    books = outcome.books
    told = f"{N} workers, {books['delivered']} gradients over TCP in {books['seconds']:.1f} s"
    if outcome.code:
        cure = "report this with what is above: it should not be"
        return fail("self-test", f"{told}; {outcome.ending.why}", cure, outcome.code)
    if books["delivered"] < ARRIVALS:
        return warn("self-test", told, "end what else runs here: this machine is very slow")
    return ok("self-test", told)
