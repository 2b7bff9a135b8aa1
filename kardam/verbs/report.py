"""kardam report: pictures and tables of runs, from their directories."""

from pathlib import Path

import click

# Where a report on several runs goes that is not told where.
COMPARISON = Path("comparison")


@click.command("report", short_help="Pictures and tables of runs, on one page.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where to leave it.  [default: RUN; of several: comparison]",
)
def report_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Pictures and tables of a run, or of several side by side, from their directories.

    One page that stands alone, report.html, and the pictures as PNG and SVG in figures/ beside it.

    \b
    Examples:
      kardam report runs/liars
      kardam report runs/none runs/middle --out runs/compared
    """
    # Matplotlib takes a second to load, and no other verb needs it.
    from kardam import report

    where = out or (runs[0] if len(runs) == 1 else COMPARISON)
    click.echo(report.write(runs, where))
