"""One worker in a process of its own: a Worker's answers on a Client's line, and the waiting and
the outages it owes.

And its trusted sibling, the evaluator. Never in here: what is sent in an answer, or how.
"""

import contextlib
import time

import torch

from kardam.client import Client, Halted
from kardam.keys import Pass
from workers.board import Board
from workers.crew import Member
from workers.objective import LocalObjective, Network
from workers.parameters import agree
from workers.tasks import Shares


def work(
    endpoint: str,
    shows: Pass,
    member: Member,
    network: Network,
    shares: Shares,
    board: Board | None,
    patience: float,
) -> None:
    """Be this member, of all workers' `shares` with its own, until the server ends the run; a liar
    has a place at the `board`, and `patience` is as for Client.

    Raises what Client raises, and TaskError where the task is not the server's, or fails.
    """
    with (
        contextlib.suppress(Halted),
        Client(
            endpoint,
            "worker",
            token=shows.token,
            keys=shows.keys,
            label=member.label,
            byzantine=member.byzantine,
            patience=patience,
        ) as client,
    ):
        agree(network.manifest, client.manifest)
        seed, index = client.terms.seed, client.terms.worker
        epoch = client.epoch
        lease = client.pull()
        since = lease.model.version
        torch.manual_seed(hash((seed, index, since)))  # dropout draws from no other source
        worker = member.worker(LocalObjective(network, shares[index]), seed, board, since)
        start = time.monotonic()
        while True:
            if client.epoch != epoch:
                epoch = client.epoch
                worker.forget()
            began = time.monotonic()
            owed = worker.owes(began)
            answer = worker.answer(lease.ticket, lease.model.version, lease.model.x, began)
            # What the machine took counts towards what the latency says that computing takes.
            took = time.monotonic() - began
            left = owed.down + max(owed.compute - took, 0.0) + owed.up
            for there, away in worker.stretches(time.monotonic() - start, left):
                client.wait(there)
                if away:
                    client.vanish(away)
            for gradient in answer.repeats:
                client.push(gradient)
            if answer.rest > 0:
                client.push(answer.gradient)
                client.wait(answer.rest)
                lease = client.pull()
            else:
                _, lease = client.exchange(answer.gradient)


def evaluate(endpoint: str, shows: Pass, network: Network, every: float, patience: float) -> None:
    """Report held-out loss and accuracy of the newest model, every so many seconds."""
    with Client(
        endpoint, "evaluator", token=shows.token, keys=shows.keys, patience=patience
    ) as client:
        agree(network.manifest, client.manifest)
        reported = -1
        with contextlib.suppress(Halted):
            while True:
                model = client.pull().model
                if model.version != reported:
                    client.report(model.version, *network.evaluate(model.x))
                    reported = model.version
                time.sleep(every)
