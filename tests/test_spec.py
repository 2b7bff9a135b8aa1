"""One grammar for every choice, and for every mistake in it one sentence."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardam.errors import KardamError, UsageError
from kardam.spec import build, fill, is_import_path, parse, stages


def thing(
    n: int,
    scale: float = 1.0,
    count: int | None = None,
    mode: Literal["fast", "slow"] = "fast",
    loud: bool = False,
    path: Path = Path(),
) -> dict[str, Any]:
    if scale < 0:
        raise ValueError(f"expected scale >= 0, got {scale}")
    return {"n": n, "scale": scale, "count": count, "mode": mode, "loud": loud, "path": path}


TABLE: Mapping[str, Callable[..., dict[str, Any]]] = {"thing": thing}


def made(text: str) -> dict[str, Any]:
    return build(text, TABLE, "--thing", n=10)


def test_a_name_alone_takes_its_defaults() -> None:
    assert made("thing") == thing(n=10)


def test_keys_are_read_by_the_types_of_the_factory() -> None:
    built = made("thing:scale=1e+3,count=4,mode=slow,loud=true,path=a/b")
    assert built == thing(10, 1000.0, 4, "slow", True, Path("a/b"))


def test_the_users_own_is_named_by_its_import_path_and_may_have_keys() -> None:
    assert made("tests.test_spec:thing:scale=2") == thing(n=10, scale=2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thng", r"--thing: unknown name 'thng'; did you mean 'thing'\? \(known: thing\)"),
        ("xyz", r"unknown name 'xyz' \(known: thing\)"),
        ("thing:scle=1", "unknown key 'scle'; did you mean 'scale'"),
        ("thing:n=3", "unknown key 'n'"),
        ("thing:scale", "expected key=value, got 'scale'"),
        ("thing:scale=", "expected key=value"),
        ("thing:scale=1,scale=2", "the key 'scale' stands twice"),
        ("thing:scale=big", "scale: expected float, got 'big'"),
        ("thing:count=1.5", "count: expected int, got '1.5'"),
        ("thing:mode=fats", "unknown value 'fats'; did you mean 'fast'"),
        ("thing:scale=-1", r"'thing:scale=-1': expected scale >= 0, got -1.0"),
        ("no.such.module:thing", "no module 'no.such.module'"),
        ("tests.test_spec:thong", "has no 'thong'; did you mean 'thing'"),
        ("tests.test_spec:TABLE", "expected a function or a class, got a value of type dict"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_knob(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(text)


def test_a_missing_key_without_a_default_is_asked_for() -> None:
    with pytest.raises(UsageError, match="the key 'n' is needed"):
        build("thing", TABLE, "--thing")


def test_where_the_knob_says_which_factory_keys_alone_fill_it() -> None:
    assert fill(thing, "n=3,scale=2", "--thing") == thing(3, 2.0)
    with pytest.raises(UsageError, match=r"--thing 'n=3,scale=-1': expected scale >= 0, got -1.0"):
        fill(thing, "n=3,scale=-1", "--thing")


@given(st.text(max_size=30))
def test_any_text_builds_or_raises_the_one_error(text: str) -> None:
    with contextlib.suppress(KardamError):
        made(text)


def test_plus_joins_stages_but_not_inside_a_number() -> None:
    assert stages("growth:c=1e+5+clip + frequency") == ["growth:c=1e+5", "clip", "frequency"]


@pytest.mark.parametrize(
    ("text", "own"),
    [("digits", False), ("digits:hidden=3", False), ("a.b:c", True), ("mine:task:k=1", True)],
)
def test_an_import_path_has_an_attribute_after_the_colon(text: str, own: bool) -> None:
    assert is_import_path(text) is own


def test_parse_keeps_the_texts() -> None:
    assert parse("lognormal:mean=0.1,sigma=1", "--latency") == (
        "lognormal",
        {"mean": "0.1", "sigma": "1"},
    )
