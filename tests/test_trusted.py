"""Rules with root data are the published ones, and go on from a state."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.errors import UsageError
from kardam.growth import Evidence
from kardam.messages import Gradient, Vector
from kardam.recipe import Recipe
from kardam.trusted import TRUSTED, AflGuard, Root, Zeno
from tests.strategies import vectors
from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture
from tests.worlds import LATENCY
from workers.crew import crew
from workers.objective import Network, root_of
from workers.simulation import hire, simulate
from workers.tasks import load_task

D = 3


def shown(g: Vector, now: Vector) -> Evidence:
    length = float(np.linalg.norm(g.astype(np.float64)))
    return Evidence(0, 0, length, None, None, g, now, now, 0.01)


def fixed(v: Vector) -> Root:
    return lambda x: v


ORIGIN = np.zeros(D, np.float32)


@given(vectors(D), vectors(D), st.floats(0.01, 1), st.floats(1e-4, 10))
def test_zeno_admits_what_descends_by_its_own_gradient_and_gives_it_that_length(
    v: Vector, g: Vector, gamma: float, rho: float
) -> None:
    stage = Zeno(fixed(v), 1, gamma, rho, 0.0)
    refusal, scale = stage.judge(shown(g, ORIGIN)), stage.scale(shown(g, ORIGIN))
    exact, own = g.astype(np.float64), v.astype(np.float64)
    size, length = float(np.linalg.norm(exact)), float(np.linalg.norm(own))
    rescaled = exact * (length / size) if size else exact
    score = gamma * float(own @ rescaled) - rho * float(rescaled @ rescaled)
    assert (scale * exact).tolist() == pytest.approx(rescaled.tolist(), rel=1e-4, abs=1e-6)
    # Where the score is all but 0, rounding says on which side it lies.
    if abs(score) > 1e-4 * (gamma + rho) * (1 + length**2):
        assert (refusal is None) == (score >= 0)
    if refusal is not None:
        assert (refusal.rule, refusal.low) == ("zeno", 0.0)


@given(vectors(D), vectors(D), st.floats(0.1, 3))
def test_afl_guard_admits_what_is_near_its_own_gradient(
    v: Vector, g: Vector, radius: float
) -> None:
    refusal = AflGuard(fixed(v), 1, radius).judge(shown(g, ORIGIN))
    apart = float(np.linalg.norm(g.astype(np.float64) - v))
    bound = radius * float(np.linalg.norm(v.astype(np.float64)))
    if abs(apart - bound) > 1e-4 * (1 + bound):
        assert (refusal is None) == (apart <= bound)


def test_the_root_gradient_is_measured_at_the_current_model_every_so_many_admissions() -> None:
    asked: list[float] = []

    def root(x: Vector) -> Vector:
        asked.append(float(x[0]))
        return np.ones(D, np.float32)

    stage = AflGuard(root, 3, 1.5)
    for version in range(7):
        evidence = shown(np.ones(D, np.float32), np.full(D, version, np.float32))
        assert stage.judge(evidence) is None
        stage.scale(evidence)
        stage.admit(evidence)
    assert asked == [0, 3, 6]


@pytest.mark.parametrize("name", TRUSTED)
def test_a_new_descent_goes_on_from_the_state_of_one_with_root_data(name: str) -> None:
    def fresh() -> Any:
        recipe = Recipe.of(n=4, preset="none", filter=f"{name}:every=4", root_examples=1)
        return recipe.descent(np.ones(D, np.float32), lambda x: x)

    def answers(descent: Any, seed: int) -> list[bool]:
        chance = np.random.default_rng(seed)
        told = []
        for at in range(30):
            loan = descent.lend(at % 4)
            g = (loan.model.x + chance.standard_normal(D)).astype(np.float32)
            told.append(descent.receive(Gradient(at % 4, loan.ticket, g)).admitted)
        return told

    one, other = fresh(), fresh()
    assert len(set(answers(one, 0))) == 2
    other.restore(one.state())
    assert answers(one, 1) == answers(other, 1)
    assert one.model.x.tobytes() == other.model.x.tobytes()


# With v ten steps old, Zeno++ learns nothing here (0.31): a stale v descends where liars do.
@pytest.mark.parametrize(("name", "least"), [("zeno:every=1", 0.85), ("afl_guard", 0.75)])
def test_a_server_with_data_learns_among_more_liars_than_honest_workers(
    name: str, least: float
) -> None:
    members = crew(n=10, byzantine=6, attack="sign_flip:scale=10", latency=LATENCY)
    recipe = Recipe.of(n=10, preset="none", filter=name, root_examples=100)
    fresh = Network(load_task("digits", 0))
    descent = recipe.descent(fresh.x, root_of(fresh, 100, seed=0))
    run = list(islice(simulate(descent, hire(members, fresh, 0)), 2000))
    accuracy = fresh.evaluate(descent.model.x)[1]
    liars = [verdict for _, verdict in run if members[verdict.worker].byzantine]
    print(f"\n{name}: {accuracy:.3f}, liars admitted {sum(v.admitted for v in liars)}")
    assert accuracy > least


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"filter": "zeno"}, "--filter 'zeno': it needs root data, .* say --root-examples 100"),
        ({"filter": "afl_guard:every=0", "root_examples": 9}, "expected every >= 1, got 0"),
        ({"filter": "zeno:rho=0", "root_examples": 9}, "expected rho > 0, got 0"),
        ({"filter": "zeno:epsilon=-1", "root_examples": 9}, "expected epsilon >= 0, got -1"),
        ({"root_examples": -1}, "--root-examples: expected at least 0, got -1"),
    ],
)
def test_what_has_no_root_or_no_sense_is_one_sentence(recipe: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Recipe.of(n=10, **{"preset": "none", **recipe})


def test_a_simulation_has_root_data_by_a_flag(kardam: Kardam, tmp_path: Path) -> None:
    words = ("simulate", "--filter", "zeno", "--arrivals", "60", "--quiet", "--json")
    code, _, err = kardam(*words, "--root-examples", "50", "--out", str(tmp_path / "one"))
    assert code == 0, err
    code, _, err = kardam(*words, "--root-examples", "9999", "--out", str(tmp_path / "two"))
    assert (code, "--root-examples: expected at most 1400, got 9999" in err) == (3, True)
