"""Connections as ZeroMQ has them over TCP, on virtual time: in order, late, and cut without a word.

A line carries messages each way in order. When it is cut, what is in flight is lost from some
message on; a DEALER comes back by itself, under another name, and what it had not yet given to the
line goes over the next one. Neither end is told. Never in here: what a message says.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from kardam.exchange import Peer
from kardam.protocol import Bytes
from workers.faults.clock import Clock
from workers.faults.weather import Weather

Frames = Sequence[Bytes]

# Seconds until a DEALER that lost its line tries again, and again.
RETRY = 0.1, 0.7


class End(Protocol):
    """Whoever is at one end of a line."""

    def hear(self, peer: Peer, frames: Frames) -> None:
        """This came over the line of this name."""


class Way:
    """One direction of a line: what is on its way, in order."""

    def __init__(self, clock: Clock, arrive: Callable[[Frames], None]) -> None:
        self._clock = clock
        self._arrive = arrive
        self._last = 0.0
        self._open = True
        # Whether it takes all and gives nothing.
        self.swallows = False
        self.flying: deque[Frames] = deque()

    def send(self, frames: Frames, seconds: float) -> None:
        """It arrives in so many seconds, and not before what was sent before it."""
        if self.swallows:
            return
        self.flying.append(frames)
        self._last = max(self._last, self._clock.now + seconds)
        self._clock.at(self._last, self._land)

    def hold(self, second: float) -> None:
        """Nothing sent from now on arrives before this second."""
        self._last = max(self._last, second)

    def _land(self) -> None:
        if self._open:
            self._arrive(self.flying.popleft())

    def cut(self, arrive: int) -> list[Frames]:
        """So many of what is in flight arrive at this instant; the rest is returned."""
        self._open = False
        flying, self.flying = self.flying, deque()
        for _ in range(min(arrive, len(flying))):
            frames = flying.popleft()
            self._clock.at(self._clock.now, lambda frames=frames: self._arrive(frames))  # type: ignore[misc]
        return list(flying)


class Line:
    """A connection by the name that the server has for it, and whose it really is."""

    def __init__(self, net: "Net", peer: Peer, socket: "Socket", server: End) -> None:
        self.peer = peer
        self.owner = socket.owner
        self.up = Way(net.clock, lambda frames: server.hear(peer, frames))
        self.down = Way(net.clock, lambda frames: socket.owner.hear(peer, frames))


class Socket:
    """A DEALER's: it keeps what it can not send, and looks for the server by itself."""

    def __init__(self, net: "Net", owner: End) -> None:
        self.owner = owner
        self.line: Line | None = None
        self._net = net
        self._waiting: list[Frames] = []
        self._open = True
        net.clock.after(net.delay(), self._connect)

    def send(self, frames: Frames) -> None:
        if self.line is not None:
            self._net.up(self.line, frames)
        else:
            self._waiting.append(frames)

    def lose(self) -> None:
        """The line is cut."""
        if self.line is not None:
            self._waiting = self._net.cut(self.line)
            self.line = None
            self._retry()

    def close(self, last_words: bool = False) -> None:
        """No more of it; what is in flight arrives in part, or whole as `last_words`."""
        self._open = False
        if self.line is not None:
            self._net.cut(self.line, all_up=last_words)
            self.line = None

    def _retry(self) -> None:
        self._net.clock.after(self._net.chance.uniform(*RETRY), self._connect)

    def _connect(self) -> None:
        if not self._open or self.line is not None:
            return
        self.line = self._net.connect(self)
        if self.line is None:
            self._retry()
            return
        waiting, self._waiting = self._waiting, []
        for frames in waiting:
            self.send(frames)


class Net:
    """All lines to one server. `server` is None while there is none."""

    def __init__(self, clock: Clock, weather: Weather, chance: np.random.Generator) -> None:
        self.clock = clock
        self.weather = weather
        self.chance = chance
        self.server: End | None = None
        self.lines: dict[Peer, Line] = {}
        # Whom no line reaches before this second.
        self.shut: dict[End, float] = {}
        self._names = 0

    def delay(self) -> float:
        """What a message takes now, in seconds."""
        mean = self.weather.delay
        return float(self.chance.exponential(mean)) if mean else 0.0

    def connect(self, socket: Socket) -> Line | None:
        """A line, where there is a way to the server."""
        if self.server is None or self.clock.now < self.shut.get(socket.owner, 0.0):
            return None
        self._names += 1
        line = Line(self, f"peer {self._names}".encode(), socket, self.server)
        self.lines[line.peer] = line
        return line

    def up(self, line: Line, frames: Frames) -> None:
        self._carry(line.up, frames)

    def down(self, peer: Peer, frames: Frames) -> None:
        """To nobody, where there is nobody of this name any more."""
        if (line := self.lines.get(peer)) is not None:
            self._carry(line.down, frames)

    def _carry(self, way: Way, frames: Frames) -> None:
        weather = self.weather
        copies = 1
        if weather.loses or weather.doubles:
            draw = self.chance.random()
            copies = 0 if draw < weather.loses else 1 + (draw < weather.loses + weather.doubles)
        for _ in range(copies):
            way.send(frames, self.delay())

    def cut(self, line: Line, all_up: bool = False) -> list[Frames]:
        """End a line: of what is in flight, the first few still arrive. The last few of those on
        their way up, which had not left yet, are returned.
        """
        self.lines.pop(line.peer, None)
        line.down.cut(self._some(line.down))
        rest = line.up.cut(len(line.up.flying) if all_up else self._some(line.up))
        return rest[int(self.chance.integers(len(rest) + 1)) :]

    def _some(self, way: Way) -> int:
        return int(self.chance.integers(len(way.flying) + 1))

    def stall(self, owner: End, seconds: float) -> None:
        """Nothing passes between this one and the server for so long; nothing is lost."""
        for way in self._ways(owner):
            way.hold(self.clock.now + seconds)

    def swallow(self, owner: End) -> None:
        """Nothing passes any more, as behind a router that has forgotten the connection."""
        for way in self._ways(owner):
            way.swallows = True

    def _ways(self, owner: End) -> list[Way]:
        lines = [line for line in self.lines.values() if line.owner is owner]
        return [way for line in lines for way in (line.up, line.down)]
