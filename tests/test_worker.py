"""The other side without its sockets: tasks, objectives, latencies, and who is who."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kardam.errors import KardamError, TaskError, UsageError
from kardam.messages import Vector
from kardam.spec import build
from tests.worlds import network
from workers.crew import Member, checked, crew, stragglers_of
from workers.latency import LATENCIES, SPEEDS
from workers.objective import LocalObjective, Network
from workers.simulation import hire
from workers.tasks import TASKS, Task, load_task, split

G = np.array([1, -2, 3, 0.5], np.float32)


def honest(targets: Any, classes: int) -> Any:
    return targets


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


def test_a_model_without_parameters_is_a_task_error() -> None:
    task = small_task()
    with pytest.raises(TaskError, match="no parameter that requires a gradient"):
        Network(Task(nn.Identity(), task.train, task.test))


# --- tasks ---


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_seed_determines_a_task_and_its_first_model(name: str) -> None:
    one, same, other = (Network(load_task(name, seed)) for seed in (1, 1, 2))
    assert one.x.tobytes() == same.x.tobytes() != other.x.tobytes()
    assert torch.equal(one.task.train[0], same.task.train[0])


@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_example_is_in_both_parts_of_a_task(name: str) -> None:
    task = load_task(name, 0)
    train = {tuple(row) for row in task.train[0].flatten(1).tolist()}
    test = [tuple(row) for row in task.test[0].flatten(1).tolist()]
    assert sum(row in train for row in test) / len(test) < 0.01  # a few images occur twice


def test_the_users_own_task_is_named_by_its_import_path() -> None:
    task = load_task("tests.test_worker:small_task:hidden=7", seed=0)
    assert Network(task).manifest.d == 5 * 7 + 7 + 7 * 2 + 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("digtis", "did you mean 'digits'"),
        ("digits:hiden=3", "did you mean 'hidden'"),
        ("tests.test_worker:raising_task", "raised OSError: no such data"),
        ("tests.test_worker:no_task", "expected a workers.tasks.Task, got int"),
        ("digits:batch=0", "expected batch >= 1, got 0"),
    ],
)
def test_what_cannot_be_a_task_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(KardamError, match=words):
        load_task(text, 0)


def test_what_is_no_data_is_a_task_error() -> None:
    task, one = small_task(), torch.zeros(1)
    with pytest.raises(TaskError, match="expected train to be a pair of tensors"):
        Task(task.model, one, task.test)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"as many test inputs as targets, .* got 1 and 30"):
        Task(task.model, task.train, (one, task.train[1]))
    with pytest.raises(TaskError, match=r"expected the model to be a torch.nn.Module, got int"):
        Task(7, task.train, task.test)  # type: ignore[arg-type]


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 5))
def test_a_split_gives_every_example_to_exactly_one_worker(
    examples: int, n: int, seed: int
) -> None:
    if examples < n:
        with pytest.raises(TaskError, match=f"{examples} training examples among {n} workers"):
            split(examples, n, seed)
        return
    shares = split(examples, n, seed)
    assert sorted(np.concatenate(shares).tolist()) == list(range(examples))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_accuracy_is_the_share_of_largest_outputs_at_the_target() -> None:
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    identity = nn.Linear(4, 4, bias=False)
    ours = Network(Task(identity, (x, torch.arange(4)), (x, y)))
    assert ours.evaluate(np.eye(4, dtype=np.float32).reshape(-1))[1] == 0.75


def test_regression_has_a_loss_and_no_accuracy() -> None:
    x, y = torch.ones(4, 1), torch.ones(4, 1)
    task = Task(nn.Linear(1, 1, bias=False), (x, y), (x, y), loss=nn.functional.mse_loss)
    loss, accuracy = Network(task).evaluate(np.array([3.0], np.float32))
    assert loss == 4.0
    assert math.isnan(accuracy)


# --- latencies and speeds ---


@pytest.mark.parametrize(
    ("text", "mean"),
    [("constant:seconds=0.5", 0.5), ("exponential:mean=2", 2.0), ("lognormal:mean=3,sigma=0.7", 3)],
)
def test_a_latency_has_the_mean_that_it_says_and_repeats_with_its_seed(
    text: str, mean: float
) -> None:
    latency = build(text, LATENCIES, "--latency")
    draws = [[latency(rng) for _ in range(20_000)] for rng in map(np.random.default_rng, (1, 1))]
    assert draws[0] == draws[1]
    assert float(np.mean(draws[0])) == pytest.approx(mean, rel=0.03)
    assert min(draws[0]) >= 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("constant:seconds=-1", "expected seconds >= 0, got -1.0"),
        ("constant:seconds=inf", "expected seconds >= 0, got inf"),
        ("exponential", "the key 'mean' is needed"),
        ("exponential:mean=nan", "expected mean >= 0 seconds, got nan"),
        ("lognormal:mean=0", "expected mean > 0 seconds, got 0.0"),
        ("lognormal:mean=1,sigma=9", "expected 0 <= sigma <= 5, got 9.0"),
    ],
)
def test_what_cannot_be_a_latency_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(text, LATENCIES, "--latency")


@pytest.mark.parametrize("text", sorted(SPEEDS))
def test_every_worker_has_a_positive_factor_drawn_from_the_seed(text: str) -> None:
    one, same = (build(text, SPEEDS, "--speeds")(np.random.default_rng(1), 50) for _ in range(2))
    assert one == same
    assert len(one) == 50
    assert min(one) > 0


# --- who is who ---


def test_the_last_lie_and_the_first_honest_ones_straggle() -> None:
    members = crew(n=10, byzantine=3, attack="zero", stragglers="2:factor=10")
    assert [m.index for m in members if m.byzantine] == [7, 8, 9]
    assert [m.index for m in members if m.straggler] == [0, 1]
    assert [m.factor for m in members] == [10, 10] + [1] * 8
    assert [m.label for m in members[:3]] == ["straggler x10", "straggler x10", ""]
    assert members[9].label == "zero"


def test_a_member_survives_being_told_to_another_process() -> None:
    for member in crew(n=4, byzantine=1, stragglers="1:factor=3"):
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
        ({"speeds": "uniform:low=2,high=1"}, "expected 0 < low <= high, got low=2.0, high=1.0"),
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
    slow, quick = (w.answer(1, 0, network().x) for w in hire(members, network(), 0))
    assert (slow.down, slow.compute, slow.up) == (0.5, 20.0, 0.5)
    assert (quick.down, quick.compute, quick.up) == (0.5, 2.0, 0.5)


def test_a_worker_declares_its_growth_since_its_answer_on_another_version() -> None:
    (worker,) = hire(crew(n=1), network(), 0)
    x = network().x
    assert worker.answer(7, 0, x).gradient.declared is None
    assert worker.answer(8, 0, x).gradient.declared is None
    declared = worker.answer(9, 1, x + np.float32(0.01)).gradient.declared
    assert declared is not None
    assert declared.since == 8
    worker.forget()
    assert worker.answer(10, 2, x).gradient.declared is None
