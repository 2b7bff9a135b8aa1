"""A state is all there is to know: a new descent goes on from it to the last bit, and it never
changes.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kardam.dampening import DAMPENINGS
from kardam.descent import Descent
from kardam.errors import UsageError
from kardam.filters import STAGES
from kardam.gathering import GATHERINGS
from kardam.messages import Declared, Gradient, Verdict
from kardam.optimizers import OPTIMIZERS
from kardam.recipe import PRESETS, Recipe
from kardam.state import State

N, D = 7, 5
RECIPES: dict[str, dict[str, Any]] = {
    **{f"preset {name}": {"preset": name} for name in PRESETS},
    **{f"filter {name}": {"filter": name} for name in STAGES},
    **{f"dampening {name}": {"dampening": name} for name in DAMPENINGS},
    **{f"optimizer {name}": {"optimizer": name} for name in OPTIMIZERS},
    "all of it": {
        "filter": "growth:exponent=0.5+frequency+clip",
        "dampening": "curvature",
        "optimizer": "adam",
        "gather": "buffered",
        "aggregator": "median",
    },
    **{f"gather {name}": {"gather": name, "preset": "middle"} for name in GATHERINGS},
    "a mean of three": {"gather": "arrival:m=3"},
}


def fresh(**recipe: Any) -> Descent:
    return Recipe.of(n=N, **recipe).descent(np.ones(D, np.float32))


class Town:
    """Workers of different haste who answer what they were lent, each after some of the others."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)
        self._open: dict[int, list[tuple[int, np.ndarray[Any, Any]]]] = defaultdict(list)

    def step(self, descent: Descent) -> Verdict | None:
        """One loan or one answer, by chance. The gradient of a noisy bowl; sometimes a lie."""
        worker = int(min(self._chance.exponential(2.0), N - 1))
        held = self._open[worker]
        if descent.may_lend(worker) and (not held or self._chance.random() < 0.4):
            loan = descent.lend(worker)
            held.append((loan.ticket, loan.model.x))
            return None
        ticket, x = held.pop(0)
        noise = self._chance.standard_normal(D)
        g = (x + noise) * self._chance.choice(
            [1.0, 1.0, 1.0, 1e3, np.nan], p=[0.8, 0.08, 0.04, 0.04, 0.04]
        )
        declared = Declared(float(self._chance.random()), int(self._chance.integers(99)))
        return descent.receive(Gradient(worker, ticket, g.astype(np.float32), declared))

    def run(self, descent: Descent, steps: int) -> list[str]:
        verdicts = [self.step(descent) for _ in range(steps)]
        return [repr(verdict) for verdict in verdicts if verdict is not None]


def left_after(steps: int, recipe: dict[str, Any]) -> Descent:
    """A descent that has worked, and whose workers are all gone."""
    descent = fresh(**recipe)
    Town(1).run(descent, steps)
    for worker in range(N):
        descent.forget(worker)
    return descent


def leaves(tree: Any) -> Iterator[Any]:
    """Every value in a state that is no dict and no list."""
    match tree:
        case dict():
            assert all(isinstance(key, str) for key in tree)
            for value in tree.values():
                yield from leaves(value)
        case list():
            for value in tree:
                yield from leaves(value)
        case _:
            yield tree


def bits(state: State) -> list[Any]:
    """What can be compared exactly, NaN and minus zero included."""
    return [
        leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf) for leaf in leaves(state)
    ]


# Before anything, in start-up (a quorum half full), and long after it.
@pytest.mark.parametrize("steps", [0, 8, 41, 900])
@pytest.mark.parametrize("name", RECIPES)
def test_a_new_descent_goes_on_from_a_state_to_the_last_bit(name: str, steps: int) -> None:
    one = left_after(steps, RECIPES[name])
    state = one.state()
    other = fresh(**RECIPES[name])
    other.restore(state)
    assert bits(other.state()) == bits(state)

    assert Town(2).run(one, 400) == Town(2).run(other, 400)
    assert one.model.version > state["version"] or name == "preset paper_literal"  # which freezes
    assert bits(one.state()) == bits(other.state())


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_lent_before_a_state_was_told_is_answered_as_if_nothing_had_been(
    name: str,
) -> None:
    one, town = fresh(**RECIPES[name]), Town(1)
    town.run(one, 900)
    other, twins = fresh(**RECIPES[name]), copy.deepcopy(town)
    other.restore(one.state())
    assert town.run(one, 400) == twins.run(other, 400)
    assert bits(one.state()) == bits(other.state())


@pytest.mark.parametrize("name", RECIPES)
def test_a_state_is_plain_values_that_never_change(name: str) -> None:
    one = left_after(900, RECIPES[name])
    state = one.state()
    assert {type(leaf) for leaf in leaves(state)} <= {
        int, float, str, bool, type(None), np.ndarray,
    }  # fmt: skip
    before = copy.deepcopy(state)
    other = fresh(**RECIPES[name])
    other.restore(state)
    for descent in (one, other):
        Town(2).run(descent, 300)
    assert bits(state) == bits(before)


def test_who_goes_on_in_another_process_closes_all_loans_and_gives_no_ticket_twice() -> None:
    one = fresh()
    one.lend(0)
    state = one.state()
    lost = one.lend(0)
    other = fresh()
    other.restore(state)
    other.skip()
    assert other.lend(0).ticket > lost.ticket
    answer = other.receive(Gradient(0, lost.ticket, np.ones(D, np.float32)))
    assert (answer.admitted, answer.rule) == (False, "unasked")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"n": N + 3, "f": 2}, "--workers: expected 7, as in the state, got 10"),
        ({"f": 1}, "--f: expected 2, as in the state, got 1"),
        ({"filter": "growth+frequency"}, r"--filter: expected 'growth:.*', as in .* 'growth\+freq"),
        ({"dampening": "inverse"}, "--dampening: expected 'constant', as in .* 'inverse'"),
        ({"optimizer": "adam"}, "--optimizer: expected 'sgd', as in the state, got 'adam'"),
        ({"gather": "buffered"}, "--gather: expected 'arrival:m=1', as in .*, got 'buffered'"),
    ],
)
def test_a_state_of_another_recipe_is_refused_in_one_sentence(
    other: dict[str, Any], words: str
) -> None:
    state = left_after(100, {}).state()
    with pytest.raises(UsageError, match=words):
        Recipe.of(**{"n": N, **other}).descent(np.ones(D, np.float32)).restore(state)


def test_a_state_of_another_model_is_refused_in_one_sentence() -> None:
    state = left_after(100, {}).state()
    with pytest.raises(
        UsageError, match="expected a model of d=5 numbers, as in the state, got d=6"
    ):
        Recipe.of(n=N).descent(np.ones(6, np.float32)).restore(state)


@pytest.mark.parametrize("stage", range(4))
def test_a_state_that_another_version_kept_is_refused_with_a_reason(stage: int) -> None:
    state = left_after(100, {"preset": "consensus"}).state()
    lost = state["filter"]["stages"][stage].popitem()
    with pytest.raises(UsageError, match=f"got that of another .*{lost[0]}.*resume with the one"):
        fresh(preset="consensus").restore(state)


def test_the_rate_may_be_another() -> None:
    state = left_after(100, {}).state()
    fresh(rate="constant:gamma=0.01").restore(state)
