"""A worker's process on virtual time: a real link and a real worker, where process, client and
dealer are the shells. It may be stopped, killed and started again.

Never in here: which faults there are, or what must hold under them.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from kardam.exchange import Peer
from kardam.link import Action, Lease, Link, News, Reconnect, Say, Tell, Vanish, Welcomed
from kardam.messages import (
    Beat,
    Bye,
    Denied,
    Halt,
    Hello,
    Judged,
    Part,
    Pull,
    Push,
    Query,
    Report,
    Up,
    Vector,
    WorkerId,
)
from kardam.protocol import PROTOCOL, Bytes, ProtocolError, decode_down, encode
from workers.crew import Member
from workers.faults.clock import Clock
from workers.faults.lines import Net, Socket
from workers.faults.promises import Promises
from workers.worker import Poison, Worker

# Seconds between two looks at the clock: rarer than the shell's, for many seeds in little time.
TICK = 0.5

# As the dealer's.
BACKOFF_FIRST, BACKOFF_LAST = 0.2, 5.0

# What a life waits for: news of a kind, or seconds, in which news are noted (client.wait) ...
Wait = type[News] | float | tuple[float]  # ... or, in a tuple, are not (client.vanish).
Life = Generator[Wait, Any, None]


class Valley:
    """|x - 1|^2 / 2 with noise: no data, and no torch.

    The noise is not the worker's own, who draws the same again where it starts again at the same
    version: here no two gradients are alike, so that each is known again.
    """

    batch = 8

    def __init__(self, chance: np.random.Generator) -> None:
        self._chance = chance

    def gradient(self, x: Vector, rng: np.random.Generator, poison: Poison) -> tuple[Vector, float]:
        noise = 0.1 * self._chance.standard_normal(x.shape, np.float32)
        return x - np.float32(1) + noise, float(np.square(x - 1).sum()) / 2


class Host:
    """One process after the other, all of them the same worker."""

    def __init__(
        self,
        index: WorkerId,
        token: str,
        clock: Clock,
        net: Net,
        promises: Promises | None,
        hire: Callable[[int], Worker],
        chance: np.random.Generator,
    ) -> None:
        self.index = index
        # How many verdicts this process has heard, and whether it was told that all is over.
        self.answered = 0
        self.over = False
        self._token = token
        self._clock = clock
        self._net = net
        self._promises = promises  # None for who has not promised anything
        self._hire = hire
        self._chance = chance
        self._alive = False
        self._stopped: deque[Sequence[Bytes]] | None = None
        self._process = 0

    # --- its lives ---

    def start(self) -> None:
        """A new process."""
        if self._alive:
            return
        self._alive, self._stopped = True, None
        self._process += 1
        self.answered = 0
        self._epoch = ""
        self._news: deque[News] = deque()
        self._failures = 0
        self._open_at = 0.0
        self._link = Link("worker", self._token, lambda: 0.8 + 0.4 * self._chance.random())
        self._socket: Socket | None = None
        self._life = self.work()
        self._wait: Wait = next(self._life)
        self._open()
        self._later(TICK, self._tick)

    def kill(self) -> None:
        """SIGKILL."""
        self._alive, self._stopped = False, None
        self._process += 1
        if self._socket is not None:
            self._socket.close()

    def stop(self) -> None:
        """SIGSTOP."""
        if self._alive and self._stopped is None:
            self._stopped = deque()

    def go_on(self) -> None:
        """SIGCONT: what came meanwhile is heard first."""
        waiting, self._stopped = self._stopped, None
        for frames in waiting or ():
            self._take(frames)

    def lose(self) -> None:
        """Its connection breaks."""
        if self._alive and self._socket is not None:
            self._socket.lose()

    # --- the shell: client ---

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        """In this process, and not while it is stopped."""
        process = self._process

        def then() -> None:
            if self._process != process:
                return
            if self._stopped is not None:
                self._clock.after(TICK, then)
            else:
                do()

        self._clock.after(seconds, then)

    def _reopen(self, seconds: float) -> None:
        """Open another socket then, unless it is put off again."""
        self._open_at = self._clock.now + seconds

        def due() -> None:
            if self._socket is None and self._clock.now >= self._open_at:
                self._open()

        self._later(seconds, due)

    def _open(self) -> None:
        self._socket = Socket(self._net, self)
        self._happen(self._link.connected(self._clock.now))

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tick(self) -> None:
        self._later(TICK, self._tick)
        if self._socket is not None:
            self._happen(self._link.tick(self._clock.now))

    def hear(self, peer: Peer, frames: Sequence[Bytes]) -> None:
        """This came over its line."""
        if not self._alive or self._socket is None:
            return
        if self._stopped is not None:
            self._stopped.append(frames)
        else:
            self._take(frames)

    def _take(self, frames: Sequence[Bytes]) -> None:
        try:
            actions = self._link.receive(*decode_down(frames), self._clock.now)
        except ProtocolError as error:
            if self._promises is not None:
                self._promises.confused(self.index, str(error))
            return
        self._failures = 0
        self._happen(actions)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Say():
                    self.say(action.message, action.body)
                case Tell():
                    self._news.append(action.news)
                case Reconnect():
                    self._close()
                    wait = min(BACKOFF_LAST, BACKOFF_FIRST * 2**self._failures)
                    self._failures += 1
                    self._reopen(wait * (1 + self._chance.random()))
                case Vanish():
                    self._close()
                    self._reopen(action.seconds)

    def _happen(self, actions: list[Action]) -> None:
        """Do what the link makes of an event, of which the life may have waited for news."""
        self._do(actions)
        self._live()

    def say(self, message: Up, body: Bytes = b"") -> None:
        if self._socket is not None:
            self._socket.send(encode(message, body))

    def _live(self) -> None:
        """Go on, as far as there are news of what is waited for."""
        while self._alive and self._news and not isinstance(self._wait, tuple):
            news = self._news.popleft()
            self._note(news)
            if isinstance(self._wait, type) and isinstance(news, self._wait):
                self._next(news)

    def _note(self, news: News) -> None:
        match news:
            case Welcomed():
                self._epoch = news.terms.epoch
                if self._promises is not None:
                    self._promises.welcomed(self.index, news.terms.worker)
            case Denied() if self._promises is not None:
                self._promises.told(self.index, news)
            case Judged():
                self.answered += 1
            case Halt():
                self.over = True
                self._leave()
            case _:
                pass

    def _leave(self) -> None:
        self._happen(self._link.bye())
        if self._socket is not None:
            self._socket.close(last_words=True)
        self._alive = False
        self._process += 1

    def _next(self, news: News | None) -> None:
        self._wait = self._life.send(news)
        if not isinstance(self._wait, type):
            seconds = self._wait[0] if isinstance(self._wait, tuple) else self._wait
            # Infinite is for ever.
            if seconds < np.inf:
                self._later(seconds, self._woken)

    def _woken(self) -> None:
        self._next(None)
        self._live()

    # --- the shell: process ---

    def work(self) -> Life:
        """As workers.process.work, line by line."""
        yield Welcomed
        lease = yield from self._pull()
        worker = self._hire(lease.model.version)
        epoch, start = self._epoch, self._clock.now
        while True:
            if self._epoch != epoch:
                epoch = self._epoch
                worker.forget()
            now, model = self._clock.now, lease.model
            owed = worker.owes(now)
            answer = worker.answer(lease.ticket, model.version, model.x, now)
            if self._promises is not None:
                self._promises.made(answer.gradient, epoch, model.version, model.x)
            left = owed.down + owed.compute + owed.up
            for there, away in worker.stretches(now - start, left):
                yield there
                if away:
                    self._do(self._link.vanish(away))
                    yield (away,)
            for gradient in answer.repeats:
                self._do(self._link.push(gradient, self._clock.now))
                yield Judged
            more = answer.rest <= 0
            self._do(self._link.push(answer.gradient, self._clock.now, pull=more))
            yield Judged
            if more:
                lease = yield Lease
            else:
                yield answer.rest
                lease = yield from self._pull()

    def _pull(self) -> Generator[Wait, Any, Lease]:
        self._do(self._link.pull(self._clock.now))
        lease: Lease = yield Lease
        return lease


class Ahead(Host):
    """A worker who fetches a model while it holds another, as the protocol allows."""

    def work(self) -> Life:
        yield Welcomed
        # Each model with the life of the server that it is of.
        lease, of = (yield from self._pull()), self._epoch
        worker, epoch = self._hire(lease.model.version), of
        while True:
            ahead, next_of = (yield from self._pull()), self._epoch
            if self._epoch != epoch:
                epoch = self._epoch
                worker.forget()
            answer = worker.answer(lease.ticket, lease.model.version, lease.model.x)
            if self._promises is not None:
                self._promises.made(answer.gradient, of, lease.model.version, lease.model.x)
            yield worker.owes(self._clock.now).compute
            self._do(self._link.push(answer.gradient, self._clock.now))
            yield Judged
            lease, of = ahead, next_of


class Rogue(Host):
    """A worker who has a token, and says what it pleases. Only to enrol it does not ask: that is
    how anybody, on loopback, takes the place of who was away for a minute.
    """

    def work(self) -> Life:
        yield Welcomed
        while True:
            self.say(*self._whatever())
            yield float(self._chance.exponential(0.3))

    def _whatever(self) -> tuple[Up, Bytes]:
        chance = self._chance
        number = int(chance.integers(-1, 60))
        ticket = max(number, 0)
        have = None if chance.random() < 0.5 else number
        body = chance.bytes(4 * int(chance.integers(0, 40)))
        messages: list[tuple[Up, Bytes]] = [
            (Pull(number), b""),
            (Pull(-1), b""),
            (Push(ticket, None, None, 0.0, 1, have), body if chance.random() < 0.5 else b""),
            (Part(ticket, int(chance.integers(3))), body),
            (Report(ticket, 0.0, 0.0), b""),
            (Query(), b""),
            (Beat(), b""),
            (Bye(), b""),
            (Hello(PROTOCOL, "", "worker", self._token, "", False, (ticket,)), b""),
            (Hello(PROTOCOL, "", "worker", "guess", "", False, ()), b""),
        ]
        return messages[int(chance.integers(len(messages)))]


def hired(member: Member, seed: int, board: Any) -> Callable[[int], Worker]:
    """Makes a member's worker, who joins at a version."""
    valley = Valley(np.random.default_rng([seed, member.index, 0x7A11E4]))
    return lambda since: member.worker(valley, seed, board, since)
