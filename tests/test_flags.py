"""An experiment as a file is the same run as its flags; what is wrong with it is one sentence."""

import tomllib
from pathlib import Path

import pytest

from kardam.recipe import DEFAULT_PRESET, PRESETS
from tests.test_cli import Kardam, kardam

__all__ = ["kardam"]  # the fixture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_prints_every_choice_resolved_and_leaves_nothing(
    kardam: Kardam, here: Path
) -> None:
    code, out, err = kardam(
        *("run", "--workers", "7", "--byzantine", "2", "--seed", "3", "--dry-run")
    )
    assert (code, err) == (0, "")
    chosen = tomllib.loads(out)
    assert chosen["workers"] == 7
    assert chosen["f"] == 2  # the most that seven bear
    assert chosen["filter"] == PRESETS[DEFAULT_PRESET].filter
    assert chosen["arrivals"] == 4000
    assert "updates" not in chosen
    assert list(here.iterdir()) == []


def test_the_resolved_file_of_a_file_is_itself_and_is_that_of_its_flags(
    kardam: Kardam, here: Path
) -> None:
    flags = "--workers 8 --byzantine 1 --attack constant:norm=3 --updates 50 --latency constant"
    _, of_flags, _ = kardam("run", *flags.split(), "--gather", "arrival:m=2", "--dry-run")
    (here / "a.toml").write_text(of_flags)
    _, of_file, _ = kardam("run", "a.toml", "--dry-run")
    assert of_file == of_flags


def test_flags_count_more_than_the_file(kardam: Kardam, here: Path) -> None:
    (here / "a.toml").write_text('workers = 8\nattack = "zero"\ncheckpoint-updates = 2\n')
    _, out, _ = kardam(*["run", "a.toml", "--workers", "9", "--seed", "4", "--dry-run"])
    chosen = tomllib.loads(out)
    assert (chosen["workers"], chosen["attack"], chosen["checkpoint-updates"]) == (9, "zero", 2)
    assert chosen["seed"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrokers = 3", "a.toml: unknown key 'wrokers'; did you mean 'workers'?"),
        ("checkpoint_updates = 3", "'checkpoint_updates'; did you mean 'checkpoint-updates'?"),
        ("out = 'x'", "unknown key 'out'"),
        ("workers = 3.5", "a.toml: workers: expected a whole number, got 3.5"),
        ("workers = true", "a.toml: workers: expected a whole number, got True"),
        ("seconds = 'long'", "a.toml: seconds: expected a number, got 'long'"),
        ("attack = 3", "a.toml: attack: expected text in quotes, got 3"),
        ("insecure = 'yes'", "a.toml: insecure: expected true or false, got 'yes'"),
        ("[attack]\nname = 'zero'", "a.toml: attack: expected text in quotes, got {'name'"),
        ("workers = ", "a.toml: expected TOML: Invalid value"),
        ("f = 4", "expected n > 3f, got n=10, f=4"),
        ("attack = 'sing_flip'", "did you mean 'sign_flip'"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(
    kardam: Kardam, here: Path, text: str, words: str
) -> None:
    (here / "a.toml").write_text(text)
    code, out, err = kardam("run", "a.toml", "--dry-run")
    assert code == 2
    assert words in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run no.toml", "no.toml: No such file or directory; expected an experiment in TOML"),
        ("run . ", ".: Is a directory; expected an experiment in TOML"),
        ("run done", "done: Is a directory; expected an experiment in TOML, like done/experiment."),
        ("report .", "expected the directory of a run, or several: ./*"),
        ("run a.toml --resume b", "expected a.toml or --resume b, and not both"),
        ("run --resume nowhere", "--resume nowhere: no checkpoint there"),
        ("run --resume auto", "--resume auto: which run? give its directory as --out, too"),
        ("run --out taken --dry-run", "--out taken: exists already; name another\n"),
        ("run --keep 0", "--keep: expected at least 1, got 0"),
        ("run --checkpoint-seconds 0", "--checkpoint-seconds: expected more than 0, got 0"),
        ("stats tcp://127.0.0.1:1 --watch --every 0", "--every: expected more than 0 seconds"),
    ],
)
def test_paths_that_are_not_what_they_should_be_are_one_sentence(
    kardam: Kardam, here: Path, line: str, words: str
) -> None:
    (here / "taken").mkdir()
    (here / "taken" / "file").write_text("")
    (here / "done").mkdir()
    (here / "done" / "experiment.toml").write_text("")
    code, out, err = kardam(*line.split())
    assert code == 2
    assert words in err
    assert "Traceback" not in out + err


def test_a_name_of_the_gallery_is_found_unless_a_file_has_it(kardam: Kardam, here: Path) -> None:
    (here / "skewed").mkdir()  # a run's directory, say
    assert tomllib.loads(kardam("run", "skewed", "--dry-run")[1])["split"] == "by_label:share=1"
    (here / "stragglers").write_text("workers = 4\n")
    assert tomllib.loads(kardam("run", "stragglers", "--dry-run")[1])["workers"] == 4
    code, _, err = kardam("run", "lairs-win", "--dry-run")
    assert (code, "did you mean 'liars-win'?" in err) == (2, True)
