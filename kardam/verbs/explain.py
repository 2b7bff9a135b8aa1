"""kardam explain: why workers were refused, in sentences."""

import json
from pathlib import Path

import click

from kardam.chronicle import holders, people, verdicts
from kardam.errors import UsageError
from kardam.explain import Account, accounts, sentences
from kardam.flags import json_option


@click.command("explain", short_help="Why workers were refused, in sentences.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--worker", type=int, help="Which one.  [default: all]")
@json_option
def explain_command(run: Path, worker: int | None, as_json: bool) -> None:
    """Why workers of RUN were refused, in sentences, by its journal; where there are keys, each by
    its name.

    \b
    Examples:
      kardam explain runs/mine --worker 7
      kardam explain runs/mine
    """
    labels = {worker: person.label for worker, person in people(run).items()}
    found = accounts(verdicts(run), labels, holders(run))
    if worker is not None:
        found = _of(worker, found, run)
    if as_json:
        click.echo(json.dumps({"run": str(run), "workers": [one.facts() for one in found]}))
    else:
        click.echo("\n\n".join("\n".join(sentences(one)) for one in found))


def _of(worker: int, found: list[Account], run: Path) -> list[Account]:
    if its := [one for one in found if one.worker == worker]:
        return its
    known = ", ".join(str(at) for at in sorted({one.worker for one in found})) or "none"
    raise UsageError(f"--worker {worker}: no verdict on it in {run}; there are some on {known}")
