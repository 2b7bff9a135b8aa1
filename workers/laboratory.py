"""A whole run on virtual time, from the first model to the summary: the recipe, workers and records
of `kardam run`, in this process.

Never in here: a server, a clock, or a rule of its own.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kardam import __version__
from kardam.descent import Descent
from kardam.errors import Stalled
from kardam.events import Event
from kardam.live import Bar
from kardam.messages import Verdict
from kardam.outcome import Ending, Outcome, ending_of
from kardam.plan import Until
from kardam.recipe import Recipe
from kardam.records import Records
from kardam.stats import Stats
from workers.crew import Member
from workers.objective import Network, root_of
from workers.simulation import hire, secrets, simulate
from workers.tasks import load_task

# Virtual seconds between two evaluations of the held-out data, and two lines of metrics.
EVALUATE = 0.5
MEASURE = 1.0


class Experiment:
    """One run. What its records keep of it is a function of the arguments, to the last byte."""

    def __init__(
        self,
        recipe: Recipe,
        members: Sequence[Member],
        task: str,
        split: str,
        seed: int,
    ) -> None:
        """Raises TaskError where the task cannot be had, or not split so."""
        self._recipe = recipe
        self._network = Network(load_task(task, seed))
        self._workers = hire(members, self._network, seed, split)
        root = root_of(self._network, recipe.root_examples, seed)
        self._descent: Descent = recipe.descent(self._network.x, root, secrets(seed))
        self._descent.hear = self._hear
        self._heard: list[tuple[Event, Verdict | None]] = []
        self._records: Records
        self._now = 0.0
        self._evaluate_at = self._measure_at = 0.0
        self._stats = Stats(recipe.n, recipe.f, self._descent.filter.slowdown())
        for member in members:
            self._stats.label(member.index, member.label, member.byzantine)

    def run(self, until: Until, bar: Bar, records: Records, record: bool = False) -> Outcome:
        """Go on until it is enough, or somebody interrupts. To `record` is to keep all that the
        server heard, and the first and the last model.
        """
        self._records = records
        ending = Ending("stalled: nobody answers any more", Stalled.code)
        if record:
            records.record(asdict(self._recipe), whole=True, durable=False)
            self._keep()
        try:
            for now, verdict in simulate(self._descent, self._workers):
                self._now = now
                if now >= self._evaluate_at:
                    self._evaluate_at = now + EVALUATE
                    self._evaluate()
                    bar.show(lambda: self._books("running", until), now)
                self._observe(verdict)
                if (enough := ending_of(self._stats, until, self._now)) is not None:
                    ending = enough
                    break
        except KeyboardInterrupt:
            ending = Ending("interrupted", 130)
        self._evaluate()
        self._measure()
        if record and ending.interrupted:
            # It may have been in the middle of a step, whose model no recorded event makes.
            records.settle()
        elif record:
            self._keep()
        books = {**self._books("ended", until), "ending": ending.why}
        self._records.summary(books)
        return Outcome(ending, books, self._records.folder, kept=None)

    def _hear(self, event: Event, verdict: Verdict | None) -> None:
        # What second it is, a simulation says with the next verdict.
        self._heard.append((event, verdict))

    def _keep(self) -> None:
        """A checkpoint, to play a recording from, and to compare with."""
        model = self._descent.model
        self._records.keeps(model, self._now)
        state = {
            "sessions": {"descent": self._descent.state()},
            "records": self._records.marks(),
            "seconds": self._now,
        }
        self._records.checkpoint(self._network.manifest, model.x, state, model.version)

    def _observe(self, verdict: Verdict) -> None:
        self._stats.record(verdict, self._now)
        for event, its in self._heard:
            self._records.hear(event, its, self._now)
        self._heard.clear()
        if self._now >= self._measure_at:
            self._measure_at = self._now + MEASURE
            self._measure()

    def _evaluate(self) -> None:
        model, held_out = self._descent.model, self._stats.held_out
        if not held_out or held_out[-1].updates < model.version:
            loss, accuracy = self._network.evaluate(model.x)
            self._stats.evaluated(model.version, loss, accuracy, self._now)

    def _measure(self) -> None:
        self._records.measure({"status": self._status, **self._stats.metrics(self._now)})
        self._records.flush()

    @property
    def _status(self) -> str:
        return "running" if self._descent.filter.ready else "starting"

    def _books(self, status: str, until: Until) -> dict[str, Any]:
        """As a server's: everybody is there, and nobody dies."""
        books = self._stats.snapshot(self._now)
        for row in books["workers"]:
            row["state"] = "alive"
        progress = until.share(self._stats, self._now)
        known = {"status": status, "version": __version__, "progress": progress}
        return {**known, **books, "deaths": {}}
