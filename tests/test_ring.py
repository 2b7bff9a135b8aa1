"""At most n keys work, each in one place; and who is struck out has none."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kardam.ring import Entry, Ring

KEYS = [f"{number:064x}" for number in range(6)]
WORKER = Entry("worker", "w")

some_keys = st.sets(st.sampled_from(KEYS))
a_key = st.sampled_from(KEYS)


class Rings(RuleBasedStateMachine):
    """Keys come, are enrolled and revoked, and the server is started again, in any order."""

    @initialize(n=st.integers(1, 4))
    def begin(self, n: int) -> None:
        self.n = n
        self.ring = Ring(n)
        self.enrolled: set[str] = set()
        self.places: dict[str, int] = {}

    @rule(keys=some_keys)
    def replace(self, keys: set[str]) -> None:
        revoked = self.ring.replace(dict.fromkeys(keys, WORKER))
        assert set(revoked) == (self.enrolled | self.places.keys()) - keys
        for key in revoked:
            assert self.ring.free(key) == self.places.pop(key, None)
        self.enrolled = keys

    @rule(key=a_key)
    def come(self, key: str) -> None:
        if key in self.ring and self.ring.place(key) is None:
            place = self.ring.take(key)
            if place is None:
                assert len(self.places) == self.n
            else:
                self.places[key] = place

    @rule()
    def restart(self) -> None:
        state = self.ring.state()
        self.ring = Ring(self.n)
        self.ring.restore(state)
        self.enrolled = set()

    @invariant()
    def places_are_distinct_and_keys_keep_them(self) -> None:
        taken = [self.ring.place(key) for key in self.places]
        assert taken == list(self.places.values())
        assert len(set(taken)) == len(taken) <= self.n
        assert self.ring.taken == set(taken)
        assert all((key in self.ring) == (key in self.enrolled) for key in KEYS)


TestRings = Rings.TestCase


def test_a_key_whose_role_is_changed_is_another() -> None:
    ring = Ring(2)
    ring.replace({KEYS[0]: WORKER})
    assert ring.replace({KEYS[0]: Entry("operator", "w")}) == [KEYS[0]]


@given(some_keys)
def test_the_servers_own_peers_are_in_no_list_and_are_not_told_of(keys: set[str]) -> None:
    ring, own = Ring(2), "f" * 64
    ring.add(own, WORKER, 1)
    ring.replace(dict.fromkeys(keys, WORKER))
    assert ring.replace({}) == sorted(keys, key=list(dict.fromkeys(keys, WORKER)).index)
    assert own in ring
    assert ring.place(own) == 1
    assert ring.state() == {"places": []}
