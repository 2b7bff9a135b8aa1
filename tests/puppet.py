"""A worker that goes just so far in the protocol, over a real socket, and then does nothing more.

As a program (endpoint, token, phase) it says when it is there, and waits to be killed.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import zmq

from kardam.link import Action, Lease, Link, Say, Tell
from kardam.messages import Down, Gradient, Grant, Welcome
from kardam.protocol import decode_down, encode

PHASES = ("before hello", "holding a model", "granted", "mid-chunk")


class Puppet:
    """One DEALER socket; `reach` a phase, and it stays there."""

    def __init__(self, endpoint: str, token: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._link = Link("worker", token, lambda: 1.0)
        self._rest: list[Action] = []

    def reach(self, phase: str) -> None:
        """Go as far as this, from the beginning. Requires a model of two chunks or more."""
        if phase == "before hello":
            return
        self._do(self._link.connected(0.0))
        self._until(Welcome)
        self._do(self._link.pull(0.0))
        lease = self._lease()
        if phase == "holding a model":
            return
        g = np.ones(lease.model.x.shape, np.float32)
        self._do(self._link.push(Gradient(0, lease.ticket, g), 0.0))
        (grant,) = [message for message in self._until(Grant) if isinstance(message, Grant)]
        if phase == "mid-chunk":
            first, *self._rest = self._link.receive(grant, b"", 0.0)
            self._do([first])

    def finish(self) -> None:
        """Send the chunks that `mid-chunk` left."""
        self._do(self._rest)

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                self._socket.send_multipart(encode(action.message, action.body))

    def _lease(self) -> Lease:
        for message, body in self._heard():
            for action in self._link.receive(message, body, 0.0):
                if isinstance(action, Tell) and isinstance(action.news, Lease):
                    return action.news
        raise AssertionError("unreachable")

    def _until(self, kind: type[Down]) -> list[Down]:
        """Everything up to the first of its kind; told to the link, but for a grant."""
        seen: list[Down] = []
        for message, body in self._heard():
            seen.append(message)
            if not isinstance(message, Grant):
                self._do(self._link.receive(message, body, 0.0))
            if isinstance(message, kind):
                return seen
        raise AssertionError("unreachable")

    def _heard(self) -> Iterator[tuple[Down, bytes]]:
        while True:
            assert self._socket.poll(30_000), "the server is silent"
            message, body = decode_down(self._socket.recv_multipart())
            assert isinstance(message, Down)
            yield message, bytes(body)


if __name__ == "__main__":
    puppet = Puppet(sys.argv[1], sys.argv[2])
    puppet.reach(sys.argv[3])
    sys.stdout.write("there\n")
    sys.stdout.flush()
    sys.stdin.read()
