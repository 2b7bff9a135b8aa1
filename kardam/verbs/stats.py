"""kardam stats: the books of a server, once or again and again."""

import contextlib
import time

import click

from kardam import live
from kardam.client import Client, Halted, check_endpoint, reach
from kardam.errors import Unreachable, UsageError
from kardam.flags import json_option
from kardam.keys import Pass, published
from kardam.kits import address
from kardam.verbs.printing import show

# Seconds: nobody means longer, and no system sleeps for ever.
EVERY_MAX = 86_400.0


@click.command("stats", short_help="What a server has done, and who does what.")
@click.argument("endpoint", metavar="ENDPOINT|KIT")
@click.option("--token", help="The operator's. [default: what this user's server left here]")
@click.option("--watch", is_flag=True, help="Again and again, until the run ends or Ctrl-C.")
@click.option(
    "--every", type=float, default=1.0, show_default=True, help="Seconds between two looks."
)
@json_option
def stats_command(
    endpoint: str, token: str | None, watch: bool, every: float, as_json: bool
) -> None:
    """What the server at ENDPOINT has done so far, and every worker's row.

    From elsewhere than its machine it takes KIT, an operator's: kardam keys kit --role operator.

    \b
    Examples:
      kardam stats tcp://127.0.0.1:5555
      kardam stats tcp://127.0.0.1:5555 --watch
    """
    if not 0 < every <= EVERY_MAX:
        raise UsageError(f"--every: expected more than 0 seconds, and a day at most, got {every:g}")
    endpoint, keys = address(endpoint)
    reach(check_endpoint(endpoint), seconds=3.0)
    shows = Pass(token or "", keys) if token or keys else published(endpoint)
    if shows is None:
        raise UsageError(
            f"no operator's token for {endpoint} here: be the user who started it, on its machine,"
            " or give an operator's kit, or --token"
        )
    with Client(endpoint, "operator", token=shows.token, keys=shows.keys, patience=5.0) as client:
        if watch:
            _watch(client, every, as_json)
            return
        try:
            books = client.query()
        except Halted as end:
            raise Unreachable(f"{endpoint}: it ends just now ({end})") from end
        show(books, as_json)


def _watch(client: Client, every: float, as_json: bool) -> None:
    with live.Board(as_json) as board, contextlib.suppress(Halted, KeyboardInterrupt):
        while True:
            board.show(client.query())
            time.sleep(every)
