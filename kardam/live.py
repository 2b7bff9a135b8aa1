"""The books as they change, on a terminal or in plain lines. Reads them; asks nobody, and keeps no
time.
"""

import contextlib
import errno
import json
from collections.abc import Callable
from typing import Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kardam import view
from kardam.diagnosis import Books

# Seconds of the run between lines of progress where there is no terminal, and between pictures
# where there is one.
PLAIN_EVERY, PICTURE_EVERY = 5.0, 0.5

# Lines of a picture that are not rows of workers.
LINES_BESIDE = 18


class Picture:
    """All of the books in place, under a bar with the time that is left."""

    def __init__(self, console: Console, transient: bool) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, transient=transient, vertical_overflow="crop"
        )
        self._bar = Progress(
            BarColumn(30),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=1.0)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def show(self, books: Books) -> None:
        gone = books["progress"]
        self._bar.update(self._task, completed=gone)
        rows = max(self._console.size.height - LINES_BESIDE, 1)
        bar = [self._bar.get_renderable()] if gone > 0 else []
        self._live.update(Group(*bar, view.report(books, rows)), refresh=True)


class _Pictured:
    """Shows a picture while its block runs, where that is `wanted` and there is a terminal."""

    def __init__(self, console: Console, transient: bool, wanted: bool) -> None:
        self._picture: Picture | None = None
        if console.is_terminal and wanted:
            self._picture = Picture(console, transient)

    def __enter__(self) -> Self:
        if self._picture is not None:
            self._picture.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._picture is not None:
            self._picture.stop()


class Bar(_Pictured):
    """Progress on standard error: a picture on a terminal, else a plain line now and then."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(Console(stderr=True), transient=True, wanted=not quiet)
        self._quiet = quiet
        self._due = PLAIN_EVERY if self._picture is None else 0.0

    def show(self, books: Callable[[], Books], now: float) -> None:
        """How the run stands at this second."""
        if self._quiet or now < self._due:
            return
        if self._picture is not None:
            self._due = now + PICTURE_EVERY
            try:
                self._picture.show(books())
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                # The terminal is gone, and its SIGHUP is on its way: no error of ours.
                self._quiet = True
                with contextlib.suppress(OSError):
                    self._picture.stop()
                self._picture = None
        else:
            self._due = now + PLAIN_EVERY
            told = books()
            gone = f"{100 * told['progress']:3.0f} %  " if told["progress"] > 0 else ""
            click.echo(f"{now:5.0f} s  {gone}{view.line(told)}", err=True)


class Board(_Pictured):
    """All of the books on standard output, again and again: in place on a terminal, else a line
    (or, `as_json`, an object a line) each time.
    """

    def __init__(self, as_json: bool) -> None:
        super().__init__(Console(), transient=False, wanted=not as_json)
        self._as_json = as_json

    def show(self, books: Books) -> None:
        if self._picture is not None:
            self._picture.show(books)
        elif self._as_json:
            click.echo(json.dumps(books))
        else:
            click.echo(f"{books['seconds']:5.0f} s  {view.line(books)}")
