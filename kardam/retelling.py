"""A recorded run, played again beside what was written of it: verdicts and models, one by one; and
what another filter would have said.

Reads files. Never in here: how an event is done again (replay), or what is printed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kardam import checkpoint, tape
from kardam.checkpoint import CHECKPOINTS, MODEL, PLAIN
from kardam.errors import Different, UsageError
from kardam.fingerprint import fingerprint
from kardam.messages import Model, Verdict
from kardam.recipe import Recipe
from kardam.records import JOURNAL, entry
from kardam.recovery import descent_of
from kardam.replay import Bystander, again
from kardam.tape import Kept, Mark, Told

# How many verdicts of each kind, by worker: `admitted`, or the rule that refused.
Outcomes = Counter[tuple[str, int]]


class Life(NamedTuple):
    """One recorded life: the checkpoint that it is played from, where in the recording that lies,
    by which recipe, and which bytes of the journal tell of it.
    """

    folder: Path
    start: Path
    mark: Mark
    recipe: Recipe
    begin: int
    end: int


@dataclass
class Retelling:
    """What came of it, all of it as it was recorded.

    `said` is what the other filter said, and of `agreed` gradients the same. `earlier` lines of the
    journal are of before the first recorded event that is left, `untold` ones of no recorded event,
    `unwritten` verdicts in no line, and `torn` bytes at the end of a recording no event: where a
    crash or a full disk came between.
    """

    verdicts: int = 0
    models: int = 0
    earlier: int = 0
    untold: int = 0
    unwritten: int = 0
    torn: int = 0
    recorded: Outcomes = field(default_factory=Counter)
    said: Outcomes = field(default_factory=Counter)
    agreed: int = 0


def retell(run: Path, found: list[Life], other: Recipe | None = None) -> Retelling:
    """Play these lives of a run, with another recipe's filter beside them. Raises Different at the
    first thing that comes out otherwise.
    """
    teller = _Teller(run, other)
    teller.came.earlier = sum(1 for _ in _lines(run / JOURNAL, 0, found[0].begin))
    for life in found:
        teller.play(life)
    return teller.came


def lives(run: Path) -> list[Life]:
    """What was recorded of a run. Raises UsageError where nothing was, or that can not be read."""
    found = []
    for folder in tape.lives(run):
        facts = tape.beginning(folder)
        if facts is None:
            continue
        for start in _starts(run, facts["start"]):
            try:
                marks = json.loads((start / PLAIN).read_text())["records"]
                mark = Mark(**marks["recording"]) if marks.get("recording") is not None else None
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{start}: not as kardam writes a checkpoint: {error!r}"
                ) from error
            if mark is not None and mark.life == tape.number(folder):
                recipe = Recipe.of(**facts["recipe"])
                found.append(Life(folder, start, mark, recipe, marks["journal"], 0))
                break
    if not found:
        raise UsageError(f"{run}: nothing was recorded there; begin a run with --record")
    ends = [life.begin for life in found[1:]] + [_size(run / JOURNAL)]
    return [life._replace(end=end) for life, end in zip(found, ends, strict=True)]


def _starts(run: Path, first: str) -> list[Path]:
    """The first, which is there where the whole was to stay; or else all that are kept."""
    named = run / CHECKPOINTS / first
    return [named] if named.is_dir() else checkpoint.kept(run)


class _Teller:
    """Plays one life after the other."""

    def __init__(self, run: Path, other: Recipe | None) -> None:
        self.came = Retelling()
        self._journal = run / JOURNAL
        self._other = other
        self._beside: Bystander | None = None
        # The models that are kept, by their versions.
        self._kept = {
            checkpoint.updates(path): (path, fingerprint(checkpoint.load(path / MODEL)[1]))
            for path in checkpoint.kept(run)
        }

    def play(self, life: Life) -> None:
        state = checkpoint.restore(life.start).state["sessions"]["descent"]
        self._descent = descent_of(life.recipe, state)
        if self._other is not None:
            self._stand_beside(self._other)
        lines, last = _lines(self._journal, life.begin, life.end), life.mark
        for told in tape.play(life.folder, life.mark):
            last = told.mark
            if isinstance(told.event, Kept):
                self._compare_model(told.event, f"{life.folder}")
            else:
                self._do(told, lines)
        self.came.untold += sum(1 for _ in lines)
        unread = tape.behind(life.folder, last)
        if len(unread) > 1:
            # A segment is begun when the one before it is whole: no crash did this.
            raise Different(
                f"{life.folder}: damaged after verdict {self.came.verdicts:,}, in"
                f" {next(iter(unread))}; nothing behind that can be played"
            )
        self.came.torn += sum(unread.values())

    def _stand_beside(self, other: Recipe) -> None:
        if self._beside is None:
            x, chance = self._descent.model.x, np.random.default_rng(0)
            self._beside = Bystander(x, **other.parts(x.size, chance=chance))
        self._beside.join(self._descent)

    def _do(self, told: Told, lines: Iterator[Mapping[str, Any]]) -> None:
        assert not isinstance(told.event, Kept)
        before = self._descent.model
        verdict = again(self._descent, told.event)
        if self._descent.model is not before:
            self._compare_kept(self._descent.model)
        if verdict is not None:
            self.came.verdicts += 1
            self.came.recorded[_outcome(verdict)] += 1
            self._compare_line(next(lines, None), verdict, told)
        if self._beside is not None:
            said = again(self._beside, told.event)
            self._beside.follow(self._descent)
            if said is not None and verdict is not None:
                self.came.said[_outcome(said)] += 1
                self.came.agreed += said.admitted == verdict.admitted

    def _compare_kept(self, model: Model) -> None:
        if model.version in self._kept:
            path, print_ = self._kept[model.version]
            self._compare_model(Kept(model.version, print_), str(path))

    def _compare_model(self, there: Kept, where: str) -> None:
        model = self._descent.model
        here = Kept(model.version, fingerprint(model.x))
        if here != there:
            raise Different(
                f"after {self.came.verdicts:,} verdicts: the model after {there.version:,} updates"
                f" is {there.fingerprint} by {where}; replayed it is {here.fingerprint} after"
                f" {here.version:,}"
            )
        self.came.models += 1

    def _compare_line(self, line: Mapping[str, Any] | None, verdict: Verdict, told: Told) -> None:
        if line is None:
            self.came.unwritten += 1
            return
        now = entry(verdict, told.seconds, told.fingerprint)
        for name in sorted(line.keys() | now.keys()):
            if line.get(name) != now.get(name):
                raise Different(
                    f"verdict {self.came.verdicts:,}, on worker {verdict.worker}, ticket"
                    f" {verdict.ticket}: {name} was {line.get(name)!r} by {self._journal};"
                    f" replayed it is {now.get(name)!r}"
                )


def _outcome(verdict: Verdict) -> tuple[str, int]:
    return "admitted" if verdict.admitted else verdict.rule, verdict.worker


def _lines(journal: Path, begin: int, end: int) -> Iterator[Mapping[str, Any]]:
    """The whole ones between these bytes. Raises Different for one that nobody wrote."""
    with journal.open("rb") as file:
        file.seek(begin)
        while file.tell() < end and (line := file.readline()).endswith(b"\n"):
            try:
                told = json.loads(line)
            except ValueError as error:
                raise Different(f"{journal}: a line of no verdict: {line[:60]!r}") from error
            yield told


def _size(journal: Path) -> int:
    return journal.stat().st_size if journal.is_file() else 0
