"""What goes wrong in one run, and among whom: values, drawn from the run's seed.

Never in here: anything that happens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from kardam.filters import tolerated

# Seconds of storm.
STORM = 40.0

Kind = Literal["cut", "stall", "swallow", "shut", "stop", "kill", "crash", "freeze"]

# How often each is met in a storm, in all of a run, on average, and how long it may last; seconds.
# Some last longer than a server waits for who is silent, and than a worker for a silent server.
KINDS: dict[Kind, tuple[float, float]] = {
    "cut": (6.0, 0.0),  # a connection breaks; its owner is not told
    "stall": (2.0, 20.0),  # a connection is silent, and loses nothing
    "swallow": (1.0, 0.0),  # a connection is lost, and neither end is ever told
    "shut": (1.0, 45.0),  # a worker can not reach the server
    "stop": (2.0, 45.0),  # SIGSTOP of a worker
    "kill": (1.5, 30.0),  # SIGKILL of a worker, which somebody starts again
    "crash": (1.0, 15.0),  # SIGKILL of the server, which goes on from its last checkpoint
    "freeze": (0.5, 10.0),  # the server's process stands still
}

PRESETS = ("none", "middle", "consensus", "paper")
GATHERS = ("arrival:m=1", "arrival:m=1", "arrival:m=1", "buffered:m={honest}", "synchronous")
ATTACKS = (
    "sign_flip:scale=10",
    "sign_flip:scale=10+flood:rho=3",
    "replay",
    "nan",
    "gaussian",
    "lying_growth",
    "malformed",
    "silent",
    "late",
)
ROGUE = "rogue"
# Without a filter, or with the paper's, a liar may drive the model wherever it likes; so these send
# no gradients of their own.
HARMLESS = ("silent", "late", "replay")


@dataclass(frozen=True, slots=True)
class Fault:
    """At this second of the storm; `victim` is a worker, where it has one."""

    second: float
    kind: Kind
    seconds: float
    victim: int


@dataclass(slots=True)
class Weather:
    """What the net does to each message: a mean delay, and the shares lost and doubled."""

    delay: float = 0.0
    loses: float = 0.0
    doubles: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. Of n workers the last f lie by `attack`, which ROGUE does to the protocol itself."""

    seed: int
    n: int
    f: int
    d: int
    chunk: int
    preset: str
    gather: str
    memory: str
    attack: str
    outages: str
    checkpoint: float
    writing: float
    weather: Weather
    faults: tuple[Fault, ...] = field(repr=False)

    @classmethod
    def drawn(cls, seed: int) -> "Scenario":
        """The one that is this seed's."""
        chance = np.random.default_rng([seed, 0xFA017])
        n = int(chance.integers(1, 9))
        f = int(chance.integers(0, tolerated(n) + 1))
        # Only what is longer than a sketch is sketched.
        d = int(chance.integers(2, 30)) if chance.random() < 0.5 else 100
        preset = str(chance.choice(PRESETS))
        plain = preset == "none" or f == 0
        # A message is lost or doubled alone by no TCP, but by what may stand between.
        rough = chance.random() < 0.3
        weather = Weather(
            delay=float(chance.choice([0.0, 0.005, 0.3])),
            loses=0.02 * rough * float(chance.random()),
            doubles=0.02 * rough * float(chance.random()),
        )
        return cls(
            seed=seed,
            n=n,
            f=f,
            d=d,
            chunk=4 * int(chance.choice([d, d + 1, max(d // 2, 1), max(d // 5, 1)])),
            preset=preset,
            gather=str(chance.choice(GATHERS)).format(honest=n - f) if plain else "arrival:m=1",
            memory=str(chance.choice(["exact", "sketched:k=64"])),
            attack=str(
                chance.choice(HARMLESS if preset in ("none", "paper") else [*ATTACKS, ROGUE, ROGUE])
            ),
            outages="every=15,seconds=5" if chance.random() < 0.3 else "",
            checkpoint=float(chance.choice([1.0, 5.0, 20.0])),
            writing=float(chance.choice([0.0, 0.5, 3.0])),
            weather=weather,
            faults=tuple(sorted(_faults(n, chance), key=lambda fault: fault.second)),
        )


def _faults(n: int, chance: np.random.Generator) -> Iterator[Fault]:
    for kind, (mean, longest) in KINDS.items():
        # Some storms have none of it, some have several times as many.
        for _ in range(int(chance.poisson(mean * chance.choice([0.0, 1.0, 1.0, 3.0])))):
            yield Fault(
                second=float(chance.uniform(0, STORM)),
                kind=kind,
                seconds=float(chance.uniform(0, longest)),
                victim=int(chance.integers(n)),
            )
