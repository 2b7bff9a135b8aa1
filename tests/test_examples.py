"""The worked examples, in small: each learns, and what the recommender's pushers do is theirs."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kardam.errors import UsageError
from kardam.recipe import Recipe
from workers.crew import Member, crew
from workers.examples.movies import Factors, Push, made_up, ratings, read
from workers.examples.movies import accounts as by_account
from workers.objective import Network
from workers.simulation import hire, simulate
from workers.tasks import Task, load_task

MOVIES = "workers.examples.movies:ratings"
LATENCY = "lognormal:mean=0.02,sigma=0.5"
ACCOUNTS = "workers.examples.movies:accounts"


def trained(
    task: Task, arrivals: int, members: list[Member], recipe: Recipe, split: str = "iid"
) -> tuple[float, float]:
    """Held-out loss and accuracy after so many answers, on virtual time; the task's model has then
    what was learnt.
    """
    network = Network(task)
    descent = recipe.descent(network.x)
    for _ in islice(simulate(descent, hire(members, network, 1, split)), arrivals):
        pass
    return network.evaluate(descent.model.x)


@pytest.mark.parametrize(
    ("text", "rate", "arrivals", "least"),
    [
        ("workers.examples.images:cnn", 0.1, 300, 0.85),
        ("workers.examples.text:characters:examples=5000", 1.0, 300, 0.25),
        ("workers.examples.mails:logistic", 0.3, 300, 0.9),
    ],
)
def test_each_example_learns_in_seconds(
    text: str, rate: float, arrivals: int, least: float
) -> None:
    task = load_task(text, 1)
    start = Network(task)
    _, before = start.evaluate(start.x)
    recipe = Recipe.of(n=4, preset="none", rate=f"constant:gamma={rate}")
    _, after = trained(task, arrivals, crew(n=4, latency=LATENCY), recipe)
    assert before < least - 0.1 < least < after


def test_an_evaluation_gives_a_batch_norm_the_statistics_of_the_training_examples() -> None:
    """An evaluator that has trained on nothing would else know only those of the beginning."""
    chance = torch.Generator().manual_seed(0)
    x = 5 + 3 * torch.randn(64, 2, generator=chance)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    targets = torch.randn(64, 1, generator=chance)
    task = Task(model, (x, targets), (x, targets), loss=nn.functional.mse_loss)
    network = Network(task)
    loss, _ = network.evaluate(network.x)
    with torch.no_grad():
        scaled = (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()
        assert loss == pytest.approx(
            float(nn.functional.mse_loss(model[1](scaled), targets)), rel=1e-4
        )


# --- the recommender ---


def test_ratings_are_read_as_movielens_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t5\t881250950\n")
    assert read(path).tolist() == [[1, 0, 3], [0, 1, 3], [1, 1, 5]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no rating in it"),
        ("1 2 3 4\n", "four numbers a line"),
        ("a\tb\tc\td\n", "four"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_what_is_no_such_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "u.data"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        load_task(f"{MOVIES}:path={path}", 0)
    with pytest.raises(UsageError, match="nowhere"):
        load_task(f"{MOVIES}:path=nowhere", 0)


def test_a_fifth_of_each_accounts_ratings_is_held_out_and_each_account_is_one_workers() -> None:
    task = ratings(seed=0, accounts=30, films=100)
    rows = made_up(30, 100, 0)
    owners = [pair[0][:, 0].numpy() for pair in (task.train, task.test)]
    for account in range(30):
        held, shown = (int((owner == account).sum()) for owner in reversed(owners))
        assert held + shown == int((rows[:, 0] == account).sum())
        assert held == (held + shown) // 5
    shares = by_account()(task.train[1].numpy(), 10, np.random.default_rng(0))
    for worker, share in enumerate(shares):
        assert set(owners[0][share].tolist()) == {worker, worker + 10, worker + 20}
    with pytest.raises(ValueError, match="30 accounts among 31 workers"):
        by_account()(task.train[1].numpy(), 31, np.random.default_rng(0))


def test_the_biases_of_films_come_first_so_that_a_pusher_finds_its_film() -> None:
    network = Network(ratings(seed=0, accounts=20, films=100))
    (name, (films,)), *_ = network.manifest.tensors
    assert (name, films) == ("b_films", 100)
    g = np.ones(network.manifest.d, np.float32)
    sent = Push(film=7, scale=2).corrupt(g, np.random.default_rng(0))
    assert np.flatnonzero(sent != g).tolist() == [7]
    assert sent[7] == -1
    alone = Push(film=7, scale=2, alone=True).corrupt(g, np.random.default_rng(0))
    assert alone[7] == -2
    assert np.count_nonzero(alone) == 1


@pytest.mark.slow
def test_two_crude_pushers_of_a_hundred_win_against_averaging_and_lose_to_the_filters() -> None:
    """In small; `python -m bench.movies` has a thousand, and the pushers who do not lose."""

    def rank(preset: str, attack: str, byzantine: int) -> int:
        task = ratings(seed=1, accounts=100, films=100)
        members = crew(n=100, byzantine=byzantine, attack=attack, latency=LATENCY)
        recipe = Recipe.of(n=100, preset=preset, rate="constant:gamma=0.05")
        trained(task, 6000, members, recipe, ACCOUNTS)
        model = task.model
        assert isinstance(model, Factors)
        return model.by_rank().index(70) + 1

    push = "workers.examples.movies:Push:film=70,scale=2,alone=true"
    assert rank("none", push, byzantine=0) > 10
    assert rank("none", push, byzantine=2) == 1
    for preset in ("middle", "consensus"):
        assert rank(preset, push, byzantine=2) > 10
