"""Which public keys may come, and as what; and whose each of the n places is.

Never in here: a secret, a file, a socket, or what a worker does in its place.
"""

from collections.abc import Mapping
from typing import NamedTuple

from kardam.messages import Role, WorkerId
from kardam.state import State

# A public key of CURVE, in 64 hexadecimal digits.
Key = str


class Entry(NamedTuple):
    """As what a key may come, and what its operator calls it."""

    role: Role
    name: str = ""


class Holder(NamedTuple):
    """Whose a worker's place is from this second on: a key and its name, empty for nobody's."""

    seconds: float
    worker: WorkerId
    key: Key
    name: str


class Ring:
    """The enrolled. A worker's key takes a place when it first comes, and has it until it is
    revoked, wherever it comes from and however often: at most n keys work.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._enrolled: Mapping[Key, Entry] = {}
        # The server's own peers: they live as long as this process, and are in no list.
        self._own: dict[Key, Entry] = {}
        self._places: dict[Key, WorkerId] = {}
        # How many places were taken since this server began.
        self.takes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._enrolled or key in self._own

    def __len__(self) -> int:
        return len(self._enrolled)

    @property
    def enrolled(self) -> Mapping[Key, Entry]:
        """Who is, but for the server's own peers."""
        return self._enrolled

    def entry(self, key: Key) -> Entry | None:
        """As what this key may come; None for a stranger's."""
        return self._enrolled.get(key) or self._own.get(key)

    def add(self, key: Key, entry: Entry, place: WorkerId | None = None) -> None:
        """One of the server's own peers, in this place if it is a worker."""
        self._own[key] = entry
        if place is not None:
            self._places[key] = place

    def replace(self, enrolled: Mapping[Key, Entry]) -> list[Key]:
        """These are the enrolled from now on. Who was, and is no longer as it was."""
        # Of a run that goes on, a place may be somebody's who was revoked in between.
        before = {**dict.fromkeys(self._places.keys() - self._own.keys()), **self._enrolled}
        self._enrolled = dict(enrolled)
        return [
            key
            for key, entry in before.items()
            if key not in enrolled or entry not in (None, enrolled[key])
        ]

    # --- places ---

    def place(self, key: Key) -> WorkerId | None:
        """Which of the n workers this key is, if it has ever come."""
        return self._places.get(key)

    def take(self, key: Key) -> WorkerId | None:
        """The first place that is nobody's becomes this key's; None where there is none. Requires
        that it has none.
        """
        taken = set(self._places.values())
        free = next((worker for worker in range(self.n) if worker not in taken), None)
        if free is not None:
            self._places[key] = free
            self.takes += 1
        return free

    def free(self, key: Key) -> WorkerId | None:
        """The place that this key had is nobody's."""
        return self._places.pop(key, None)

    def holder(self, worker: WorkerId) -> Key:
        """Whose this place is; empty where it is nobody's."""
        return next((key for key, place in self._places.items() if place == worker), "")

    @property
    def taken(self) -> set[WorkerId]:
        """The places that are somebody's."""
        return set(self._places.values())

    @property
    def names(self) -> dict[WorkerId, str]:
        """What the operator calls each worker who has come."""
        known = ((self.entry(key), worker) for key, worker in self._places.items())
        return {worker: entry.name for entry, worker in known if entry is not None}

    # --- a life after this process ---

    def state(self) -> State:
        """Whose each place is. Who is enrolled stands in its own list, not here; and the server's
        own peers are no more.
        """
        ours = self._own
        return {"places": [[key, at] for key, at in self._places.items() if key not in ours]}

    def restore(self, state: State) -> None:
        self._places = {key: worker for key, worker in state["places"]}
