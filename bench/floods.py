"""Peers who keep to the protocol, and come too often: strangers who ask for handshakes, and a
worker who answers without pause.

As a program (endpoint, then nothing, or the server's key) it is the worker, or 300 strangers, until
it is killed.
"""

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from kardam import memory
from kardam.client import Client, enrol
from kardam.messages import Gradient

STRANGERS = 300


def answers(endpoint: str) -> None:
    """A worker who answers as fast as the server does, until it is killed."""
    place = enrol(endpoint, "flood", True, 30.0)
    with Client(endpoint, "worker", token=place.token) as client:
        lease = client.pull()
        while True:
            g = np.full(lease.model.x.shape, 1e-3, np.float32)
            _, lease = client.exchange(Gradient(0, lease.ticket, g))


@contextlib.contextmanager
def strangers(endpoint: str, server_key: str, count: int) -> Iterator[Callable[[], int]]:
    """So many of unknown keys who ask for a handshake at once, and each again as soon as it is
    refused, from a thread, for as long as the block runs; gives how many refusals there were.
    """
    ending, refusals = threading.Event(), itertools.count()
    thread = threading.Thread(target=_knock, args=(endpoint, server_key, count, ending, refusals))
    thread.start()
    try:
        yield lambda: next(refusals)
    finally:
        ending.set()
        thread.join()


def _knock(
    endpoint: str, server_key: str, count: int, ending: threading.Event, refusals: Iterator[int]
) -> None:
    poller, live = zmq.Poller(), dict[zmq.Socket[bytes], zmq.Socket[bytes]]()
    memory.raise_files()
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 2**14)  # those that are being closed count, too

        def ask() -> None:
            socket = context.socket(zmq.DEALER)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RECONNECT_IVL, -1)
            public, secret = zmq.curve_keypair()
            socket.set(zmq.CURVE_SERVERKEY, bytes.fromhex(server_key))
            socket.set(zmq.CURVE_PUBLICKEY, public)
            socket.set(zmq.CURVE_SECRETKEY, secret)
            monitor = socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
            )
            poller.register(monitor, zmq.POLLIN)
            live[monitor] = socket
            socket.connect(endpoint)

        def drop(monitor: zmq.Socket[bytes]) -> None:
            poller.unregister(monitor)
            socket = live.pop(monitor)
            socket.disable_monitor()
            monitor.close()
            socket.close()

        for _ in range(count):
            ask()
        while not ending.is_set():
            for monitor, _ in poller.poll(100):
                if recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    next(refusals)
                drop(monitor)
                ask()
        for monitor in list(live):
            drop(monitor)


def main() -> None:
    endpoint, *key = sys.argv[1:]
    if not key:
        answers(endpoint)
    with strangers(endpoint, key[0], STRANGERS):
        threading.Event().wait()


if __name__ == "__main__":
    main()
