"""The books as they change, on a terminal or in plain lines. Reads them; asks nobody, and keeps no
time.
"""

import json
from collections.abc import Callable
from typing import Self

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kardam import view
from kardam.view import Books

# Seconds of the run between lines of progress where there is no terminal.
PLAIN_EVERY = 5.0


class Bar:
    """Progress on standard error: a live line on a terminal, else a plain one now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        console = Console(stderr=True)
        self._live = console.is_terminal and not quiet
        self._bar = Progress(
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._plain_at = PLAIN_EVERY

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, books: Callable[[], Books], gone: float, now: float) -> None:
        """How the run stands at this second; `gone`: how much of the way, 0 to 1."""
        if self._live:
            self._bar.update(self._task, completed=gone, description=view.line(books()))
        elif not self._quiet and now >= self._plain_at:
            self._plain_at = now + PLAIN_EVERY
            click.echo(f"{now:5.0f} s  {view.line(books())}", err=True)


class Board:
    """All of the books on standard output, again and again: in place on a terminal, else a line
    (or, `as_json`, an object a line) each time.
    """

    def __init__(self, as_json: bool) -> None:
        console = Console()
        self._as_json = as_json
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._in_place = console.is_terminal and not as_json

    def __enter__(self) -> Self:
        if self._in_place:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_place:
            self._live.stop()

    def show(self, books: Books) -> None:
        if self._in_place:
            self._live.update(view.report(books), refresh=True)
        elif self._as_json:
            click.echo(json.dumps(books))
        else:
            click.echo(f"{books['seconds']:5.0f} s  {view.line(books)}")
