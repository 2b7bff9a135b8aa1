"""The same cores on virtual time, in one thread: a heap of events stands where sockets and clocks
were.

The seed is the run. Never in here: a clock, a socket, or chance of its own.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence

from kardam.descent import Descent
from kardam.messages import Verdict
from workers.crew import Member
from workers.objective import LocalObjective, Network
from workers.tasks import shares
from workers.worker import Answer, Worker


def hire(
    members: Sequence[Member], network: Network, seed: int, split: str = "iid"
) -> list[Worker]:
    """The members in flesh, each with his share of the task's data; they share one network."""
    held = shares(network.task, len(members), seed, split)
    return [member.worker(LocalObjective(network, held[member.index]), seed) for member in members]


def simulate(descent: Descent, workers: Sequence[Worker]) -> Iterator[tuple[float, Verdict]]:
    """Every verdict, with the virtual second it falls in; for ever, so the caller says when it is
    enough (or until nobody is due, which takes fewer than n - f workers and a round).

    Each worker pulls, computes and pushes without pause, but for its outages, in which its work
    stands still, and unless a round has its answer already. Of two answers that arrive at one
    instant, the one that was begun first comes first.
    """
    arrivals: list[tuple[float, int, Worker, Answer]] = []
    begun = itertools.count()

    def begin(worker: Worker, now: float) -> None:
        loan = descent.lend(worker.index)
        answer = worker.answer(loan.ticket, loan.model.version, loan.model.x)
        owed = answer.down + answer.compute + answer.up
        arrives = now + sum(there + away for there, away in worker.stretches(now, owed))
        heapq.heappush(arrivals, (arrives, next(begun), worker, answer))

    now, idle = 0.0, list(workers)
    while True:
        due = [worker for worker in idle if descent.due(worker.index)]
        idle = [worker for worker in idle if worker not in due]
        for worker in due:
            begin(worker, now)
        if not arrivals:
            return
        now, _, worker, answer = heapq.heappop(arrivals)
        yield now, descent.receive(answer.gradient)
        idle.append(worker)
