"""What a run wrote is what its report shows; the page stands alone."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import pytest

from kardam import figures, report
from kardam.chronicle import Chronicle, read, read_all
from kardam.errors import UsageError
from kardam.live import Bar
from kardam.messages import Verdict
from kardam.plan import Until
from kardam.recipe import Recipe
from kardam.records import Records
from tests.test_cli import Kardam
from tests.test_cli import kardam as kardam  # the fixture
from workers.crew import crew
from workers.laboratory import Experiment

# The children of an SVG are named like this.
SVG = "{http://www.w3.org/2000/svg}"
LATENCY = "lognormal:mean=0.1,sigma=0.5"
MARKUP = r"<script>alert($\frac$, 漢)</script>"


class Reported(NamedTuple):
    """A run of four workers, of whom one lies and another's label is markup; and its page."""

    run: Path
    page: str


def simulated(folder: Path, preset: str) -> None:
    members = crew(n=4, seed=5, byzantine=1, attack="sign_flip:scale=10", latency=LATENCY)
    with Records.create(folder, f'preset = "{preset}"\n', keep=1) as records:
        recipe = Recipe.of(4, preset=preset)
        one = Experiment(recipe, members, "digits", "iid", 5)
        one.run(Until(arrivals=400), Bar(quiet=True), records)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("runs") / "liars"
    simulated(folder, "middle")
    books = json.loads((folder / "summary.json").read_text())
    books["workers"][0]["label"] = MARKUP
    (folder / "summary.json").write_text(json.dumps(books))
    return Reported(folder, report.write([folder], folder).read_text())


@pytest.fixture
def run(reported: Reported, tmp_path: Path) -> Path:
    """A copy, to do with as one likes."""
    return shutil.copytree(reported.run, tmp_path / "liars")


def words(svg: Path) -> set[str]:
    return {"".join(text.itertext()) for text in ET.parse(svg).iter(f"{SVG}text")}


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    told = [
        Verdict(0, 1, True, "startup", 0),
        Verdict(3, 2, False, "growth", 1, 0, 1, 9.0, 1.0, 2.0, math.inf, reading=math.inf),
        Verdict(2, 5, True, "", 2, 1, 0, reading=1.5, band_low=1.0, band_high=2.0, weight=0.5),
    ]
    with Records.create(tmp_path / "run", "seed = 1\n", keep=1) as written:
        for second, verdict in enumerate(told):
            written.verdict(verdict, float(second))
        written.measure({"n": 4, "seconds": 3.0})
        written.flush()
    with (tmp_path / "run" / "journal.jsonl").open("a") as file:
        file.write('{"seconds": 3.0, "wor')  # the power went here
    again = read(tmp_path / "run")
    journal = again.journal
    assert (again.experiment, again.n, journal.refused) == ({"seed": 1}, 4, ["growth"])
    assert journal.seconds.tolist() == [0.0, 1.0, 2.0]
    for name in ("worker", "admitted", "rule", "updates", "staleness"):
        assert list(getattr(journal, name)) == [getattr(verdict, name) for verdict in told]
    for name in ("reading", "band_low", "band_high"):
        written_ = [getattr(verdict, name) for verdict in told]
        assert [str(its) for its in getattr(journal, name)] == [str(its) for its in written_]


def test_a_run_that_was_cut_off_has_the_evaluations_of_its_metrics(run: Path) -> None:
    whole = read(run).evaluations
    assert len(whole) > 2
    (run / "summary.json").unlink()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    cut = read(run)
    assert [its.accuracy for its in cut.evaluations] == [row["accuracy"] for row in metrics]
    assert cut.label(3) == ""


def test_a_report_shows_the_band_who_lies_and_which_rules_refused(reported: Reported) -> None:
    run, page = reported
    assert words(run / "figures" / "accuracy.svg") >= {"held-out accuracy", "model updates"}
    assert words(run / "figures" / "staleness.svg") >= {"share of gradients"}
    assert words(run / "figures" / "growth.svg") >= {"3  sign_flip:scale=10", "the band"}
    assert words(run / "figures" / "verdicts.svg") >= {"admitted", "refused: growth"}
    books = json.loads((run / "summary.json").read_text())
    assert f"<td>accuracy</td><td>{books['accuracy']:.3f}</td>" in page
    last = books["workers"][3]
    cells = f"<td>{last['delivered']}</td><td>{last['admitted']}</td>"
    assert f"<td>3</td><td>sign_flip:scale=10</td>{cells}" in page


def test_a_loss_that_grows_without_end_leaves_room_for_the_others() -> None:
    def losses(*values: float) -> Chronicle:
        rows = [{"updates": 1, "seconds": 1.0, "loss": its, "accuracy": 0.5} for its in values]
        return Chronicle(f"ends at {values[-1]}", {}, {}, rows, None)  # type: ignore[arg-type]

    learns, diverges = losses(2.0, 0.3), losses(2.0, 1e22)
    assert figures.loss([learns, diverges]).axes[0].get_ylim() == pytest.approx((0.2, 200.0))
    low, high = figures.loss([learns]).axes[0].get_ylim()
    assert low < 0.3 < 2 < high < 3


def test_a_page_stands_alone_and_is_a_function_of_its_run(reported: Reported, run: Path) -> None:
    page = reported.page
    assert not re.search(r"""<link|@import|(src|href)=["'](?!data:|#)|url\((?!#)""", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0  # or one picture would use what another defines
    assert report.write([run], run).read_text() == page
    for picture in (run / "figures").iterdir():
        assert picture.read_bytes() == (reported.run / "figures" / picture.name).read_bytes()


def test_what_a_worker_calls_itself_is_no_markup(reported: Reported) -> None:
    assert read(reported.run).label(0) == MARKUP
    assert "<script" not in reported.page
    assert r"&lt;script&gt;alert($\frac$, 漢)" in reported.page


def test_runs_are_compared_under_their_names(kardam: Kardam, run: Path, tmp_path: Path) -> None:
    simulated(tmp_path / "_p$ai$", "none")  # what matplotlib would take for something else
    code, out, err = kardam("report", str(run), str(tmp_path / "_p$ai$"), "--out", str(tmp_path))
    assert (code, out.strip()) == (0, str(tmp_path / "report.html")), err
    assert words(tmp_path / "figures" / "accuracy.svg") >= {"liars", " _p$ai$"}
    drawn = {path.name for path in (tmp_path / "figures").glob("*.png")}
    # Without a filter there is no band to draw.
    assert drawn >= {"growth-liars.png", "verdicts-liars.png", "verdicts-_p_ai_.png"}
    assert "growth-_p_ai_.png" not in drawn


def test_runs_that_share_a_name_are_told_apart_by_their_paths(
    reported: Reported, run: Path
) -> None:
    names = [its.name for its in read_all([reported.run, run, run])]
    assert names == [str(reported.run), str(run)]


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("experiment.toml", None, "No such file or directory; expected the directory of a run"),
        ("journal.jsonl", "", "no gradient was judged in this run"),
        ("metrics.jsonl", "nothing\n", "not as kardam writes a run"),
    ],
)
def test_what_is_no_run_is_one_sentence(run: Path, path: str, text: str | None, words: str) -> None:
    if text is None:
        (run / path).unlink()
    else:
        (run / path).write_text(text)
    with pytest.raises(UsageError, match=words):
        read(run)
