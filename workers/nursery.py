"""A process that imports torch once, loads and splits the task once, and forks a child for every
worker.

Twenty workers start in the time of one. It is spoken to in lines of JSON: orders in, events out.
When its orders end, so do its children; when it dies, or its parent, they die. Never in here: what
a child does, or who is to be started.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import torch

from kardam import pages
from kardam.errors import KardamError, TaskError
from kardam.keys import Pass
from kardam.shared import Layout, Pair, SharedDesk, taken_over
from kardam.spec import blamed
from workers.board import Board, shared
from workers.crew import Member
from workers.lifeline import Lifeline, Terminated, leave_when_told
from workers.objective import Network
from workers.process import evaluate, work
from workers.tasks import Shares, load_task, shares

# Seconds that children have between SIGTERM and SIGKILL.
TERM_SECONDS = 2.0


@dataclass(eq=False)
class Child:
    """A forked process, and what came so far of its last words."""

    name: str
    pid: int
    words: bytes = b""


class Nursery:
    """The children, by the pipe that each holds open as long as it lives."""

    def __init__(
        self,
        network: Network,
        shares: Shares,
        boards: list[Board],
        events: BinaryIO,
        lifelines: tuple[int, ...],
        way: socket.socket,
    ) -> None:
        self._network = network
        self._shares = shares
        # The liars' places at their board, as far as they are free.
        self._boards = boards
        self._events = events
        self._lifelines = lifelines
        # That of the children alone: while this process lives, it has the other end.
        self._life, self._alive = os.pipe()
        # On which descriptors come, of memory that the server shares with one child.
        self._way = way
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until the orders end; then the children do, too."""
        self._selector.register(0, selectors.EVENT_READ)
        orders = b""
        while True:
            for key, _ in self._selector.select():
                if key.fd != 0:
                    self._hear(key.fd)
                elif not (data := os.read(0, 2**16)):
                    return self._end()
                else:
                    *lines, orders = (orders + data).split(b"\n")
                    for line in lines:
                        self._fork(json.loads(line))

    def _fork(self, order: dict[str, Any]) -> None:
        hear, speak = os.pipe()
        lies = order["order"] == "work" and Member(**order["member"]).byzantine
        board = self._boards.pop() if lies else None
        # Only now, so that no child inherits what is another's.
        pair = taken_over(self._way) if order.get("memory") else None
        pid = os.fork()
        if pid == 0:
            self._become(order, board, speak, pair)
        os.close(speak)
        for descriptor in pair or ():
            os.close(descriptor)
        self._children[hear] = Child(order["name"], pid)
        self._selector.register(hear, selectors.EVENT_READ)
        tell(self._events, event="started", name=order["name"], pid=pid)

    def _become(
        self, order: dict[str, Any], board: Board | None, speak: int, pair: Pair | None
    ) -> NoReturn:
        """In the child: do as ordered, leave last words, and never return."""
        code, words = 1, ""
        try:
            self._let_go()
            leave_when_told()
            Lifeline(*self._lifelines, self._life)
            match order:
                case {
                    "order": "work",
                    "member": member,
                    "memory": memory,
                    "name": _,
                    "shows": shows,
                    **rest,
                }:
                    work(
                        shows=Pass.of(*shows),
                        member=Member(**member),
                        network=self._network,
                        shares=self._shares,
                        board=board,
                        desk=SharedDesk(Layout(**memory), pair) if pair is not None else None,
                        **rest,
                    )
                case {"order": "evaluate", "name": _, "shows": shows, **rest}:
                    evaluate(shows=Pass.of(*shows), network=self._network, **rest)
                case _:
                    raise ValueError(f"no such order: {order}")
            code = 0
        except Terminated:
            code = 0  # after a goodbye
        except SystemExit as exit_:
            code, words = TaskError.code, f"the task called sys.exit({exit_.code!r})"
        except Exception as error:
            if told := error if isinstance(error, KardamError) else blamed(error):
                code, words = told.code, str(told)
            else:
                traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os.write(speak, words.encode(errors="backslashreplace")[:4096])
            os._exit(code)

    def _let_go(self) -> None:
        """In the child: of what is its parent's, and would outlive it here."""
        self._selector.close()
        self._way.close()
        for pipe in (0, self._alive, *self._children):
            os.close(pipe)

    def _hear(self, pipe: int) -> None:
        """A child speaks its last words, or (their end) is no more."""
        child = self._children[pipe]
        if data := os.read(pipe, 4096):
            child.words += data
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        del self._children[pipe]
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        tell(
            self._events,
            event="ended",
            name=child.name,
            code=code,
            words=child.words.decode(errors="replace"),
        )

    def _end(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGTERM)
        until = time.monotonic() + TERM_SECONDS
        self._selector.unregister(0)
        while self._children:
            left = until - time.monotonic()
            if left <= 0:
                for child in self._children.values():
                    os.kill(child.pid, signal.SIGKILL)
            for key, _ in self._selector.select(max(left, 0) or None):
                self._hear(key.fd)


def tell(events: BinaryIO, **event: Any) -> None:
    """One event, as a line of JSON."""
    line = json.dumps(event).encode() + b"\n"
    # A parent that is gone hears nothing, and needs nothing.
    with contextlib.suppress(BrokenPipeError):
        events.write(line)
        events.flush()


def main(lifeline: Lifeline) -> None:
    """Arguments: the lifeline's pipe, the way of descriptors, and {task, split, n, liars, seed}.
    Tell the first model, then follow orders.
    """
    # What a task prints is the user's; our own words have a descriptor of their own.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Their end is our death, whomever we or the task forked. (Not by its number, which is another
    # file's by the time that a child forks, too.)
    os.register_at_fork(after_in_child=events.close)
    torch.set_num_threads(1)
    pages.keep()  # the children's, too
    way = socket.socket(fileno=int(sys.argv[2]))
    request = json.loads(sys.argv[3])
    try:
        task = load_task(request["task"], request["seed"])
        held = shares(task, request["n"], request["seed"], request["split"])
        network = Network(task)
    except KardamError as error:
        tell(events, event="failed", code=error.code, words=str(error))
        sys.exit(error.code)
    except SystemExit as exit_:
        words = f"{request['task']}: called sys.exit({exit_.code!r}) while it was loaded"
        tell(events, event="failed", code=TaskError.code, words=words)
        sys.exit(TaskError.code)
    x = network.x
    tell(events, event="ready", manifest=network.manifest.tensors, nbytes=x.nbytes)
    events.write(x.data.cast("B"))
    events.flush()
    boards = shared(request["n"], request["liars"], network.manifest.d)
    lifeline.let_go()  # from now on its orders end with its parent, and it forks
    Nursery(network, held, boards, events, lifeline.pipes, way).run()
    os._exit(0)  # nothing is left to clean up, and a closed pipe is no news
