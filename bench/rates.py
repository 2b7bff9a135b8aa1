"""Which learning rate serves a rule best? By doubling and halving, until neither serves it better.

Never in here: a run, or what is served better.
"""

from collections.abc import Mapping

# Accuracy by which another rate must be better: half a point of it is noise.
GAIN = 0.005


def best(tried: Mapping[float, float]) -> float:
    """Of rates, in the order in which they were tried, and of what they came to: the first, until
    one is better by more than `GAIN`, and so on.
    """
    found, *others = tried
    for rate in others:
        if tried[rate] > tried[found] + GAIN:
            found = rate
    return found


def wanted(tried: Mapping[float, float], start: float) -> list[float]:
    """What to try next: the best so far, its half and its double, as far as they are not known.
    Nothing, when the best is known between two that are no better.
    """
    at = best(tried) if tried else start
    return [rate for rate in (at, at / 2, at * 2) if rate not in tried]
