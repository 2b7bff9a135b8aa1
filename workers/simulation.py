"""The same cores on virtual time, in one thread: a heap of events stands where sockets and clocks
were.

The seed is the run. Never in here: a clock, a socket, or chance of its own.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from kardam.descent import Descent
from kardam.messages import HandOut, Verdict
from workers.board import private
from workers.crew import Member, liars_among
from workers.objective import LocalObjective, Network
from workers.sight import Scene, Sight
from workers.tasks import shares
from workers.worker import Worker


def hire(
    members: Sequence[Member], network: Network, seed: int, split: str = "iid"
) -> list[Worker]:
    """The members in flesh, each with its share of the task's data; they share one network, and the
    liars among them a board. Each of those has a sight of its own.
    """
    held = shares(network.task, len(members), seed, split)
    boards = private(len(members), liars_among(members), network.manifest.d)
    return [
        member.worker(
            LocalObjective(network, held[member.index]),
            seed,
            boards.pop() if member.byzantine else None,
            sight=Sight(member.index) if member.byzantine else None,
        )
        for member in members
    ]


def secrets(seed: int) -> np.random.Generator:
    """What a simulated server draws its secrets from."""
    return np.random.default_rng([seed, 0x5EC2E7])


def simulate(descent: Descent, workers: Sequence[Worker]) -> Iterator[tuple[float, Verdict]]:
    """Every verdict, with the virtual second it falls in; for as long as anybody answers, so the
    caller says when it is enough.

    Each worker pulls, computes and pushes without pause, but for its outages, in which its work
    stands still, while it rests, and unless a round has its answer already. Of two answers that
    arrive at one instant, the one that was begun first comes first. An answer is made when it
    arrives, so that who has sight sees what is there to be seen then.
    """
    # What happens when, and to whom: an answer arrives, to a loan of then, or a rest is over.
    events: list[tuple[float, int, Worker, tuple[HandOut, float] | None]] = []
    begun = itertools.count()
    scene = Scene(descent)
    sights = [worker.sight for worker in workers if worker.sight is not None]
    for sight in sights:
        sight.opens(scene)

    def at(second: float, worker: Worker, loan: tuple[HandOut, float] | None) -> None:
        if second < math.inf:
            heapq.heappush(events, (second, next(begun), worker, loan))

    def begin(worker: Worker, now: float) -> None:
        loan = descent.lend(worker.index)
        owed = worker.owes(now)
        if (seconds := owed.down + owed.compute + owed.up) < math.inf:
            took = sum(there + away for there, away in worker.stretches(now, seconds))
            at(now + took, worker, (loan, now))

    now, idle = 0.0, list(workers)
    while True:
        due = [descent.due(worker.index) for worker in idle]
        for worker in itertools.compress(idle, due):
            begin(worker, now)
        idle = [worker for worker, begins in zip(idle, due, strict=True) if not begins]
        if not events:
            return
        now, _, worker, lent = heapq.heappop(events)
        if lent is not None:
            loan, then = lent
            answer = worker.answer(loan.ticket, loan.model.version, loan.model.x, then)
            for gradient in (*answer.repeats, answer.gradient):
                verdict = descent.receive(gradient)
                if sights:
                    scene.delivered(gradient, verdict, honest=worker.sight is None)
                yield now, verdict
            if answer.rest > 0:
                at(now + answer.rest, worker, None)
                continue
        idle.append(worker)
