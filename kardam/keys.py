"""Who is who: the tokens that stand for the n workers and for the two trusted roles, on one
machine.

Identity is the token's, never what a peer calls itself. Chance (secrets) is given.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kardam.messages import Role, WorkerId
from kardam.state import State

# Draws a secret; see `secrets.token_hex`.
Draw = Callable[[], str]

NOBODY = -1


class Identity(NamedTuple):
    """A role, and which of the n workers it is (NOBODY for the other roles)."""

    role: Role
    worker: WorkerId = NOBODY


class Tokens:
    """Secrets to identities. At most one token a worker, so at most n of them: a new one ends the
    old.
    """

    def __init__(self, n: int, draw: Draw) -> None:
        self.n = n
        self._draw = draw
        self._identities: dict[str, Identity] = {}
        self.evaluator = self._issue(Identity("evaluator"))
        self.operator = self._issue(Identity("operator"))

    def issue(self, worker: WorkerId) -> str:
        """A new token for this worker, 0 <= worker < n."""
        if not 0 <= worker < self.n:
            raise ValueError(f"expected 0 <= worker < {self.n}, got {worker}")
        return self._issue(Identity("worker", worker))

    def identity(self, token: str) -> Identity | None:
        """Whose token this is."""
        return self._identities.get(token)

    @property
    def issued(self) -> set[WorkerId]:
        """The workers that have a token."""
        return {i.worker for i in self._identities.values() if i.role == "worker"}

    def state(self) -> State:
        """Who holds which secret; whoever reads it may be anybody."""
        held = [[token, *identity] for token, identity in self._identities.items()]
        return {"evaluator": self.evaluator, "operator": self.operator, "held": held}

    def restore(self, state: State) -> None:
        """The secrets of a server before this one, so that its peers are known to this one."""
        self.evaluator, self.operator = state["evaluator"], state["operator"]
        self._identities = {token: Identity(*identity) for token, *identity in state["held"]}

    def _issue(self, identity: Identity) -> str:
        self._identities = {t: i for t, i in self._identities.items() if i != identity}
        token = self._draw()
        self._identities[token] = identity
        return token


# --- the operator's token, for commands of the same user on the same machine ---


def _file(endpoint: str) -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(tempfile.gettempdir())
    port = endpoint.rpartition(":")[2]
    return folder / f"kardam-{os.getuid()}" / f"{port}.json"


def publish(endpoint: str, operator: str) -> Path:
    """Leave the operator's token where only this user can read it: a file, to be removed at the
    end.
    """
    path = _file(endpoint)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to somebody else")
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"endpoint": endpoint, "operator": operator}, file)
    return path


def published(endpoint: str) -> str | None:
    """The operator's token of the server at this endpoint, if this user started it right here."""
    try:
        return str(json.loads(_file(endpoint).read_text())["operator"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
