"""Why a worker was refused, in words that its owner understands."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kardam.explain import WORDS, Line, accounts, sentences, why
from kardam.messages import Verdict
from kardam.records import Records, entry
from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture


def line(worker: int, second: float, rule: str = "", **rest: Any) -> Line:
    verdict = Verdict(worker, 1, not rule, rule, updates=1, version=0, staleness=0, **rest)
    return entry(verdict, second)


JOURNAL = [
    line(0, 0.5),
    line(0, 1.0),
    line(7, 0.5),
    line(7, 1.0, "growth", value=12.0, low=1.0, high=3.0),
    line(7, 2.0, "growth", value=14.0, low=1.0, high=5.0),
    line(7, 3.0, "growth", value=0.1, low=1.0, high=3.0),
    line(7, 4.0, "consensus", value=9.0, low=1.0, high=3.0),
    line(7, 5.0, "consensus", value=2.0, low=1.0, high=3.0),
    line(7, 6.0, "consensus", value=2.0, low=1.0, high=3.0),
    line(7, 7.0),
]


def test_a_worker_is_told_by_which_rule_and_when_and_what_it_would_have_taken() -> None:
    honest, liar = accounts(JOURNAL, {7: "sign_flip"})
    assert sentences(honest) == [
        "Worker 0 answered 2 times, and 100 % of its work was used; of the others' 25 %.",
        "Nothing of it was refused.",
    ]
    assert sentences(liar) == [
        "Worker 7 (sign_flip) answered 8 times, and 25 % of its work was used; of the others'"
        " 100 %.",
        "Refused 2 times by growth, from 1.00 to 2.00 s: its gradient changed too much as the model"
        " moved: by 13, where 1 to 4 was taken (medians).",
        "Refused 2 times by consensus, from 5.00 to 6.00 s: it was where the others are (2, within"
        " 1 to 3), and served a term for having been too far, or apart from all others with some"
        " that stand where it does (medians).",
        "Refused 1 time by growth, at 3.00 s: its gradient changed too little as the model moved:"
        " by 0.1, where 1 to 3 was taken.",
        "Refused 1 time by consensus, at 4.00 s: over time its gradients point elsewhere than those"
        " of the others: 9 from their centre, where 1 to 3 was taken.",
        "It served 1 term from 5.00 s until it was used at 7.00 s.",
    ]


def test_a_worker_is_told_that_it_is_used_with_less_weight_than_others() -> None:
    journal = [line(0, 0.5, weight=0.9), line(1, 0.5, weight=1.0), line(7, 0.5, weight=0.3)]
    others, _, less = accounts(journal, {})
    assert less.weight == 0.3
    assert less.others_weight == pytest.approx(0.95)
    assert sentences(less)[1] == (
        "What was used had a weight of 0.3, where that of the others had 0.95 (medians): it was"
        " longer, staler, or of one who had served more than one term."
    )
    assert "weight" not in " ".join(sentences(others))


def test_what_was_never_used_has_no_weight() -> None:
    (never, _) = accounts([line(0, 0.5, "clip"), line(1, 0.5, weight=1.0)], {})
    assert math.isnan(never.weight)
    assert never.facts()["weight"] is None
    assert "weight" not in " ".join(sentences(never))


def test_a_term_that_no_verdict_ends_goes_on() -> None:
    (_, liar) = accounts(JOURNAL[:-1], {})
    assert liar.terms == [(5.0, None)]
    assert sentences(liar)[-1].endswith("1 term from 5.00 s to the end of the journal.")


@pytest.mark.parametrize("rule", ["own_rule", *sorted({key.split()[0] for key in WORDS})])
def test_every_rule_has_a_sentence(rule: str) -> None:
    for numbers in ({}, {"value": 2.0, "low": 0.0, "high": 1.0}, {"value": float("inf")}):
        (account,) = accounts([line(1, 1.0, rule, **numbers)], {})
        (_, said) = sentences(account)
        assert f"Refused 1 time by {rule}, at 1.00 s: " in said
        assert "nan" not in said
        json.dumps(account.facts(), allow_nan=False)


@pytest.mark.parametrize(
    ("rule", "numbers", "words"),
    [
        ("consensus", (2.0, 1.0, 3.0), "(2, within 1 to 3), and served a term"),
        ("consensus", (4.0, 1.0, 3.0), "4 from their centre, where 1 to 3 was taken"),
        ("throttle", (23.0, 0.0, 23.0), "23 of the last admissions, where fewer than 23"),
        ("probation", (2.0, 5.0, math.nan), "had answered 2 versions of the 5"),
        ("own", (7.0, 1.0, 3.0), "the rule saw 7, and takes 1 to 3"),
        ("own", (7.0, math.nan, math.nan), "the rule saw 7"),
        ("own", (math.nan, math.nan, math.nan), "it says no more"),
    ],
)
def test_why_is_told_by_where_the_value_lay(
    rule: str, numbers: tuple[float, float, float], words: str
) -> None:
    told = why(rule, *numbers)
    assert words in told
    assert "unknown" not in told


def test_the_verb_tells_of_one_worker_or_of_all(tmp_path: Path, kardam: Kardam) -> None:
    with Records.create(tmp_path / "run", "", keep=1) as records:
        for one in JOURNAL:
            records._journal.add(one)
        records.flush()
    run = str(tmp_path / "run")
    code, out, _ = kardam("explain", run, "--worker", "7")
    assert (code, out.startswith("Worker 7 answered 8 times")) == (0, True)
    code, out, _ = kardam("explain", run, "--json")
    assert [row["worker"] for row in json.loads(out)["workers"]] == [0, 7]
    code, _, err = kardam("explain", run, "--worker", "3")
    assert code == 2
    assert "--worker 3: no verdict on it in" in err
    assert "there are some on 0, 7" in err
    code, _, err = kardam("explain", str(tmp_path / "nowhere"))
    assert (code, "No such file or directory; expected a run" in err) == (2, True)
