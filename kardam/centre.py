"""Where a population of histories points, and how far each of them is from the others.

Never in here: whose they are, or what is done about who is far.
"""

from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kardam.messages import Vector
from kardam.voices import lengths, voices, weighted_median

# What is divided by at least.
TINY = np.finfo(np.float32).tiny

# A median of D_p of no more than this is rounding: all are alike.
ROUNDING = 1e-3

Numbers = NDArray[np.floating[Any]]


class Seen(NamedTuple):
    """What is seen of n histories of length d at once."""

    z: Vector
    without: NDArray[np.float32]  # z_(-p), shape (n, d)
    own: float  # omega^2
    weights: NDArray[np.float64]  # of each voice, 1 over how many share it
    distances: Numbers  # D_p
    median: float  # of D_p; ROUNDING at least


def look(
    histories: NDArray[np.float32],
    variances: Numbers,
    z: Vector,
    *,
    echo: float,
    near: float,
    enough: float,
) -> Seen:
    """One step of centered clipping from z (Karimireddy, He, Jaggi, ICML 2021): the mean of
    h_q - z, by voices, each clipped to their median length. z_(-p) is that mean without p's part,
    so that nobody holds the centre by himself.

        D_p = ||h_p - z_(-p)|| / sqrt(omega^2 + (1 - omega^2) v_p)

    `variances` are v_p, of shape (n,). Their median is without those nearer than `near` of it: they
    would draw the bounds in around themselves. `echo` is as for voices; `enough`, as for `_own`.
    """
    pulls = histories - z
    far = lengths(pulls)
    weights = voices(pulls / np.sqrt(variances).astype(np.float32)[:, None], echo)
    plain = weights.tolist()
    shrink = np.minimum(1.0, median(far.tolist()) / np.maximum(far, TINY))
    pulls *= shrink[:, None].astype(np.float32)
    total = float(weights.sum())
    mean = (weights / total).astype(np.float32) @ pulls
    z = (z + mean).astype(np.float32)
    # The mean of the others is as far on this side of the mean as a worker's part is beyond.
    parts = np.array([w / (total - w) if total > w else 0.0 for w in plain], np.float32)
    pulls -= mean
    pulls *= parts[:, None]
    without = z - pulls
    squares = np.square(lengths(histories - without).astype(np.float64))
    own = _own(squares, variances, weights, enough)
    distances = np.sqrt(squares / expected(variances, own))
    kept = distances >= near * weighted_median(distances.tolist(), plain)
    middle = weighted_median(distances[kept].tolist(), weights[kept].tolist())
    return Seen(z, without, own, weights, distances, max(middle, ROUNDING))


def _own(squares: Numbers, variances: Numbers, weights: Numbers, enough: float) -> float:
    """omega^2: the median of what squared distances are beyond noise, of all with two answers.
    While fewer than `enough` have them, it is all there is: their noise is not told from it yet.
    """
    # Of few workers, plain numbers take half the time of arrays.
    seen = zip(squares.tolist(), variances.tolist(), weights.tolist(), strict=True)
    twice = [(square, v, weight) for square, v, weight in seen if v < 1 - 1e-9]
    if len(twice) < enough:
        return 1.0
    own = [min(max((square - v) / (1 - v), 0.0), 1.0) for square, v, _ in twice]
    return weighted_median(own, [weight for _, _, weight in twice])


def expected(variance: Any, own: float) -> Any:
    """E ||h_p - z||^2 of a worker with so much of its own: directions have length 1, so what is
    not its own, or everybody's, is noise.
    """
    return own + (1 - own) * variance
