"""The server's process on virtual time: real sessions and descent, a journal, and checkpoints that
take their time. It may be killed at any instant, and goes on from what was whole by then.

Never in here: which faults there are, or what must hold under them.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from kardam.events import Event
from kardam.exchange import Effect, Judge, Peer, Send
from kardam.keys import Tokens
from kardam.messages import Manifest, Verdict
from kardam.protocol import Bytes, ProtocolError, decode_up, encode
from kardam.recipe import Recipe
from kardam.sessions import Sessions, Terms
from kardam.state import State
from kardam.stats import Stats, answers
from workers.faults.clock import Clock
from workers.faults.lines import Net
from workers.faults.promises import Promises
from workers.faults.weather import Scenario

# Seconds between two looks at the clock, as the shell's.
TICK = 0.2


class Kept:
    """A checkpoint: the state, and how long the journal was."""

    def __init__(self, state: State, mark: int) -> None:
        self.state = state
        self.mark = mark


class Machine:
    """Where the server runs, or is down. `journal` is what it has on disk."""

    def __init__(self, scenario: Scenario, clock: Clock, net: Net, promises: Promises) -> None:
        self._scenario = scenario
        self._clock = clock
        self._net = net
        self._promises = promises
        self._chance = np.random.default_rng([scenario.seed, 0x5EC2E7])
        self._recipe = Recipe.of(
            n=scenario.n,
            f=scenario.f,
            preset=scenario.preset,
            gather=scenario.gather,
            memory=scenario.memory,
        )
        self.up = False
        self.journal: list[Verdict] = []
        # Counts the lives of the process, so that what an earlier one was about to do is not done.
        self._life = 0
        self._frozen: deque[tuple[Peer, Sequence[Bytes]]] | None = None
        self.tokens = Tokens(scenario.n, self._draw)
        self._kept: Kept | None = None
        self.sessions = self._house()

    def _draw(self) -> str:
        return self._chance.bytes(8).hex()

    def _house(self) -> Sessions:
        scenario, recipe = self._scenario, self._recipe
        descent = recipe.descent(np.zeros(scenario.d, np.float32), chance=self._chance)
        descent.hear = self._write
        terms = Terms(
            manifest=Manifest((("x", (scenario.d,)),)),
            epoch=self._draw(),
            seed=scenario.seed,
            task="trial",
            quorum=recipe.quorum,
            chunk=scenario.chunk,
        )
        stats = Stats(recipe.n, recipe.f, descent.filter.slowdown())
        return Sessions(descent, stats, self.tokens, terms, self._clock.now)

    def _write(self, event: Event, verdict: Verdict | None) -> None:
        """As the scribe does, whatever happens to the descent."""
        if verdict is not None and answers(verdict):
            self.journal.append(verdict)
            self._promises.noted(verdict)

    # --- its lives ---

    def start(self) -> None:
        """Begin, or go on from the last checkpoint that is whole."""
        if self.up:
            return
        if self._kept is not None:
            self.tokens = Tokens(self._scenario.n, self._draw)
            self.sessions = self._house()
            self.sessions.restore(self._kept.state, self._clock.now)
            del self.journal[self._kept.mark :]
        # It keeps its beginning before it hears anybody.
        self._kept = self._state()
        self.up = True
        self._life += 1
        self._net.server = self
        self._promises.opened(self.sessions, self.journal)
        self._every(TICK, self._tick)
        self._every(self._scenario.checkpoint, self._keep)

    def crash(self) -> None:
        """SIGKILL."""
        self.up, self._frozen = False, None
        self._life += 1
        self._net.server = None

    def freeze(self) -> None:
        """SIGSTOP: what comes waits."""
        self._frozen = self._frozen if self._frozen is not None else deque()

    def thaw(self) -> None:
        frozen, self._frozen = self._frozen, None
        for peer, frames in frozen or ():
            self.hear(peer, frames)

    def _every(self, seconds: float, do: object) -> None:
        life = self._life

        def again() -> None:
            if self._life == life:
                self._clock.after(seconds, again)
                if self._frozen is None:
                    do()  # type: ignore[operator]  # a method of ours

        self._clock.after(seconds, again)

    def _state(self) -> Kept:
        return Kept(self.sessions.state(), len(self.journal))

    def _keep(self) -> None:
        kept, life = self._state(), self._life

        def whole() -> None:
            if self._life == life:
                self._kept = kept

        self._clock.after(self._scenario.writing, whole)

    # --- its loop, as the shell's ---

    def _tick(self) -> None:
        self._do(self.sessions.tick(self._clock.now))

    def hear(self, peer: Peer, frames: Sequence[Bytes]) -> None:
        """This came over the line of this name."""
        if not self.up:
            return
        if self._frozen is not None:
            self._frozen.append((peer, frames))
            return
        try:
            message, body = decode_up(frames)
        except ProtocolError:
            self._do(self.sessions.violated(peer))
        else:
            self._do(self.sessions.receive(peer, message, body, self._clock.now))
        self._promises.heard(self.sessions)

    def _do(self, effects: list[Effect]) -> None:
        pending = deque(effects)
        while pending:
            match pending.popleft():
                case Send(peer=peer, message=message, body=body):
                    self._promises.sent(self.sessions, self._net.lines.get(peer), message)
                    self._net.down(peer, encode(message, body))
                case Judge(gradient=gradient):
                    verdict = self.sessions.descent.receive(gradient)
                    self._promises.judged(self.sessions, gradient, verdict)
                    pending.extend(self.sessions.judged(verdict, self._clock.now))

    def end(self) -> None:
        """The run is over: say so."""
        self.sessions.drain()
        self._do(self.sessions.halt("the run is over"))
