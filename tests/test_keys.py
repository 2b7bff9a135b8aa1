"""Identity is the token's: only what we issued is one, and of those only the newest."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.keys import Identity, Tokens

N = 4


def tokens() -> Tokens:
    numbers = count()
    return Tokens(N, lambda: f"secret {next(numbers)}")


@given(st.text(max_size=64))
def test_what_we_did_not_issue_is_nobodys(guess: str) -> None:
    assert tokens().identity(guess) is None


@given(st.data())
def test_a_token_that_is_changed_anywhere_is_nobodys(data: st.DataObject) -> None:
    ours = tokens()
    token = ours.issue(2)
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("0123456789abcdefworker."))
    changed = token[:at] + letter + token[at + 1 :]
    assert changed == token or ours.identity(changed) is None


def test_of_the_tokens_of_one_worker_only_the_newest_counts() -> None:
    ours = tokens()
    old, other, new = ours.issue(1), ours.issue(2), ours.issue(1)
    assert ours.identity(new) == Identity("worker", 1)
    assert ours.identity(old) is None
    assert ours.identity(other) == Identity("worker", 2)
    assert ours.issued == {1, 2}
    assert ours.identity(ours.operator) == Identity("operator")


def test_the_next_server_knows_tokens_that_were_issued_after_its_checkpoint() -> None:
    before, after = tokens(), tokens()
    old = before.issue(0)
    state = before.state()
    late, newer = before.issue(3), before.issue(0)
    after.restore(state)
    assert after.identity(old) == Identity("worker", 0)  # it has not heard of the newer yet
    assert after.identity(newer) == Identity("worker", 0)
    assert after.identity(old) is None
    assert after.identity(late) == Identity("worker", 3)
    newest = after.issue(0)
    assert after.identity(newest) == Identity("worker", 0)
    assert after.identity(newer) is None
    assert after.identity(before.evaluator) == Identity("evaluator")


def test_no_worker_beyond_n_has_a_token() -> None:
    with pytest.raises(ValueError, match="expected 0 <= worker < 4, got 4"):
        tokens().issue(N)
