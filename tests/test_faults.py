"""The whole protocol under faults that a seed draws, on virtual time: what must always hold, holds,
and when the faults stop, everybody is answered again.

A seed that fails is all that a report needs: python -m bench.soak --seed N plays it, line by line.
"""

import pytest

from workers.faults import Broken, play
from workers.faults.clock import Clock
from workers.faults.weather import KINDS, Scenario

SEEDS = 200
EACH = 10  # seeds in a test, so that processes can share them


@pytest.mark.parametrize("first", range(0, SEEDS, EACH))
def test_promises_hold_in_any_storm_and_all_is_well_after_it(first: int) -> None:
    for seed in range(first, first + EACH):
        try:
            play(seed)
        except Broken as broken:
            pytest.fail(f"python -m bench.soak --seed {seed}: {broken}")


def test_a_seed_is_its_run() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        play(3, lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 3


def test_the_storms_of_the_suite_have_every_fault_and_every_kind_of_worker() -> None:
    drawn = [Scenario.drawn(seed) for seed in range(SEEDS)]
    assert {fault.kind for its in drawn for fault in its.faults} == set(KINDS)
    assert any(its.weather.loses for its in drawn)
    assert any(its.weather.doubles for its in drawn)
    assert any(its.chunk < 4 * its.d for its in drawn)
    assert {its.preset for its in drawn} >= {"none", "middle", "consensus", "paper"}
    assert {its.attack for its in drawn if its.f} >= {"rogue", "silent", "nan"}


def test_a_clock_is_in_order_and_never_goes_back() -> None:
    clock, seen = Clock(), list[tuple[float, str]]()
    clock.at(2.0, lambda: seen.append((clock.now, "late")))
    clock.at(1.0, lambda: clock.at(0.5, lambda: seen.append((clock.now, "asked too late"))))
    assert not clock.run(3.0)
    assert seen == [(1.0, "asked too late"), (2.0, "late")]
    assert clock.now == 3.0
