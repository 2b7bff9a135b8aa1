"""Who holds which training examples, decided by their labels. Never in here: torch, a model, or
what a worker does with its share.

Adding a split is a function beside these and a line in the table.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kardam.errors import TaskError, UsageError
from kardam.spec import build

# One entry an example: an integer where targets are classes.
Targets = NDArray[Any]

# The examples of each worker, by their places in the training part.
Shares = list[NDArray[np.int64]]

# A partition among n workers: every example once, and nobody without one.
Split = Callable[[Targets, int, np.random.Generator], Shares]


def iid() -> Split:
    """Shuffled, in n equal parts, give or take one: the same distribution for everybody."""
    return lambda targets, n, rng: np.array_split(rng.permutation(len(targets)), n)


def dirichlet(alpha: float = 0.5) -> Split:
    """Of each class, worker i gets the share p_i, with p ~ Dir(alpha, ..., alpha) drawn for each
    class anew: towards 0, one worker has the whole class; towards infinity, it is dealt equally.
    Sizes differ. Yurochkin et al. 2019, section 4.

    Who is left with nothing takes one example of the largest share.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"expected alpha > 0, got {alpha}")

    def split(targets: Targets, n: int, rng: np.random.Generator) -> Shares:
        pieces = []
        for members in by_class(targets, rng):
            ends = np.cumsum(rng.dirichlet(np.full(n, alpha)))[:-1]
            pieces.append(np.split(members, np.rint(ends * len(members)).astype(np.int64)))
        return _nobody_empty([np.concatenate(parts) for parts in zip(*pieces, strict=True)])

    return split


def by_label(share: float = 0.5, shards: int = 1) -> Split:
    """`share` of all examples, sorted by label, is cut into n * shards runs, of which each worker
    draws `shards`; the rest is dealt as iid. With as many workers as classes, and 0.5, each holds
    half its data from about one class. McMahan et al. 2017, section 3, is share=1,shards=2.

    Who is left with nothing takes one example of the largest share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected 0 <= share <= 1, got {share}")
    if not shards >= 1:
        raise ValueError(f"expected shards >= 1, got {shards}")

    def split(targets: Targets, n: int, rng: np.random.Generator) -> Shares:
        order = rng.permutation(len(targets))
        some, rest = np.split(order, [round(share * len(order))])
        runs, lots = np.array_split(_sorted(some, targets), n * shards), rng.permutation(n * shards)
        dealt = np.array_split(rest, n)
        return _nobody_empty(
            [
                np.concatenate([dealt[worker], *(runs[lot] for lot in lots[worker::n])])
                for worker in range(n)
            ]
        )

    return split


SPLITS: Mapping[str, Callable[..., Split]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "by_label": by_label,
}


def deal(text: str, targets: Targets, n: int, seed: int) -> Shares:
    """The shares of n workers by the split that `--split` names: a function of the targets, n and
    the seed, so that every process comes to the same.

    Raises TaskError where there are fewer examples than workers, UsageError for what is no split,
    needs classes where there are none, or deals otherwise than every example once.
    """
    split = build(text, SPLITS, "--split")
    if not callable(split):
        raise UsageError(f"--split {text!r}: expected a function, got {type(split).__name__}")
    if len(targets) < n:
        raise TaskError(
            f"{len(targets)} training examples among {n} workers: expected one each at least"
        )
    try:
        shares = split(targets, n, np.random.default_rng([seed, 0x5911]))
        places = np.sort(np.concatenate(shares))
    except ValueError as error:
        raise UsageError(f"--split {text!r}: {error}") from error
    except Exception as error:
        raise UsageError(f"--split {text!r} raised {type(error).__name__}: {error}") from error
    once = np.array_equal(places, np.arange(len(targets)))
    if not once or len(shares) != n or not all(map(len, shares)):
        raise UsageError(
            f"--split {text!r}: expected every example at exactly one of {n} workers, and one each"
            f" at least, got shares of {[len(share) for share in shares]} of {len(targets)}"
        )
    return shares


def by_class(targets: Targets, rng: np.random.Generator) -> Shares:
    """The places of each class, classes in order and each shuffled. Raises ValueError where the
    targets are no classes.
    """
    places = _sorted(rng.permutation(len(targets)), targets)
    _, starts = np.unique(targets[places], return_index=True)
    return np.split(places, starts[1:])


def _sorted(places: NDArray[np.int64], targets: Targets) -> NDArray[np.int64]:
    """By label; the order within a label stays."""
    if targets.dtype.kind not in "iu" or targets.ndim != 1:
        raise ValueError(
            "expected classes, one integer an example, but the targets are"
            f" {targets.dtype} of shape {targets.shape}: iid alone needs none"
        )
    return places[np.argsort(targets[places], kind="stable")]


def _nobody_empty(shares: Shares) -> Shares:
    for worker, share in enumerate(shares):
        if not len(share):
            rich = max(range(len(shares)), key=lambda other: len(shares[other]))
            shares[worker], shares[rich] = shares[rich][-1:], shares[rich][:-1]
    return shares
