"""Peers that speak ZeroMQ's wire protocol (ZMTP 3.0, NULL) by hand, and do with it what no library
would: loopback only, bounded in bytes.

As a program (endpoint, then names of ROGUES) it is all of them by turns, until its input ends.
"""

import contextlib
import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from bench.grammar import Grammar

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
MORE, LONG, COMMAND = 1, 2, 4

# Seconds that a peer who is not read waits before it gives up.
PATIENCE = 5.0


def frame(data: bytes, flags: int = 0) -> bytes:
    """One ZMTP frame."""
    if len(data) < 256:
        return bytes([flags, len(data)]) + data
    return bytes([flags | LONG]) + struct.pack(">Q", len(data)) + data


class Raw:
    """A connection after its handshake, or (`greet=False`) before it."""

    def __init__(self, endpoint: str, greet: bool = True) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        assert host == "127.0.0.1", "loopback alone"
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        if greet:
            self.socket.sendall(GREETING)
            self._read(len(GREETING))
            self.socket.sendall(frame(READY, COMMAND))
            _, size = self._read(2)
            self._read(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the server hung up")
            data += piece
        return data

    def hung_up(self, seconds: float) -> bool:
        """Whether the server closes the connection within so long."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def endless(endpoint: str, nbytes: int = 2**30, size: int = 2**19) -> int:
    """A message that does not end, up to so many bytes; how many were taken."""
    piece = frame(bytes(size), MORE)
    taken = 0
    with contextlib.suppress(OSError), Raw(endpoint) as peer:
        while taken < nbytes:
            peer.send(piece)
            taken += size
    return taken


def many_frames(endpoint: str, messages: int = 1, frames: int = 200_000) -> None:
    """Messages of very many empty frames."""
    with Raw(endpoint) as peer:
        for _ in range(messages):
            peer.send(frame(b"", MORE) * (frames - 1) + frame(b""))


def oversized(endpoint: str) -> bool:
    """A frame that says it is longer than anything; whether the server hangs up."""
    with Raw(endpoint) as peer:
        peer.send(bytes([LONG]) + struct.pack(">Q", 2**40) + bytes(1000))
        return peer.hung_up(PATIENCE)


@contextlib.contextmanager
def half(endpoint: str, size: int = 2**21) -> Iterator[None]:
    """Half of a message, and then silence, for as long as the block runs."""
    with Raw(endpoint) as peer:
        peer.send(frame(bytes(2 * size))[: size + 9])
        yield


@contextlib.contextmanager
def connections(endpoint: str, count: int, greet: bool = True) -> Iterator[list[Raw]]:
    """So many connections that say no more, for as long as the block runs."""
    with contextlib.ExitStack() as open_:
        peers = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                peers.append(open_.enter_context(Raw(endpoint, greet)))
        yield peers


def loris(endpoint: str, seconds: float, pause: float = 0.1) -> None:
    """A greeting, byte by byte."""
    until = time.monotonic() + seconds
    with contextlib.suppress(OSError), Raw(endpoint, greet=False) as peer:
        for byte in itertools.cycle(GREETING):
            if time.monotonic() >= until:
                return
            peer.send(bytes([byte]))
            time.sleep(pause)


def garbage(endpoint: str, messages: int, seed: int = 0) -> None:
    """Messages of the grammar fuzzer, as fast as they are taken."""
    grammar = Grammar(seed)
    with contextlib.suppress(OSError), Raw(endpoint) as peer:
        for _ in range(messages):
            *first, last = grammar.frames()
            peer.send(b"".join(frame(data, MORE) for data in first) + frame(last))


def _half(endpoint: str) -> None:
    with half(endpoint):
        time.sleep(1)


def _crowd(endpoint: str) -> None:
    with connections(endpoint, 200):
        time.sleep(1)


ROGUES: dict[str, Callable[[str], object]] = {
    "endless": endless,
    "many_frames": many_frames,
    "oversized": oversized,
    "half": _half,
    "crowd": _crowd,
    "loris": lambda endpoint: loris(endpoint, 1.0),
    "garbage": lambda endpoint: garbage(endpoint, 5000),
}


def main() -> None:
    endpoint, *names = sys.argv[1:]

    def follow() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    for name in itertools.cycle(names or ROGUES):
        # A server that is down, or has enough of us, is nothing new.
        with contextlib.suppress(OSError):
            ROGUES[name](endpoint)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
