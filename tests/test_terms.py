"""Terms, parole and places, round by round."""

from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.terms import Terms

N, F = 10, 3


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


def test_who_has_no_place_makes_nobody_free() -> None:
    """Nobody begins a term while f others are refused elsewhere, however often it was convicted."""
    yard = Yard(Terms(N, term=4, clean=1000))
    yard.round(guilty=[0])
    yard.rounds_until_free(0)
    yard.round(guilty=[1])
    yard.places = 0
    assert not yard.serves(0, guilty=True)
    assert yard.terms.serving == {1}
    yard.places = 1
    assert yard.serves(0, guilty=True)
    assert yard.terms.serving == {0}


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
