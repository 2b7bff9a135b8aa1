"""Each optimizer is the one of torch.optim with the same hyper-parameters, and writes into nobody's
vectors.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kardam.errors import UsageError
from kardam.growth import BLOCK, distance, norm
from kardam.messages import Vector
from kardam.optimizers import OPTIMIZERS, Optimizer
from kardam.spec import build
from tests.strategies import vectors

D = 50
C = 2.0  # No gradient of `shortened` is longer.

SGD, ADAM = torch.optim.SGD, torch.optim.AdamW
SPECS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda x: SGD(x),
    "sgd:decay=0.1": lambda x: SGD(x, weight_decay=0.1),
    "momentum": lambda x: SGD(x, momentum=0.9),
    "momentum:beta=0.5,decay=0.1": lambda x: SGD(x, momentum=0.5, weight_decay=0.1),
    "nesterov": lambda x: SGD(x, momentum=0.9, nesterov=True),
    "nesterov:beta=0.5,decay=0.1": lambda x: SGD(x, momentum=0.5, weight_decay=0.1, nesterov=True),
    "adam": lambda x: torch.optim.Adam(x),
    "adam:beta1=0.5,beta2=0.9,epsilon=0.01": lambda x: torch.optim.Adam(x, 0, (0.5, 0.9), 0.01),
    "adam:decay=0.1": lambda x: ADAM(x, weight_decay=0.1),
}
BOUNDS = {
    "sgd": C,
    "momentum": C / (1 - 0.9),
    "momentum:beta=0.5": C / (1 - 0.5),
    "nesterov": C / (1 - 0.9),
    "nesterov:beta=0.5": C / (1 - 0.5),
}


def stepped(by: Optimizer, x: Vector, g: Vector, gamma: float) -> Vector:
    """The next model, in memory of its own."""
    return by.step(x, g, gamma, np.empty_like(x))


def made(text: str) -> Optimizer:
    return build(text, OPTIMIZERS, "--optimizer")


def gradients(count: int, seed: int = 0) -> list[Vector]:
    """Of very different lengths, some zero."""
    chance = np.random.default_rng(seed)
    scales = chance.choice([0.0, 1e-4, 1.0, 1.0, 20.0], count)
    return [(scale * chance.standard_normal(D)).astype(np.float32) for scale in scales]


def start(seed: int = 1) -> Vector:
    return np.random.default_rng(seed).standard_normal(D).astype(np.float32)


def shortened(g: Vector) -> Vector:
    """g, no longer than C."""
    return g if norm(g) <= C else g * np.float32(C / norm(g) * (1 - 1e-6))


def test_every_optimizer_of_the_table_is_in_the_battery() -> None:
    assert {text.partition(":")[0] for text in SPECS} == set(OPTIMIZERS)


@pytest.mark.parametrize("text", SPECS)
def test_it_is_the_one_of_torch_under_a_changing_rate(text: str) -> None:
    ours, x = made(text), start()
    parameter = torch.nn.Parameter(torch.from_numpy(x.copy()))
    theirs = SPECS[text]([parameter])
    for t, g in enumerate(gradients(60)):
        gamma = 0.1 / (1 + t % 7)
        x = stepped(ours, x, g, gamma)
        theirs.param_groups[0]["lr"] = gamma
        parameter.grad = torch.from_numpy(g.copy())
        theirs.step()
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, parameter.detach().numpy(), rtol=2e-5, atol=2e-5)


@given(st.lists(vectors(3), min_size=1, max_size=9), st.floats(1e-6, 10))
def test_sgd_without_decay_is_the_formula_to_the_bit(given_: list[Vector], gamma: float) -> None:
    ours, x = made("sgd"), np.ones(3, np.float32)
    for g in given_:
        expected = x - np.float32(gamma) * g
        x = stepped(ours, x, g, gamma)
        assert x.tobytes() == expected.tobytes()


@pytest.mark.parametrize("text", SPECS)
def test_neither_the_old_model_nor_the_gradient_is_written_or_handed_back(text: str) -> None:
    ours, x = made(text), start()
    for g in gradients(5):
        for given_ in (x, g):
            given_.flags.writeable = False
        new = stepped(ours, x, g, 0.1)
        assert not np.shares_memory(new, x)
        assert not np.shares_memory(new, g)
        kept = new.copy()
        stepped(ours, new, g, 0.1)
        assert new.tobytes() == kept.tobytes()
        x = new


@pytest.mark.parametrize("text", SPECS)
def test_every_coordinate_moves_as_if_it_were_alone(text: str) -> None:
    """However long a vector is, and so in however many blocks it is moved."""
    long, short, picked = made(text), made(text), [0, BLOCK - 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 6]
    chance = np.random.default_rng(3)
    x = chance.standard_normal(2 * BLOCK + 7).astype(np.float32)
    few = x[picked]
    for _ in range(3):
        g = chance.standard_normal(x.size).astype(np.float32)
        x, few = stepped(long, x, g, 0.1), stepped(short, few, g[picked], 0.1)
        np.testing.assert_allclose(x[picked], few, rtol=1e-6)


@pytest.mark.parametrize("text", SPECS)
def test_it_goes_on_from_its_state_as_if_nothing_had_been(text: str) -> None:
    one, x = made(text), start()
    for g in gradients(7):
        x = stepped(one, x, g, 0.1)
    state, other, twin = one.state(), made(text), x
    other.restore(state)
    for g in gradients(7, seed=2):
        x, twin = stepped(one, x, g, 0.1), stepped(other, twin, g, 0.1)
        assert x.tobytes() == twin.tobytes()
    again = made(text)
    again.restore(state)
    assert repr(again.state()) == repr(state)


@given(st.lists(vectors(3).map(shortened), min_size=1, max_size=12))
@pytest.mark.parametrize("text", BOUNDS)
def test_a_clip_bounds_every_step(text: str, given_: list[Vector]) -> None:
    ours, x = made(text), np.zeros(3, np.float32)
    for g in given_:
        new = stepped(ours, x, g, 0.5)
        assert distance(new, x) <= 0.5 * BOUNDS[text] * (1 + 1e-4)
        x = new


@pytest.mark.parametrize("text", BOUNDS)
def test_the_bound_is_reached_by_who_always_says_the_same(text: str) -> None:
    ours, g = made(text), shortened(np.full(3, 1e3, np.float32))
    x = moved = np.zeros(3, np.float32)
    for _ in range(200):
        x, moved = moved, stepped(ours, moved, g, 0.5)
    assert distance(moved, x) == pytest.approx(0.5 * BOUNDS[text], rel=1e-3)


# However long or short, and growing so fast that each outweighs all before it.
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.9, 0.9), (0.5, 0.3), (0.0, 0.99)])
def test_adam_moves_no_coordinate_further_than_its_bound(
    beta1: float, beta2: float, given_: list[float]
) -> None:
    ours, x = made(f"adam:beta1={beta1},beta2={beta2},epsilon=1e-20"), np.zeros(1, np.float32)
    bound = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    for g in given_:
        new = stepped(ours, np.zeros(1, np.float32), np.array([g], np.float32), 1.0)
        assert abs(float(new[0] - x[0])) <= bound * (1 + 1e-3)


def test_adams_bound_is_reached_after_long_silence_by_what_grows() -> None:
    ours, zero = made("adam:epsilon=1e-30"), np.zeros(1, np.float32)
    for _ in range(7000):
        stepped(ours, zero, zero, 1.0)
    # Cauchy-Schwarz is tight where each gradient is beta2 / beta1 times the one before.
    for i in range(120):
        new = stepped(ours, zero, np.array([1e-6 * (0.999 / 0.9) ** i], np.float32), 1.0)
    assert abs(float(new[0])) == pytest.approx(7.27, abs=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sgd:decay=-1", "expected 0 <= decay < inf, got -1.0"),
        ("momentum:beta=1", "expected 0 <= beta < 1, got 1.0"),
        ("nesterov:beta=-0.1", "expected 0 <= beta < 1, got -0.1"),
        ("adam:beta1=1", "expected 0 <= beta1 < 1, got 1.0"),
        ("adam:beta2=nan", "expected 0 <= beta2 < 1, got nan"),
        ("adam:epsilon=0", "expected 1e-30 <= epsilon < inf, got 0.0"),
        ("sgd:beta=0.9", "unknown key 'beta'"),
    ],
)
def test_what_cannot_be_an_optimizer_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(text)
