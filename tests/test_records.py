"""What a run leaves behind: whole lines, and nothing lost but what came after a checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kardam import records
from kardam.errors import Unwritable, UsageError
from kardam.logs import Log
from kardam.messages import Manifest, Verdict
from kardam.records import Records, resumable
from kardam.ring import Holder

MANIFEST = Manifest((("x", (3,)),))
X = np.ones(3, np.float32)
VERDICT = Verdict(worker=2, ticket=7, admitted=False, rule="growth", updates=4, growth=math.inf)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_journal_has_a_line_a_verdict_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    with Records.create(tmp_path / "run", "seed = 1\n", keep=3) as written:
        written.verdict(VERDICT, 1.25)
        written.flush()
    assert (tmp_path / "run" / "experiment.toml").read_text() == "seed = 1\n"
    (line,) = lines(tmp_path / "run" / "journal.jsonl")
    assert line == {
        "seconds": 1.25,
        "worker": 2,
        "ticket": 7,
        "admitted": False,
        "rule": "growth",
        "updates": 4,
        "version": -1,
        "staleness": -1,
        "growth": "inf",
        "weight": 0.0,
    }


def test_the_journal_is_in_order_and_whole_however_many_lines_are_made_at_a_time(
    tmp_path: Path,
) -> None:
    count = 2 * records.BATCH + 1
    with Records.create(tmp_path, "", keep=3) as written:
        for second in range(count):
            written.verdict(VERDICT, second)
        written.flush()
        assert len(lines(tmp_path / "journal.jsonl")) == count
        written.verdict(VERDICT, count)
        written.flush()
    assert [line["seconds"] for line in lines(tmp_path / "journal.jsonl")] == list(range(count + 1))


def test_a_run_that_goes_on_forgets_what_it_wrote_after_its_checkpoint(tmp_path: Path) -> None:
    with Records.create(tmp_path, "", keep=3) as written:
        written.verdict(VERDICT, 1.0)
        written.measure({"updates": 4})
        written.flush()
        marks = written.marks()
        written.verdict(VERDICT, 2.0)
        written.measure({"updates": 5})
        written.summary({})
    with Records.reopen(tmp_path, marks, keep=3) as again:
        assert not (tmp_path / "summary.json").exists()
        again.verdict(VERDICT, 3.0)
        again.measure({"updates": 6})
        again.flush()
    assert [line["seconds"] for line in lines(tmp_path / "journal.jsonl")] == [1.0, 3.0]
    assert [line["updates"] for line in lines(tmp_path / "metrics.jsonl")] == [4, 6]


@pytest.mark.parametrize("recorded", [False, True])
def test_whose_a_place_was_is_forgotten_with_its_verdicts_and_stays_where_a_recording_has_them(
    tmp_path: Path, recorded: bool
) -> None:
    with Records.create(tmp_path, "", keep=3) as written:
        if recorded:
            written.record({}, whole=True, durable=False)
        written.place(Holder(1.0, 0, "a" * 64, "alice"))
        written.flush()
        marks = written.marks()
        written.place(Holder(2.0, 0, "b" * 64, "bob"))
        written.flush()
    with (tmp_path / "places.jsonl").open("a") as file:
        file.write('{"seconds": 3.0, "wor')  # a crash
    with Records.reopen(tmp_path, marks, keep=3):
        names = [line["name"] for line in lines(tmp_path / "places.jsonl")]
    assert names == ["alice", *["bob"] * recorded]


def test_a_line_that_a_crash_tore_is_cut_off_though_the_marks_are_behind_it(tmp_path: Path) -> None:
    with Records.create(tmp_path, "", keep=3) as written:
        for second in (1.0, 2.0):
            written.verdict(VERDICT, second)
        written.flush()
        marks = written.marks()
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    with Records.reopen(tmp_path, marks, keep=3) as again:
        again.verdict(VERDICT, 3.0)
        again.flush()
    assert [line["seconds"] for line in lines(journal)] == [1.0, 3.0]


def test_two_runs_do_not_write_into_one_directory(tmp_path: Path) -> None:
    with Records.create(tmp_path / "run", "", keep=3) as written:
        with pytest.raises(UsageError, match="exists already; name another"):
            Records.create(tmp_path / "run", "", keep=3)
        marks = written.marks()
        with pytest.raises(UsageError, match="another kardam, which is running, writes there"):
            Records.reopen(tmp_path / "run", marks, keep=3)


def test_a_directory_that_can_not_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match="Not a directory"):
        Records.create(tmp_path / "file" / "run", "", keep=3)
    with pytest.raises(UsageError, match="exists already"):
        Records.create(tmp_path / "file", "", keep=3)


def test_a_full_disk_ends_a_log_at_its_last_whole_line_and_is_said_once() -> None:
    log = Log(Path("/dev/full"))
    log.add({"a": 1})
    with pytest.raises(Unwritable, match="/dev/full: No space left on device"):
        log.flush()
    log.add({"b": 1})
    log.flush()
    log.close()


def test_what_to_resume_is_a_run_or_one_checkpoint_of_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Records.create(run, "", keep=2) as written:
        for updates in (5, 10, 15):
            written.checkpoint(MANIFEST, X, {"records": written.marks()}, updates)
    older, newest = run / "checkpoints" / "000000010", run / "checkpoints" / "000000015"
    assert resumable(run) == (run, newest, True)
    assert resumable(older) == (run, older, False)
    with pytest.raises(UsageError, match="no checkpoint there; expected a run's directory"):
        resumable(run / "checkpoints" / "000000005")


def test_where_a_server_listened_is_remembered_for_its_workers(tmp_path: Path) -> None:
    with Records.create(tmp_path / "run", "", keep=2) as written:
        written.environment({"endpoint": "tcp://127.0.0.1:5555"})
    assert records.endpoint(tmp_path / "run") == "tcp://127.0.0.1:5555"
    with pytest.raises(UsageError, match=r"no environment\.json of a run there"):
        records.endpoint(tmp_path)
