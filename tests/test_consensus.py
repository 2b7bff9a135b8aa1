"""Consensus on made-up directions, its voices against all pairs, and the throttle against its own
promise.
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.consensus import SAMPLE, Consensus, _voices
from kardam.messages import Refusal, Vector
from kardam.throttle import Throttle
from tests.strategies import evidence

N, F = 10, 3
D = 60

# What all honest gradients have in common, and what each adds of its own: as much as that again.
MEAN = np.full(D, 0.3, np.float32)


class Crew:
    """Ten workers in turn, each round once: honest gradients, and the lies that a test says."""

    def __init__(self, stage: Consensus, seed: int = 0) -> None:
        self.stage = stage
        self.chance = np.random.default_rng(seed)

    def honest(self) -> Vector:
        return MEAN + self.chance.standard_normal(D).astype(np.float32)

    def says(self, worker: int, g: Vector, *, refused_elsewhere: bool = False) -> Refusal | None:
        shown = replace(evidence(worker, norm=float(np.linalg.norm(g))), g=g)
        refusal = self.stage.judge(shown)
        if refusal is None and not refused_elsewhere:
            self.stage.admit(shown)
        return refusal

    def rounds(self, count: int, lies: Vector | float = 1.0) -> dict[int, list[bool]]:
        """Whether each answer was admitted; the last f send `lies`, or that many honest ones."""
        said: dict[int, list[bool]] = {worker: [] for worker in range(N)}
        for _ in range(count):
            for worker in range(N):
                g = self.honest()
                if worker >= N - F:
                    g = np.float32(lies) * g if isinstance(lies, float) else lies
                said[worker].append(self.says(worker, g) is None)
        return said


def shares(said: dict[int, list[bool]], workers: range, since: int = 0) -> float:
    return float(np.mean([said[worker][since:] for worker in workers]))


HONEST, LIARS = range(N - F), range(N - F, N)


# --- liveness ---


@pytest.mark.parametrize("seed", range(3))
def test_where_nobody_lies_nearly_all_is_admitted_of_everybody(seed: int) -> None:
    said = Crew(Consensus(N, F), seed).rounds(200)
    assert shares(said, range(N), since=2) > 0.97
    assert min(np.mean(own[2:]) for own in said.values()) > 0.8


def test_it_is_ready_after_one_answer_of_everybody_whatever_f_of_them_say() -> None:
    stage = Consensus(N, F)
    crew = Crew(stage)
    for worker in range(N - 1):
        crew.says(worker, crew.honest() if worker < N - F else 1e6 * MEAN)
        assert not stage.ready
    crew.says(N - 1, 1e6 * MEAN)
    assert stage.ready


def test_ten_times_the_speed_changes_nothing_for_an_honest_worker() -> None:
    crew = Crew(Consensus(N, F))
    crew.rounds(30)
    admitted = [
        crew.says(worker, crew.honest()) is None
        for _ in range(100)
        for worker in [*[0] * 10, *range(1, N)]
    ]
    assert np.mean(admitted) > 0.95


# --- safety ---


@pytest.mark.parametrize("length", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_reversed_gradients_of_any_length_are_refused_and_cost_the_others_nothing(
    length: float, seed: int
) -> None:
    said = Crew(Consensus(N, F), seed).rounds(100, lies=-length)
    assert shares(said, LIARS, since=20) < 0.05
    assert shares(said, HONEST, since=20) > 0.95


@pytest.mark.parametrize("multiple", [-1.0, -0.01, 1.0])
def test_f_who_say_the_same_have_one_voice_and_no_more(multiple: float) -> None:
    said = Crew(Consensus(N, F)).rounds(100, lies=np.float32(multiple) * MEAN)
    assert shares(said, LIARS, since=20) <= 1 / F + 0.05
    assert shares(said, HONEST, since=20) > 0.9


def test_whoever_answers_ten_times_as_often_moves_the_centre_no_farther() -> None:
    crew = Crew(Consensus(N, F))
    for _ in range(100):
        for worker in HONEST:
            crew.says(worker, crew.honest())
        refused = [crew.says(worker, -crew.honest()) for worker in LIARS for _ in range(10)]
    assert sum(refusal is None for refusal in refused) <= 2
    assert all(crew.says(worker, crew.honest()) is None for worker in HONEST)


# --- terms ---


def rounds_until_admitted(crew: Crew) -> int:
    """How many honest rounds of everybody it takes until the last worker is admitted again."""
    for rounds in range(1, 1000):
        refusals = [crew.says(worker, crew.honest()) for worker in range(N)]
        if refusals[-1] is None:
            return rounds
    raise AssertionError("never")


def test_each_time_too_far_costs_a_term_twice_as_long_as_the_last() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, term=4, clean=1000))
    crew.rounds(20)
    for term in (4, 8, 16):
        assert crew.says(N - 1, -5 * MEAN) is not None
        # Of ten workers nine are admitted in a round, and now and then fewer.
        assert term < rounds_until_admitted(crew) <= 1.4 * term + 1


def test_a_flood_makes_no_term_shorter_and_no_end_finds_a_worker_free_who_is_too_far() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, term=4))
    crew.rounds(20)
    assert crew.says(N - 1, -5 * MEAN) is not None
    assert all(crew.says(N - 1, crew.honest()) for _ in range(1000))
    for _ in range(20):
        for worker in range(N - 1):
            crew.says(worker, crew.honest())
        assert crew.says(N - 1, -5 * MEAN) is not None
    assert rounds_until_admitted(crew) == 1


def test_strikes_are_forgiven_for_rounds_without_another() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, term=4, clean=10))
    crew.rounds(20)
    for _ in range(4):
        assert crew.says(N - 1, -5 * MEAN) is not None
        assert rounds_until_admitted(crew) <= 6
        crew.rounds(15)


def test_no_more_than_f_serve_at_once_and_those_with_the_most_strikes() -> None:
    """Histories of one answer, and bounds that honest answers cross all the time."""
    stage = Consensus(N, F, beta=0.0, far=1.01, term=20)
    crew = Crew(stage)
    crew.rounds(200)
    assert len(stage._serving) == F
    strikes = {worker: its.strikes for worker, its in stage._records.items()}
    assert min(strikes[worker] for worker in stage._serving) >= sorted(strikes.values())[N - F - 1]


# --- who is listened to ---


def test_noise_that_another_rule_refuses_does_not_draw_in_the_bounds() -> None:
    """Isotropic noise averages out better than honest gradients do, which have few directions."""
    few = np.linalg.qr(np.random.default_rng(1).standard_normal((D, 4)))[0].T.astype(np.float32)

    def bounds(*, elsewhere: bool) -> float:
        crew = Crew(Consensus(N, F))
        for _ in range(60):
            for worker in HONEST:
                own = few[worker % 4] + crew.chance.standard_normal(4).astype(np.float32) @ few
                crew.says(worker, own)
            for worker in LIARS:
                noise = crew.chance.standard_normal(D).astype(np.float32)
                crew.says(worker, noise, refused_elsewhere=elsewhere)
        return crew.stage.median

    assert bounds(elsewhere=True) > 1.1 * bounds(elsewhere=False)


def test_of_many_workers_each_takes_its_turn_and_neighbours_come_apart() -> None:
    n = 3 * SAMPLE
    stage = Consensus(n, n // 4)
    crew = Crew(stage)
    for worker in range(n):
        crew.says(worker, crew.honest())
    turns = [stage._sample() for _ in range(3)]
    assert sorted(worker for turn in turns for worker in turn) == list(range(n))
    assert all(abs(a - b) > 1 for turn in turns for a, b in pairwise(turn))


# --- voices ---


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_voices_are_what_all_pairs_say(seed: int, copies: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((N, 40)).astype(np.float32)
    rows[1 : 1 + copies] = rows[0]
    apart = np.array([[float(np.linalg.norm(a - b)) for b in rows] for a in rows])
    nearest = np.median((apart + np.diag([np.inf] * N)).min(1))
    twins = ((apart < 0.5 * nearest) | np.eye(N, dtype=bool)).sum(1)
    assert _voices(rows, 0.5) == pytest.approx(1 / twins)


# --- the throttle ---


@given(st.lists(st.sampled_from([0, 0, 0, 1, 1, *range(N)]), max_size=400))
def test_f_who_flood_own_no_more_than_factor_times_the_next(arrivals: list[int]) -> None:
    stage, owned = Throttle(N, F, rounds=100), Counter[int]()
    for worker in arrivals:
        bound = 3 * sorted((owned[w] for w in range(N)), reverse=True)[F] + 2
        refused = stage.judge(evidence(worker)) is not None
        assert refused == (owned[worker] >= bound)
        if not refused:
            stage.admit(evidence(worker))
            owned[worker] += 1
