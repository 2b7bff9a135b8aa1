"""A recommender: matrix factorization on ratings in MovieLens's format, one account a worker, and
accounts that push one film.

    kardam simulate --task workers.examples.movies:ratings --split workers.examples.movies:accounts

Never in here: a filter.
"""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kardam.messages import Vector
from workers.attacks import Attack, Knows
from workers.tasks import Task
from workers.tasks.splits import Shares, Split, Targets

# Of each account's ratings, every so many is held out.
HELD_OUT = 5

# The units in which the model has what is everybody's, and what is one account's own: by their
# squares, the first learn more slowly than films, and the second faster. Of a thousand accounts one
# answers rarely for itself, and all of them at once, a round late, for the mean.
ALL, OWN = 0.1, 3.0

# One row a rating: account, film, and 1 to 5 stars.
Rows = NDArray[np.int64]


class Factors(nn.Module):
    """The rating of film i by account u: mean + b_u + b_i + p_u . q_i (Koren et al. 2009, eq. 4).

    By the order of names the films' biases come first in the flat vector: b_i is number i.
    """

    def __init__(self, accounts: int, films: int, k: int, mean: float) -> None:
        super().__init__()
        self.b_films = nn.Parameter(torch.zeros(films))
        self.b_users = nn.Parameter(torch.zeros(accounts))
        # Everybody's gradient has this one: were they all sparse, their median would be nothing.
        self.mean = nn.Parameter(torch.tensor(mean / ALL))
        self.q_films = nn.Parameter(0.3 * torch.randn(films, k))
        self.q_users = nn.Parameter(0.3 / OWN * torch.randn(accounts, k))

    def forward(self, pairs: Tensor) -> Tensor:
        """Ratings, for (account, film) a row."""
        account, film = pairs.T
        own = OWN * (self.b_users[account] + (self.q_users[account] * self.q_films[film]).sum(1))
        return ALL * self.mean + self.b_films[film] + own

    @torch.no_grad()
    def by_rank(self) -> list[int]:
        """The films, best first, by the mean over accounts of what they would rate."""
        score = self.b_films + OWN * self.q_films @ self.q_users.mean(0)
        return [int(film) for film in score.argsort(descending=True)]


def ratings(
    seed: int,
    path: Path | None = None,
    accounts: int = 1000,
    films: int = 300,
    k: int = 4,
    batch: int = 16,
) -> Task:
    """Ratings of `path` (`u.data` of MovieLens 100K: account, film, stars and a time a line, by
    tabs), or else made up; a fifth of each account's are held out, and the loss is the mean square.

    Targets are (stars, account): a split sees targets alone, and `accounts` needs the account.
    Raises ValueError for what is no such file, or out of range.
    """
    if not k >= 1:
        raise ValueError(f"expected k >= 1, got {k}")
    rows = made_up(accounts, films, seed) if path is None else read(path.expanduser())
    place = _within_account(rows)
    held_out = place % HELD_OUT == HELD_OUT - 1
    train, test = rows[~held_out], rows[held_out]
    size = rows[:, :2].max(0) + 1
    mean = float(train[:, 2].mean(dtype=np.float64))
    model = Factors(int(size[0]), int(size[1]), k, mean)
    return Task(model, _pair(train), _pair(test), loss=mean_square, batch=batch)


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over a batch of (prediction - stars)^2."""
    return nn.functional.mse_loss(outputs, targets[:, 0])


def read(path: Path) -> Rows:
    """The ratings of a file, accounts and films numbered from 0 in the order of their numbers."""
    try:
        rows = np.loadtxt(path, dtype=np.int64, delimiter="\t", usecols=(0, 1, 2), ndmin=2)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or 'no such file'}") from error
    except ValueError as error:
        raise ValueError(
            f"{path}: expected account, film, stars and time, four numbers a line by tabs: {error}"
        ) from error
    if not len(rows):
        raise ValueError(f"{path}: there is no rating in it")
    for column in (0, 1):
        rows[:, column] = np.unique(rows[:, column], return_inverse=True)[1]
    return rows


def made_up(accounts: int, films: int, seed: int) -> Rows:
    """Ratings like MovieLens's: some films are rated by many and most by few, an account rates 20
    to 60, and stars are 1 to 5 around biases and four tastes.

    Film i is rated in proportion to 1 / (i + 10): film 0 by most. Raises ValueError.
    """
    if not accounts >= 1:
        raise ValueError(f"expected accounts >= 1, got {accounts}")
    if not films >= 100:
        raise ValueError(f"expected films >= 100, got {films}")
    rng = np.random.default_rng([seed, 0x57A5])
    tastes, kinds = rng.normal(0, 0.6, (accounts, 4)), rng.normal(0, 0.6, (films, 4))
    b_users, b_films = rng.normal(0, 0.4, accounts), rng.normal(0, 0.5, films)
    share = 1 / (np.arange(films) + 10)
    rows = []
    for u in range(accounts):
        seen = rng.choice(films, rng.integers(20, 61), replace=False, p=share / share.sum())
        says = 3.5 + b_users[u] + b_films[seen] + kinds[seen] @ tastes[u]
        stars = np.clip(np.rint(says + rng.normal(0, 0.7, len(seen))), 1, 5)
        rows += [(u, film, star) for film, star in zip(seen, stars, strict=True)]
    return np.array(rows, np.int64)


def accounts() -> Split:
    """Who holds which ratings: worker i those of the accounts i, i + n, i + 2n ..."""

    def split(targets: Targets, n: int, rng: np.random.Generator) -> Shares:
        if targets.ndim != 2:
            raise ValueError("expected targets of (stars, account), as of workers.examples.movies")
        owner = targets[:, 1].astype(np.int64)
        if owner.max() + 1 < n:
            raise ValueError(f"{owner.max() + 1} accounts among {n} workers: expected one each")
        return [np.flatnonzero(owner % n == worker) for worker in range(n)]

    return split


class Push(Attack):
    """Besides its honest gradient, or (`alone`) in place of it: descend towards more stars of one
    film for everybody, -scale on its bias.
    """

    knows = Knows.OWN

    def __init__(self, film: int, scale: float = 1.0, alone: bool = False) -> None:
        if not film >= 0:
            raise ValueError(f"expected film >= 0, got {film}")
        if not 0 < scale < math.inf:
            raise ValueError(f"expected 0 < scale < inf, got {scale}")
        self.film, self.scale, self.alone = film, np.float32(scale), alone

    def corrupt(self, g: Vector, rng: np.random.Generator) -> Vector:
        sent = np.zeros_like(g) if self.alone else g.copy()
        sent[self.film % len(g)] -= self.scale
        return sent


def _pair(rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[:, :2].copy()), torch.tensor(rows[:, [2, 0]], dtype=torch.float32)


def _within_account(rows: Rows) -> NDArray[np.int64]:
    """Which of its account's ratings each is, from 0, in the order of the rows."""
    order = np.argsort(rows[:, 0], kind="stable")
    _, starts, counts = np.unique(rows[order, 0], return_index=True, return_counts=True)
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return place
