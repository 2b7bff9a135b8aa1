"""Memory that server and workers share: what one is lent does not change, what is judged is one
private copy, and where there is no such memory all goes over the wire.
"""

import fcntl
import mmap
import os
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kardam.exchange import Judge
from kardam.link import Lease
from kardam.messages import Gradient, Grant, Judged, Lent, Part, Push, Vector
from kardam.rooms import Rooms
from kardam.shared import F_SEAL_FUTURE_WRITE, SharedDesk, SharedShelf
from tests.town import Host, Town

D = 5


def ones(value: float = 1.0) -> Vector:
    return np.full(D, value, np.float32)


def lease(town: Town, host: Host) -> Lease:
    got = town.pull(host)
    assert got is not None
    return got


# --- rooms ---


class Tenants(RuleBasedStateMachine):
    """Whoever refers to a vector, or to a view of it, sees it as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms = Rooms(bytearray(4 * 4 * D), D, 4 * D)
        self.count = 0.0
        # Views, and what each should show.
        self.held: list[tuple[Vector, float]] = []

    @rule()
    def move_in(self) -> None:
        self.count += 1
        v = self.rooms.room()
        v[:] = self.count
        v.flags.writeable = False
        self.held.append((v, self.count))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def look_at_a_part(self, data: st.DataObject) -> None:
        v, value = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        self.held.append((v[1:3], value))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        v, value = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        self.held.append((np.asarray(v.data), value))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

    @invariant()
    def nobody_sees_a_change(self) -> None:
        for v, value in self.held:
            assert np.all(v == np.float32(value))


TestTenants = Tenants.TestCase
TestTenants.settings = settings(max_examples=50, stateful_step_count=40)


def test_a_room_is_free_when_its_vector_is_and_all_are_free_in_the_end() -> None:
    rooms = Rooms(bytearray(2 * 4 * D), D, 4 * D)
    one, other, besides = rooms.room(), rooms.room(), rooms.room()
    assert [rooms.place(v) for v in (one, other, besides)] == [0, 1, None]
    part = one[1:2]
    del one
    assert rooms.place(rooms.room()) is None
    del part
    again = rooms.room()
    assert rooms.place(again) == 0


# --- memory ---


def errors(*attempts: Callable[[], object]) -> list[type[BaseException] | None]:
    raised: list[type[BaseException] | None] = []
    for attempt in attempts:
        try:
            attempt()
            raised.append(None)
        except (OSError, TypeError) as error:
            raised.append(type(error))
    return raised


def test_who_holds_the_descriptors_can_neither_write_a_model_nor_resize_anything() -> None:
    shelf = SharedShelf(D, 4)
    x = shelf.room()
    x[:] = 7
    _, (models, slot) = shelf.admit(0)
    assert (
        errors(
            lambda: mmap.mmap(models, 4),
            lambda: os.pwrite(models, b"lies", 0),
            lambda: mmap.mmap(os.open(f"/proc/self/fd/{models}", os.O_RDWR), 4),
            lambda: os.truncate(models, 0),
            lambda: os.truncate(slot, 0),
            lambda: os.truncate(slot, 2**20),
            lambda: fcntl.fcntl(slot, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE),
        )
        == [PermissionError] * 7
    )
    # The server alone goes on writing.
    x[:] = 8
    assert mmap.mmap(models, 4, access=mmap.ACCESS_READ)[:] == np.float32(8).tobytes()
    os.close(slot)


def test_what_was_taken_from_a_slot_is_not_changed_by_who_writes_on() -> None:
    shelf = SharedShelf(D, 4)
    by, pair = shelf.admit(2)
    desk = SharedDesk(by, pair)
    desk.put(ones(1).data.cast("B"))
    g = shelf.take(2)
    desk.put(ones(-1).data.cast("B"))
    assert g.tolist() == ones(1).tolist()
    os.close(pair.slot)


def test_a_worker_sees_no_place_that_there_is_not() -> None:
    shelf = SharedShelf(D, 1)
    by, pair = shelf.admit(0)
    desk = SharedDesk(by, pair)
    assert desk.copy(by.rooms - 1) is not None
    assert desk.copy(by.rooms) is None
    os.close(pair.slot)


# --- the protocol ---


def test_models_and_gradients_do_not_travel_and_arrive_to_the_bit() -> None:
    town = Town(d=D, shares=True)
    worker = town.join()
    g = np.random.default_rng(0).standard_normal(D).astype(np.float32)
    for _ in range(3):
        assert town.answer(worker, g) is not None
    x = np.zeros(D, np.float32)
    for _ in range(3):
        x = x - np.float32(0.1) * g
    assert lease(town, worker).model.x.tobytes() == x.tobytes()
    assert town.bytes == 0
    assert not any(isinstance(m, Grant | Part) for m in town.sent)
    assert not any(m.credit for m in town.sent if isinstance(m, Judged))


def test_a_push_that_pulls_is_one_exchange_without_bytes() -> None:
    town = Town(d=D, shares=True)
    worker = town.join()
    got = lease(town, worker)
    town.sent.clear()
    town.act(worker, worker.link.push(Gradient(0, got.ticket, ones()), town.now, pull=True))
    assert [type(m) for m in town.sent] == [Push, Judged]
    assert worker.last(Lease).model.x.tolist() == (-np.float32(0.1) * ones()).tolist()
    assert town.bytes == 0


def test_those_with_and_those_without_shared_memory_work_side_by_side() -> None:
    town = Town(d=D, shares=True)
    near = town.join(worker=0)
    town.shelf, shelf = None, town.shelf
    far = town.join(worker=1)
    for host in (near, far, near, far):
        assert town.answer(host, ones()) is not None
    assert lease(town, near).model.x.tolist() == lease(town, far).model.x.tolist()
    assert town.sessions.descent.model.version == 4
    assert shelf is not None


def test_what_is_judged_is_what_was_in_the_slot_when_it_was_pushed() -> None:
    town = Town(d=D, shares=True)
    liar = town.join()
    got = lease(town, liar)
    (judge,) = _pushed(town, liar, got.ticket)
    desk = liar.link._desk
    assert desk is not None
    desk.put(ones(1e9).data.cast("B"))
    assert judge.gradient.g.tolist() == ones().tolist()


def _pushed(town: Town, host: Host, ticket: int) -> list[Judge]:
    """What a push is to the server, before it is judged."""
    assert host.link._desk is not None
    host.link._desk.put(ones().data.cast("B"))
    push = Push(ticket, None, None, 0.0, 1, None, shared=True)
    effects = town.sessions.receive(host.peer, push, b"", town.now)
    return [effect for effect in effects if isinstance(effect, Judge)]


def test_who_says_shared_and_has_no_slot_asks_as_anybody_does() -> None:
    town = Town(d=D)
    liar = town.join()
    got = lease(town, liar)
    town.say(liar, Push(got.ticket, None, None, 0.0, 1, None, shared=True))
    assert isinstance(town.sent[-1], Grant)


def test_a_gradient_of_another_length_goes_as_bytes_and_is_malformed() -> None:
    town = Town(d=D, shares=True)
    liar = town.join()
    got = lease(town, liar)
    judged = town.push(liar, got.ticket, np.ones(D + 1, np.float32))
    assert judged is not None
    assert judged.rule == "malformed"


def test_after_a_restart_of_the_server_all_goes_over_the_wire() -> None:
    town = Town(d=D, shares=True)
    worker = town.join()
    town.answer(worker, ones())
    assert town.bytes == 0
    town.restart()
    town.tick(40)
    assert town.answer(worker, ones()) is not None
    assert town.bytes > 0


def test_a_process_that_is_no_more_leaves_its_slot_and_its_loans() -> None:
    town = Town(d=D, shares=True)
    worker, other = town.join(worker=0), town.join(worker=1)
    lease(town, worker)
    lease(town, worker)
    assert not town.sessions.descent.may_lend(0)
    town.sessions.lost(0, town.now)
    assert town.sessions.descent.may_lend(0)
    assert town.shelf is not None
    assert 0 not in town.shelf
    assert town.sessions.presence(0, town.now) == "gone"
    assert town.answer(other, ones()) is not None


@given(
    st.lists(
        st.tuples(st.sampled_from(["pull", "push", "exchange", "back", "lost"]), st.integers(0, 2)),
        max_size=60,
    ),
    st.sampled_from(["none", "consensus"]),
)
@settings(max_examples=60)
def test_what_is_lent_stays_as_it_is_until_it_is_answered(
    steps: list[tuple[str, int]], preset: str
) -> None:
    town = Town(n=4, d=D, shares=True, preset=preset)
    hosts = {worker: town.join(worker=worker) for worker in range(3)}
    chance = np.random.default_rng(0)
    open_: dict[int, list[Lease]] = {worker: [] for worker in hosts}
    for what, worker in steps:
        host, mine = hosts[worker], open_[worker]
        match what:
            case "pull" if len(mine) < 2:
                mine.append(lease(town, host))
            case "push" if mine:
                town.push(host, mine.pop(0).ticket, chance.standard_normal(D, np.float32))
            case "exchange" if mine:
                g = Gradient(worker, mine.pop(0).ticket, chance.standard_normal(D, np.float32))
                town.act(host, host.link.push(g, town.now, pull=True))
                mine.append(host.last(Lease))
            case "back":
                town.reconnect(host)
            case "lost":
                town.sessions.lost(worker, town.now)
                hosts[worker], open_[worker] = town.join(worker=worker), []
            case _:
                continue
        _assert_that_loans_are_as_they_were(town, open_)
    assert not any(isinstance(m, Lent) and m.parts for m in town.sent)


def _assert_that_loans_are_as_they_were(town: Town, leases: dict[int, list[Lease]]) -> None:
    """What lies in the shared memory for each loan is what its worker copied when it was lent."""
    for worker, mine in leases.items():
        for one in mine:
            loan = town.sessions.descent.lent(worker, one.ticket)
            assert loan is not None
            assert loan.held is not None
            assert loan.held.tobytes() == one.model.x.tobytes()
