"""Consensus on made-up directions, its terms, its voices against all pairs; the throttle
against its own promise.
"""

from collections import Counter
from collections.abc import Collection
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.consensus import SAMPLE, SELDOM, Consensus
from kardam.messages import Refusal, Vector
from kardam.terms import Terms
from kardam.throttle import Throttle
from kardam.voices import voices, weighted_median
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

    def says(self, worker: int, g: Vector, elsewhere: Refusal | None = None) -> Refusal | None:
        """What the stage says of it; `elsewhere` being what another rule does."""
        shown = evidence(worker, norm=float(np.linalg.norm(g)))._replace(g=g)
        refusal = self.stage.judge(shown)
        if (first := elsewhere or refusal) is not None:
            self.stage.refuse(shown, first)
        else:
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

# What other rules say: of what was sent, and of when.
LONG, OFTEN = Refusal("growth", 9.0, 0.0, 5.0), Refusal("throttle", 9, 0, 5, False)


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


def test_workers_who_all_say_the_same_are_all_used() -> None:
    crew = Crew(Consensus(N, F))
    told = [crew.says(worker, MEAN) is None for _ in range(60) for worker in range(N)]
    assert all(told[2 * N :])


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


# --- guilt ---


def test_one_answer_that_is_far_out_costs_a_term_and_one_that_is_too_far_costs_nothing() -> None:
    for out, refused in ((1.2, True), (1e9, False)):
        crew = Crew(Consensus(N, F, beta=0.0, far=1.2, out=out))
        crew.rounds(20)
        assert (crew.says(N - 1, -10 * MEAN) is not None) == refused
        assert all((crew.says(N - 1, crew.honest()) is not None) == refused for _ in range(10))


def test_need_of_the_latest_span_answers_too_far_cost_a_term() -> None:
    """Bounds that an honest answer is within and a reversed one is not, though never far out."""
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, out=1e9, need=4, span=10))
    crew.rounds(20)
    crew.stage._far.clear()
    for answer in range(4):
        told = crew.says(N - 1, -10 * MEAN)
        assert (told is not None) == (answer == 3)
    assert crew.says(N - 1, crew.honest()) is not None


@pytest.mark.parametrize("rate", [1, 10])
def test_what_is_a_workers_own_in_its_data_is_no_distance(rate: int) -> None:
    """Histories of a hundred answers show little but it; those of two are mostly noise."""
    chance = np.random.default_rng(7)
    own = chance.standard_normal((N, D)).astype(np.float32) * np.float32(0.6)
    crew = Crew(Consensus(N, F))
    admitted: dict[int, list[bool]] = {worker: [] for worker in range(N)}
    for _ in range(60):
        for worker in [*[0] * rate, *[1] * rate, *range(2, N)]:
            told = crew.says(worker, crew.honest() + own[worker])
            admitted[worker].append(told is None)
    assert min(np.mean(its[5:]) for its in admitted.values()) > 0.9


# --- terms ---


class Yard:
    """Ten workers of whom all that are not refused are admitted, each once a round."""

    def __init__(self, terms: Terms, places: int = F) -> None:
        self.terms, self.places = terms, places

    def serves(self, worker: int, *, guilty: bool) -> bool:
        return self.terms.serves(worker, guilty=guilty, places=self.places)

    def round(self, guilty: Collection[int] = ()) -> list[int]:
        """Who was admitted."""
        free = [w for w in range(N) if not self.serves(w, guilty=w in guilty)]
        for _ in free:
            self.terms.admit()
        return free

    def rounds_until_free(self, worker: int) -> int:
        return next(rounds for rounds in range(1, 1000) if worker in self.round())


def test_each_conviction_costs_a_term_eight_times_as_long_as_the_last_up_to_sixteen() -> None:
    yard = Yard(Terms(N, term=4, clean=1000))
    for term in (4, 32, 64, 64):
        assert N - 1 not in yard.round(guilty=[N - 1])
        # Of ten workers nine are admitted in a round.
        assert term < yard.rounds_until_free(N - 1) <= 1.2 * term + 1


@pytest.mark.parametrize(
    ("seen_after", "least", "most"), [(1, 0.0, 0.05), (15, 0.0, 0.2), (120, 0.9, 1.0)]
)
def test_whoever_is_seen_again_soon_after_each_term_is_soon_hardly_free_and_others_nearly_always(
    seen_after: int, least: float, most: float
) -> None:
    """A liar is seen after some 15 rounds, an honest worker after `clean` rounds or never."""
    yard = Yard(Terms(N, term=10, clean=100))
    free = [True]
    for _ in range(300):
        guilty = len(free) >= seen_after and all(free[-seen_after:])
        free.append(N - 1 in yard.round(guilty=[N - 1] if guilty else []))
    assert least <= np.mean(free) <= most


def test_a_term_and_the_strikes_before_it_outlive_the_process() -> None:
    before, after = (Yard(Terms(N, term=4, clean=1000)) for _ in range(2))
    for _ in range(2):
        before.round(guilty=[0])
        rounds = before.rounds_until_free(0)
    before.round(guilty=[0])
    after.terms.restore(before.terms.state())
    assert after.rounds_until_free(0) == before.rounds_until_free(0) > 1.5 * rounds
    paroled = Terms(N, term=4, clean=1000)
    paroled.restore(before.terms.state())
    assert paroled.weight(0) == before.terms.weight(0) == 1 / 3


def test_a_flood_makes_no_term_shorter() -> None:
    yard = Yard(Terms(N, term=4, clean=100))
    yard.round(guilty=[0])
    assert all(yard.serves(0, guilty=False) for _ in range(1000))


def test_a_term_that_ends_while_its_worker_is_guilty_goes_on_until_it_is_not() -> None:
    yard = Yard(Terms(N, term=4, clean=100))
    for _ in range(40):
        assert 0 not in yard.round(guilty=[0])
    assert 0 in yard.round()
    yard.round(guilty=[0])
    assert 32 < yard.rounds_until_free(0) <= 38  # the second, and no more than that


def test_strikes_are_forgiven_for_rounds_without_another() -> None:
    yard = Yard(Terms(N, term=4, clean=10))
    for _ in range(4):
        yard.round(guilty=[0])
        assert yard.rounds_until_free(0) <= 6
        for _ in range(15):
            yard.round()


def test_whoever_was_convicted_again_weighs_one_over_its_strikes_for_a_while_afterwards() -> None:
    yard = Yard(Terms(N, term=4, clean=1000))
    assert yard.terms.weight(0) == 1.0
    for strikes in (1, 2, 3):
        yard.round(guilty=[0])
        yard.rounds_until_free(0)
        # It was free again when the first of four rounds began.
        weights = [yard.terms.weight(0)]
        for _ in range(5):
            assert 0 in yard.round()
            weights.append(yard.terms.weight(0))
        assert weights == [1 / strikes] * 3 + [1.0] * 3
        assert yard.terms.weight(1) == 1.0


def test_the_weight_is_what_an_admitted_gradient_is_scaled_by() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, out=1.2, far=1.2, term=2, clean=100))
    crew.rounds(20)
    terms = crew.stage._terms
    for _ in range(2):
        terms.serves(0, guilty=True, places=F)
        while terms.serves(0, guilty=False, places=F):
            terms.admit()
    assert [crew.stage.scale(evidence(worker)) for worker in (0, 1)] == [1 / 2, 1.0]


@given(st.lists(st.sets(st.integers(0, N - 1)), max_size=60))
def test_no_more_than_there_are_places_for_serve_at_once_and_those_with_the_most_strikes(
    guilty: list[set[int]],
) -> None:
    yard = Yard(Terms(N, term=3, clean=5))
    for those in guilty:
        assert len(yard.round(guilty=those)) >= N - 2 * F  # f serve, f made room within the round
        serving = yard.terms.serving
        assert len(serving) <= F
        if len(serving) == F:
            strikes = {w: its.strikes for w, its in yard.terms._records.items()}
            least = min(strikes[w] for w in serving)
            assert all(strikes[w] <= least for w in those - serving if strikes[w] > 1)


def test_where_there_is_no_place_nobody_serves() -> None:
    assert not Yard(Terms(N, term=4, clean=10), places=0).serves(0, guilty=True)


def test_guilt_without_a_place_is_no_strike() -> None:
    """Or a bad hour among f who are refused elsewhere would cost an honest worker the run."""
    yard = Yard(Terms(N, term=4, clean=1000), places=0)
    assert not any(yard.serves(0, guilty=True) for _ in range(1000))
    yard.places = F
    yard.round(guilty=[0])
    assert yard.rounds_until_free(0) <= 6  # the first term


def test_where_terms_are_of_no_rounds_nobody_serves() -> None:
    assert not Yard(Terms(N, term=0, clean=1)).serves(0, guilty=True)


@pytest.mark.parametrize(("term", "clean"), [(-1, 1), (1, 0)])
def test_terms_say_what_they_expect(term: int, clean: int) -> None:
    with pytest.raises(ValueError, match=f"got term={term}, clean={clean}"):
        Terms(N, term, clean)


# --- who is listened to ---


def lies_used(refusal: Refusal, fillers: int, seed: int) -> float:
    """The share of late lies that is used, of liars who send so much honest work after each, which
    another rule refuses.
    """
    crew = Crew(Consensus(N, F), seed)
    used: list[bool] = []
    for turn in range(100):
        for worker in HONEST:
            crew.says(worker, crew.honest())
        for worker in LIARS:
            told = crew.says(worker, -crew.honest())
            used += [told is None] * (turn >= 20)
            for _ in range(fillers):
                crew.says(worker, crew.honest(), refusal)
    return float(np.mean(used))


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_known_by_what_another_rule_refuses_for_what_it_says(seed: int) -> None:
    """Or who knows that rule would look honest at no cost."""
    assert lies_used(LONG, 0, seed) < 0.1
    assert lies_used(LONG, 3, seed) < 0.1
    assert lies_used(OFTEN, 3, seed) > 0.9


def test_what_comes_too_often_shows_what_its_worker_is_like() -> None:
    """A flood is found out by all of it, not by the part that is admitted."""
    crew = Crew(Consensus(N, F))
    for _ in range(30):
        for worker in HONEST:
            crew.says(worker, crew.honest())
    for _ in range(30):
        crew.says(N - 1, -crew.honest(), OFTEN)
    assert N - 1 in crew.stage._terms.serving


def test_who_was_convicted_has_no_free_tries() -> None:
    """What another rule refuses for what it says is one too far then, and nothing before."""
    crew = Crew(Consensus(N, F))
    for _ in range(30):
        for worker in range(N):
            crew.says(worker, crew.honest(), LONG if worker == N - 1 else None)
    assert not crew.stage._terms.serving
    first = crew.rounds(200, lies=-1.0)
    assert shares(first, LIARS, since=20) < 0.1
    strikes = {worker: record.strikes for worker, record in crew.stage._terms._records.items()}
    while crew.stage._terms.serving & {N - 1}:
        for worker in range(N):
            crew.says(worker, crew.honest())
    for _ in range(25):
        crew.says(N - 1, crew.honest(), LONG)
    assert crew.stage._terms.serving & {N - 1}
    assert crew.stage._terms._records[N - 1].strikes == strikes[N - 1] + 1


def test_what_another_rule_refuses_for_what_it_says_convicts_nobody() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, out=1e9, need=2, apart=1e9, alike=9.0), seed=1)
    crew.rounds(20)
    for _ in range(10):
        for worker in range(N):
            lies = worker == N - 1
            crew.says(worker, -10 * MEAN if lies else crew.honest(), LONG if lies else None)
    assert N - 1 not in crew.stage._terms.serving


def test_a_first_answer_that_another_rule_refuses_is_as_if_it_had_never_come() -> None:
    crew = Crew(Consensus(N, F))
    for _ in range(20):
        for worker in range(N - 1):
            crew.says(worker, crew.honest())
    for _ in range(20):
        crew.says(N - 1, -crew.honest(), LONG)
    assert crew.says(N - 1, crew.honest()) is None


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
                crew.says(worker, noise, LONG if elsewhere else None)
        assert crew.stage._centre is not None
        return crew.stage._centre.own

    assert bounds(elsewhere=True) > 1.1 * bounds(elsewhere=False)


@pytest.mark.parametrize(("n", "once_in"), [(4, SELDOM), (N, N), (40, 40), (2 * SAMPLE, SAMPLE)])
def test_the_centre_moves_once_in_so_many_verdicts_and_first_after_one_of_everybody(
    n: int, once_in: int
) -> None:
    stage = Consensus(n, (n - 1) // 3)
    crew = Crew(stage)
    seen: list[int] = []
    for verdict in range(1, 3 * max(n, once_in) + 1):
        before = stage._centre
        crew.says(verdict % n, crew.honest())
        seen += [verdict] * (stage._centre is not before)
    assert np.diff(seen).tolist() == [once_in] * (len(seen) - 1)
    assert len(seen) >= 3
    assert seen[0] <= n


def test_of_many_workers_each_takes_its_turn_and_neighbours_come_apart() -> None:
    n = 3 * SAMPLE
    stage = Consensus(n, n // 4)
    crew = Crew(stage)
    for worker in range(n):
        crew.says(worker, crew.honest())
    turns = [stage._sample() for _ in range(3)]
    assert sorted(worker for turn in turns for worker in turn) == list(range(n))
    assert all(abs(a - b) > 1 for turn in turns for a, b in pairwise(turn))


def test_who_is_refused_by_another_rule_takes_one_of_the_f_places_of_those_who_serve() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, out=1e9, need=1, span=1, apart=1e9), seed=1)
    crew.rounds(20)
    for elsewhere, serves in ((F - 1, True), (F, False)):
        for _ in range(2):
            for worker in range(N - 1):
                crew.says(worker, crew.honest(), OFTEN if worker < elsewhere else None)
        assert (crew.says(N - 1, -10 * MEAN) is not None) == serves
        crew.rounds(20)


def test_who_was_refused_elsewhere_and_then_is_silent_takes_no_place_for_ever() -> None:
    """Or three workers who were refused once, and left, would let all liars in."""
    crew = Crew(Consensus(N, F, clean=10))
    crew.rounds(10)
    for worker in range(F):
        for _ in range(2):
            crew.says(worker, crew.honest(), LONG)
    used: list[bool] = []
    for _ in range(60):
        for worker in range(F, N):
            g = crew.honest()
            told = crew.says(worker, -g if worker in LIARS else g)
            used += [told is None] * (worker in LIARS)
    assert np.mean(used[-60:]) < 0.1


# --- voices ---


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_voices_are_what_all_pairs_say(seed: int, copies: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((N, 40)).astype(np.float32)
    rows[1 : 1 + copies] = rows[0]
    apart = np.array([[float(np.linalg.norm(a - b)) for b in rows] for a in rows])
    nearest = np.median((apart + np.diag([np.inf] * N)).min(1))
    twins = ((apart < 0.5 * nearest) | np.eye(N, dtype=bool)).sum(1)
    assert voices(rows, 0.5) == pytest.approx(1 / twins)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1))
def test_a_weighted_median_is_that_of_each_value_as_often_as_it_weighs(
    voiced: list[tuple[int, int]],
) -> None:
    each = sorted(value for value, weight in voiced for _ in range(weight))
    values, weights = ([float(its[at]) for its in voiced] for at in (0, 1))
    assert weighted_median(values, weights) == each[(len(each) - 1) // 2]


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
