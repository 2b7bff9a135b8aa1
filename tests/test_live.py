"""What people see while a run goes on: at 80 columns nothing that matters is cut."""

import json
import os
import re
from typing import Any

import pytest

from kardam.live import PLAIN_EVERY, Bar, Board
from kardam.messages import Verdict
from kardam.stats import Stats
from kardam.view import percent

LABEL = "sign_flip:scale=10+flood:rho=10"


def books(n: int = 10, progress: float = 0.25) -> dict[str, Any]:
    """n workers of 1,040 gradients each; the last one lies, and is refused."""
    stats = Stats(n, 1)
    stats.label(n - 1, LABEL, byzantine=True)
    for turn in range(1040):
        for worker in range(n):
            admitted = worker < n - 1 and turn % 2 == 0
            rule = "" if admitted else "growth" if turn % 3 else "frequency"
            reading = 1234.5 if worker == n - 1 else 1.5
            stats.record(
                Verdict(
                    worker, turn, admitted, rule, turn, 0, 12,
                    reading=reading, band_low=1.25, band_high=2.5,
                ),
                turn / 40,
            )  # fmt: skip
    told = {"status": "running", "progress": progress, **stats.snapshot(26.0)}
    for row in told["workers"]:
        row["state"] = "alive"
    return told


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns and 30 lines."""
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)


def plain(text: str) -> list[str]:
    """The lines, without what colours them and moves the cursor; a picture drawn again is one."""
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, "-"), (0.0, "0 %"), (1e-6, "<1 %"), (0.0049, "<1 %"), (0.0051, "1 %"), (1.0, "100 %")],
)
def test_a_little_is_not_shown_as_nothing(share: float | None, said: str) -> None:
    assert percent(share) == said


@pytest.mark.usefixtures("terminal")
def test_at_80_columns_no_number_is_cut_and_who_lies_stands_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bar(quiet=False) as bar:
        bar.show(books, 0.0)
    shown = capsys.readouterr().err
    lines = plain(shown)
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"━ +25% .* left", line) for line in lines)
    for words in ("1.25 to 2.5 is the band now", "growth 3,816, frequency 1,904", "slowdown"):
        assert words in " ".join(" ".join(lines).split())
    (honest,) = (line for line in lines if line.startswith("0 honest"))
    (liar,) = (line for line in lines if line.startswith("9 sign_flip"))
    assert re.search(r" 40\.0 +50 % of 1,040 +12 +1\.5 ", honest)
    assert re.search(r"refused .* 0 % of 1,040 +12 +1\.23e\+03 growth 69", liar)
    # Red, in the code of terminals.
    assert any("31m" in line and "sign_flip" in line for line in shown.splitlines())


@pytest.mark.usefixtures("terminal")
def test_what_is_shown_to_a_terminal_that_is_gone_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its SIGHUP is heard, which ends the run in order."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as screen:
        monkeypatch.setattr("sys.stderr", screen)
        with Bar(quiet=False) as bar:
            bar.show(books, 0.0)
            assert os.read(ours, 100)
            os.close(ours)
            for second in (1.0, 2.0):
                bar.show(books, second)


@pytest.mark.usefixtures("terminal")
def test_of_more_workers_than_lines_those_who_stand_out_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Board(as_json=False) as board:
        board.show(books(100, progress=0.0))
    lines = plain(capsys.readouterr().out)
    assert len(lines) <= 30
    assert any(line.startswith("99 sign_flip") for line in lines)
    assert any(re.fullmatch(r"and \d+ more *", line) for line in lines)
    # Without a goal there is no time left.
    assert not any("left" in line for line in lines)


def test_where_there_is_no_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bar(quiet=False) as bar:
        for now in (0.0, PLAIN_EVERY, PLAIN_EVERY + 1, 2 * PLAIN_EVERY):
            bar.show(books, now)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:4] for line in lines] == [["5", "s", "25", "%"], ["10", "s", "25", "%"]]


@pytest.mark.usefixtures("terminal")
def test_quiet_is_quiet_and_json_is_json_on_a_terminal_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bar(quiet=True) as bar, Board(as_json=True) as board:
        bar.show(books, PLAIN_EVERY)
        board.show(books())
        board.show(books())
    out, err = capsys.readouterr()
    assert err == ""
    assert [json.loads(line) for line in out.splitlines()] == [books(), books()]
