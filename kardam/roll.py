"""Who is who: by its key, or by its token where there are none; and where each of the n workers is.

Never in here: a connection, or what is remembered of a worker's answers.
"""

from collections.abc import Callable

from kardam.keys import Identity, Tokens
from kardam.messages import Denied, Role, WorkerId
from kardam.places import VACANT, Places
from kardam.ring import Key, Ring
from kardam.state import State


class Roll:
    """`begin` is told of each worker who is somebody else from now on."""

    def __init__(
        self, n: int, tokens: Tokens, begin: Callable[[WorkerId], None], now: float
    ) -> None:
        self.tokens, self.ring = tokens, Ring(n)
        self.places = Places(n, tokens.issued, now)
        self._n = n
        self._begin = begin

    def identity(self, role: Role, token: str, key: Key) -> Identity | Denied:
        """Who comes as that; or why it is nobody. A key must be in the ring."""
        if not key:
            identity = self.tokens.identity(token)
            if identity is None or identity.role != role:
                return Denied(f"this token is no {role}'s here", final=True)
            return identity
        entry = self.ring.entry(key)
        assert entry is not None  # whoever is not in the ring is not heard
        if entry.role != role:
            return Denied(f"this key is enrolled as {entry.role}, and not as {role}", final=True)
        if role != "worker":
            return Identity(role)
        worker = self.ring.place(key)
        if worker is None and (worker := self.ring.take(key)) is not None:
            self._begin(worker)
        if worker is None:
            taken = f"all n={self._n} places belong to keys"
            return Denied(f"{taken}: serve more (--workers), or revoke one", final=True)
        return Identity(role, worker)

    def invite(self, key: Key, now: float) -> tuple[WorkerId, str] | Denied:
        """The place of this key; where there are none, a vacant one, with a token."""
        if key:
            identity = self.identity("worker", "", key)
            return identity if isinstance(identity, Denied) else (identity.worker, "")
        worker = self.places.vacancy(now)
        if worker is None:
            taken = f"all n={self._n} workers are taken"
            free = f"one that is gone makes room after {VACANT:.0f} s"
            return Denied(f"{taken}: serve more (--workers), or wait: {free}", final=True)
        return worker, self.expect(worker, now)

    def expect(self, worker: WorkerId, now: float) -> str:
        """A token for this worker, who is on his way from now on."""
        self.places.expect(worker, now)
        return self.tokens.issue(worker)

    def strike(self, key: Key, now: float) -> WorkerId | None:
        """This key has no place any more; which it had."""
        worker = self.ring.free(key)
        if worker is not None:
            self.places.leave(worker, "revoked", now)
        return worker

    # --- a life after this process ---

    def state(self) -> State:
        """What a server needs to know everybody again."""
        return {"tokens": self.tokens.state(), "ring": self.ring.state()}

    def restore(self, state: State, now: float) -> None:
        """Go on from there; who has a token or a place is expected."""
        self.tokens.restore(state["tokens"])
        if "ring" in state:  # before there were keys, no place was one's
            self.ring.restore(state["ring"])
        self.places = Places(self._n, self.tokens.issued | self.ring.taken, now)
