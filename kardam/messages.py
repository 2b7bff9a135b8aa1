"""Every noun that travels or is logged, named once. Values only: nothing in here decides, waits or
sends.

x_t   the model after t updates, one flat float32 vector of d numbers
g     a gradient, computed at x_l; l is its version
tau   its staleness, t - l, by the server's own record
n, f  workers, and how many of them the filter assumes to be Byzantine
K_p   the growth of worker p: ||g - g'|| / ||x_l - x_l'||, ' marking his earlier answer
"""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

# Bytes of one of its numbers.
ITEM = np.dtype(np.float32).itemsize

# A worker is a number from 0 to n-1, given by the server; what a peer calls itself is nobody's
# name.
WorkerId = int
NOBODY: WorkerId = -1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the flat vector is made of: names and shapes, in order. Agreed once, so that no shape
    ever travels again.
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def d(self) -> int:
        """How many numbers there are in all."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    def places(self) -> list[slice]:
        """Where in the vector each tensor lies."""
        ends = list(accumulate(math.prod(shape) for _, shape in self.tensors))
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


# --- what the algorithm speaks of ---


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """x_t and its version t. The vector is never written again: a step makes a new one."""

    version: int
    x: Vector


@dataclass(frozen=True, slots=True, eq=False)
class HandOut:
    """A model lent to one worker, to be answered once. The ticket names the loan, and is never
    reused.
    """

    ticket: int
    worker: WorkerId
    model: Model


@dataclass(frozen=True, slots=True)
class Declared:
    """What a worker says of its own growth: K, and the ticket of the earlier answer it is measured
    from.
    """

    growth: float
    since: int


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """One answer: g of shape (d,), for the hand-out that `ticket` names."""

    worker: WorkerId
    ticket: int
    g: Vector
    declared: Declared | None = None
    loss: float = float("nan")
    examples: int = 0


# The rule that refuses what answers no hand-out.
UNASKED = "unasked"


class Refusal(NamedTuple):
    """Which rule refused, what it saw, and what it would have taken: `low <= value <= high`; and
    whether it was for what the gradient says, as it would be with a liar's, or for what an honest
    worker's may be as well: early or late, one of many, an echo of another, or one that changes
    little.
    """

    rule: str
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    for_content: bool = True


class Verdict(NamedTuple):
    """All that is known of one judged gradient; a line of the journal. A named tuple, since a
    frozen dataclass of so many fields takes 5 microseconds to make, and this two.

    What is not known is -1 or NaN, which the journal leaves out.

    `rule`       that refused; `startup` for an answer that went into a start-up median; else empty
    `updates`    the version afterwards
    `version`    l, that of the model it was computed on, by the server's record
    `staleness`  tau = t - l, in updates
    `value`      what the refusing rule saw, outside of `low` to `high`
    `growth`     K_p, as measured by the server; infinite without a pair to measure it from
    `declared`   K_p, as the worker says
    `reading`    what the filter compares of it, refused or not, with the band that was in force
                 then, `band_low` to `band_high` (see Stage.reading)
    `norm`       ||g||
    `dampening`  Lambda; not known of what came before the filter was ready
    `weight`     what it was multiplied by before the rate: dampening times the filter's scale; 0 if
                 refused
    """

    worker: WorkerId
    ticket: int
    admitted: bool
    rule: str
    updates: int
    version: int = -1
    staleness: int = -1
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    growth: float = float("nan")
    declared: float = float("nan")
    reading: float = float("nan")
    band_low: float = float("nan")
    band_high: float = float("nan")
    norm: float = float("nan")
    dampening: float = float("nan")
    weight: float = 0.0


# --- what travels ---
#
# One small header each, and for some a body of raw bytes. A field's annotation is its check: the
# exact type, and between which values (numbers) or how long (text, tuples) it may be.


@dataclass(frozen=True, slots=True)
class Within:
    """A number between `low` and `high`, or that many characters or items."""

    low: float
    high: float


# The largest number, and the longest label, that a server bears to be told.
COUNT_MAX, LABEL_MAX = 2**53, 128

Count = Annotated[int, Within(0, COUNT_MAX)]
Index = Annotated[int, Within(0, 2**31 - 1)]
Growth = Annotated[float, Within(0.0, math.inf)]
Seconds = Annotated[float, Within(0.0, 1e9)]
Word = Annotated[str, Within(0, 64)]
Label = Annotated[str, Within(0, LABEL_MAX)]
Sentence = Annotated[str, Within(0, 512)]
Role = Literal["worker", "evaluator", "operator"]


@dataclass(frozen=True, slots=True)
class Hello:
    """First word of a peer, and after every reconnection. `holds`: tickets it will still answer;
    `digest`: that of the manifest which it was told before, empty where it was told none; `memory`:
    the name of the shared memory that it sees, empty where it sees none.

    `label` and `byzantine` are what its owner says that it is, for reports alone.
    """

    protocol: Count
    package: Word
    role: Role
    token: Word
    label: Label
    byzantine: bool
    holds: Annotated[tuple[Count, ...], Within(0, 2)]
    digest: Word = ""
    memory: Word = ""


@dataclass(frozen=True, slots=True)
class Enrol:
    """Asks for a worker's token, on loopback. The rest as in Hello."""

    protocol: Count
    package: Word
    label: Label
    byzantine: bool


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A token, which is one of the n identities, and the terms that Welcome will repeat."""

    token: Word
    worker: Index
    n: Count
    seed: Count
    task: Sentence
    split: Label


@dataclass(frozen=True, slots=True)
class Welcome:
    """The terms. Body: the manifest. `epoch` is drawn at each start of the server. `shared`: that
    we see one memory, so that models and gradients need not travel.
    """

    epoch: Word
    worker: Annotated[int, Within(-1, 2**31 - 1)]
    n: Count
    seed: Count
    task: Sentence
    split: Label
    beat: Seconds
    chunk: Count
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and why; `final` when asking again can not help."""

    reason: Sentence
    final: bool


@dataclass(frozen=True, slots=True)
class Again:
    """Who are you? The server does not know this peer (any more): say Hello."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Asks for the newest model. `have` is the version still held (-1: none), which need not
    travel.
    """

    have: Annotated[int, Within(-1, 2**53)]


@dataclass(frozen=True, slots=True)
class Lent:
    """A hand-out: `parts` Part messages follow. Where none do, the body is the model, or it lies in
    the shared memory at `place`, or there is none, and the worker has that version.
    """

    ticket: Count
    version: Count
    parts: Index
    place: Index | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Chunk `index` of the model or gradient under this ticket. Body: its bytes."""

    ticket: Count
    index: Index


@dataclass(frozen=True, slots=True)
class Push:
    """Answers a hand-out, with a credit: the body is the gradient, or, where it is longer than a
    chunk, its Part messages follow. Without one it asks leave, and there is no body.

    `growth` and `since` are the declared growth, null where the worker has none to declare. `have`
    makes it a Pull as well, served after the verdict: with it a cycle is one exchange and not two.
    `shared`: the gradient is in the worker's slot of the shared memory, which needs no credit.
    """

    ticket: Count
    growth: Growth | None
    since: Count | None
    loss: float
    examples: Count
    have: Annotated[int, Within(-1, 2**53)] | None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to send the parts of the gradient under this ticket."""

    ticket: Count


@dataclass(frozen=True, slots=True)
class Judged:
    """Admitted, or the rule that refused. `credit`: the next gradient may come without asking.

    `lent` makes it a Lent as well, under that ticket, of this `version`, with these `parts` or at
    this `place`; else it is null.
    """

    ticket: Count
    admitted: bool
    rule: Word
    version: Count
    credit: bool
    lent: Count | None
    parts: Index
    place: Index | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """Alive; either way."""


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluator's finding about a version, on held-out data."""

    version: Count
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Query:
    """An operator asks for the books."""


@dataclass(frozen=True, slots=True)
class Books:
    """The answer to Query. Body: JSON."""


@dataclass(frozen=True, slots=True)
class Bye:
    """Going, for good."""


@dataclass(frozen=True, slots=True)
class Halt:
    """The run is over, and why."""

    reason: Sentence


Up = Hello | Enrol | Pull | Push | Part | Beat | Report | Query | Bye
Down = Enrolled | Welcome | Denied | Again | Lent | Part | Grant | Judged | Beat | Books | Halt
Message = Up | Down
