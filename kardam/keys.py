"""Who is who where there are no keys: tokens that stand for the n workers and the two trusted
roles, on one machine; and what the user who started a server finds of it there.

Identity is the token's, never what a peer calls itself. Chance (secrets) is given.
"""

import hashlib
import hmac
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from kardam.errors import Unwritable
from kardam.messages import NOBODY, Role, WorkerId
from kardam.state import State

# Draws a secret; see `secrets.token_hex`.
Draw = Callable[[], str]

# More than there will ever be tokens of one worker under one server.
TURNS = 10**6


class Identity(NamedTuple):
    """A role, and which of the n workers it is (NOBODY for the other roles)."""

    role: Role
    worker: WorkerId = NOBODY


class Keys(NamedTuple):
    """What a peer holds under CURVE, 64 hexadecimal digits each: the server's public key, and its
    own pair.
    """

    server: str
    public: str
    secret: str


class Pass(NamedTuple):
    """What a peer shows of itself: a token, or keys."""

    token: str = ""
    keys: Keys | None = None

    @classmethod
    def of(cls, token: str, keys: Sequence[str] | None) -> Self:
        """As JSON has it."""
        return cls(token, Keys(*keys) if keys else None)


class Tokens:
    """Tokens to identities, by one secret: `role.worker.turn.salt.mac`.

    Of the tokens of one identity only the newest counts (the one of the highest turn), so at most n
    workers have one. Whoever has the secret knows a token again that it has not heard of: one that
    was issued after a checkpoint, by the server that this one goes on for.
    """

    def __init__(self, n: int, draw: Draw) -> None:
        self.n = n
        self._draw = draw
        self._secret = draw()
        self._least = 0
        # How many tokens this server has issued.
        self.issues = 0
        self._turns: dict[Identity, int] = {}
        self.evaluator = self._issue(Identity("evaluator"))
        self.operator = self._issue(Identity("operator"))

    def issue(self, worker: WorkerId) -> str:
        """A new token for this worker, 0 <= worker < n."""
        if not 0 <= worker < self.n:
            raise ValueError(f"expected 0 <= worker < {self.n}, got {worker}")
        return self._issue(Identity("worker", worker))

    def identity(self, token: str) -> Identity | None:
        """Whose token this is; None for nobody's, or one that is no longer the newest."""
        said, _, mac = token.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(said).encode()):
            return None
        # Only we can have said it, so it has its form.
        role, worker, turn, _ = said.split(".")
        identity = Identity(role, int(worker))  # type: ignore[arg-type]  # a Role, when we said it
        if int(turn) < self._turns.get(identity, 0):
            return None
        self._turns[identity] = int(turn)
        return identity

    @property
    def issued(self) -> set[WorkerId]:
        """The workers that have a token."""
        return {identity.worker for identity in self._turns if identity.role == "worker"}

    def state(self) -> State:
        """The secret, and whose turn it is; whoever reads it may be anybody."""
        return {
            "secret": self._secret,
            "least": self._least,
            "evaluator": self.evaluator,
            "operator": self.operator,
            "turns": [[*identity, turn] for identity, turn in self._turns.items()],
        }

    def restore(self, state: State) -> None:
        """Take the place of the server that these were told of: its peers are known to this one."""
        self._secret = state["secret"]
        # Beyond every turn that was issued after this was told.
        self._least = state["least"] + TURNS
        self.evaluator, self.operator = state["evaluator"], state["operator"]
        self._turns = {Identity(role, worker): turn for role, worker, turn in state["turns"]}

    def _issue(self, identity: Identity) -> str:
        turn = max(self._turns.get(identity, 0), self._least) + 1
        self._turns[identity] = turn
        self.issues += 1
        said = f"{identity.role}.{identity.worker}.{turn}.{self._draw()[:8]}"
        return f"{said}.{self._mac(said)}"

    def _mac(self, said: str) -> str:
        return hmac.new(self._secret.encode(), said.encode(), hashlib.sha256).hexdigest()[:24]


# --- what an operator needs, for commands of the same user on the same machine ---


def _file(endpoint: str) -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(tempfile.gettempdir())
    name = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
    return folder / f"kardam-{os.getuid()}" / f"{name}.json"


def publish(endpoint: str, operator: Pass) -> Path:
    """Leave it where only this user can read it: a file, to be removed at the end. Raises
    Unwritable.
    """
    path = _file(endpoint)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.stat().st_uid != os.getuid():
            raise Unwritable(f"{path.parent} belongs to somebody else")
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"endpoint": endpoint, "operator": operator}, file)
    except OSError as error:
        raise Unwritable(f"{path}: {error.strerror}") from error
    return path


def published(endpoint: str) -> Pass | None:
    """The operator's, of the server at this endpoint, if this user started it right here."""
    try:
        return Pass.of(*json.loads(_file(endpoint).read_text())["operator"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
