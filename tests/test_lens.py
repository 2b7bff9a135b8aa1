"""A sketch is as good as the vector, within its stated error, wherever a liar who does not know the
secret piles his energy; and it knows no more of a model than it must.
"""

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kardam.descent import Descent
from kardam.errors import UsageError
from kardam.growth import History, Trace, distance, norm
from kardam.lens import AUTO, MEMORIES, ROWS, RUN, Exact, Sketched, sketched
from kardam.messages import Gradient, Vector
from kardam.recipe import Recipe
from kardam.spec import build
from tests.worlds import World, share, world

D, K = 3 * RUN - 7, 256

# What a liar can know: where runs and rows of buckets would lie if nothing were secret.
PILES: dict[str, slice | list[int]] = {
    "one coordinate": [D // 3],
    "two that lie a run apart": [5, 5 + RUN],
    "two that lie a row apart": [5, 5 + K // ROWS],
    "every coordinate of one place": slice(3, None, RUN),
    "every coordinate of one bucket": slice(3, None, K // ROWS),
    "the same place of lines in a row": slice(3, RUN, K // ROWS),
    "one line": slice(K // ROWS),
    "two lines in a row": slice(2 * K // ROWS),
    "one run": slice(RUN),
    "64 in a row": slice(1000, 1064),
    "everything": slice(None),
}
FORMS: dict[str, Callable[[int, np.random.Generator], NDArray[np.float64]]] = {
    "constant": lambda size, chance: np.ones(size),
    "alternating": lambda size, chance: np.resize([1.0, -1.0], size),
    "noise": lambda size, chance: chance.standard_normal(size),
    "heavy-tailed": lambda size, chance: chance.standard_cauchy(size),
}
LENSES = [Sketched(D, K, secret) for secret in range(60)]


def piled(where: str, form: str, seed: int = 0) -> Vector:
    v = np.zeros(D, np.float32)
    part = v[PILES[where]]
    v[PILES[where]] = FORMS[form](part.size, np.random.default_rng(seed))
    return v


def trace(lens: Sketched, v: Vector) -> Trace:
    return lens.look(v).trace


def ratio(lens: Sketched, v: Vector) -> float:
    """||S v|| / ||v||."""
    return norm(trace(lens, v)) / norm(v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", PILES)
def test_a_norm_has_the_stated_error_however_energy_is_piled(where: str, form: str) -> None:
    ratios = np.array([ratio(lens, piled(where, form)) for lens in LENSES])
    assert abs((ratios**2).mean() - 1) < 4 * math.sqrt(2 / K / len(LENSES))
    assert (ratios**2).std() < 1.35 * math.sqrt(2 / K)
    # Eight times the error of a norm: nobody is blind, and nothing looks much longer than it is.
    assert np.abs(np.log(ratios)).max() < 8 / math.sqrt(2 * K)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("d", [K + 1, 3 * K + 5, AUTO + 1, RUN, RUN + 1])
def test_a_norm_has_the_stated_error_however_short_the_vector_is(d: int, form: str) -> None:
    v = FORMS[form](d, np.random.default_rng(0)).astype(np.float32)
    squares = np.array([ratio(Sketched(d, K, secret), v) ** 2 for secret in range(60)])
    assert abs(squares.mean() - 1) < 4 * math.sqrt(2 / K / len(squares))
    assert squares.std() < 1.35 * math.sqrt(2 / K)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(PILES)), st.sampled_from(sorted(FORMS))), min_size=4),
    st.integers(0, len(LENSES) - 1),
    st.floats(1e-6, 1e6),
)
def test_growth_by_sketch_is_exact_growth_within_the_tolerance(
    piles: list[tuple[str, str]], secret: int, size: float
) -> None:
    lens, plain, traced = LENSES[secret], History(), History()
    x, seen = np.zeros(D, np.float32), trace(lens, np.zeros(D, np.float32))
    for version, (where, form) in enumerate(piles):
        g = np.float32(size) * piled(where, form, version)
        exact = plain.add(version, version, g, x)
        change = traced.add(version, version, trace(lens, g), seen)
        assert (exact is None) == (change is None)
        if exact is not None and change is not None and exact.difference > 0:
            quotient = exact.growth / change.growth
            assert 1 / (1 + lens.tolerance) <= quotient <= 1 + lens.tolerance
        step = x - np.float32(0.1) * piled(*piles[-version], version)
        x, seen = step, lens.follow(seen, x, step, None)


@pytest.mark.parametrize("where", PILES)
def test_a_look_shows_the_norm_itself(where: str) -> None:
    v = piled(where, "heavy-tailed")
    assert LENSES[0].look(v).norm == pytest.approx(norm(v), rel=1e-6)


def test_one_coordinate_alone_has_no_error() -> None:
    for lens in LENSES:
        assert ratio(lens, piled("one coordinate", "constant")) == pytest.approx(1, rel=1e-6)


@given(st.integers(0, len(LENSES) - 1), st.floats(-100, 100), st.integers(0, 99))
@settings(max_examples=20)
def test_a_trace_is_linear(secret: int, factor: float, seed: int) -> None:
    lens, a = LENSES[secret], piled("everything", "noise", seed)
    b = piled("one run", "heavy-tailed", seed)
    both = trace(lens, a + np.float32(factor) * b)
    apart = trace(lens, a) + factor * trace(lens, b)
    assert distance(both, apart) < 1e-5 * (norm(a) + abs(factor) * norm(b))


def test_the_product_of_traces_is_that_of_the_vectors_within_the_error() -> None:
    a = piled("everything", "noise", 1)
    b = (a + piled("everything", "noise", 2)).astype(np.float32)
    off = [
        float(np.dot(trace(lens, a), trace(lens, b)) - np.dot(a, b)) / (norm(a) * norm(b))
        for lens in LENSES
    ]
    assert abs(np.mean(off)) < 4 / math.sqrt(K * len(LENSES))
    assert np.std(off) < 1.35 * math.sqrt(2 / K)


@pytest.mark.parametrize("rate", [1e-1, 1e-4, 1e-7])
def test_models_are_as_far_apart_as_their_steps_were_however_short(rate: float) -> None:
    lens, x = LENSES[0], 100 * piled("everything", "noise")
    first, start = x, trace(lens, x)
    seen = start
    for version in range(40):
        step = (x + np.float32(rate) * piled("everything", "noise", version)).astype(np.float32)
        seen, x = lens.follow(seen, x, step, None), step
    # The rounding of the step itself is part of what the models are apart.
    assert distance(seen, start) / distance(x, first) == pytest.approx(1, abs=8 / math.sqrt(2 * K))
    # Two sketches would be apart by their own rounding: that is what `follow` is for.
    if rate == 1e-7:
        assert distance(trace(lens, x), trace(lens, first)) / distance(x, first) > 1.5


def test_what_is_not_finite_has_no_finite_trace_and_warns_of_nothing() -> None:
    for bad in (math.nan, math.inf, -math.inf, 3e38):
        v = np.full(D, bad, np.float32)
        assert norm(trace(LENSES[0], v)) == LENSES[0].look(v).norm == math.inf


def test_a_restored_lens_makes_the_same_traces_and_another_secret_others() -> None:
    v, one, other = piled("everything", "noise"), Sketched(D, K, 1), Sketched(D, K, 2)
    assert trace(one, v).tobytes() != trace(other, v).tobytes()
    other.restore(one.state())
    assert trace(one, v).tobytes() == trace(other, v).tobytes()


def test_a_sketch_of_another_kind_is_refused_and_not_compared() -> None:
    of_before = {"secret": LENSES[0].state()["secret"]}
    with pytest.raises(UsageError, match=r"--memory: expected sketches of kind 2, got .* 1, which"):
        LENSES[0].restore(of_before)


def test_vectors_that_an_earlier_kardam_kept_as_they_are_are_refused_and_not_compared() -> None:
    with pytest.raises(UsageError, match=r"--memory: expected sketches, got vectors as they are"):
        LENSES[0].restore(Exact().state())


def test_what_was_looked_at_before_leaves_nothing_in_a_sketch() -> None:
    v, lens = piled("everything", "noise"), Sketched(D, K, 1)
    lens.look(piled("everything", "heavy-tailed"))
    lens.look(np.full(D, math.nan, np.float32))
    kept = trace(lens, v)
    assert kept.tobytes() == trace(Sketched(D, K, 1), v).tobytes()
    lens.look(piled("one run", "constant"))
    assert kept.tobytes() == trace(Sketched(D, K, 1), v).tobytes()


def test_a_vector_that_is_no_longer_than_its_sketch_is_remembered_itself() -> None:
    assert isinstance(sketched(d=512, chance=np.random.default_rng(0)), Exact)
    assert isinstance(sketched(d=513, chance=np.random.default_rng(0)), Sketched)


@pytest.mark.parametrize("k", [0, 60, 66, RUN + 4])
def test_k_that_makes_no_sketch_is_an_error_with_the_range(k: int) -> None:
    with pytest.raises(UsageError, match=f"'sketched:k={k}': expected a multiple of 4 from 64"):
        build(f"sketched:k={k}", MEMORIES, "--memory", d=10**6, chance=None)


# --- in a descent ---


@pytest.mark.parametrize(
    ("d", "secret", "compared", "kind"),
    [
        (AUTO, True, False, Exact),
        (AUTO + 1, True, False, Sketched),
        (AUTO + 1, False, False, Exact),
        (AUTO + 1, True, True, Exact),
    ],
)
def test_auto_sketches_what_is_long_unless_it_may_not(
    d: int, secret: bool, compared: bool, kind: type
) -> None:
    chance = np.random.default_rng(0) if secret else None
    lens = build("auto", MEMORIES, "--memory", d=d, chance=chance, compared=compared)
    assert isinstance(lens, kind)


def fresh(d: int = 2000, **recipe: Any) -> Descent:
    chosen = Recipe.of(n=4, **{"preset": "middle", "memory": "sketched:k=64", **recipe})
    return chosen.descent(np.ones(d, np.float32), chance=np.random.default_rng(7))


def answers(descent: Descent, seed: int, count: int = 120) -> list[str]:
    """Of four workers on a noisy bowl, some of whom hold two models."""
    chance, told = np.random.default_rng(seed), []
    for at in range(count):
        worker = int(chance.integers(4))
        loan = descent.lend(worker)
        if at % 3 == 0:
            descent.lend(worker)
        noise = chance.standard_normal(loan.model.x.size)
        g = (loan.model.x + noise).astype(np.float32)
        told.append(repr(descent.receive(Gradient(worker, loan.ticket, g))))
        descent.forget(worker)
    return told


@pytest.mark.parametrize(
    "recipe", [{}, {"filter": "server_growth"}, {"dampening": "curvature"}, {"filter": "consensus"}]
)
def test_a_new_descent_goes_on_from_a_state_with_its_secret(recipe: dict[str, Any]) -> None:
    one = fresh(**recipe)
    answers(one, 0)
    other = Recipe.of(n=4, preset="middle", memory="sketched:k=64", **recipe).descent(
        np.ones(2000, np.float32), chance=np.random.default_rng(8)
    )
    other.restore(one.state())
    assert answers(one, 1) == answers(other, 1)
    assert one.model.x.tobytes() == other.model.x.tobytes()


def test_no_model_and_no_gradient_is_kept_for_a_sketched_memory() -> None:
    alive = {}
    for memory in ("exact", "sketched:k=64"):
        descent, kept = fresh(memory=memory), list[weakref.ref[Vector]]()
        for worker in (0, 1, 2, 3) * 3:
            loan = descent.lend(worker)
            g = (loan.model.x + worker).astype(np.float32)
            kept += [weakref.ref(loan.model.x), weakref.ref(g)]
            descent.receive(Gradient(worker, loan.ticket, g))
            descent.lend(worker)
            del loan, g
        gc.collect()
        alive[memory] = sum(ref() is not None for ref in kept)
    # Four workers have two answers each; besides, there is the newest model.
    assert alive["exact"] > 8
    assert alive["sketched:k=64"] <= 1


@pytest.mark.parametrize("rate", [0.1, 1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize(
    "recipe",
    [{}, {"optimizer": "momentum"}, {"gather": "arrival:m=3"}, {"optimizer": "sgd:decay=1"}],
)
def test_the_trace_of_a_model_is_that_of_its_steps_whatever_makes_them(
    recipe: dict[str, Any], rate: float
) -> None:
    one = fresh(rate=f"constant:gamma={rate}", **recipe)
    lens, first, x = one._lens, one._trace, one.model.x
    answers(one, 0, 400)
    moved = lens.look((one.model.x - x).astype(np.float32)).trace
    assert one.model.version > 50
    assert distance(one._trace - first, moved) <= 0.01 * norm(moved)


@pytest.mark.parametrize("name", ["zeno", "afl_guard"])
def test_a_rule_with_a_gradient_of_its_own_needs_the_vectors(name: str) -> None:
    words = f"--memory sketched: --filter {name} needs the vectors themselves; give --memory exact"
    with pytest.raises(UsageError, match=words):
        Recipe.of(n=10, preset="none", filter=name, memory="sketched", root_examples=9)


def test_the_memory_is_a_knob_of_the_state() -> None:
    state = fresh().state()
    with pytest.raises(UsageError, match="--memory: expected 'sketched:k=64', as in the state"):
        fresh(memory="exact").restore(state)


# --- in a run ---


def reasons(world: World) -> Counter[str]:
    return Counter(verdict.rule for verdict in world.verdicts)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rate", ["constant:gamma=0.1", "cosine:updates=500"])
def test_no_honest_growth_is_misdeclared_at_the_coarsest_sketch_or_in_the_shortest_steps(
    rate: str, seed: int
) -> None:
    run = world(1200, seed=seed, recipe={"memory": "sketched:k=64", "rate": rate})
    checked = [v for v in run.verdicts if not math.isnan(v.declared)]
    assert len(checked) > 1000
    assert reasons(run)["misdeclared"] == 0


def test_a_lie_of_growth_is_seen_by_sketch_as_it_is_without() -> None:
    for memory in ("exact", "sketched"):
        run = world(600, byzantine=3, attack="lying_growth:factor=10", recipe={"memory": memory})
        lies = [v for v in run.verdicts if v.worker in run.liars and not math.isnan(v.declared)]
        assert len(lies) > 100
        assert all(v.rule in ("misdeclared", "startup") for v in lies)


@pytest.mark.parametrize("attack", ["sign_flip:scale=10", "constant"])
def test_a_sketched_run_refuses_whom_an_exact_run_refuses(attack: str) -> None:
    runs = {
        memory: world(2000, byzantine=3, attack=attack, recipe={"memory": memory})
        for memory in ("exact", "sketched:k=512")
    }
    exact, sketch = runs.values()
    assert abs(exact.accuracy - sketch.accuracy) < 0.03
    assert abs(share(exact.honest) - share(sketch.honest)) < 0.03
    lies = [[v for v in run.verdicts if v.worker in run.liars] for run in runs.values()]
    assert abs(share(lies[0]) - share(lies[1])) < 0.03
