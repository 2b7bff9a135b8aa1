"""The other side without its sockets: objectives, latencies, and who is who."""

import math
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kardam.errors import TaskError, UsageError
from kardam.messages import Vector
from kardam.spec import build
from tests.worlds import network, start
from workers.crew import Member, checked, crew, speeds_of, stragglers_of
from workers.latency import LATENCIES
from workers.objective import AT_ONCE, LocalObjective, Network
from workers.outages import NEVER, Absences, Outages
from workers.simulation import hire
from workers.speeds import SPEEDS
from workers.tasks import Task, load_task

G = np.array([1, -2, 3, 0.5], np.float32)


def honest(inputs: Any, targets: Any, classes: int) -> tuple[Any, Any]:
    return inputs, targets


def small_task(seed: int = 0, hidden: int = 3) -> Task:
    """A user's own: named by import path in the tests below."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 5, generator=chance)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 2))
    return Task(model, (x[:30], y[:30]), (x[30:], y[30:]), batch=8)


def raising_task() -> Task:
    raise OSError("no such data")


def no_task() -> int:
    return 7


# --- objectives ---


def test_a_gradient_is_what_torch_says_flattened_in_the_order_of_names() -> None:
    torch.manual_seed(0)  # noqa: TID251  # a reference model's weights
    task = small_task()
    reference = small_task()
    reference.model.load_state_dict(task.model.state_dict())
    ours = Network(task)
    inputs, targets = task.train
    reference.loss(reference.model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    named = sorted((n, p) for n, p in reference.model.named_parameters())
    expected = torch.cat([p.grad.reshape(-1) for _, p in named if p.grad is not None]).numpy()
    g, _ = ours.gradient(ours.x, inputs, targets)
    assert g == pytest.approx(expected, rel=1e-6)
    assert [name for name, _ in ours.manifest.tensors] == [name for name, _ in named]


def test_a_gradient_agrees_with_finite_differences() -> None:
    ours = Network(small_task())
    inputs, targets = ours.task.train
    x = ours.x
    g, _ = ours.gradient(x, inputs, targets)
    for i in range(0, x.size, 5):
        ahead, behind = x.copy(), x.copy()
        ahead[i] += 1e-2
        behind[i] -= 1e-2
        slope = ours.gradient(ahead, inputs, targets)[1] - ours.gradient(behind, inputs, targets)[1]
        assert g[i] == pytest.approx(slope / 2e-2, abs=2e-3)


def test_a_gradient_is_at_the_x_given_and_leaves_x_alone() -> None:
    ours = Network(small_task())
    x, inputs, targets = ours.x, *ours.task.train
    before = x.copy()
    one, _ = ours.gradient(x, inputs, targets)
    ours.gradient(x * 3, inputs, targets)
    again, _ = ours.gradient(x, inputs, targets)
    assert one.tobytes() == again.tobytes()
    assert x.tobytes() == before.tobytes()


def test_workers_that_share_a_network_do_not_disturb_each_other() -> None:
    shared = network()
    alone = LocalObjective(Network(load_task("digits", 0)), np.arange(100))
    ours, other = (LocalObjective(shared, np.arange(*r)) for r in ((0, 100), (100, 200)))
    x = shared.x
    for draw in range(3):
        other.gradient(x * 2, np.random.default_rng(9), honest)
        g, loss = ours.gradient(x, np.random.default_rng(draw), honest)
        g2, loss2 = alone.gradient(x, np.random.default_rng(draw), honest)
        assert (g.tobytes(), loss) == (g2.tobytes(), loss2)


def test_a_worker_sees_only_its_share() -> None:
    class Spy:
        def __init__(self, inner: Network) -> None:
            self.task = inner.task
            self.seen: set[float] = set()

        def gradient(self, x: Vector, inputs: Any, targets: Any) -> tuple[Vector, float]:
            self.seen.update(inputs[:, 0].tolist())
            return x, 0.0

    spy = Spy(Network(small_task()))
    share = np.array([3, 7, 11])
    objective = LocalObjective(spy, share)  # type: ignore[arg-type]
    for draw in range(20):
        objective.gradient(G, np.random.default_rng(draw), honest)
    assert spy.seen == set(spy.task.train[0][share, 0].tolist())


def test_a_loss_that_raises_is_a_task_error_with_its_words() -> None:
    task = small_task()
    broken = Task(task.model, task.train, task.test, loss=lambda o, t: o[99, 99])
    ours = Network(broken)
    with pytest.raises(TaskError, match="the task raised IndexError"):
        ours.gradient(ours.x, *task.train)


def test_a_batch_norm_that_raises_while_its_statistics_are_taken_is_the_tasks_doing() -> None:
    x, y = torch.eye(4), torch.arange(4)
    task = Task(nn.BatchNorm1d(4), (x[:1], y[:1]), (x, y))
    with pytest.raises(TaskError, match="the task raised ValueError: Expected more than 1 value"):
        Network(task).evaluate(np.ones(8, np.float32))


def test_accuracy_is_the_share_of_largest_outputs_at_the_target() -> None:
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    identity = nn.Linear(4, 4, bias=False)
    ours = Network(Task(identity, (x, torch.arange(4)), (x, y)))
    assert ours.evaluate(np.eye(4, dtype=np.float32).reshape(-1))[1] == 0.75


def test_the_held_out_examples_pass_in_parts_and_count_alike() -> None:
    x = torch.randn(2 * AT_ONCE + 7, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    task = Task(nn.Linear(5, 2), (x, y), (x, y))
    ours = Network(task)
    outputs = task.model(x)
    loss, accuracy = ours.evaluate(ours.x)
    assert loss == pytest.approx(task.loss(outputs, y).item(), rel=1e-5)
    assert accuracy == pytest.approx((outputs.argmax(1) == y).double().mean().item(), rel=1e-9)


def test_regression_has_a_loss_and_no_accuracy() -> None:
    x, y = torch.ones(4, 1), torch.ones(4, 1)
    task = Task(nn.Linear(1, 1, bias=False), (x, y), (x, y), loss=nn.functional.mse_loss)
    loss, accuracy = Network(task).evaluate(np.array([3.0], np.float32))
    assert loss == 4.0
    assert math.isnan(accuracy)


# --- latencies ---

DRAWS = 50_000


def draws(text: str, seed: int = 1, count: int = DRAWS) -> list[float]:
    latency = build(text, LATENCIES, "--latency")
    return list(islice(latency(np.random.default_rng(seed)), count))


MEANS = [
    ("constant:seconds=0.5", 0.5),
    ("uniform:low=1,high=3", 2),
    ("exponential:mean=2", 2),
    ("lognormal:mean=3,sigma=0.7", 3),
    ("pareto:mean=2,alpha=3", 2),
]


@pytest.mark.parametrize(("text", "mean"), MEANS)
def test_a_latency_has_the_mean_that_it_says_and_repeats_with_its_seed(
    text: str, mean: float
) -> None:
    one = draws(text)
    assert one == draws(text)
    assert float(np.mean(one)) == pytest.approx(mean, rel=0.02)
    assert min(one) >= 0


def test_every_latency_that_is_drawn_is_in_the_battery() -> None:
    assert {text.partition(":")[0] for text, _ in MEANS} | {"trace"} == set(LATENCIES)


@pytest.mark.parametrize(
    ("text", "seconds", "beyond"),
    [
        ("uniform:low=1,high=3", 2.5, 0.25),
        ("exponential:mean=2", 6, math.exp(-3)),
        ("lognormal:mean=3,sigma=0.7", 3 * math.exp(-(0.7**2) / 2 + 2 * 0.7), 0.02275),
        ("pareto:mean=1", 1 / 3, 1.0),
        ("pareto:mean=1", 1, (1 / 3) ** 1.5),
        ("pareto:mean=1", 10, (1 / 30) ** 1.5),
        ("pareto:mean=1,alpha=1.1", 10, (1 / 110) ** 1.1),
    ],
)
def test_a_latencys_tail_is_as_heavy_as_its_formula(
    text: str, seconds: float, beyond: float
) -> None:
    share = float(np.mean(np.array(draws(text)) > seconds))
    assert share == pytest.approx(beyond, abs=4 * math.sqrt(beyond * (1 - beyond) / DRAWS))


def test_a_trace_is_replayed_in_order_and_over_again_from_where_the_generator_says(
    tmp_path: Path,
) -> None:
    path = tmp_path / "times.txt"
    path.write_text("# measured on a Monday\n0.5\n\n 1e-3  # quick\n2\n0\n")
    ring = [0.5, 0.001, 2.0, 0.0]
    begins = set()
    for seed in range(20):
        one = draws(f"trace:path={path}", seed, count=10)
        begins.add(begin := ring.index(one[0]))
        assert one == [ring[(begin + k) % 4] for k in range(10)]
        assert one == draws(f"trace:path={path}", seed, count=10)
    assert begins == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"1\n2 3\n", "times.txt, line 2: expected seconds >= 0, got '2 3'"),
        (b"# x\n\n-0.1\n", "times.txt, line 3: expected seconds >= 0, got '-0.1'"),
        (b"nan\n", "line 1: expected seconds >= 0, got 'nan'"),
        (b"1\ninf # ever\n", "line 2: expected seconds >= 0, got 'inf'"),
        (b"# nothing\n", "times.txt: expected one number a line, found none"),
        (b"\xff\xfe", "times.txt: expected a text file, one number a line"),
        (None, "times.txt: No such file or directory"),
    ],
)
def test_what_cannot_be_a_trace_is_an_error_that_names_file_line_and_value(
    text: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "times.txt"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UsageError, match=words):
        checked([Member(0, latency=f"trace:path={path}")])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("constant:seconds=-1", "expected seconds >= 0, got -1.0"),
        ("constant:seconds=inf", "expected seconds >= 0, got inf"),
        ("uniform:low=-1,high=1", "expected 0 <= low <= high seconds, got low=-1.0, high=1.0"),
        ("uniform:low=2,high=1", "expected 0 <= low <= high seconds, got low=2.0, high=1.0"),
        ("uniform:low=2", "the key 'high' is needed"),
        ("exponential", "the key 'mean' is needed"),
        ("exponential:mean=nan", "expected mean >= 0 seconds, got nan"),
        ("lognormal:mean=0", "expected mean > 0 seconds, got 0.0"),
        ("lognormal:mean=1,sigma=9", "expected 0 <= sigma <= 5, got 9.0"),
        ("pareto:mean=0", "expected mean > 0 seconds, got 0.0"),
        ("pareto:mean=1,alpha=1", "expected alpha > 1, without which there is no mean, got 1.0"),
        ("pareto:mean=1,alpha=nan", "expected alpha > 1, without which there is no mean, got nan"),
        ("trace", "the key 'path' is needed"),
    ],
)
def test_what_cannot_be_a_latency_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(text, LATENCIES, "--latency")


# --- speeds ---


def factors(text: str, n: int, seed: int = 1) -> list[float]:
    return speeds_of(text)(np.random.default_rng(seed), n)


SPREADS = ["equal", "uniform", "lognormal", "spread:low=1,high=20"]


@pytest.mark.parametrize("text", SPREADS)
def test_every_worker_has_a_positive_factor_drawn_from_the_seed(text: str) -> None:
    one = factors(text, 50)
    assert one == factors(text, 50)
    assert len(one) == 50
    assert min(one) > 0
    assert one != factors(text, 50, seed=2) or text == "equal"


def test_every_choice_of_speeds_is_in_the_battery() -> None:
    assert {text.partition(":")[0] for text in SPREADS} == set(SPEEDS)


def test_lognormal_factors_have_the_median_one_and_their_logarithms_the_sigma_asked_for() -> None:
    logs = np.log(factors("lognormal:sigma=0.8", 20_000))
    assert float(np.median(logs)) == pytest.approx(0, abs=0.03)
    assert float(np.quantile(logs, 0.84134)) == pytest.approx(0.8, abs=0.03)
    assert float(np.quantile(logs, 0.97725)) == pytest.approx(1.6, abs=0.06)


@given(
    n=st.integers(2, 60), low=st.floats(0.01, 10), times=st.floats(1, 1000), seed=st.integers(0, 9)
)
def test_a_spread_goes_in_equal_ratios_from_exactly_low_to_exactly_high(
    n: int, low: float, times: float, seed: int
) -> None:
    high = low * times
    drawn = sorted(factors(f"spread:low={low!r},high={high!r}", n, seed))
    assert (drawn[0], drawn[-1]) == (low, high)
    for quicker, slower in pairwise(drawn):
        assert slower / quicker == pytest.approx(times ** (1 / (n - 1)))


def test_two_numbers_are_short_for_a_spread() -> None:
    assert factors("1:20", 7) == factors("spread:low=1,high=20", 7)
    assert max(factors("1:20", 7)) / min(factors("1:20", 7)) == 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("20:1", "expected 0 < low <= high, got low=20.0, high=1.0"),
        ("0:1", "expected 0 < low <= high, got low=0.0, high=1.0"),
        ("1:2.0.0", "high: expected float, got '2.0.0'"),
        ("spread:low=1", "the key 'high' is needed"),
        ("uniform:low=2,high=1", "expected 0 < low <= high, got low=2.0, high=1.0"),
        ("lognormal:sigma=-1", "expected 0 <= sigma <= 5, got -1.0"),
        ("lognormal:sigma=nan", "expected 0 <= sigma <= 5, got nan"),
        ("1:", "--speeds: unknown name '1'"),
    ],
)
def test_what_cannot_be_speeds_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        speeds_of(text)


# --- outages ---


def test_outages_are_exponential_with_the_means_asked_for() -> None:
    absences = Absences(Outages(every=20, seconds=5), np.random.default_rng(0))
    there, away = np.array([*absences.stretches(0.0, 200_000.0)][:-1]).T
    for times, mean in ((there, 20), (away, 5)):
        error = mean / math.sqrt(len(times))
        assert float(times.mean()) == pytest.approx(mean, abs=3 * error)
        assert float(times.std()) == pytest.approx(mean, abs=5 * error)
    assert away.sum() / (there.sum() + away.sum()) == pytest.approx(5 / (20 + 5), rel=0.05)


@given(pieces=st.lists(st.floats(0, 50), max_size=40), seed=st.integers(0, 9))
def test_however_work_is_cut_its_seconds_are_kept_and_the_outages_are_the_same(
    pieces: list[float], seed: int
) -> None:
    cut = Absences(Outages(every=7, seconds=3), np.random.default_rng(seed))
    now, away = 0.0, list[float]()
    for piece in pieces:
        stretches = [*cut.stretches(now, piece)]
        assert sum(there for there, _ in stretches) == pytest.approx(piece)
        assert stretches[-1][1] == 0
        now += sum(map(sum, stretches))
        away += [gone for _, gone in stretches if gone]
    whole = Absences(Outages(every=7, seconds=3), np.random.default_rng(seed))
    assert away == pytest.approx(
        [gone for _, gone in whole.stretches(0.0, sum(pieces)) if gone][: len(away)]
    )


def test_an_outage_that_was_due_meanwhile_begins_at_once() -> None:
    absences = Absences(Outages(every=1, seconds=3), np.random.default_rng(0))
    there, away = next(absences.stretches(100.0, 1.0))
    assert there == 0
    assert away > 0


def test_who_has_no_outages_is_never_away() -> None:
    assert [*Absences(NEVER, np.random.default_rng(0)).stretches(0.0, 1e9)] == [(1e9, 0.0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every=0,seconds=5", "expected every > 0 seconds between outages, got 0.0"),
        ("every=nan,seconds=5", "expected every > 0 seconds between outages, got nan"),
        ("every=20,seconds=0", "expected seconds > 0 of being away, got 0.0"),
        ("every=20,seconds=inf", "expected seconds > 0 of being away, got inf"),
        ("every=20", "--outages 'every=20': the key 'seconds' is needed"),
        ("evry=20,seconds=5", "unknown key 'evry'; did you mean 'every'"),
        ("2:every=20,seconds=5", "unknown key '2:every'"),
        ("20", "expected key=value, got '20'"),
    ],
)
def test_what_cannot_be_outages_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checked([Member(0, outages=text)])


# --- who is who ---


def test_the_last_lie_and_the_first_honest_ones_straggle() -> None:
    members = crew(n=10, byzantine=3, attack="zero", stragglers="2:factor=10")
    assert [m.index for m in members if m.byzantine] == [7, 8, 9]
    assert [m.index for m in members if m.straggler] == [0, 1]
    assert [m.factor for m in members] == [10, 10] + [1] * 8
    assert [m.label for m in members[:3]] == ["straggler x10", "straggler x10", ""]
    assert members[9].label == "zero"


def test_of_the_honest_ones_those_that_do_not_straggle_are_the_first_to_have_outages() -> None:
    who: dict[str, Any] = {"n": 10, "byzantine": 3, "attack": "zero", "stragglers": "2"}
    members = crew(outages="3:every=20,seconds=5", **who)
    assert [m.index for m in members if m.outages] == [2, 3, 4]
    assert (members[2].outages, members[2].label) == ("every=20,seconds=5", "outages")
    members = crew(outages="6:every=20,seconds=5", **who)
    assert [m.index for m in members if m.outages] == [0, 2, 3, 4, 5, 6]
    assert members[0].label == "straggler x10, outages"


def test_a_member_survives_being_told_to_another_process() -> None:
    who = {"stragglers": "1:factor=3", "outages": "1:every=3,seconds=1"}
    for member in crew(n=4, byzantine=1, **who):  # type: ignore[arg-type]
        assert Member(**asdict(member)) == member


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ({"byzantine": 11}, "expected 0 to 10 of 10 workers, got 11"),
        ({"byzantine": -1}, "expected 0 to 10"),
        ({"stragglers": "8", "byzantine": 3}, "at most 7 of the honest workers, got 8"),
        ({"stragglers": "two"}, "expected a count and a factor like 2:factor=10, got 'two'"),
        ({"stragglers": "2:factor=0.5"}, "expected factor >= 1, got 0.5"),
        ({"stragglers": "2:fctor=3"}, "expected a count and a factor"),
        ({"attack": "sing_flip"}, "did you mean 'sign_flip'"),
        ({"latency": "exponental:mean=1"}, "did you mean 'exponential'"),
        ({"network": "nope"}, "--network: unknown name 'nope'"),
        ({"speeds": "20:1"}, "--speeds .*expected 0 < low <= high, got low=20.0, high=1.0"),
        ({"outages": "10:every=20,seconds=5"}, "at most 9 of the honest workers, got 10"),
        ({"outages": "every=20,seconds=5"}, "expected a count and their outages like 2:every=20,"),
        ({"outages": "2"}, "expected a count and their outages like 2:every=20,seconds=5, got '2'"),
        ({"outages": "2:every=0,seconds=5"}, "expected every > 0 seconds between outages, got 0.0"),
    ],
)
def test_a_crew_that_cannot_be_is_an_error_that_says_why(who: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        crew(n=10, **{"byzantine": 1, **who})


def test_stragglers_have_a_factor_of_ten_unless_it_is_said() -> None:
    assert stragglers_of("2") == (2, 10.0)
    assert stragglers_of("") == (0, 1.0)


def test_members_are_checked_before_anything_is_started() -> None:
    with pytest.raises(UsageError, match="unknown name 'nope'"):
        checked([Member(0, attack="nope")])


# --- workers ---


def test_a_workers_draws_depend_on_its_seed_and_index_alone() -> None:
    shared = network()
    one, same = (hire(crew(n=10), shared, seed=1)[4] for _ in range(2))
    neighbour, other = hire(crew(n=10), shared, seed=1)[5], hire(crew(n=10), shared, seed=2)[4]
    first, again, next_, elsewhere = (
        worker.answer(1, 0, shared.x).gradient.g.tobytes()
        for worker in (one, same, neighbour, other)
    )
    assert first == again
    assert len({first, next_, elsewhere}) == 3


def test_a_straggler_takes_his_factor_as_long_and_the_network_counts_apart() -> None:
    members = crew(
        n=2,
        stragglers="1:factor=10",
        latency="constant:seconds=2",
        network="constant:seconds=0.5",
    )
    slow, quick = (w.owes(now=0.0) for w in hire(members, network(), 0))
    assert (slow.down, slow.compute, slow.up) == (0.5, 20.0, 0.5)
    assert (quick.down, quick.compute, quick.up) == (0.5, 2.0, 0.5)


def test_a_worker_declares_its_growth_since_its_answer_on_another_version() -> None:
    (worker,) = hire(crew(n=1), network(), 0)
    x = start()
    assert worker.answer(7, 0, x).gradient.declared is None
    assert worker.answer(8, 0, x).gradient.declared is None
    declared = worker.answer(9, 1, x + np.float32(0.01)).gradient.declared
    assert declared is not None
    assert declared.since == 8
    worker.forget()
    assert worker.answer(10, 2, x).gradient.declared is None
