"""A recording is read back as it was heard, up to whatever a crash left whole."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam import tape
from kardam.errors import Unwritable
from kardam.events import Event, Forgetting, Lending, Receiving, Refusing
from kardam.fingerprint import fingerprint
from kardam.messages import Declared, Gradient, Model, Vector
from kardam.recording import WAITING_BYTES, Recording, cut
from kardam.tape import Kept, Mark, Told
from tests.strategies import any_float, vectors

D = 3

declared = st.builds(Declared, growth=any_float, since=st.integers(0, 99))
gradients = st.builds(
    Gradient,
    worker=st.integers(0, 9),
    ticket=st.integers(0, 2**53),
    g=vectors(D),
    declared=st.none() | declared,
    loss=any_float,
    examples=st.integers(0, 99),
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Lending, worker=st.integers(0, 9), ticket=st.integers(0, 99)),
    st.builds(Forgetting, worker=st.integers(0, 9), but=st.tuples(st.integers(0, 99))),
    st.builds(
        Refusing,
        worker=st.integers(0, 9),
        ticket=st.integers(0, 99),
        rule=st.sampled_from(["unasked", "late"]),
    ),
    st.builds(Receiving, gradient=gradients),
)


def heard(recording: Recording, event: Event, seconds: float = 1.5) -> None:
    print_ = fingerprint(event.gradient.g) if isinstance(event, Receiving) else ""
    recording.hear(event, seconds, print_)


def told(run: Path, after: Mark | None = None) -> list[Told]:
    return [one for life in tape.lives(run) for one in tape.play(life, after)]


def words(event: Event | Kept) -> str:
    """Everything in it, to the bit."""
    if isinstance(event, Receiving):
        return repr(event) + event.gradient.g.tobytes().hex()
    return repr(event)


def gradient(g: Vector) -> Receiving:
    return Receiving(Gradient(0, 1, g))


@given(said=st.lists(events))
def test_what_was_heard_is_told_again_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, said: list[Event]
) -> None:
    run = tmp_path_factory.mktemp("run")
    recording = Recording(run, whole=True, durable=False, most=200)
    for event in said:
        heard(recording, event)
        recording.flush()
    recording.keeps(Model(7, np.ones(D, np.float32)), 2.0)
    recording.flush()
    recording.close()
    kept = Kept(7, fingerprint(np.ones(D, np.float32)))
    again = told(run)
    assert [words(one.event) for one in again] == [words(event) for event in (*said, kept)]
    assert again[-1].mark.segment >= sum(isinstance(event, Receiving) for event in said) // 3
    # From behind any of them, the rest of them.
    for at, one in enumerate(again):
        assert [each.mark for each in told(run, one.mark)] == [
            each.mark for each in again[at + 1 :]
        ]


def test_an_event_that_is_torn_anywhere_is_not_told_and_all_before_it_is(tmp_path: Path) -> None:
    recording = Recording(tmp_path, whole=True, durable=False)
    heard(recording, Lending(1, 1))
    heard(recording, gradient(np.arange(D, dtype=np.float32)))
    recording.flush()
    recording.close()
    (segment,) = tape.segments(recording.folder)
    data = segment.read_bytes()
    first, second = (one.mark.offset for one in told(tmp_path))
    assert second == len(data)
    for end in range(first, second):
        segment.write_bytes(data[:end])
        assert [one.event for one in told(tmp_path)] == [Lending(1, 1)]
    for at in range(first, second):
        segment.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert [one.event for one in told(tmp_path)] == [Lending(1, 1)]
        left = tape.behind(recording.folder, told(tmp_path)[-1].mark)
        assert left == {segment.name: second - first}


def test_what_stands_behind_a_place_is_cut_with_the_lives_after_it(tmp_path: Path) -> None:
    for _ in range(2):
        recording = Recording(tmp_path, whole=True, durable=False, most=1)
        for ticket in range(4):
            heard(recording, Lending(0, ticket))
            recording.flush()
        recording.close()
    marks = [one.mark for one in told(tmp_path)]
    assert [mark.life for mark in marks] == [1] * 4 + [2] * 4
    cut(tmp_path, marks[1])
    assert [one.mark for one in told(tmp_path)] == marks[:2]
    again = Recording(tmp_path, whole=True, durable=False)
    again.close()
    assert again.life == 2


def test_the_disk_is_asked_once_for_all_that_it_was_given_and_not_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("os.fdatasync", asked.append)
    recording = Recording(tmp_path, whole=True, durable=True)
    for ticket in range(3):
        heard(recording, Lending(0, ticket))
    heard(recording, gradient(np.zeros(WAITING_BYTES // 4, np.float32)))  # written, and not said
    for _ in range(2):
        recording.flush()
    assert len(asked) == 1
    recording.close()


def test_a_vector_that_is_long_is_not_kept_in_memory_until_somebody_looks(tmp_path: Path) -> None:
    recording = Recording(tmp_path, whole=True, durable=False)
    long = np.zeros(WAITING_BYTES // 4, np.float32)
    heard(recording, gradient(long))
    (segment,) = tape.segments(recording.folder)
    assert segment.stat().st_size > long.nbytes
    recording.close()


def test_only_what_is_needed_to_go_on_stays_of_a_recording_that_is_not_to_stay_whole(
    tmp_path: Path,
) -> None:
    for whole, left in ((True, [1, 2, 3]), (False, [2, 3])):
        recording = Recording(tmp_path, whole, durable=True, most=1)
        recording.begins("000000000", {})
        for ticket in range(2):
            heard(recording, Lending(0, ticket))
            recording.flush()
        recording.drop_before(Mark(recording.life, 2, 0))
        assert [tape.number(path) for path in tape.segments(recording.folder)] == left
        recording.close()
    recording = Recording(tmp_path, whole=False, durable=True)
    recording.drop_before(Mark(recording.life, 1, 0))
    recording.close()
    kept = {tape.number(life): len(tape.segments(life)) for life in tape.lives(tmp_path)}
    assert kept == {1: 3, 2: 0, 3: 1}
    assert tape.starts(tmp_path) == {"000000000"}


def test_a_recording_that_can_not_be_written_ends_at_a_whole_event_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(tmp_path, whole=True, durable=False)
    heard(recording, Lending(0, 1))
    recording.flush()
    with monkeypatch.context() as full:

        def write(*_: object) -> int:
            raise OSError(28, "No space left on device")

        full.setattr("os.writev", write)
        heard(recording, gradient(np.ones(D, np.float32)))
        with pytest.raises(Unwritable, match="No space left on device; it ends here"):
            recording.flush()
    heard(recording, Lending(0, 2))
    recording.flush()
    assert recording.mark() is None
    assert [one.event for one in told(tmp_path)] == [Lending(0, 1)]
    recording.close()


def test_numbers_that_are_none_are_told_as_they_were(tmp_path: Path) -> None:
    recording = Recording(tmp_path, whole=True, durable=False)
    g = np.array([math.nan, math.inf, -0.0], np.float32)
    heard(recording, gradient(g))
    recording.flush()
    recording.close()
    (one,) = told(tmp_path)
    assert isinstance(one.event, Receiving)
    assert one.event.gradient.g.tobytes() == g.tobytes()
