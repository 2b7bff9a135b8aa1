"""Who the workers are: which of them lie, how, and how slow each is. Texts in, members out.

A member is plain text and numbers, so that it can be told to another process. Never in here: a
model, a gradient, a socket.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kardam.errors import UsageError
from kardam.messages import LABEL_MAX, WorkerId
from kardam.spec import build, fill, parse, stages
from workers.attacks import ATTACKS, Attack, Chain, Knows
from workers.board import Board, private
from workers.latency import LATENCIES
from workers.outages import NEVER, Outages
from workers.sight import Sight
from workers.speeds import SPEEDS, Speeds
from workers.worker import Objective, Pace, Worker

HONEST = "honest"


@dataclass(frozen=True, slots=True)
class Member:
    """One worker to be: what it does to its answers, how long it takes, and when it is away.

    `factor` multiplies its compute latency: its own speed, and its being a straggler.
    """

    index: WorkerId
    attack: str = HONEST
    latency: str = "constant"
    network: str = "constant"
    factor: float = 1.0
    straggler: bool = False
    outages: str = ""

    @property
    def byzantine(self) -> bool:
        return self.attack != HONEST

    @property
    def label(self) -> str:
        """What reports call it."""
        parts = [self.attack] * self.byzantine + [f"straggler x{self.factor:.3g}"] * self.straggler
        parts += ["outages"] * bool(self.outages)
        return ", ".join(parts)[:LABEL_MAX]

    def worker(
        self,
        objective: Objective,
        seed: int,
        board: Board | None,
        since: int = 0,
        sight: Sight | None = None,
    ) -> Worker:
        """The member in flesh, who joins at version `since`; a liar has a place at the `board`, and
        in a simulation `sight`.
        """
        pace = Pace(
            compute=build(self.latency, LATENCIES, "--latency"),
            network=build(self.network, LATENCIES, "--network"),
            factor=self.factor,
            outages=outages_of(self.outages),
        )
        attack = attack_of(self.attack, seed, board, sight)
        return Worker(self.index, seed, objective, attack, pace, since, sight)


def liars_among(members: Iterable[Member]) -> int:
    """How many of them lie."""
    return sum(member.byzantine for member in members)


def attack_of(
    text: str, seed: int, board: Board | None = None, sight: Sight | None = None
) -> Attack:
    """The attack that `--attack` names, for one worker: `sign_flip:scale=10+flood` is one, too."""
    given = {"seed": seed, "board": board, "sight": sight}
    parts = [build(part, ATTACKS, "--attack", **given) for part in stages(text)]
    if not parts:
        raise UsageError("--attack is empty; 'honest' is no attack")
    for part in parts:
        if not isinstance(part, Attack):
            raise UsageError(f"--attack {text!r}: expected a workers.attacks.Attack, got {part!r}")
    return parts[0] if len(parts) == 1 else Chain(parts)


def without_sight(members: Iterable[Member]) -> list[Member]:
    """The members, if they can lie over sockets, where nobody sees others' gradients or the filter.

    Raises UsageError.
    """
    members = list(members)
    (board,) = private(n=4, f=1, d=0)
    for text in {member.attack for member in members}:
        knows = attack_of(text, 0, board).knows
        if knows.rank > Knows.BOARD.rank:
            raise UsageError(
                f"--attack {text!r} knows {knows.value}, which over sockets nobody does: give it to"
                " kardam simulate"
            )
    return members


def stragglers_of(text: str) -> tuple[int, float]:
    """`2:factor=10` as (2, 10.0); empty is none."""
    if not text:
        return 0, 1.0
    spec = parse(text, "--stragglers")
    factor = spec.args.pop("factor", "10")
    if spec.args or not re.fullmatch(r"\d+", spec.name) or not re.fullmatch(r"\d+(\.\d+)?", factor):
        raise UsageError(
            f"--stragglers: expected a count and a factor like 2:factor=10, got {text!r}"
        )
    if not float(factor) >= 1:
        raise UsageError(f"--stragglers {text!r}: expected factor >= 1, got {factor}")
    return int(spec.name), float(factor)


def speeds_of(text: str) -> Speeds:
    """The speeds that `--speeds` names; `1:20` is short for `spread:low=1,high=20`."""
    if ends := re.fullmatch(r"([\d.]+):([\d.]+)", text.strip()):
        text = f"spread:low={ends[1]},high={ends[2]}"
    return build(text, SPEEDS, "--speeds")


def outages_of(text: str) -> Outages:
    """`every=20,seconds=5` as Outages; empty is never."""
    return fill(Outages, text, "--outages") if text else NEVER


def crew(
    *,
    n: int,
    byzantine: int = 0,
    attack: str = "sign_flip:scale=10",
    stragglers: str = "",
    latency: str = "constant",
    network: str = "constant",
    speeds: str = "equal",
    outages: str = "",
    seed: int = 0,
) -> list[Member]:
    """All n members: the last `byzantine` of them lie, and of the honest ones the first straggle.

    `outages` says how many of the honest ones have them, and which: `2:every=20,seconds=5`. Those
    that straggle come last. Raises UsageError for texts and numbers that do not go together.
    """
    if not 0 <= byzantine <= n:
        raise UsageError(f"--byzantine: expected 0 to {n} of {n} workers, got {byzantine}")
    honest = n - byzantine
    # Checked even where nobody lies: a typo is one.
    attack_of(attack, seed, private(n, max(byzantine, 1), d=0)[0])
    slow, factor = stragglers_of(stragglers)
    if slow > honest:
        raise UsageError(
            f"--stragglers: expected at most {honest} of the honest workers, got {slow}"
        )
    gone, outage = _outages_among(honest, outages)
    away = [*range(slow, honest), *range(slow)][:gone]
    chance = np.random.default_rng([seed, 0x5EED])
    drawn = speeds_of(speeds)(chance, n)
    return checked(
        Member(
            index=index,
            attack=attack if index >= honest else HONEST,
            latency=latency,
            network=network,
            factor=drawn[index] * (factor if index < slow else 1.0),
            straggler=index < slow,
            outages=outage if index in away else "",
        )
        for index in range(n)
    )


def _outages_among(honest: int, text: str) -> tuple[int, str]:
    """`2:every=20,seconds=5` as (2, "every=20,seconds=5"); empty is none."""
    if not text:
        return 0, ""
    parts = re.fullmatch(r"(\d+):(.+)", text.strip())
    if parts is None:
        raise UsageError(
            f"--outages: expected a count and their outages like 2:every=20,seconds=5, got {text!r}"
        )
    count = int(parts[1])
    if count > honest:
        raise UsageError(f"--outages: expected at most {honest} of the honest workers, got {count}")
    return count, parts[2]


def checked(members: Iterable[Member]) -> list[Member]:
    """The members, if all of their texts can be built. Raises UsageError."""
    members = list(members)
    # Any board will do: how many they will be, and how many collude, is not known here.
    (board,) = private(n=4, f=1, d=0)
    for attack in {member.attack for member in members}:
        attack_of(attack, 0, board)
    for latency in {member.latency for member in members}:
        build(latency, LATENCIES, "--latency")
    for network in {member.network for member in members}:
        build(network, LATENCIES, "--network")
    for outages in {member.outages for member in members}:
        outages_of(outages)
    return members
