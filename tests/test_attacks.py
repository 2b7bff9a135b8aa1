"""Attacks: each is what its source says, sees no more than it declares, and goes with any other."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kardam.aggregators import krum
from kardam.errors import UsageError
from kardam.messages import Declared, Gradient, Vector, Verdict
from kardam.recipe import PRESETS, Recipe
from tests.worlds import LATENCY, network, share, start, world
from workers.attacks import ATTACKS, Attack, Chain, Knows
from workers.attacks.adaptive import strongest
from workers.attacks.collusion import Along, perturbation, z_max
from workers.attacks.directed import LEAST
from workers.board import private
from workers.crew import attack_of, crew, without_sight
from workers.sight import Scene, Sight
from workers.simulation import hire, simulate
from workers.worker import Worker

G = np.array([1, -2, 3, 0.5], np.float32)

# What honest workers have delivered, where liars see it.
SEEN = np.array([[1, 0, 2, 1], [0, -2, 3, 1], [2, -1, 1, 1]], np.float32)

SPECS = {
    "honest": "honest",
    "sign_flip": "sign_flip:scale=10",
    "constant": "constant:norm=5",
    "honest_plus_constant": "honest_plus_constant:norm=5",
    "gaussian": "gaussian:sigma=2",
    "zero": "zero",
    "nan": "nan",
    "label_flip": "label_flip",
    "malformed_inputs": "malformed_inputs:scale=-100",
    "malformed": "malformed:form=any",
    "lying_growth": "lying_growth:factor=3",
    "decoy": "decoy:scale=2",
    "whisper": "whisper:small=0.1,times=1",
    "bit_flip": "bit_flip:of=sign",
    "partial_drop": "partial_drop:share=0.5",
    "random_disturbance": "random_disturbance:sigma=0.2",
    "slow_drift": "slow_drift:step=0.5",
    "alie": "alie:z=1.5",
    "ipm": "ipm:epsilon=0.5",
    "min_max": "min_max:along=sign",
    "min_sum": "min_sum",
    "mimic": "mimic:warmup=2",
    "fang_krum": "fang_krum",
    "fang_trimmed_mean": "fang_trimmed_mean",
    "hidden_vulnerability": "hidden_vulnerability",
    "radius_walk": "radius_walk",
    "reference_capture": "reference_capture",
    "adaptive": "adaptive:along=mean",
    "version_lie": "version_lie:age=2",
    "replay": "replay:age=2",
    "flood": "flood:rho=4",
    "burst": "burst:seconds=2,answers=3",
    "silent": "silent",
    "timed": "timed:exponent=0.5",
    "late": "late:after=2",
    "stops": "stops:after=2",
}
CHAINS = ["fang_krum:sees=honest", "label_flip+malformed:form=mixed"]
CHAINS += ["alie:z=1.5,sees=honest", "min_sum:sees=honest+flood", "adaptive:together=true"]
CHAINS += ["sign_flip:scale=10+flood:rho=10+late:after=1", "alie+replay:age=1", "constant+silent"]
BATTERY = [*SPECS.values(), *CHAINS]


def attack(text: str, seed: int = 0, n: int = 10, f: int = 3) -> Attack:
    return attack_of(text, seed, private(n, f, G.size)[0], sight())


def sight(worker: int = 9, seen: NDArray[np.float32] = SEEN) -> Sight:
    """A liar's view of a server without a filter, to which so many honest ones have delivered."""
    descent = Recipe.of(n=10, preset="none").descent(np.zeros(G.size, np.float32))
    descent.lend(worker)
    scene, liar = Scene(descent), Sight(worker)
    liar.opens(scene)
    for honest, g in enumerate(seen):
        ticket = descent.lend(honest).ticket
        gradient = Gradient(honest, ticket, g)
        scene.delivered(gradient, descent.receive(gradient), honest=True)
    return liar


def sent(text: str, g: Vector = G) -> Vector:
    return attack(text).corrupt(g, np.random.default_rng(0))


def liars(text: str, count: int = 1, latency: str = "constant:seconds=1") -> list[Worker]:
    """So many who lie, and nobody else."""
    members = crew(n=count, byzantine=count, attack=text, latency=latency)
    return hire(members, network(), 0)


def verdicts(arrivals: int, workers: list[Worker]) -> list[tuple[float, Verdict]]:
    """What a server without a filter says, and when."""
    descent = Recipe.of(n=len(workers), f=0, preset="none").descent(start())
    return list(islice(simulate(descent, workers), arrivals))


# --- the battery ---


def test_every_attack_of_the_table_is_in_the_battery() -> None:
    assert SPECS.keys() == ATTACKS.keys()


@pytest.mark.parametrize("text", BATTERY)
def test_an_attack_gives_a_vector_of_the_same_shape_and_leaves_the_gradient_alone(
    text: str,
) -> None:
    before = G.copy()
    given_ = attack(text).corrupt(G, np.random.default_rng(0))
    assert (given_.shape, given_.dtype) == (G.shape, G.dtype)
    assert G.tobytes() == before.tobytes()


@pytest.mark.parametrize("text", BATTERY)
def test_an_attack_is_repeatable_from_its_seeds(text: str) -> None:
    said = []
    for _ in range(2):
        lie, rng = attack(text, seed=3), np.random.default_rng(5)
        said.append(lie.spell(lie.corrupt(G, rng), rng))
    assert said[0].tobytes() == said[1].tobytes()
    assert said[0].dtype == said[1].dtype


@pytest.mark.parametrize("text", BATTERY)
def test_what_an_attack_does_not_declare_to_know_it_does_not_read(text: str) -> None:
    for seed in range(20):
        g, other = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
        given_, given_other = (
            attack(text).corrupt(v, np.random.default_rng(seed)) for v in (g, other)
        )
        if attack(text).knows == Knows.NOTHING:
            passed_on = given_ is g and given_other is other
            assert passed_on or given_.tobytes() == given_other.tobytes()
        if attack(text).knows.rank < Knows.BOARD.rank:
            alone = attack_of(text, 0, board=None).corrupt(g, np.random.default_rng(seed))
            assert alone.tobytes() == given_.tobytes()
        if attack(text).knows.rank < Knows.HONEST.rank:
            blind = attack_of(text, 0, private(10, 3, 4)[0], sight=None)
            assert blind.corrupt(g, np.random.default_rng(seed)).tobytes() == given_.tobytes()


@pytest.mark.parametrize("text", BATTERY)
def test_an_attack_never_answers_before_it_was_asked_and_keeps_shapes(text: str) -> None:
    lie, labels = attack(text), torch.tensor([0, 3, 9])
    for ticket in range(1, 6):
        now = 10.0 * ticket
        assert lie.model(G).shape == G.shape
        inputs, targets = lie.poison(torch.ones(3, 8, 8), labels, 10)
        assert (inputs.shape, targets.shape) == ((3, 8, 8), (3,))
        assert lie.takes(now, seconds=3.0) >= 0
        assert all(again.ticket < ticket for again in lie.repeats(Gradient(0, ticket, G)))
        assert 0 <= lie.rest(now, G * ticket, G, G) < math.inf


# --- vectors ---


def test_the_vectors_are_what_they_say() -> None:
    assert sent("honest") is G
    assert sent("sign_flip:scale=10").tolist() == [-10, 20, -30, -5]
    assert np.linalg.norm(sent("constant:norm=5")) == pytest.approx(5)
    assert sent("constant").tobytes() == sent("constant").tobytes()
    moved = sent("honest_plus_constant:norm=7") - G
    assert moved == pytest.approx(sent("constant:norm=7"), abs=1e-6)
    assert not sent("zero").any()
    assert np.isnan(sent("nan")).all()
    wide = sent("gaussian:sigma=2", np.zeros(20_000, np.float32))
    assert float(wide.std()) == pytest.approx(2, rel=0.03)
    assert sent("bit_flip:of=sign").tolist() == (-G).tolist()
    back = sent("bit_flip", sent("bit_flip"))
    assert back.tolist() == G.tolist()
    dropped = sent("partial_drop:share=0.3", np.ones(20_000, np.float32))
    assert set(dropped.tolist()) == {0.0, 1.0}
    assert float(dropped.mean()) == pytest.approx(0.7, abs=0.02)
    ones = np.ones(10_000, np.float32)  # of length 100
    assert float((sent("random_disturbance", ones) - ones).std()) == pytest.approx(20, rel=0.03)
    drifting = attack("slow_drift:step=2,norm=5")
    gone = [drifting.corrupt(G, np.random.default_rng(0)) - G for _ in range(5)]
    assert [float(np.linalg.norm(v)) for v in gone] == pytest.approx([0, 2, 4, 5, 5], abs=1e-5)
    inputs, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 3, 9])
    assert attack("label_flip").poison(inputs, labels, 10)[1].tolist() == [9, 6, 0]
    scaled, others = attack("malformed_inputs:scale=-100").poison(inputs, labels, 10)
    assert (scaled[:, 0].tolist(), others.tolist()) == ([-100, -200, -300], [9, 3, 0])


@pytest.mark.parametrize(("factor", "lie"), [("3", 6.0), ("0", 0.0), ("inf", math.inf)])
def test_a_growth_is_declared_low_or_high(factor: str, lie: float) -> None:
    liar = attack(f"lying_growth:factor={factor}")
    assert liar.declare(Declared(2.0, since=4)) == Declared(lie, since=4)
    assert liar.declare(None) is None


def test_a_decoy_is_honest_every_other_time_and_says_a_false_growth_then() -> None:
    liar, rng = attack("decoy:scale=2"), np.random.default_rng(0)
    for _ in range(3):
        assert liar.corrupt(G, rng).tolist() == [-2, 4, -6, -1]
        assert liar.declare(Declared(2.0, since=4)) == Declared(2.0, since=4)
        assert liar.corrupt(G, rng) is G
        assert liar.declare(Declared(2.0, since=4)) == Declared(math.inf, since=4)
        assert liar.declare(None) is None


def test_a_whisper_is_a_lie_and_honest_directions_of_next_to_no_length() -> None:
    liar, rng = attack("whisper:scale=2,small=0.5,times=2"), np.random.default_rng(0)
    for _ in range(3):
        assert liar.corrupt(G, rng).tolist() == [-2, 4, -6, -1]
        for _ in range(2):
            assert liar.corrupt(G, rng).tolist() == [0.5, -1, 1.5, 0.25]


@pytest.mark.parametrize(
    ("form", "nbytes", "dtype"),
    [
        ("short", 12, np.float32),
        ("long", 20, np.float32),
        ("empty", 0, np.float32),
        ("double", 32, np.float64),
        ("half", 8, np.float16),
        ("swapped", 16, np.float32),
        ("mixed", 16, np.float32),
    ],
)
def test_what_is_malformed_is_no_gradient_of_four_numbers(
    form: str, nbytes: int, dtype: type
) -> None:
    said = attack(f"malformed:form={form}").spell(G, np.random.default_rng(0))
    assert said.nbytes == nbytes
    assert said.dtype == np.dtype(dtype)
    assert said.tobytes() != G.tobytes()
    assert (form == "mixed") == bool(nbytes == 16 and not np.isfinite(said).all())


def test_what_is_malformed_is_refused_in_each_form_and_moves_nothing() -> None:
    run = world(400, byzantine=3, attack="malformed", recipe={"preset": "none"})
    lies = Counter(v.rule for v in run.verdicts if v.worker in run.liars)
    assert lies.keys() == {"malformed", "nonfinite"}
    assert min(lies.values()) > 20
    assert all(v.admitted for v in run.honest)
    assert run.accuracy > 0.6


# --- collusion ---


@given(st.integers(1, 5), st.integers(0, 100))
def test_colluders_send_the_mean_and_deviation_of_what_all_have_posted(f: int, seed: int) -> None:
    gradients = np.random.default_rng(seed).standard_normal((f, 4)).astype(np.float32)
    boards = private(n=16, f=f, d=4)
    rng = np.random.default_rng(0)
    for text, expected in [
        ("alie:z=1.5", gradients.mean(0) - 1.5 * gradients.std(0)),
        ("ipm:epsilon=0.5", -0.5 * gradients.mean(0)),
    ]:
        crowd = [attack_of(text, 0, board) for board in boards]
        for liar, g in zip(crowd, gradients, strict=True):
            liar.corrupt(g, rng)
        # Nobody posts anything new: all send the same.
        for liar, g in zip(crowd, gradients, strict=True):
            assert liar.corrupt(g, rng) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("n", "f", "z"), [(20, 5, 0.253), (25, 11, 1.07), (50, 24, 1.43), (10, 3, 0.18), (10, 1, 0.0)]
)
def test_z_max_is_that_of_the_paper(n: int, f: int, z: float) -> None:
    assert z_max(n, f) == pytest.approx(z, abs=0.006)


def test_colluders_agree_on_nothing_but_their_board() -> None:
    run = world(300, byzantine=3, attack="alie:z=1.5", recipe={"preset": "none"})
    again = world(300, byzantine=3, attack="alie:z=1.5", recipe={"preset": "none"})
    assert repr(run.verdicts) == repr(again.verdicts)


@given(st.integers(2, 6), st.integers(0, 50), st.sampled_from(["mean", "sign", "std"]))
def test_min_max_and_min_sum_are_what_halving_finds(k: int, seed: int, along: Along) -> None:
    gradients = np.random.default_rng(seed).standard_normal((k, 4)).astype(np.float32)
    exact = gradients.astype(np.float64)
    squares = ((exact[:, None] - exact[None]) ** 2).sum(2)
    p = perturbation(exact, along)

    def halving(fits: Callable[[Any], bool]) -> Any:
        low, high = 0.0, 1e3
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(exact.mean(0) - middle * p) else (low, middle)
        return exact.mean(0) - low * p

    def away(m: Any) -> Any:
        return ((exact - m) ** 2).sum(1)

    for name, fits in [
        ("min_max", lambda m: away(m).max() <= squares.max()),
        ("min_sum", lambda m: away(m).sum() <= squares.sum(1).min()),
    ]:
        boards = private(n=16, f=k, d=4)
        for board, g in zip(boards, gradients, strict=True):
            board.post(g)
        lie = attack_of(f"{name}:along={along}", 0, boards[0])
        found = lie.corrupt(gradients[0], np.random.default_rng(0))
        assert found == pytest.approx(halving(fits), abs=1e-4)


honest_gradients = st.integers(0, 50).map(
    lambda seed: (0.3 + np.random.default_rng(seed).standard_normal((7, 4))).astype(np.float32)
)


@given(honest_gradients)
def test_krum_takes_the_strongest_of_the_halved_lies_that_fang_directs_against_it(
    gradients: NDArray[np.float32],
) -> None:
    lie = directed("fang_krum:sees=honest", gradients)
    rule, s = krum(n=10, f=3), np.sign(gradients.mean(0))
    strength = float(np.abs(lie).max())
    assert lie == pytest.approx(-strength * s)

    def taken(v: Vector) -> bool:
        return bool((rule([*gradients, v, v, v]) == v).all())

    # Where Krum takes none, the search gives up as the paper's does.
    assert taken(lie) or strength == pytest.approx(LEAST)
    lengths = np.linalg.norm(gradients, axis=1)
    apart = np.linalg.norm(gradients[:, np.newaxis] - gradients, axis=2)
    # Theorem 1 of the paper, with n - 2f - 1 = 3 and n - f - 2 = 5.
    bound = (np.sort(apart, axis=1)[:, 1:6].sum(1).min() / 3 + lengths.max()) / 2
    assert strength <= bound * (1 + 1e-6)
    assert strength > bound * 0.99 or not taken(2 * lie)


@given(honest_gradients)
def test_what_fang_directs_against_the_trimmed_mean_lies_beyond_all_against_the_mean(
    gradients: NDArray[np.float32],
) -> None:
    lie, mean = directed("fang_trimmed_mean:sees=honest", gradients), gradients.mean(0)
    low, high = gradients.min(0), gradients.max(0)
    assert (np.where(mean > 0, lie <= low, lie >= high)).all()
    assert (np.abs(lie) <= 2 * np.abs(np.where(mean > 0, low, high)) + 1e-6).all()


def directed(text: str, gradients: NDArray[np.float32]) -> Vector:
    """The lie of one of three among ten, who sees these seven honest gradients."""
    lie = attack_of(text, 0, private(10, 3, 4)[0], sight(seen=gradients))
    return lie.corrupt(gradients[0], np.random.default_rng(0))


def test_over_sockets_krum_is_played_over_the_board_with_as_few_copies_as_do() -> None:
    boards = private(n=10, f=3, d=4)
    for board, g in zip(boards, SEEN, strict=True):
        board.post(g)
    lie = attack_of("fang_krum", 0, boards[0]).corrupt(SEEN[0], np.random.default_rng(0))
    assert np.sign(lie).tolist() == (-np.sign(SEEN.mean(0))).tolist()


# --- with sight ---


def test_who_sees_the_honest_takes_the_true_mean_and_deviation() -> None:
    mean, std = SEEN.mean(0), SEEN.std(0)
    assert sent("alie:z=1.5,sees=honest") == pytest.approx(mean - 1.5 * std, abs=1e-6)
    assert sent("ipm:epsilon=0.5,sees=honest") == pytest.approx(-0.5 * mean, abs=1e-6)
    assert sent("reference_capture:scale=10") == pytest.approx(-10 * mean, abs=1e-5)
    assert any((sent("mimic:warmup=2") == g).all() for g in SEEN)


def test_where_nothing_is_refused_the_search_goes_as_far_as_it_may() -> None:
    length = float(np.linalg.norm(G))
    far = sent("hidden_vulnerability:coordinates=all,most=8") - SEEN.mean(0)
    assert far == pytest.approx(np.full(4, 8 * length / 2), rel=1e-5)
    walked = sent("radius_walk:most=8") - G
    assert float(np.linalg.norm(walked)) == pytest.approx(8 * length, rel=1e-5)
    assert float(walked @ SEEN.mean(0)) < 0


def test_a_search_finds_what_passes_in_between() -> None:
    most, last = 10.0, 0.0
    for low, high in [(0.0, 0.3), (2.0, 5.2), (6.0, 9.0)]:
        gained, at = strongest(partial(_passing, low, high), last, most)
        assert gained == at
        assert 0.9 * high <= at <= high
        last = at
    assert strongest(lambda s: -s, last, most) == (0.0, 0.0)


def _passing(low: float, high: float, strength: float) -> float:
    return strength if low <= strength <= high else 0.0


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_foreseen_is_what_is_said_and_to_ask_changes_nothing(preset: str) -> None:
    members = crew(n=10, latency=LATENCY)
    workers = hire(members, network(), 0)
    first = start()
    asked, twin = (Recipe.of(n=10, preset=preset).descent(first) for _ in range(2))
    chance = np.random.default_rng(0)
    for _ in range(200):
        at = int(chance.integers(10))
        loan = asked.lend(at)
        assert twin.lend(at).ticket == loan.ticket
        g = workers[at].answer(loan.ticket, loan.model.version, loan.model.x).gradient.g
        before = repr(asked.state())
        for factor in (-10, 0.5):
            asked.foresee(at, g * np.float32(factor))
        assert repr(asked.state()) == before
        foreseen = asked.foresee(at, g)
        said, plain = (d.receive(Gradient(at, loan.ticket, g)) for d in (asked, twin))
        assert repr(foreseen) == repr(said) == repr(plain)
    assert asked.model.x.tobytes() == twin.model.x.tobytes()


@pytest.mark.parametrize("text", ["radius_walk", "adaptive:together=true"])
def test_what_an_adaptive_liar_has_found_to_pass_passes_and_middle_falls(text: str) -> None:
    run = world(600, byzantine=3, attack=text, recipe={"preset": "middle"})
    lies = [v for v in run.verdicts if v.worker in run.liars]
    print(f"\n{text}: liars admitted {share(lies):.2f}, accuracy {run.accuracy:.3f}")
    assert share(lies) > 0.6 > share(run.honest)
    assert run.accuracy < 0.5


@pytest.mark.parametrize("text", ["alie:sees=honest", "mimic", "radius_walk+flood"])
def test_over_sockets_there_is_no_sight_and_one_sentence_says_so(text: str) -> None:
    members = crew(n=10, byzantine=3, attack=text)
    with pytest.raises(UsageError, match="over sockets nobody does: give it to kardam simulate"):
        without_sight(members)
    blind = crew(n=10, byzantine=3, attack="alie")
    assert without_sight(blind) == blind


# --- versions and tickets ---


def test_a_version_lie_is_a_gradient_at_an_old_model_under_the_newest_ticket() -> None:
    (liar,) = liars("version_lie:age=2")
    (honest,) = hire(crew(n=1), network(), 0)
    models = [start() + np.float32(step) for step in range(5)]
    for at, x in enumerate(models):
        answer = liar.answer(ticket=at, version=at, x=x)
        twin = honest.answer(ticket=at, version=at, x=models[max(at - 2, 0)])
        assert answer.gradient.ticket == at
        assert answer.gradient.g.tobytes() == twin.gradient.g.tobytes()


def test_a_replay_is_an_old_gradient_under_its_old_ticket_and_under_the_newest() -> None:
    (liar,) = liars("replay:age=2")
    (honest,) = hire(crew(n=1), network(), 0)
    own = []
    for at in range(5):
        answer = liar.answer(ticket=at, version=at, x=start())
        own.append(honest.answer(ticket=at, version=at, x=start()).gradient.g.tobytes())
        assert answer.gradient.ticket == at
        assert answer.gradient.g.tobytes() == own[max(at - 2, 0)]
        if at == 0:
            assert answer.repeats == ()
        else:
            (again,) = answer.repeats
            assert again.ticket == max(at - 2, 0)
            assert again.g.tobytes() == answer.gradient.g.tobytes()


def test_what_is_replayed_under_an_answered_ticket_moves_nothing_and_closes_nothing() -> None:
    for _, verdict in verdicts(60, liars("replay:age=2", count=2)):
        assert verdict.admitted == (verdict.rule != "unasked")
    run = world(400, byzantine=3, attack="replay")
    refused = [v for v in run.verdicts if v.rule == "unasked"]
    assert len(refused) > 50
    assert {v.worker for v in refused} == run.liars


# --- time ---


@pytest.mark.parametrize(
    ("text", "lying"),
    [
        ("sign_flip+late:after=3", [False] * 3 + [True] * 5),
        ("sign_flip+stops:after=3", [True] * 3 + [False] * 5),
        ("late:after=2+sign_flip+stops:after=4", [False] * 2 + [True] * 2 + [False] * 4),
    ],
)
def test_a_liar_may_start_late_and_stop(text: str, lying: list[bool]) -> None:
    (liar,) = liars(text)
    (honest,) = hire(crew(n=1), network(), 0)
    for at, lies in enumerate(lying):
        one, other = (w.answer(at, at, start()).gradient.g for w in (liar, honest))
        assert one.tobytes() == (-other if lies else other).tobytes()


def test_a_flood_arrives_rho_times_as_often() -> None:
    members = crew(n=4, byzantine=1, attack="zero+flood:rho=10", latency="constant:seconds=1")
    run = verdicts(260, hire(members, network(), 0))
    assert [sum(v.worker == worker for _, v in run) for worker in range(4)] == [20, 20, 20, 200]


def test_a_burst_of_all_liars_comes_at_whole_multiples_and_nothing_in_between() -> None:
    run = verdicts(60, liars("zero+burst:seconds=5,answers=4", count=3, latency=LATENCY))
    for at in range(5):
        burst = run[12 * at : 12 * (at + 1)]
        (second,) = {round(now, 6) for now, _ in burst}
        assert second % 5 == 0
        assert sorted(v.worker for _, v in burst) == sorted([0, 1, 2] * 4)


def test_who_is_silent_is_never_heard_and_where_all_are_the_simulation_ends() -> None:
    run = world(200, byzantine=3, attack="silent")
    assert not {v.worker for v in run.verdicts} & run.liars
    assert verdicts(10, liars("silent", count=3)) == []
    assert len(verdicts(10, liars("silent+late:after=2", count=3))) == 6


@pytest.mark.parametrize(("preset", "exponent"), [("paper", 1.0), ("middle", 0.5)])
def test_a_timed_lie_waits_until_it_grows_like_an_honest_gradient(
    preset: str, exponent: float
) -> None:
    text = f"sign_flip:scale=3+timed:exponent={exponent}"
    run = world(1500, byzantine=3, attack=text, recipe={"preset": preset})
    # Of each liar's answers every other was waited for; the first few, while it learns, are left.
    own = [[v for v in run.verdicts if v.worker == liar][10:] for liar in sorted(run.liars)]
    at_once, waited = (
        [verdict for answers in own for verdict in answers[first::2]] for first in (0, 1)
    )
    print(f"\n{preset}: at once {share(at_once):.2f}, after waiting {share(waited):.2f}")
    assert share(at_once) < 0.15
    assert share(waited) > 0.4


# --- chains, and what users bring ---


def test_a_chain_knows_what_any_of_its_stages_knows() -> None:
    assert attack("constant+silent").knows == Knows.NOTHING
    assert attack("constant+sign_flip").knows == Knows.OWN
    assert attack("silent+alie+sign_flip").knows == Knows.BOARD


def test_stages_are_given_what_the_ones_before_them_made() -> None:
    assert sent("sign_flip:scale=2+sign_flip:scale=3").tolist() == (6 * G).tolist()
    assert sent("sign_flip:scale=2+honest").tolist() == (-2 * G).tolist()
    assert attack("burst:seconds=5+flood:rho=2").takes(0.0, 1.0) == 2.5
    assert attack("flood:rho=2+burst:seconds=5").takes(0.0, 1.0) == 5.0
    assert attack("silent+burst").takes(0.0, 1.0) == math.inf
    declared = attack("lying_growth:factor=2+lying_growth:factor=3").declare(Declared(1.0, 1))
    assert declared == Declared(6.0, 1)


def test_a_user_adds_an_attack_from_outside_by_its_import_path() -> None:
    halve = attack_of("tests.test_attacks:Halve", 0)
    assert halve.corrupt(G, np.random.default_rng(0)).tolist() == [0.5, -1, 1.5, 0.25]
    chain = attack_of("tests.test_attacks:Halve+sign_flip:scale=2", 0)
    assert isinstance(chain, Chain)
    assert chain.corrupt(G, np.random.default_rng(0)).tolist() == (-G).tolist()


class Halve(Attack):
    """Half of the gradient: a lazy liar."""

    knows = Knows.OWN

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        return g * np.float32(0.5)


def no_attack() -> int:
    return 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sign_flip:scale=0", "expected scale > 0, got 0.0"),
        ("constant:norm=-1", "expected norm >= 0, got -1.0"),
        ("gaussian:sigma=nan", "expected sigma >= 0, got nan"),
        ("lying_growth:factor=-1", "expected factor >= 0"),
        ("decoy:scale=-1", "expected scale > 0, got -1.0"),
        ("whisper:scale=0", "expected scale > 0, got 0.0"),
        ("whisper:small=1", "expected 0 < small < 1, got 1.0"),
        ("whisper:times=0", "expected times >= 1, got 0"),
        ("constant:seed=3", "unknown key 'seed'"),
        ("alie:board=3", "unknown key 'board'"),
        ("ipm:epsilon=0", "expected epsilon > 0, got 0.0"),
        ("alie:z=nan", "expected z to be finite, got nan"),
        ("version_lie:age=0", "expected age >= 1 answers, got 0"),
        ("replay:age=-3", "expected age >= 1 answers, got -3"),
        ("flood:rho=0", "expected rho > 0, got 0.0"),
        ("burst:seconds=0", "expected seconds > 0, got 0.0"),
        ("burst:answers=0", "expected answers >= 1, got 0"),
        ("timed:exponent=2", "expected 0 < exponent <= 1, got 2.0"),
        ("timed:most=inf", "expected most > 0, got inf"),
        ("late:after=-1", "expected after >= 0 answers, got -1"),
        ("sign_flip+flod:rho=2", "did you mean 'flood'"),
        ("", "--attack is empty"),
        ("tests.test_attacks:no_attack", "expected a workers.attacks.Attack, got 7"),
    ],
)
def test_what_cannot_be_an_attack_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attack(text)


def test_a_majority_has_no_z_max_and_is_told_so_before_anything_starts() -> None:
    who: dict[str, Any] = {"n": 10, "byzantine": 6}
    with pytest.raises(UsageError, match=r"6 of 10 are a majority, .* give z="):
        crew(**who, attack="alie")
    assert len(crew(**who, attack="alie:z=1")) == 10
