"""Why a worker was refused, in sentences, from the lines of a journal.

Never in here: a file, or anything that the journal does not say.
"""

import math
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any

from kardam.ring import Holder

Line = Mapping[str, Any]

# By rule, and by where the value lay: what it means, with the medians of value, low and high.
WORDS = {
    "growth above": "its gradient changed too much as the model moved: by {value}, where {low} to"
    " {high} was taken",
    "growth below": "its gradient changed too little as the model moved: by {value}, where {low} to"
    " {high} was taken",
    "consensus above": "over time its gradients point elsewhere than those of the others: {value}"
    " from their centre, where {low} to {high} was taken",
    "consensus below": "over time its gradients lie nearer to the centre of all than honest noise"
    " does: {value} from it, where {low} to {high} was taken",
    "consensus within": "it was where the others are ({value}, within {low} to {high}), and served"
    " a term for having been too far, or apart from all others with some that stand where it"
    " does",
    "echo": "its history is that of others, with whom it shares one voice: it has a weight of"
    " {value}",
    "throttle": "it owned {value} of the last admissions, where fewer than {high} were allowed",
    "frequency": "it had been admitted too short a while before",
    "misdeclared": "it declared a growth of {value}, where the server measured {low} to {high}",
    "server_growth": "the server's own coefficient was {value}, where at most {high} was taken",
    "unmeasured": "there was no pair of answers to measure it by",
    "probation": "its key was new, and had answered {value} versions of the {low} that it has to",
    "nonfinite": "it held numbers that are none, or too large to be squared",
    "malformed": "it was no vector of this model",
    "unasked": "no model was lent under its ticket",
    "ungranted": "it came without leave",
    "stale": "it answered a model that was no longer the newest, {value} updates behind",
    "late": "its chunks took too long",
    "twice": "another answer of it was in the same update already",
    "startup": "another answer of it was in the same start-up median already",
    "zeno": "by the server's own gradient it would not have helped: a score of {value}",
    "afl_guard": "it lay {value} from the server's own gradient, where {high} was taken",
}

# How much less than that of the others, as a share of it, a weight is when it is worth a word.
LESS = 0.9

# Of a rule that is not above.
OTHERWISE = "the rule saw {value}, and takes {low} to {high}"


@dataclass
class Reason:
    """One rule, and on which side of its bounds: how often, between which seconds, and the medians
    of what it saw and would have taken (NaN where it saw no number).
    """

    rule: str
    side: str
    count: int = 0
    first: float = math.nan
    last: float = math.nan
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass
class Account:
    """One worker, or one key of several that had its place (`key` and `name` are empty where there
    were none): how often it answered and was used, and the others on average; with which weight
    (medians, NaN of what was never used); why it was refused, most often first; and the terms it
    served, from the second of the first refusal that tells of one to when it was used again (None:
    not before the journal ends).
    """

    worker: int
    key: str
    name: str
    label: str
    delivered: int
    admitted: int
    share: float
    others: float
    weight: float
    others_weight: float
    reasons: list[Reason]
    terms: list[tuple[float, float | None]]

    def facts(self) -> dict[str, Any]:
        """Plain values for JSON, which has no NaN, and the sentences."""
        plain = _without_nan(asdict(self))
        return {**plain, "sentences": sentences(self)}


@dataclass
class _Seen:
    """What the journal says of one worker."""

    delivered: int = 0
    # Of all that was used.
    weights: list[float] = field(default_factory=list)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[tuple[str, str], list[tuple[float, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    terms: list[tuple[float, float | None]] = field(default_factory=list)
    serving: bool = False


# Whom an account is of: worker, key, name.
_Who = tuple[int, str, str]


def accounts(
    journal: Iterable[Line], labels: Mapping[int, str], holders: Iterable[Holder] = ()
) -> list[Account]:
    """Every worker that the journal knows, in order; one after another where a place was of several
    keys.
    """
    turns: dict[int, list[Holder]] = defaultdict(list)
    for holder in sorted(holders, key=attrgetter("seconds")):
        turns[holder.worker].append(holder)
    seen: dict[_Who, _Seen] = defaultdict(_Seen)
    for line in journal:
        worker = int(line["worker"])
        turn = bisect_right(turns[worker], float(line["seconds"]), key=attrgetter("seconds"))
        holder = turns[worker][turn - 1] if turn else Holder(0.0, worker, "", "")
        _see(seen[worker, holder.key, holder.name], line)
    shares = {who: len(its.weights) / its.delivered for who, its in seen.items()}
    weights = {who: statistics.median(its.weights) for who, its in seen.items() if its.weights}
    return [
        Account(
            worker=worker,
            key=key,
            name=name,
            # What is known of it is of who has the place now.
            label=labels.get(worker, "") if key == _latest(turns[worker]) else "",
            delivered=its.delivered,
            admitted=len(its.weights),
            share=shares[worker, key, name],
            others=_of_others(shares, (worker, key, name)),
            weight=weights.get((worker, key, name), math.nan),
            others_weight=_of_others(weights, (worker, key, name)),
            reasons=sorted(_reasons(its), key=lambda reason: -reason.count),
            terms=its.terms,
        )
        for (worker, key, name), its in sorted(seen.items(), key=lambda item: item[0][0])
    ]


def why(rule: str, value: float, low: float, high: float) -> str:
    """What it means that this rule refused, having seen `value` (NaN where it says none) and taking
    `low` to `high`.
    """
    return _words(rule, _side(value, low, high), value, low, high)


def _latest(turns: list[Holder]) -> str:
    """The key whose the place is; empty where it is nobody's, or there are none."""
    return turns[-1].key if turns else ""


def _see(its: _Seen, line: Line) -> None:
    its.delivered += 1
    rule, seconds = str(line["rule"]), float(line["seconds"])
    value, low, high = (float(line.get(name, math.nan)) for name in ("value", "low", "high"))
    side = "" if line["admitted"] else _side(value, low, high)
    if line["admitted"]:
        its.weights.append(float(line["weight"]))
    else:
        its.seconds[rule, side].append(seconds)
        if "value" in line:
            its.numbers[rule, side].append((value, low, high))
    # Whoever is refused where the others are serves a term, until it is used again. (Another rule
    # that refuses it meanwhile says nothing of that.)
    serves = rule == "consensus" and side == "within"
    if serves and not its.serving:
        its.terms.append((seconds, None))
    elif its.serving and line["admitted"]:
        its.terms[-1] = (its.terms[-1][0], seconds)
    its.serving = serves or (its.serving and not line["admitted"])


def _side(value: float, low: float, high: float) -> str:
    """Where the value lay of what the rule would have taken; empty where it had no such bounds."""
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return ""
    return "above" if value > high else "below" if value < low else "within"


def _reasons(its: _Seen) -> list[Reason]:
    found = []
    for (rule, side), when in its.seconds.items():
        numbers = its.numbers[rule, side]
        medians = [statistics.median(column) for column in zip(*numbers, strict=True)]
        found.append(Reason(rule, side, len(when), min(when), max(when), *medians))
    return found


def _of_others(known: Mapping[_Who, float], who: _Who) -> float:
    """The mean of what is known of all but one."""
    others = [value for other, value in known.items() if other != who]
    return statistics.fmean(others) if others else math.nan


# --- in words ---


def sentences(account: Account) -> list[str]:
    """The account of one worker, for whoever asks why."""
    name = f"{account.name}, key {account.key[:8]}" if account.key else ""
    known = "; ".join(filter(None, (name, account.label)))
    who = f"Worker {account.worker}" + f" ({known})" * bool(known)
    others = "" if math.isnan(account.others) else f"; of the others' {_share(account.others)}"
    said = [
        f"{who} answered {account.delivered:,} times, and {_share(account.share)} of its work was"
        f" used{others}."
    ]
    if account.weight < LESS * account.others_weight:
        said.append(
            f"What was used had a weight of {_number(account.weight)}, where that of the others had"
            f" {_number(account.others_weight)} (medians): it was longer, staler, or of one who had"
            " served more than one term."
        )
    if not account.reasons:
        return [*said, "Nothing of it was refused."]
    said += [_sentence(reason) for reason in account.reasons]
    if account.terms:
        since, until = account.terms[-1]
        ends = (
            "to the end of the journal" if until is None else f"until it was used at {until:.2f} s"
        )
        terms = _times(len(account.terms), "term") + ", the last" * (len(account.terms) > 1)
        said.append(f"It served {terms} from {since:.2f} s {ends}.")
    return said


def _sentence(reason: Reason) -> str:
    if reason.first < reason.last:
        when = f"from {reason.first:.2f} to {reason.last:.2f} s"
    else:
        when = f"at {reason.first:.2f} s"
    words = _words(reason.rule, reason.side, reason.value, reason.low, reason.high)
    about = " (medians)" if reason.count > 1 and any(map(str.isdigit, words)) else ""
    count = _times(reason.count, "time")
    return f"Refused {count} by {reason.rule}, {when}: {words}{about}."


def _words(rule: str, side: str, value: float, low: float, high: float) -> str:
    words = WORDS.get(f"{rule} {side}") or WORDS.get(rule)
    if words is None:
        known = [not math.isnan(number) for number in (value, low, high)]
        words = (
            OTHERWISE if all(known) else "the rule saw {value}" if known[0] else "it says no more"
        )
    return words.format(value=_number(value), low=_number(low), high=_number(high))


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: float) -> str:
    return "an unknown number" if math.isnan(value) else f"{value:.3g}"


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _without_nan(tree: Any) -> Any:
    match tree:
        case float() if not math.isfinite(tree):
            return None if math.isnan(tree) else "inf"
        case dict():
            return {key: _without_nan(value) for key, value in tree.items()}
        case list() | tuple():
            return [_without_nan(value) for value in tree]
        case _:
            return tree
