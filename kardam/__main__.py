"""Command line to objects, for the verbs that need no torch, one line each.

Imports are few: `kardam stats` must answer at once. Never in here: what a verb does (verbs/).
"""

import os
import sys
from types import TracebackType


def _raised(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


# Ctrl-C while the imports below take their half a second is no error to tell of.
sys.excepthook = _raised

# One compute thread a process, said before numpy and torch look: many processes share these cores,
# and a sum comes out the same to the last bit when it is done again.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import errno
import logging
import traceback
from typing import NoReturn

import click

from kardam import __version__
from kardam.daemon import hush
from kardam.errors import EXIT_CODES, KardamError, Unwritable
from kardam.help import Ordered
from kardam.spec import blamed
from kardam.verbs.checkpoint import checkpoint_group
from kardam.verbs.explain import explain_command
from kardam.verbs.keys import keys_group
from kardam.verbs.replay import replay_command
from kardam.verbs.report import report_command
from kardam.verbs.serve import serve_command
from kardam.verbs.stats import stats_command

EPILOG = """\b
To begin with:
  kardam run --byzantine 3 --stragglers 2:factor=10
  kardam simulate liars-lose
  kardam doctor

\b
Exit codes:
""" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())


@click.group(
    cls=Ordered,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="kardam")
@click.option("-v", "--verbose", is_flag=True, help="Log what peers do wrong, too.")
def cli(verbose: bool) -> None:
    """A parameter server for asynchronous SGD with workers that nobody can trust."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(asctime)s  %(levelname)s  %(name)s  %(message)s",
    )


cli.add_command(serve_command)
cli.add_command(stats_command)
cli.add_command(report_command)
cli.add_command(replay_command)
cli.add_command(explain_command)
cli.add_command(checkpoint_group)
cli.add_command(keys_group)


def entry(command: click.Command) -> NoReturn:
    """Run a command line; what a user did wrong ends in one sentence and a numbered exit."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except Exception as error:
        told = error if isinstance(error, KardamError) else blamed(error) or _unprinted(error)
        if told is None:
            raise
        logging.getLogger("kardam").debug("what was raised:", exc_info=error)
        click.echo(f"kardam: {told}", err=True)
        sys.exit(told.code)
    sys.exit(0)


def _unprinted(error: Exception) -> Unwritable | None:
    """What to tell where there was no room for what is printed; files are seen to elsewhere."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
        return None
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    # Who prints, and writes no files.
    if frame.f_globals["__name__"].partition(".")[0] not in ("click", "rich"):
        return None
    # Nor is there any room for what Python would print at the end.
    hush(1)
    return Unwritable(f"standard output: {error.strerror}")


if __name__ == "__main__":
    entry(cli)
