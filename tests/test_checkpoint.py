"""What is kept comes back to the last bit, whole or not at all, whatever is in the way."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from kardam import checkpoint
from kardam.errors import Unwritable, UsageError
from kardam.messages import Manifest
from kardam.state import State

MANIFEST = Manifest((("bias", (2,)), ("weight", (2, 3))))
X = np.arange(8, dtype=np.float32)

arrays = st.sampled_from(
    [
        X,
        np.zeros(0, np.float32),
        np.array(1.5),
        np.array([[np.nan, np.inf], [-0.0, 1e-45]], np.float32),
        np.arange(3),
    ]
)
names = st.text("abc")
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(
    plain | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


def alike(one: Any, other: Any) -> bool:
    """Equal to the last bit, NaN included."""
    if isinstance(one, np.ndarray):
        return bool(
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


@given(state=st.dictionaries(names, trees, max_size=3))
def test_any_state_comes_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, state: State
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints") / "000000001"
    checkpoint.save(folder, MANIFEST, X, state)
    kept = checkpoint.restore(folder)
    assert (kept.manifest, kept.x.tobytes()) == (MANIFEST, X.tobytes())
    assert alike(state, kept.state)


def test_the_model_is_a_file_of_its_parameters_own_names_and_shapes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "1", MANIFEST, X, {})
    tensors = load_file(tmp_path / "1" / "model.safetensors")
    assert tensors["bias"].tolist() == [0, 1]
    assert tensors["weight"].tolist() == [[2, 3, 4], [5, 6, 7]]


def test_an_array_that_stands_in_many_places_is_written_once(tmp_path: Path) -> None:
    once = np.ones(1000, np.float32)
    checkpoint.save(tmp_path / "1", MANIFEST, X, {"a": [once, once, X], "b": {"c": once}})
    assert list(load_file(tmp_path / "1" / "vectors.safetensors")) == ["0"]
    kept = checkpoint.restore(tmp_path / "1")
    assert kept.state["a"][0] is kept.state["a"][1] is kept.state["b"]["c"]
    assert kept.state["a"][2] is kept.x
    assert not kept.x.flags.writeable


def test_only_its_owner_reads_a_checkpoint_for_there_are_tokens_in_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "1", MANIFEST, X, {})
    assert stat.S_IMODE((tmp_path / "1").stat().st_mode) == 0o700


def test_a_crash_before_the_end_leaves_no_checkpoint_and_the_next_one_sweeps_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    checkpoint.save(checkpoint.place(tmp_path, 5), MANIFEST, X, {})
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", crash)
        with pytest.raises(Crash):
            checkpoint.save(checkpoint.place(tmp_path, 10), MANIFEST, X, {})
    assert checkpoint.newest(tmp_path) == tmp_path / "000000005"
    assert len(list(tmp_path.iterdir())) == 2
    checkpoint.save(checkpoint.place(tmp_path, 10), MANIFEST, X, {})
    checkpoint.prune(tmp_path, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000005", "000000010"]


def test_a_second_checkpoint_after_as_many_updates_stands_beside_the_first(tmp_path: Path) -> None:
    for value in range(12):
        checkpoint.save(checkpoint.place(tmp_path, 5), MANIFEST, X, {"value": value})
    newest = checkpoint.newest(tmp_path)
    assert newest == tmp_path / "000000005.11"
    assert checkpoint.restore(newest).state == {"value": 11}
    checkpoint.save(checkpoint.place(tmp_path, 6), MANIFEST, X, {})
    assert checkpoint.newest(tmp_path) == tmp_path / "000000006"


def test_the_newest_so_many_are_kept(tmp_path: Path) -> None:
    for updates in (3, 20, 100, 7):
        checkpoint.save(checkpoint.place(tmp_path, updates), MANIFEST, X, {})
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000020", "000000100"]
    assert checkpoint.newest(tmp_path) == tmp_path / "000000100"
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_where_nothing_can_be_written_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match="no checkpoint could be written"):
        checkpoint.save(tmp_path / "file" / "1", MANIFEST, X, {})
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("damage", ["state.json", "vectors.safetensors", "model.safetensors"])
def test_what_is_no_checkpoint_is_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "1"
    checkpoint.save(folder, MANIFEST, X, {"a": np.ones(3)})
    (folder / damage).write_text("{")
    with pytest.raises(UsageError, match=str(folder)):
        checkpoint.restore(folder)


def test_an_array_that_is_missing_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    checkpoint.save(folder, MANIFEST, X, {"a": np.ones(3)})
    save_file({}, folder / "vectors.safetensors")
    with pytest.raises(UsageError, match="expected a checkpoint"):
        checkpoint.restore(folder)
    assert json.loads((folder / "state.json").read_text()) == {"a": {"$array": "0"}}
