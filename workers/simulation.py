"""The same cores on virtual time, in one thread: a heap of events stands where sockets and clocks
were.

The seed is the run. Never in here: a clock, a socket, or chance of its own.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence

from kardam.descent import Descent
from kardam.messages import Verdict
from workers.board import private
from workers.crew import Member, liars_among
from workers.objective import LocalObjective, Network
from workers.tasks import split
from workers.worker import Answer, Worker


def hire(members: Sequence[Member], network: Network, seed: int) -> list[Worker]:
    """The members in flesh, each with his share of the task's data; they share one network, and the
    liars among them a board.
    """
    shares = split(len(network.task.train[1]), len(members), seed)
    boards = private(len(members), liars_among(members), network.manifest.d)
    return [
        member.worker(
            LocalObjective(network, shares[member.index]),
            seed,
            boards.pop() if member.byzantine else None,
        )
        for member in members
    ]


def simulate(descent: Descent, workers: Sequence[Worker]) -> Iterator[tuple[float, Verdict]]:
    """Every verdict, with the virtual second it falls in; for as long as anybody answers, so the
    caller says when it is enough.

    Each worker pulls, computes and pushes without pause, unless it rests. Of two answers that
    arrive at one instant, the one that was begun first comes first.
    """
    # What happens when, and to whom: an answer arrives, or (None) a rest is over.
    events: list[tuple[float, int, Worker, Answer | None]] = []
    begun = itertools.count()

    def at(second: float, worker: Worker, answer: Answer | None) -> None:
        if second < math.inf:
            heapq.heappush(events, (second, next(begun), worker, answer))

    def begin(worker: Worker, now: float) -> None:
        loan = descent.lend(worker.index)
        answer = worker.answer(loan.ticket, loan.model.version, loan.model.x, now)
        at(now + answer.down + answer.compute + answer.up, worker, answer)

    for worker in workers:
        begin(worker, 0.0)
    while events:
        now, _, worker, answer = heapq.heappop(events)
        if answer is not None:
            for gradient in (*answer.repeats, answer.gradient):
                yield now, descent.receive(gradient)
            if answer.rest > 0:
                at(now + answer.rest, worker, None)
                continue
        begin(worker, now)
