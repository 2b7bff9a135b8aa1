"""The flags that say who works, how fast and how honestly. Never in here: what a verb does."""

from typing import Any

import click

from kardam.flags import options

# A run that is not told when it is enough takes some twenty seconds.
DEFAULT_ARRIVALS = 4000

task_option = click.option(
    "--task",
    default="digits",
    show_default=True,
    help="What is trained: digits, npz:path=..., synthetic:d=..., or your own package.module:attr.",
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")

pace_options = options(
    click.option(
        "--latency",
        default="lognormal:mean=0.02,sigma=0.5",
        show_default=True,
        help="Seconds that computing an answer takes; a trace: trace:path=FILE, one number a line.",
    ),
    click.option(
        "--network",
        default="constant",
        show_default=True,
        help="Seconds that a model takes down, and a gradient up, besides the real way; constant"
        " alone is 0.",
    ),
)

crew_options = options(
    click.option(
        "--byzantine", type=int, default=0, show_default=True, help="How many really lie."
    ),
    click.option(
        "--attack",
        default="sign_flip:scale=10",
        show_default=True,
        help="What those that lie do; joined with +: sign_flip:scale=10+flood:rho=10.",
    ),
    click.option("--stragglers", default="", help="How many are slow, and how slow: 2:factor=10."),
    pace_options,
    click.option(
        "--speeds",
        default="equal",
        show_default=True,
        help="Each worker's own factor: lognormal:sigma=1, or 1:20, from 1 to 20 in equal ratios.",
    ),
    click.option(
        "--outages",
        default="",
        help="How many vanish now and then, and how: 2:every=20,seconds=5, the mean seconds between"
        " two outages, and of each.",
    ),
)


def end_some_time(choices: dict[str, Any]) -> None:
    """A run that nobody told when it is enough is enough after DEFAULT_ARRIVALS."""
    if all(choices[name] is None for name in ("updates", "arrivals", "seconds", "target")):
        choices["arrivals"] = DEFAULT_ARRIVALS
