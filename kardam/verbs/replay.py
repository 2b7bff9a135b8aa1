"""kardam replay: a recorded run again, to the last bit, and another filter beside it."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kardam.chronicle import Person, people
from kardam.errors import Different
from kardam.flags import json_option
from kardam.recipe import DEFAULT_PRESET, Recipe
from kardam.retelling import Outcomes, Retelling, lives, retell
from kardam.verbs.printing import PLAIN_WIDTH


@click.command("replay", short_help="A recorded run again, to the last bit.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--preset", help="Ask the filter and the dampening of this preset, too.")
@click.option("--filter", help="Ask this filter, too: what had it said of the same arrivals?")
@click.option("--f", type=int, help="Let it assume so many liars.  [default: as recorded]")
@json_option
def replay_command(
    run: Path, preset: str | None, filter: str | None, f: int | None, as_json: bool
) -> None:
    """Do RUN, which was made with --record, again: models and verdicts, to the last bit.

    Another filter judges the same arrivals against the recorded models. It moves none: what models
    and gradients there would have been with it, nobody knows.

    \b
    Examples:
      kardam replay runs/mine
      kardam replay runs/mine --preset middle
      kardam replay runs/mine --filter growth:band=middle+clip --f 2
    """
    found = lives(run)
    other = None
    if preset is not None or filter is not None or f is not None:
        other = another(found[0].recipe, preset, filter, f)
    try:
        came = retell(run, found, other)
    except Different as error:
        if as_json:
            click.echo(json.dumps({"run": str(run), "same": False, "difference": str(error)}))
        raise
    who = people(run)
    if as_json:
        click.echo(json.dumps(facts_of(run, came, other, who)))
        return
    click.echo(came_to(came))
    wide = None if sys.stdout.isatty() else PLAIN_WIDTH
    Console(width=wide).print(table_of(came, other, who))
    if other is not None:
        click.echo(
            f"replayed: {other.filter}, f={other.f}; of the same opinion on {came.agreed:,} of"
            f" {came.verdicts:,}"
        )


def another(recorded: Recipe, preset: str | None, filter: str | None, f: int | None) -> Recipe:
    """The recorded recipe with another filter. Raises UsageError as `Recipe.of`."""
    if preset is None:
        filter = recorded.filter if filter is None else filter
    return Recipe.of(
        n=recorded.n,
        f=recorded.f if f is None else f,
        preset=DEFAULT_PRESET if preset is None else preset,
        filter=filter,
        dampening=recorded.dampening if preset is None else None,
        rate=recorded.rate,
        optimizer=recorded.optimizer,
        gather=recorded.gather,
        aggregator=recorded.aggregator,
        memory=recorded.memory,
    )


def sides(outcomes: Outcomes, who: Mapping[int, Person]) -> dict[str, dict[str, int]]:
    """What became of the work of the honest and of liars; of all, where nobody is said to lie."""
    labelled = any(person.byzantine for person in who.values())
    counts: dict[str, Counter[str]] = {"honest": Counter(), "byzantine": Counter()}
    for (outcome, worker), count in outcomes.items():
        lies = worker in who and who[worker].byzantine
        counts["byzantine" if lies else "honest"][outcome] += count
    return {
        side if labelled else "all": dict(its.most_common())
        for side, its in counts.items()
        if labelled or side == "honest"
    }


def facts_of(
    run: Path, came: Retelling, other: Recipe | None, who: Mapping[int, Person]
) -> dict[str, Any]:
    """Plain values for JSON."""
    facts = {
        "run": str(run),
        "same": True,
        **{name: getattr(came, name) for name in ("verdicts", "models", *GAPS)},
        "recorded": sides(came.recorded, who),
    }
    if other is None:
        return facts
    asked = {"filter": other.filter, "dampening": other.dampening, "f": other.f}
    return {**facts, "asked": asked, "said": sides(came.said, who), "agreed": came.agreed}


# What is of a journal or of a recording alone, in words.
GAPS = {
    "earlier": "lines of the journal are of before what is recorded",
    "untold": "lines of the journal are of nothing that is recorded",
    "unwritten": "verdicts are not in the journal, which ended before them",
    "torn": "bytes at the end of a recording are no whole event",
}


def came_to(came: Retelling) -> str:
    """What was the same, and what could not be compared."""
    same = f"the same: {came.verdicts:,} verdicts, and the model at {came.models:,} places"
    gaps = [f"{count:,} {words}" for name, words in GAPS.items() if (count := getattr(came, name))]
    return "\n".join([same, *gaps])


def table_of(came: Retelling, other: Recipe | None, who: Mapping[int, Person]) -> Table:
    """A row for what became of gradients, a column for whose they were, and who says so."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("gradients")
    told = [("recorded", sides(came.recorded, who))]
    if other is not None:
        told.append(("replayed", sides(came.said, who)))
    for side in told[0][1]:
        for name, _ in told:
            table.add_column(f"{side}, {name}" if other is not None else side, justify="right")
    rules = {outcome for _, counts in told for its in counts.values() for outcome in its}
    for rule in sorted(rules, key=lambda rule: (rule != "admitted", rule)):
        cells = [counts[side].get(rule, 0) for side in told[0][1] for _, counts in told]
        table.add_row(rule, *(f"{count:,}" for count in cells))
    return table
