"""Consensus on made-up directions: honest work is used, lies are not, whoever helps them how."""

import math
from collections.abc import Collection

import numpy as np
import pytest

from kardam.consensus import SAMPLE, SELDOM, Consensus
from kardam.messages import Refusal, Vector
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


def test_the_weight_is_what_an_admitted_gradient_is_scaled_by() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, out=1.2, far=1.2, term=2, clean=100))
    crew.rounds(20)
    terms = crew.stage._terms
    for _ in range(2):
        terms.serves(0, guilty=True, places=F)
        while terms.serves(0, guilty=False, places=F):
            terms.admit()
    assert [crew.stage.scale(evidence(worker)) for worker in (0, 1)] == [1 / 2, 1.0]


def test_who_whispers_most_of_the_time_is_not_heard_when_he_shouts() -> None:
    """Or honest directions that weigh nothing would pay for lies of full length."""
    crew = Crew(Consensus(N, F, longer=4))
    crew.rounds(30)
    for shouts, heard in ((3, True), (1, False)):
        for _ in range(25):
            crew.says(0, np.float32(0.01) * crew.honest())
            for _ in range(shouts):
                crew.says(0, crew.honest())
        weight = crew.stage.scale(evidence(0, norm=float(np.linalg.norm(crew.honest()))))
        assert weight == 1.0 if heard else weight < 0.06
    assert crew.stage.scale(evidence(1, norm=float(np.linalg.norm(crew.honest())))) == 1.0


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


@pytest.mark.parametrize("refusal", [LONG, OFTEN])
@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_known_by_what_another_rule_refuses(seed: int, refusal: Refusal) -> None:
    """Or who knows that rule would look honest at no cost."""
    assert lies_used(refusal, 0, seed) < 0.1
    assert lies_used(refusal, 3, seed) < 0.15


def test_who_is_heard_every_other_time_is_known_by_what_is_heard() -> None:
    """Or twins would say the truth whenever it is not used."""
    crew = Crew(Consensus(N, F))
    twins, used, echoes = LIARS[:2], list[bool](), 0
    for _ in range(120):
        for worker in range(N - 1):
            if worker not in twins:
                crew.says(worker, crew.honest())
        both = crew.honest()
        for worker in twins:
            before = crew.stage._histories.state()["sums"]
            told = crew.says(worker, both)
            if told is not None and told.rule == "echo":
                assert not told.for_content
                after = crew.stage._histories.state()["sums"]
                assert all(a[1] is b[1] for a, b in zip(before, after, strict=True))
                echoes += 1
            used.append(told is None)
    assert echoes > 50
    assert 0.4 < np.mean(used[-100:]) < 0.7


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


def many(n: int, f: int, rounds: int = 1, seed: int = 0) -> Crew:
    """n workers who have all answered, so many times."""
    crew = Crew(Consensus(n, f), seed)
    for _ in range(rounds):
        for worker in range(n):
            crew.says(worker, crew.honest())
    return crew


def test_of_many_workers_each_takes_its_turn_and_with_others_each_time() -> None:
    n = 3 * SAMPLE
    stage = many(n, n // 4).stage
    while stage._queue:  # of a pass that began before all were there
        stage._sample()
    passes = [[stage._sample() for _ in range(3)] for _ in range(2)]
    for turns in passes:
        assert sorted(worker for turn, _ in turns for worker in turn) == list(range(n))
        assert [share for _, share in turns] == [1 / 3] * 3
    first, second = (set(turns[0][0]) for turns in passes)
    # Of 256 of 768, drawn again, a third are the same.
    assert 0.2 < len(first & second) / SAMPLE < 0.5


def test_a_turn_that_was_left_by_all_of_it_is_no_turn() -> None:
    n = 1000
    stage = many(n, 333).stage
    while stage._queue:
        stage._sample()
    stage._sample()
    gone = set(stage._queue[-1])
    for worker in gone:
        stage.forget(worker)
    turns = [stage._sample() for _ in range(7)]
    assert all(turn and not gone & set(turn) for turn, _ in turns)
    assert all(share == len(turn) / (n - len(gone)) for turn, share in turns)


def test_of_a_turn_one_may_be_left_whom_another_rule_refuses() -> None:
    n = 1000
    crew = many(n, 333)
    stage = crew.stage
    while len(stage._queue) < 2:
        stage._sample()
    other, (last, *gone) = stage._queue[0][0], stage._queue[-1]
    for worker in gone:
        stage.forget(worker)
    crew.says(last, crew.honest(), LONG)
    assert stage._elsewhere.keys() == {last}
    for _ in range(2 * SAMPLE):
        crew.says(other, crew.honest())


@pytest.mark.parametrize("f_say", ["nothing", "zero"])
def test_of_many_the_slow_are_judged_by_their_noise_where_f_say_nothing(f_say: str) -> None:
    """A turn has more or fewer honest workers by chance, and is none that knows nothing."""
    n, f = 1000, 333
    crew, slow, refused = Crew(Consensus(n, f)), range(20), list[bool]()
    for time in range(12):
        for worker in range(n - f if f_say == "nothing" else n):
            if worker in slow and time % 4:
                continue
            g = crew.honest() if worker < n - f else np.zeros(D, np.float32)
            told = crew.says(worker, g)
            refused += [told is not None] * (time >= 2 and worker < n - f)
            if time >= 3:
                assert crew.stage._centre is not None
                assert crew.stage._centre.own < 0.1
    assert np.mean(refused) < 0.01


def test_whose_turn_it_is_with_whom_nobody_knew_when_numbers_were_given_out() -> None:
    n = 2 * SAMPLE
    one, other = (many(n, n // 4, seed=seed).stage for seed in range(2))
    for stage in (one, other):
        stage._queue, stage._passes = [], 3
    assert one._sample() != other._sample()


def test_turns_outlive_the_process() -> None:
    n = 3 * SAMPLE
    before = many(n, n // 4).stage
    before._sample()
    state = before.state()
    for _ in range(2):  # nothing is written to what it is restored from
        after = Consensus(n, n // 4)
        after.restore(state)
        turns = [after._sample() for _ in range(7)]
    assert turns == [before._sample() for _ in range(7)]


@pytest.mark.parametrize("n", [257, 300, 400])
def test_the_noise_of_many_is_told_from_what_is_their_own_as_that_of_few(n: int) -> None:
    """omega^2 of workers whose data are alike is nothing, however many are looked at at once."""
    crew = many(n, (n - 1) // 3, rounds=3)
    assert crew.stage._centre is not None
    assert crew.stage._centre.own < 0.1


def test_a_turn_of_whom_another_rule_refuses_everybody_is_looked_at_all_the_same() -> None:
    n = 800
    crew = many(n, (n - 1) // 3)
    stage = crew.stage
    turn, _ = stage._sample()
    stage._queue.append(turn)
    for worker in turn:
        crew.says(worker, crew.honest(), LONG)
    assert stage._elsewhere.keys() == set(turn)
    for _ in range(3 * SAMPLE):
        crew.says(0, crew.honest())


@pytest.mark.parametrize("seed", range(2))
def test_who_takes_every_other_place_owns_no_turn(seed: int) -> None:
    n = 1000
    crew, told = Crew(Consensus(n, 333), seed), dict[bool, list[bool]]({True: [], False: []})
    for time in range(8):
        for worker in range(n):
            lies = worker % 4 == 0
            g = crew.honest() - 3 * lies * MEAN
            told[lies] += [crew.says(worker, g) is None] * (time >= 4)
    assert np.mean(told[False]) > 0.99
    assert not any(worker % 4 for worker in crew.stage._terms.serving)


def test_who_is_refused_by_another_rule_takes_one_of_the_f_places_of_those_who_serve() -> None:
    crew = Crew(Consensus(N, F, beta=0.0, far=1.2, out=1e9, need=1, span=1, apart=1e9), seed=1)
    crew.rounds(20)
    for elsewhere, serves in ((F - 1, True), (F, False)):
        for _ in range(2):
            for worker in range(N - 1):
                crew.says(worker, crew.honest(), LONG if worker < elsewhere else None)
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


def lies_beside(refusal: Refusal | None, of: Collection[int], seed: int) -> float:
    """The share of late lies that is used, of f workers with data of their own who push back, where
    these send honest work besides, which another rule refuses.
    """
    crew, used = Crew(Consensus(N, F), seed), list[bool]()
    own = 1.2 * crew.chance.standard_normal((N, D)) / math.sqrt(D)
    shared = MEAN / np.linalg.norm(MEAN)

    def drawn(worker: int, push: float) -> Vector:
        noise = 0.5 * crew.chance.standard_normal(D) / math.sqrt(D)
        g: Vector = (push * shared + own[worker] + noise).astype(np.float32)
        return g

    for turn in range(100):
        for worker in range(N):
            lies = worker in LIARS
            told = crew.says(worker, drawn(worker, -0.5 if lies else 1.0))
            used += [told is None] * (lies and turn >= 30)
            if refusal is not None and worker in of:
                crew.says(worker, drawn(worker, 1.0), refusal)
    return float(np.mean(used))


@pytest.mark.parametrize("seed", range(3))
def test_f_honest_workers_who_come_too_often_shelter_no_liar(seed: int) -> None:
    """They are fast: not the f whom the theorem fears."""
    assert lies_beside(None, (), seed) < 0.05
    assert lies_beside(OFTEN, range(F), seed) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_no_liar_shelters_himself_by_what_another_rule_refuses(seed: int) -> None:
    """f who are refused elsewhere take all places, but each of them has his own."""
    assert lies_beside(LONG, LIARS, seed) < 0.1


@pytest.mark.parametrize("share", [0.5, 0.1, 0.05])
def test_honest_work_of_who_seldom_has_any_is_used(share: float) -> None:
    """Sparse data, or a loss that is flat where the model is right: most gradients are zero."""
    crew, used = Crew(Consensus(N, F)), list[bool]()
    for turn in range(200):
        for worker in range(N):
            some = crew.chance.random() < share
            told = crew.says(worker, crew.honest() if some else np.zeros(D, np.float32))
            used += [told is None] * (some and turn >= 20)
    assert np.mean(used) > 0.9


def test_who_sends_nothing_but_zeros_is_nobody_until_he_does_not() -> None:
    """He is none of those who stand together, and his first gradients are as anybody's."""
    crew, used = Crew(Consensus(N, F)), list[bool]()
    for turn in range(60):
        for worker in range(N):
            late = worker in LIARS
            nothing = np.zeros(D, np.float32)
            told = crew.says(worker, nothing if late and turn < 30 else crew.honest())
            used += [told is None] * (late and turn >= 2)
    assert np.mean(used) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_zeros_wear_no_guilt_away(seed: int) -> None:
    crew = Crew(Consensus(N, F, out=1e9), seed)
    crew.rounds(20)
    for worker in LIARS:
        for _ in range(7):
            crew.says(worker, -crew.honest())
        before = list(crew.stage._far[worker])
        for _ in range(25):
            crew.says(worker, np.zeros(D, np.float32))
        assert list(crew.stage._far[worker]) == before
