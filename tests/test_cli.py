"""What a user can get wrong ends in one sentence and a numbered exit, never in a traceback."""

import errno
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn, Self

import click
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kardam import __version__
from kardam.__main__ import entry
from kardam.checkpoint import load, save
from kardam.client import Halted
from kardam.errors import EXIT_CODES, Denied, KardamError, UsageError
from kardam.messages import Enrolled, Manifest
from workers.__main__ import main


@pytest.fixture
def kardam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Kardam":
    return Kardam(monkeypatch, capsys)


class Kardam:
    """The command, in this process: its exit code, standard output and standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["kardam", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --f 4", "expected n > 3f, got n=10, f=4: give --workers more or --f at most 3"),
        ("run --workers 0", "--workers: expected 1 to 1,000,000, got 0"),
        ("run --preset medle", "did you mean 'middle'"),
        ("run --filter growth:bnad=upper", "--filter 'growth:bnad=upper': unknown key 'bnad'"),
        ("run --dampening invers", "--dampening: unknown name 'invers'; did you mean 'inverse'"),
        ("run --rate constant:gamma=-1", "expected 0 < gamma < inf, got -1.0"),
        ("run --rate fast", "--rate: unknown name 'fast'"),
        ("run --optimizer adm", "--optimizer: unknown name 'adm'; did you mean 'adam'"),
        ("run --optimizer momentum:beta=1", "expected 0 <= beta < 1, got 1.0"),
        ("run --gather arrival:m=0", "--gather 'arrival:m=0': expected m >= 1, got m=0"),
        ("run --gather buffered:m=11", "expected 1 <= m <= n = 10, got m=11"),
        ("run --aggregator krum", "give --gather buffered or synchronous"),
        (
            "run --gather buffered:m=4 --f 1 --aggregator krum",
            "--gather buffered:m=4 --aggregator 'krum': expected n >= 2f+3 vectors, got n=4, f=1",
        ),
        ("run --byzantine 11", "--byzantine: expected 0 to 10 of 10 workers, got 11"),
        ("run --attack sing_flip", "--attack: unknown name 'sing_flip'; did you mean 'sign_flip'"),
        ("run --stragglers 2:factor=ten", "expected a count and a factor like 2:factor=10"),
        ("run --latency lognormal", "the key 'mean' is needed"),
        ("run --latency trace:path=no.txt", "'trace:path=no.txt': no.txt: No such file"),
        ("run --speeds 20:1", "expected 0 < low <= high, got low=20.0, high=1.0"),
        ("run --outages 2", "expected a count and their outages like 2:every=20,seconds=5"),
        ("run --seed -1", "-1 is not in the range"),
        ("run --stragglers 2:factor=1.2.3", "expected a count and a factor like 2:factor=10"),
        ("run --updates 0", "--updates: expected more than 0, got 0"),
        ("run --target 95", "--target: expected an accuracy in (0, 1], got 95"),
        ("run --bind 127.0.0.1:5555", "did you mean 'tcp://127.0.0.1:5555'?"),
        ("run --bind tcp://127.0.0.1:99999", "with a port from 0 to 65535, got"),
        (
            "run --bind tcp://0.0.0.0:0 --keys k --insecure",
            "expected --keys k or --insecure, and not",
        ),
        ("run --wrokers 3", "No such option"),
        ("serve", "expected a MODEL file or --task, and not both"),
        ("serve nothing.safetensors", "nothing.safetensors: expected a safetensors file"),
        ("work 127.0.0.1", "expected an endpoint like"),
        ("work tcp://127.0.0.1:1 --count 0", "--count: expected at least 1, got 0"),
        ("work tcp://127.0.0.1:1 --straggler 0", "--straggler: expected a factor of at least 1"),
        ("work tcp://127.0.0.1:1 --straggler inf", "--straggler: expected a factor of at least 1"),
        ("work tcp://127.0.0.1:1 --patience nan", "--patience: expected more than 0 seconds"),
        ("stats tcp://127.0.0.1:1 --every inf", "--every: expected more than 0 seconds, and a day"),
        ("work tcp://127.0.0.1:1 --outages every=9", "the key 'seconds' is needed"),
        ("wrok", "No such command 'wrok'"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    kardam: Kardam, line: str, words: str
) -> None:
    code, out, err = kardam(*line.split())
    assert code == 2
    assert words in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("stats tcp://127.0.0.1:1", "nobody listens there (Connection refused)", 5),
        ("work tcp://127.0.0.1:1", "nobody listens there (Connection refused)", 5),
        # Whose words come from another process.
        ("run --task digtis", "--task: unknown name 'digtis'; did you mean 'digits'", 2),
        ("run --task tests.test_worker:raising_task", "raised OSError: no such data", 3),
        (f"run --split by_label:share=0.{'5' * 120}", "--split: expected at most 128 char", 2),
        # ... or from this one, which has torch already.
        ("simulate --task npz:path=no.npz", "--task 'npz:path=no.npz': no such file: /", 2),
        (
            "simulate --task synthetic:d=7",
            "expected d to be a multiple of classes=10, like 10 or 20",
            2,
        ),
        (
            "simulate --task tests.test_worker:small_task --workers 31 --f 1",
            "30 training examples",
            3,
        ),
        ("simulate --split idd", "--split: unknown name 'idd'; did you mean 'iid'", 2),
        ("simulate --split by_label:share=2", "expected 0 <= share <= 1, got 2.0", 2),
        ("run --bind tcp://127.0.0.1:99999", "expected an endpoint", 2),
    ],
)
def test_what_only_trying_shows_has_its_own_code(
    kardam: Kardam, line: str, words: str, code: int
) -> None:
    got, out, err = kardam(*line.split())
    assert (got, "Traceback" in out + err) == (code, False)
    assert words in err


class Ending:
    """A Client of a server whose run is over."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self) -> NoReturn:
        raise Halted("100 arrivals")


def test_a_server_that_ends_when_it_is_asked_is_one_sentence(
    kardam: Kardam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kardam.verbs.stats.Client", Ending)
    with socket.create_server(("127.0.0.1", 0)) as door:
        where = f"tcp://127.0.0.1:{door.getsockname()[1]}"
        code, _, err = kardam("stats", where, "--token", "operator's")
    assert (code, err) == (5, f"kardam: {where}: it ends just now (100 arrivals)\n")


def test_a_place_that_can_not_be_given_back_hides_no_reason(
    kardam: Kardam, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Over(Ending):
        def __enter__(self) -> Self:
            raise Halted("the run is over")

    places = iter([Enrolled("token", 0, 2, 0, "digits", "iid")])

    def enrol(*_: object) -> Enrolled:
        for place in places:
            return place
        raise Denied("all n=1 workers are taken")

    monkeypatch.setattr("workers.verbs.work.Client", Over)
    monkeypatch.setattr("workers.verbs.work.enrol", enrol)
    with socket.create_server(("127.0.0.1", 0)) as door:
        where = f"tcp://127.0.0.1:{door.getsockname()[1]}"
        code, _, err = kardam("work", where, "--count", "2")
    assert (code, err) == (6, "kardam: all n=1 workers are taken\n")


@pytest.mark.parametrize(
    "verb", ["", "run", "simulate", "serve", "work", "stats", "doctor", "report", "checkpoint new"]
)
def test_every_verb_has_help_that_fits_and_shows_an_example(
    kardam: Kardam, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = kardam(*verb.split(), "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "..." not in out.partition("Commands:")[2]  # a verb's own line is whole
    assert "kardam" in out
    assert verb == "" or "Example" in out


def test_the_exit_codes_are_listed_in_the_help(kardam: Kardam) -> None:
    _, out, _ = kardam("--help")
    assert all(meaning in out for meaning in EXIT_CODES.values())
    assert {kind.code for kind in KardamError.__subclasses__()} <= EXIT_CODES.keys()


def test_the_version_is_told(kardam: Kardam) -> None:
    assert __version__ in kardam("--version")[1]


def test_python_m_kardam_has_the_servers_verbs() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "kardam", "--help"], capture_output=True, text=True, check=True
    )
    assert "serve" in ran.stdout
    assert "stats" in ran.stdout


# --- models as files ---


def test_a_safetensors_file_is_one_vector_in_the_order_of_names(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"b": np.array([[3, 4]], np.float32), "a": np.array([1, 2], np.float64)}, path)
    manifest, x = load(path)
    assert manifest.tensors == (("a", (2,)), ("b", (1, 2)))
    assert x.tolist() == [1, 2, 3, 4]
    assert x.dtype == np.float32


def test_what_is_no_model_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(UsageError, match="expected a safetensors file"):
        load(path)
    save_file({"steps": np.array([1, 2])}, path)
    with pytest.raises(UsageError, match="'steps' holds int64, expected floats"):
        load(path)
    save_file({}, path)
    with pytest.raises(UsageError, match="holds no numbers"):
        load(path)


# --- saved models ---


def test_a_module_of_anybodys_becomes_a_file_that_is_shown_and_exported(
    kardam: Kardam, tmp_path: Path
) -> None:
    first, again = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    module = "torch.nn:Linear:in_features=3,out_features=2"
    code, _, err = kardam("checkpoint", "new", module, first, "--seed", "5")
    assert (code, "8 numbers" in err) == (0, True)
    torch.manual_seed(5)  # noqa: TID251  # the user's own
    layer = torch.nn.Linear(3, 2)
    assert kardam("checkpoint", "export", first, again)[0] == 0
    for name, value in load_file(again).items():
        assert np.array_equal(value, layer.state_dict()[name].numpy())
    code, out, _ = kardam("checkpoint", "show", again, "--json")
    told = json.loads(out)
    assert told["numbers"] == 8
    rms = float(layer.weight.detach().square().mean().sqrt())
    assert told["tensors"][1] == {"name": "weight", "shape": [2, 3], "rms": pytest.approx(rms)}
    assert "2 x 3" in kardam("checkpoint", "show", again)[1]


def test_the_checkpoints_of_a_run_are_listed_and_its_newest_is_meant(
    kardam: Kardam, tmp_path: Path
) -> None:
    for updates in (2, 10):
        x = np.full(3, updates, np.float32)
        save(tmp_path / "checkpoints" / f"{updates:09d}", Manifest((("w", (3,)),)), x, {})
    code, out, _ = kardam("checkpoint", "list", str(tmp_path), "--json")
    assert code == 0
    assert [row["updates"] for row in json.loads(out)["checkpoints"]] == [2, 10]
    target = tmp_path / "x.safetensors"
    kardam("checkpoint", "export", str(tmp_path), str(target))
    assert load_file(target)["w"].tolist() == [10, 10, 10]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("list nowhere", "nowhere: no checkpoint there; expected a run's directory"),
        ("show nowhere", "nowhere: no checkpoint there"),
        ("show pyproject.toml", "pyproject.toml: expected a safetensors file"),
        ("export nowhere x.safetensors", "nowhere: no checkpoint there"),
        ("new digits pyproject.toml", "pyproject.toml: exists already; name another file"),
        ("new digit x.safetensors", "MODULE: unknown name 'digit'; did you mean 'digits'?"),
        ("new torch.nn:ReLU x.safetensors", "no parameter that requires a gradient"),
        ("new tests.test_worker:no_task x.safetensors", "expected a torch.nn.Module, got int"),
    ],
)
def test_what_is_wrong_with_a_saved_model_is_one_sentence(
    kardam: Kardam, line: str, words: str
) -> None:
    code, _, err = kardam("checkpoint", *line.split())
    assert code in (2, 3)
    assert words in err
    assert "Traceback" not in err


MINE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, hidden=8, bias=True):
        super().__init__()
        self.layer = nn.Linear(width, hidden, bias=bias)

net = Net(2)
numbers = {"hidden": 8}

def lazy():
    return nn.LazyLinear(3)

def broken():
    raise OSError("no such weather")
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("hers:net", "is a Net that is made already; name its class, or a function that returns"),
        ("hers:Nett:width=2", "module 'hers' has no 'Nett'; did you mean 'Net'?"),
        ("hers:Net", "the key 'width' is needed"),
        ("hers:Net:width=2,hiden=3", "unknown key 'hiden'; did you mean 'hidden'?"),
        ("hers:Net:width=2,hidden=x", "hidden: expected int, got 'x'"),
        ("hers:Net:width=2,bias=maybe", "bias: expected bool, got 'maybe'"),
        ("hers:numbers", "expected a function or a class, got a value of type dict"),
        ("hers:lazy", "has no shape yet: call a lazy module on an example"),
        ("hers:broken", "raised OSError: no such weather"),
        ("hers", "unknown name 'hers' (known: digits, npz, synthetic); hers.py is here"),
        ("hers.py:Net", "say hers:Net, without .py"),
    ],
)
def test_what_is_wrong_with_ones_own_module_is_one_sentence_that_says_what_to_name(
    kardam: Kardam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hers", raising=False)
    (tmp_path / "hers.py").write_text(MINE)
    code, _, err = kardam("checkpoint", "new", module, "x.safetensors")
    assert code in (2, 3)
    assert words in err
    assert "Traceback" not in err


def test_a_parameter_without_annotation_is_read_as_what_its_default_is(
    kardam: Kardam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hers", raising=False)
    (tmp_path / "hers.py").write_text(MINE)
    kardam("checkpoint", "new", "hers:Net:width=5,hidden=3,bias=false", "x.safetensors")
    assert {name: x.shape for name, x in load_file("x.safetensors").items()} == {
        "layer.weight": (3, 5)
    }


def test_no_room_for_what_is_printed_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "kardam", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 7
    assert ran.stderr == "kardam: standard output: No space left on device\n"


def test_no_room_for_something_else_is_not_told_of_standard_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "argv", ["kardam"])
    with pytest.raises(OSError, match="No space left"):
        entry(write)


def test_ctrl_c_while_it_is_loading_says_nothing_and_a_bug_still_does() -> None:
    def ran(then: str) -> "subprocess.CompletedProcess[str]":
        program = f"import kardam.__main__; {then}"
        words = [sys.executable, "-c", program]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    interrupted, broken = ran("raise KeyboardInterrupt"), ran("raise ValueError('a bug')")
    assert (interrupted.returncode, interrupted.stderr) == (-signal.SIGINT, "")
    assert (broken.returncode, "ValueError: a bug" in broken.stderr) == (1, True)


def test_ctrl_c_ends_who_waits_for_a_place_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(15)
        where = f"tcp://127.0.0.1:{door.getsockname()[1]}"
        line = [sys.executable, "-m", "workers", "work", where]
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as waits:
            door.accept()[0].close()  # whether somebody listens
            with door.accept()[0]:  # and what is asked, which nobody answers
                waits.send_signal(signal.SIGINT)
                _, err = waits.communicate(timeout=15)
    assert (waits.returncode, "Traceback" in err) == (130, False)
