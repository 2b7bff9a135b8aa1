"""What benchmarks compute beside what they measure: bounds, medians, and which rate is the best."""

import math

import pytest

from bench import cycle, dampening, knob, latency, scale, throughput, wires
from kardam.filters import Growth
from kardam.messages import Gradient
from kardam.recipe import DEFAULT_PRESET, PRESETS
from kardam.spec import parse
from kardam.spec import stages as parts


@pytest.mark.parametrize(("n", "f"), [(4, 1), (10, 3), (20, 3), (20, 6)])
def test_the_knobs_bounds_are_the_theorems_where_as_many_lie_as_are_assumed(n: int, f: int) -> None:
    theorem = Growth(n, f, "middle").slowdown()
    assert theorem is not None
    assert knob.bounds(n, f, f) == pytest.approx((theorem.low, theorem.high))
    assert knob.bounds(n, f, 0) == pytest.approx((theorem.without, theorem.without))


def one(rate: float, seconds: float, accuracy: float = 0.9) -> dampening.Trial:
    return dampening.Trial(
        "equal speeds", "none", "constant", rate, 0, accuracy, 0.9, seconds, 1.0, 9.0
    )


def test_the_best_rate_reaches_the_target_first_in_the_median() -> None:
    slow, lucky = [one(0.1, s) for s in (50, 60, 70)], [one(0.4, s) for s in (10, 90, math.inf)]
    assert dampening.best([*slow, *lucky]) == slow


def test_where_no_rate_reaches_the_target_the_best_is_the_most_accurate() -> None:
    low, high = one(0.1, math.inf, 0.7), one(0.4, math.inf, 0.8)
    assert dampening.best([low, high]) == [high]
    assert dampening.cell([high]) == "0.800 (0.800-0.800), never"


def test_of_several_ways_to_do_the_same_the_better_is_compared_turn_by_turn() -> None:
    def rates(*cycles: float) -> list[throughput.Rate]:
        return [throughput.Rate(one, 1.0, 0.0, 0.0) for one in cycles]

    columns = {"raw": {"1 frame": rates(10, 20, 90), "1 MiB": rates(40, 50, 60)}}
    columns["ours"] = {"ours": rates(20, 50, 90)}
    assert throughput.ratio(columns, "ours", "raw") == 1.0  # of 0.5, 1 and 1.5


@pytest.mark.parametrize(("filter", "stages"), [("none", 0), (wires.DEFAULT_WIDE, 4)])
def test_the_filter_of_the_benchmark_is_ready_and_refuses_none_of_its_workers(
    filter: str, stages: int
) -> None:
    descent = wires.primed(d=1000, workers=2, filter=filter).descent
    assert len(descent.filter.stages) == stages  # type: ignore[attr-defined]  # a Chain
    pools = [wires.gradients(worker, 1000) for worker in range(2)]
    for turn in range(20):
        worker = turn % 2
        loan = descent.lend(worker)
        g = pools[worker][turn // 2 % 2]
        assert descent.receive(Gradient(worker, loan.ticket, g)).admitted
    assert descent.model.version >= 20


def test_the_chain_of_the_benchmark_is_the_default_one_but_for_its_bounds() -> None:
    default = PRESETS[DEFAULT_PRESET].filter
    assert [parse(stage, "").name for stage in parts(wires.DEFAULT_WIDE)] == [
        parse(stage, "").name for stage in parts(default)
    ]


def test_every_wire_makes_full_cycles_of_chunked_and_of_small_models() -> None:
    for d in (100, 300_000):
        for wire in (
            wires.raw(2**20, update=True),
            wires.raw(throughput.WHOLE, update=False),
            wires.raw(2**20, update=True, rides=True),
            wires.kardam("kardam", wires.DEFAULT_WIDE),
            wires.kardam("shared", "none", shares=True),
        ):
            rate = throughput.repetition(wire, d, workers=2, seconds=0.1)
            assert rate.cycles > 0
            assert rate.admitted == 1.0


@pytest.mark.slow
def test_very_many_peers_on_one_socket_make_full_cycles() -> None:
    row = scale.connections(30, "default", seconds=0.2)
    assert row["cycles"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["tcp", "shared"])
def test_a_server_takes_no_more_memory_than_the_benchmark_bears(way: str) -> None:
    row = scale.memory(2, way, seconds=0.3)
    assert row["models"] <= row["bound"]
    assert (row["shared"] > 0) == (way == "shared")


@pytest.mark.slow
def test_simulated_workers_take_no_more_memory_than_the_benchmark_bears() -> None:
    row = scale.simulated(5000, "none", answers=200)
    assert row["mb"] - row["bare_mb"] < 5000 * scale.BYTES_A_WORKER / 1e6


@pytest.mark.slow
def test_waits_are_measured_of_every_kind_also_beside_a_slow_reader() -> None:
    row = latency.row(2000, 2, "shared", slow=True, seconds=0.5)
    assert row["verdicts"] > 0
    assert all(" / " in row[kind] for kind in ("loop", "verdict", "answer", "pull"))


@pytest.mark.parametrize("way", ["tcp", "shared"])
def test_the_parts_of_a_cycle_are_what_it_is_made_of(way: str) -> None:
    row = cycle.row(2000, "default", way, cycles=60)
    assert ("copy g" in row["parts"]) == (way == "shared")
    assert min(row["parts"].values()) > 0
    # Wrapping takes time, too, which no part has all of.
    assert 0.5 * row["whole"][0] < sum(row["parts"].values()) < 3 * row["whole"][0]
