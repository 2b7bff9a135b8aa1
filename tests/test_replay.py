"""The same events make the same descent, to the bit; a bystander with the same filter says what was
said.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kardam.checkpoint import MODEL, kept, updates
from kardam.descent import Descent
from kardam.errors import Different
from kardam.events import Event, Lending
from kardam.messages import Declared, Gradient, Verdict
from kardam.recipe import PRESETS, Recipe
from kardam.replay import Bystander, again
from kardam.tape import play, segments
from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture

N, D = 4, 6
GATHERS = ["arrival", "arrival:m=3", "buffered", "synchronous"]
MEMORIES = ["exact", "sketched:k=64"]
X = np.zeros(D, np.float32)

Heard = list[tuple[Event, Verdict | None]]


def lived(recipe: Recipe, seed: int, steps: int = 120) -> tuple[Descent, Heard]:
    """A descent after some of everything that can happen to one, and what it was told."""
    chance = np.random.default_rng(seed)
    descent, heard = recipe.descent(X), list[tuple[Event, Verdict | None]]()
    descent.hear = lambda event, verdict: heard.append((event, verdict))
    for _ in range(steps):
        worker = int(chance.integers(N))
        tickets = [loan.ticket for loan in descent._lent[worker]]
        what = chance.random()
        if what < 0.03:
            descent.forget(worker, but=tuple(tickets[:1]))
        elif what < 0.06:
            descent.refuse(worker, tickets[0] if tickets else 0, "late")
        elif what < 0.5 and descent.may_lend(worker):
            descent.lend(worker)
        else:
            g = (descent.model.x + chance.standard_normal(D)).astype(np.float32)
            if what > 0.97:
                g = np.full(D, np.inf, np.float32) if what > 0.98 else g[:2]
            declared = Declared(float(chance.random()), 1) if what > 0.9 else None
            descent.receive(Gradient(worker, tickets[0] if tickets else 0, g, declared))
    return descent, heard


recipes = st.builds(
    lambda preset, gather, optimizer: Recipe.of(
        n=N, preset=preset, gather=gather, optimizer=optimizer
    ),
    preset=st.sampled_from(sorted(PRESETS)),
    gather=st.sampled_from(GATHERS),
    optimizer=st.sampled_from(["sgd", "momentum"]),
)
seeds = st.integers(0, 2**32)


@settings(max_examples=60)
@given(recipe=recipes, seed=seeds)
def test_the_same_events_make_the_same_descent_to_the_bit(recipe: Recipe, seed: int) -> None:
    descent, heard = lived(recipe, seed)
    twin = recipe.descent(X)
    for event, verdict in heard:
        assert repr(again(twin, event)) == repr(verdict)
    assert twin.model.x.tobytes() == descent.model.x.tobytes()
    assert repr(twin.state()) == repr(descent.state())


@settings(max_examples=60)
@given(recipe=recipes, seed=seeds)
def test_a_bystander_with_the_same_filter_says_what_was_said(recipe: Recipe, seed: int) -> None:
    _, heard = lived(recipe, seed)
    twin = recipe.descent(X)
    beside = Bystander(X, **recipe.parts(D))
    beside.join(twin)
    for event, verdict in heard:
        again(twin, event)
        said = again(beside, event)
        beside.follow(twin)
        # Its own updates are none, so the version after is what it was before.
        assert (said is None) == (verdict is None)
        if said is not None and verdict is not None:
            same = ("admitted", "rule", "value", "low", "high", "growth", "staleness", "weight")
            assert repr([getattr(said, name) for name in same]) == repr(
                [getattr(verdict, name) for name in same]
            )


def test_an_event_that_can_not_have_been_is_said() -> None:
    descent = Recipe.of(n=N).descent(X)
    with pytest.raises(Different, match="a model lent to worker 1: ticket 1, was 7"):
        again(descent, Lending(1, 7))
    again(descent, Lending(2, 2))
    again(descent, Lending(2, 3))
    with pytest.raises(Different, match="ticket 4: worker 2 has models to answer already"):
        again(descent, Lending(2, 4))


# --- of a run's directory ---


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three liars, on virtual time."""
    run = tmp_path_factory.mktemp("recorded") / "run"
    words = [
        "--byzantine",
        "3",
        "--arrivals",
        "400",
        "--record",
        "--quiet",
        "--task",
        "synthetic:d=20",
    ]
    program = [sys.executable, "-m", "workers", "simulate", *words, "--out", str(run)]
    subprocess.run(program, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    return run


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))


def lines(run: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, (run / "journal.jsonl").read_text().splitlines())


def test_a_recorded_run_comes_out_the_same(recorded: Path, kardam: Kardam) -> None:
    code, out, err = kardam("replay", str(recorded), "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["same"]
    assert facts["verdicts"] == 400
    assert facts["models"] == 2  # the last one, by the recording and by the checkpoint
    assert facts["untold"] == facts["unwritten"] == facts["torn"] == 0
    admitted = sum(line["admitted"] for line in lines(recorded))
    assert (
        facts["recorded"]["honest"]["admitted"] + facts["recorded"]["byzantine"].get("admitted", 0)
        == admitted
    )


def test_a_journal_that_was_tampered_with_is_found(
    recorded: Path, kardam: Kardam, tmp_path: Path
) -> None:
    run = copied(recorded, tmp_path)
    journal = run / "journal.jsonl"
    before = journal.read_text().splitlines()
    line = json.loads(before[100])
    forged = json.dumps({**line, "admitted": not line["admitted"]})
    journal.write_text("\n".join([*before[:100], forged, *before[101:]]) + "\n")
    code, out, err = kardam("replay", str(run), "--json")
    assert code == 8
    assert json.loads(out)["same"] is False
    words = f"verdict 101, on worker {line['worker']}, ticket {line['ticket']}: admitted was"
    assert words in err
    assert "Traceback" not in err


def test_a_model_that_was_tampered_with_is_found(
    recorded: Path, kardam: Kardam, tmp_path: Path
) -> None:
    run = copied(recorded, tmp_path)
    path = kept(run)[-1]
    file = path / MODEL
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, _, err = kardam("replay", str(run))
    assert (code, f"the model after {updates(path)} updates is" in err) == (8, True), err


def test_a_recording_that_is_damaged_where_no_crash_tears_it_is_found(
    recorded: Path, kardam: Kardam, tmp_path: Path
) -> None:
    run = copied(recorded, tmp_path)
    (segment,) = segments(run / "recording" / "0001")
    data = bytearray(segment.read_bytes())
    half = [one.mark.offset for one in play(segment.parent)][200]
    segment.write_bytes(data[:half])
    (segment.parent / "000002.tape").write_bytes(data[half:])
    assert kardam("replay", str(run))[0] == 0
    data[half - 1] ^= 1
    segment.write_bytes(data[:half])
    code, _, err = kardam("replay", str(run))
    assert code == 8
    assert "damaged after verdict" in err
    assert "in 000001.tape; nothing behind that can be played" in err


def test_what_a_crash_tore_off_is_said_and_is_no_difference(
    recorded: Path, kardam: Kardam, tmp_path: Path
) -> None:
    run = copied(recorded, tmp_path)
    journal, (segment,) = run / "journal.jsonl", segments(run / "recording" / "0001")
    journal.write_bytes(journal.read_bytes()[:-7])
    shutil.rmtree(kept(run)[-1])
    with segment.open("ab") as file:
        file.write(b"torn")
    code, out, err = kardam("replay", str(run), "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [facts[name] for name in ("verdicts", "unwritten", "torn")] == [400, 1, 4]


def test_another_filter_judges_the_same_arrivals_and_moves_nothing(
    recorded: Path, kardam: Kardam
) -> None:
    code, out, err = kardam("replay", str(recorded), "--filter", "none", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["asked"] == {"filter": "none", "dampening": "constant", "f": 3}
    assert set(facts["said"]["byzantine"]) == {"admitted"}
    assert sum(facts["said"]["honest"].values()) == sum(facts["recorded"]["honest"].values())
    code, out, err = kardam("replay", str(recorded), "--preset", "middle")
    assert code == 0, err
    assert "the same: 400 verdicts" in out
    assert "honest, replayed" in out
    code, _, err = kardam("replay", str(recorded), "--filter", "grwth")
    assert (code, "did you mean 'growth'" in err) == (2, True)


@pytest.mark.parametrize(
    ("file", "said", "words", "code"),
    [
        ("journal.jsonl", b"no verdict\n", "a line of no verdict: b'no verdict", 8),
        ("journal.jsonl", b"\xff\n", "a line of no verdict", 8),
        ("checkpoints/000000000/state.json", b"{}", "not as kardam writes a checkpoint", 2),
        ("checkpoints/000000000/state.json", b'{"records": []}', "not as kardam writes a chec", 2),
        ("summary.json", b"{}", "not as kardam writes a run: KeyError('workers')", 2),
        ("summary.json", b"{", "not as kardam writes a run", 2),
    ],
)
def test_a_file_that_kardam_did_not_write_is_one_sentence(
    recorded: Path, kardam: Kardam, tmp_path: Path, file: str, said: bytes, words: str, code: int
) -> None:
    run = copied(recorded, tmp_path)
    (run / file).write_bytes(said)
    got, _, err = kardam("replay", str(run))
    assert (got, words in err, "Traceback" in err) == (code, True, False), err


def test_what_was_not_recorded_can_not_be_replayed(tmp_path: Path, kardam: Kardam) -> None:
    code, _, err = kardam("replay", str(tmp_path))
    assert (code, "nothing was recorded there; begin a run with --record" in err) == (2, True)
