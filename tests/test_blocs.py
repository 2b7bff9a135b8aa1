"""Blocs beside an oracle that tries every set, and what no bloc may be made of."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kardam import consensus
from kardam.blocs import LONGER, SAME, angles, bloc, cliques, pullers, telling
from kardam.consensus import SAMPLE, Consensus
from kardam.messages import Refusal
from tests.test_consensus import HONEST, LIARS, LONG, MEAN, OFTEN, Crew, F, N, shares

D = 40
APART = 1.2
ALIKE = 0.4
AGAINST = 0.35

Rows = NDArray[np.float32]


def crowd(seed: int, n: int = N, d: int = D) -> Rows:
    """Rows of expected length 1 that have nothing in common."""
    rows: Rows = np.random.default_rng(seed).standard_normal((n, d), np.float32)
    rows /= np.sqrt(np.float32(d))
    return rows


def pushed(rows: Rows, who: list[int], by: float) -> Rows:
    """Those moved along the first axis, and the others against it, so that the mean stays."""
    moved = rows.copy()
    moved[:, 0] -= np.float32(by * len(who) / (len(rows) - len(who)))
    moved[who, 0] = rows[who, 0] + np.float32(by)
    return moved


def clearest(rows: Rows, least: int, most: int, apart: float) -> set[int]:
    """By the definition: of all sets of that many, on either side."""
    centred = (rows - rows.mean(0)).astype(np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    share = min(sizes[0] ** 2 / len(rows), 0.5)
    best, found = apart / share, set[int]()
    for t in (centred @ axes[0], -centred @ axes[0]):
        for k in range(least, most + 1):
            for those in combinations(range(len(rows)), k):
                others = np.delete(t, those)
                members = t[list(those)]
                gap = others.mean() - members.max()
                clear = gap / others.std(ddof=1)
                if clear > best and members.max() - members.min() < gap:
                    best, found = clear, set(those)
    return found


@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 8), max_size=4), st.floats(0.0, 2.0))
def test_a_bloc_is_the_clearest_of_all_sets_of_so_many(seed: int, who: set[int], by: float) -> None:
    rows = pushed(crowd(seed, n=9), sorted(who), by)
    assert set(bloc(rows, 2, 3, APART)) == clearest(rows, 2, 3, APART)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [2, 3])
def test_those_who_push_together_are_found_whichever_way_they_push(seed: int, k: int) -> None:
    who = list(range(N - k, N))
    for by in (1.5, -1.5):
        assert sorted(bloc(pushed(crowd(seed), who, by), 2, F, APART)) == who


@given(st.integers(0, 2**32 - 1))
def test_who_have_nothing_in_common_are_seldom_a_bloc(seed: int) -> None:
    found = [bool(bloc(crowd(seed + more), 2, F, APART)) for more in range(30)]
    assert np.mean(found) < 0.2


@pytest.mark.parametrize("by", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("seed", range(10))
def test_whoever_is_alone_is_no_bloc_however_far_it_stands(seed: int, by: float) -> None:
    assert N - 1 not in bloc(pushed(crowd(seed), [N - 1], by), 2, F, APART)


@pytest.mark.parametrize("far", [2.0, 10.0, 1000.0])
@pytest.mark.parametrize("seed", range(10))
def test_f_on_one_side_do_not_make_a_bloc_of_two_on_the_other(seed: int, far: float) -> None:
    """Liars who choose the axis by going far: along what two honest workers have in common."""
    rows = crowd(seed)
    rows[:2, 0] += np.float32(0.5)
    rows[N - F :, 0] -= np.float32(far)
    assert not set(bloc(rows, 2, F, APART)) & {0, 1}


def test_the_order_of_the_rows_is_nothing() -> None:
    rows = pushed(crowd(3), [1, 5, 6], 1.5)
    order = np.random.default_rng(4).permutation(N)
    assert {int(order[at]) for at in bloc(rows[order], 2, F, APART)} == {1, 5, 6}


def test_rows_that_are_all_the_same_have_none() -> None:
    assert bloc(np.ones((N, D), np.float32), 2, F, APART) == []


# --- who point the same way ---


def alike(rows: Rows, least: int, most: int, margin: float) -> set[int]:
    """By the definition: of all sets of that many."""
    found = set[int]()
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    for k in range(least, most + 1):
        for those in combinations(range(len(rows)), k):
            others = [p for p in range(len(rows)) if p not in those]
            within = min(float(units[p] @ units[q]) for p, q in combinations(those, 2))
            between = max(float(units[p] @ units[q]) for p in those for q in others)
            if within > between + margin:
                found |= set(those)
    return found


def leaning(rows: Rows, who: list[int], by: float) -> Rows:
    """Those made alike: each with so much of one direction that nobody else has."""
    moved = rows.copy()
    moved[who] += np.float32(by) * crowd(99, n=1)
    return moved


@given(
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(0, 8), max_size=4),
    st.floats(0.0, 4.0),
    st.integers(2, 3),
)
def test_cliques_are_all_sets_that_are_more_alike_than_like_another(
    seed: int, who: set[int], by: float, least: int
) -> None:
    rows = leaning(crowd(seed, n=9), sorted(who), by)
    assert set(cliques(angles(rows), least, 4, ALIKE)) == alike(rows, least, 4, ALIKE)


def test_of_two_cliques_both_are_found() -> None:
    rows = crowd(5)
    rows[:3] += 4 * crowd(98, n=1)
    rows[7:] += 4 * crowd(97, n=1)
    assert cliques(angles(rows), 3, 3, ALIKE) == [0, 1, 2, 7, 8, 9]


@pytest.mark.parametrize("seed", range(5))
def test_who_point_the_same_way_are_found_however_long_they_are(seed: int) -> None:
    rows = leaning(crowd(seed), [1, 5, 6], 3.0)
    lengths = np.random.default_rng(seed).uniform(1e-3, 1e3, N).astype(np.float32)
    assert cliques(angles(rows * lengths[:, None]), 3, 3, ALIKE) == [1, 5, 6]


def test_rows_of_no_length_point_nowhere() -> None:
    rows = leaning(crowd(2), [1, 5, 6], 3.0)
    rows[7:] = 0
    assert cliques(angles(rows), 3, 3, ALIKE) == [1, 5, 6]
    assert cliques(angles(np.zeros((N, D), np.float32)), 3, 3, ALIKE) == []


def test_where_f_is_less_than_three_there_is_none() -> None:
    assert cliques(angles(leaning(crowd(1), [1, 2], 9.0)), 3, 2, ALIKE) == []


# --- who pull against all others ---


def tug(rows: Rows, lengths: list[float], voices: list[float], least: int, most: int) -> set[int]:
    """By the definition: of all numbers of the longest, the clearest."""
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    longest = sorted(range(len(rows)), key=lambda p: (-lengths[p], p))
    best, found = AGAINST, set[int]()
    for k in range(least, most + 1):
        those, others = longest[:k], longest[k:]
        told = {(q, r): voices[q] * voices[r] for q, r in combinations(others, 2)}
        if min(lengths[p] for p in those) < LONGER * max(lengths[q] for q in others):
            continue
        if sum(told.values()) == 0:
            continue
        among = sum(w * float(units[q] @ units[r]) for (q, r), w in told.items())
        across = sum(voices[q] * float(units[p] @ units[q]) for p in those for q in others)
        clear = among / sum(told.values()) - across / (k * sum(voices[q] for q in others))
        if clear > best:
            best, found = clear, set(those)
    return found


@given(
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(0, 8), max_size=4),
    st.floats(0.0, 2.0),
    st.lists(st.sampled_from([0.5, 1.0, 1.05, 2.0]), min_size=9, max_size=9),
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=9, max_size=9),
)
def test_pullers_are_the_longest_with_whom_the_others_do_not_agree(
    seed: int, who: set[int], by: float, lengths: list[float], voices: list[float]
) -> None:
    rows = pushed(crowd(seed, n=9), sorted(who), by)
    longer = [length + 2 * (p in who) for p, length in enumerate(lengths)]
    for least, most in ((2, 3), (3, 3), (1, 4), (3, 2)):
        found = pullers(angles(rows), longer, voices, least, most, AGAINST)
        assert set(found) == tug(rows, longer, voices, least, most)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("k", [2, 3])
def test_who_pull_against_all_others_are_found_where_they_are_the_longest(
    seed: int, k: int
) -> None:
    who = [1, 5, 6][:k]
    cosines = angles(pushed(crowd(seed, d=1000), who, 1.5))
    lengths = np.random.default_rng(seed).uniform(0.5, 1.0, N)
    lengths[(who[-1] + 1) % N] = 1.0  # the next, so that they are just long enough
    lengths[who] = LONGER
    assert pullers(cosines, lengths.tolist(), [1.0] * N, 2, F, AGAINST) == who
    lengths[who[0]] = 0.99 * LONGER
    assert pullers(cosines, lengths.tolist(), [1.0] * N, 2, F, AGAINST) == []


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(0.0, 1e30), min_size=N, max_size=N))
def test_nobody_pulls_against_those_who_do_not_agree(seed: int, lengths: list[float]) -> None:
    assert pullers(angles(crowd(seed, d=1000)), lengths, [1.0] * N, 2, F, AGAINST) == []


def test_who_say_nothing_agree_with_nobody_and_take_nobodys_agreement_away() -> None:
    """A row of no length has no cosine, not even with itself."""
    rows = crowd(8, d=1000)
    rows[2:6] += 1.5 * crowd(96, n=1, d=1000)
    rows[:2] -= 1.5 * crowd(96, n=1, d=1000)
    rows[6:] = 0
    lengths, each = [2.0, 2.0, *[1.0] * 8], [1.0] * N
    units = rows[:6] / np.linalg.norm(rows[:6], axis=1)[:, None]
    among = sum(float(units[q] @ units[r]) for q, r in combinations(range(2, 6), 2)) / 28
    across = sum(float(units[p] @ units[q]) for p in (0, 1) for q in range(2, 6)) / 16
    for margin, found in ((among - across - 1e-4, True), (among - across + 1e-4, False)):
        assert pullers(angles(rows), lengths, each, 2, 2, margin) == ([0, 1] if found else [])
        assert telling(angles(rows), each, each, [0, 1], margin) == found
    assert not telling(angles(rows), each, each, [8, 9], margin)


def test_liars_who_agree_with_each_other_alone_do_not_make_others_pull_against_them() -> None:
    """Three copies of one worker agree; they share its voice, so that they agree no more than it
    does with anybody.
    """
    rows = crowd(6, d=1000)
    rows[7:] = rows[6]
    lengths = [2.0, 2.0, *[1.0] * 8]
    shared = [*[1.0] * 6, *[0.25] * 4]
    assert pullers(angles(rows), lengths, [1.0] * N, 2, F, 0.2) == [0, 1]
    assert pullers(angles(rows), lengths, shared, 2, F, 0.2) == []


# --- what tells those who stand together from who have like data ---


def tells(rows: Rows, lengths: list[float], voices: list[float], together: set[int]) -> bool:
    """By the definition."""
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    others = [p for p in range(len(rows)) if p not in together]
    within = [float(units[p] @ units[q]) for p, q in combinations(together, 2)]
    if np.mean(within) > SAME:
        return True
    if all(lengths[p] >= LONGER * lengths[q] for p in together for q in others):
        return True
    told = {(q, r): voices[q] * voices[r] for q, r in combinations(others, 2)}
    if sum(told.values()) == 0:
        return False
    among = sum(w * float(units[q] @ units[r]) for (q, r), w in told.items()) / sum(told.values())
    across = sum(voices[q] * float(units[p] @ units[q]) for p in together for q in others)
    return among - across / (len(together) * sum(voices[q] for q in others)) > AGAINST


@given(
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(0, 8), min_size=2, max_size=3),
    st.sampled_from([0.0, 0.5, -1.0, 2.0]),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.lists(st.sampled_from([0.5, 1.05, 2.0]), min_size=9, max_size=9),
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=9, max_size=9),
)
def test_who_stand_together_tell_by_the_others_their_lengths_or_each_other(
    seed: int, who: set[int], by: float, like: float, lengths: list[float], voices: list[float]
) -> None:
    rows = leaning(pushed(crowd(seed, n=9), sorted(who), by), sorted(who), like)
    long = [length if p in who else min(length, 1.0) for p, length in enumerate(lengths)]
    told = telling(angles(rows), long, voices, sorted(who), AGAINST)
    assert told == tells(rows, long, voices, who)


# --- what consensus makes of it ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("lies", "blind", "refused"), [(False, False, False), (False, True, True), (True, False, True)]
)
def test_two_who_stand_together_are_refused_only_if_something_else_tells_them(
    seed: int, lies: bool, blind: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along one axis, far from all others: by data of their own, or since they reverse what all
    others say. Who is `blind` to the rest can not tell which.
    """
    monkeypatch.setattr(consensus, "telling", lambda *rest: blind or telling(*rest))
    crew = Crew(Consensus(N, F, out=1e9, far=1e9, alike=9.0), seed)
    shared, pair = MEAN / np.float32(np.linalg.norm(MEAN)), [0, 1]
    own = 0.8 * crowd(seed + 70, d=MEAN.size)
    own[pair] += np.float32(-2) * shared if lies else crowd(seed + 71, n=1, d=MEAN.size)[0]
    used = list[bool]()
    for _ in range(100):
        for worker in range(N):
            noise = 0.5 * crowd(int(crew.chance.integers(2**31)), n=1, d=MEAN.size)[0]
            g = shared + own[worker] + noise
            told = crew.says(worker, g / np.float32(np.linalg.norm(g)))
            used += [told is None] * (worker in pair)
    assert np.mean(used[50:]) < 0.2 if refused else np.mean(used) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_who_pull_longest_are_refused_though_each_ones_data_are_its_own(seed: int) -> None:
    """No distance shows them, no axis, and they have as little in common as honest workers do."""
    own = 2 * crowd(seed + 30, d=MEAN.size)
    shared = MEAN / np.float32(np.linalg.norm(MEAN))
    for against, refused in ((AGAINST, True), (9.0, False)):
        blind = Consensus(N, F, out=1e9, far=1e9, apart=1e9, alike=9.0, against=against)
        crew, used = Crew(blind, seed), list[tuple[bool, bool]]()
        for _ in range(100):
            for worker in range(N):
                lies = worker in LIARS
                noise = 0.3 * crew.chance.standard_normal(MEAN.size).astype(np.float32)
                pull = own[worker] + np.float32(-2.5 if lies else 1.5) * shared + noise
                used.append((lies, crew.says(worker, pull * np.float32(2 if lies else 1)) is None))
        late = used[20 * N :]
        assert (np.mean([told for lies, told in late if lies]) < 0.1) == refused
        assert np.mean([told for lies, told in late if not lies]) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_who_lean_the_same_way_are_refused_where_honest_workers_have_little_in_common(
    seed: int,
) -> None:
    """No distance shows them: each honest worker's own data take it as far."""
    own = 3 * crowd(seed + 50, d=MEAN.size)
    lean = 3 * crowd(seed + 90, n=1, d=MEAN.size)[0]
    for alike, refused in ((ALIKE, True), (9.0, False)):
        crew = Crew(Consensus(N, F, out=1e9, far=1e9, apart=1e9, echo=0.0, alike=alike), seed)
        used: list[tuple[bool, bool]] = []
        for _ in range(100):
            for worker in range(N):
                noise = 0.3 * crew.chance.standard_normal(MEAN.size).astype(np.float32)
                mine = lean + own[worker] / 4 if worker in LIARS else own[worker]
                used.append((worker in LIARS, crew.says(worker, mine + noise) is None))
        late = used[20 * N :]
        assert (np.mean([told for lies, told in late if lies]) < 0.1) == refused
        assert np.mean([told for lies, told in late if not lies]) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_liars_who_serve_cannot_make_two_of_the_others_pull_against_all(seed: int) -> None:
    """They agree, and against those two: enough to be taken for all the others."""
    crew = Crew(Consensus(N, F, out=1e9, far=1e9, apart=1e9, echo=0.0), seed)
    lean, pair = crowd(seed + 8, n=1, d=MEAN.size)[0], [0, 1]
    for time in range(90):
        for worker in range(N):
            own = 0.3 * crowd(int(crew.chance.integers(2**31)), n=1, d=MEAN.size)[0]
            if worker in pair and time >= 60:
                own = 3 * (own - lean)
            crew.says(worker, own + lean if worker in LIARS else own)
    stage = crew.stage
    assert stage._terms.serving == set(LIARS)
    cosines = angles(stage._histories.directions(range(N)))
    lengths = stage._histories.lengths(range(N))
    assert pullers(cosines, lengths, [1.0] * N, 2, F, AGAINST) == pair
    assert not stage._bloc & set(pair)


def test_who_stand_together_against_the_others_are_refused_however_near_they_lie() -> None:
    """Of a mean that is small beside what is everybody's own, distances show nothing."""
    crew = Crew(Consensus(N, F, out=1e9, far=1e9))
    blind = Crew(Consensus(N, F, out=1e9, far=1e9, apart=1e9, alike=9.0))
    for told, refused in ((crew, True), (blind, False)):
        said = told.rounds(100, lies=-1.0)
        assert (shares(said, LIARS, since=20) < 0.1) == refused
        assert shares(said, HONEST, since=20) > 0.95


@pytest.mark.parametrize(("apart", "alike"), [(APART, 9.0), (1e9, ALIKE)])
def test_where_f_say_nothing_three_with_like_data_are_honest(apart: float, alike: float) -> None:
    """Who is missing is of the f already, so that nobody who answers is."""
    crew = Crew(Consensus(N, F, apart=apart, alike=alike))
    lean = crowd(7, n=1, d=MEAN.size)[0] * np.float32(np.linalg.norm(MEAN))
    used: list[bool] = []
    for _ in range(100):
        for worker in HONEST:
            push = np.float32(1.1 if worker < 3 else -0.8)
            used.append(crew.says(worker, crew.honest() + push * lean) is None)
    assert np.mean(used[20 * len(HONEST) :]) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_no_liar_who_goes_far_out_alone_hides_those_who_push(seed: int) -> None:
    """He would turn the axis away from them, and is refused himself."""
    crew = Crew(Consensus(N, F, far=2.3, alike=9.0), seed)
    aside = np.tile(np.array([1, -1], np.float32), MEAN.size // 2)
    used: list[bool] = []
    for _ in range(100):
        for worker in range(N):
            pushes = worker in (N - 3, N - 2)
            g = 10 * aside if worker == N - 1 else crew.honest() - 2 * pushes * MEAN
            told = crew.says(worker, g)
            used += [told is None] * pushes
    assert np.mean(used[40:]) < 0.2


@pytest.mark.parametrize("refusal", [LONG, OFTEN])
@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_refused_elsewhere_is_not_taken_for_one_of_a_bloc(
    seed: int, refusal: Refusal
) -> None:
    """The first of ten, so that all others have another number among those who are heard."""
    crew = Crew(Consensus(N, F, out=1e9, far=1e9, alike=9.0), seed)
    pushes, found = {N - 2, N - 1}, list[set[int]]()
    for time in range(60):
        for worker in range(N):
            g = crew.honest()
            crew.says(worker, -g if worker in pushes else g, refusal if worker == 0 else None)
        found += [set(crew.stage._bloc)] * (time > 5)
    assert set().union(*found) == pushes
    assert found.count(pushes) > 20


def test_who_pushes_is_found_among_more_than_are_looked_at_at_once() -> None:
    n = 4 * SAMPLE
    stage = Consensus(n, n // 4, out=1e9, far=1e9)
    crew = Crew(stage)
    used: list[bool] = []
    for turn in range(40):
        for worker in range(n):
            pushes = worker < n // 4
            told = crew.says(worker, (-1 if pushes else 1) * crew.honest())
            used += [told is None] * (pushes and turn > 30)
    assert np.mean(used) < 0.1


def test_one_liar_of_whom_two_are_feared_is_never_of_a_bloc_nor_is_anybody_for_its_sake() -> None:
    crew = Crew(Consensus(N, F, out=1e9, far=1e9))
    for _ in range(100):
        told = [crew.says(w, crew.honest() if w < N - 1 else -crew.honest()) for w in range(N)]
    assert told == [None] * N
