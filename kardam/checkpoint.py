"""Models and server states as files in safetensors and JSON: names, shapes, numbers, nothing that
runs.

A checkpoint is a folder that is written beside and renamed, so what has its name is whole. Never in
here: what a state means.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kardam.errors import Unwritable, UsageError
from kardam.messages import Manifest, Vector
from kardam.state import State

MODEL, VECTORS, PLAIN = "model.safetensors", "vectors.safetensors", "state.json"

# A run's folder of checkpoints.
CHECKPOINTS = "checkpoints"

# What is being written begins with this, and is thrown away when a crash leaves it behind.
UNFINISHED = ".unfinished-"

_NAME = re.compile(r"\d+(\.\d+)?")

# Stands in JSON for an array, by its name in VECTORS, or for the model itself.
ARRAY = "$array"
THE_MODEL = "model"


class Checkpoint(NamedTuple):
    """What a folder held."""

    manifest: Manifest
    x: Vector
    state: State


def load(path: Path) -> tuple[Manifest, Vector]:
    """The tensors of a safetensors file as one float32 vector, in the order of their names.

    Raises UsageError where there is no such file, or it holds no floating-point numbers.
    """
    tensors = _tensors(path)
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            raise UsageError(f"{path}: {name!r} holds {tensor.dtype}, expected floats")
    manifest = Manifest(tuple((name, tensor.shape) for name, tensor in tensors.items()))
    if manifest.d == 0:
        raise UsageError(f"{path} holds no numbers")
    flat = [tensor.astype(np.float32).reshape(-1) for tensor in tensors.values()]
    return manifest, np.concatenate(flat)


def _tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, TypeError) as error:
        raise UsageError(f"{path}: expected a safetensors file: {error}") from error


def save(folder: Path, manifest: Manifest, x: Vector, state: State) -> None:
    """Write a checkpoint: the model under its parameters' own names, and the rest of the state.

    Durable when it returns, and the folder is there whole or not at all. Raises Unwritable (no
    room, no leave), with nothing left behind.
    """
    beside = folder.with_name(UNFINISHED + folder.name)
    shutil.rmtree(beside, ignore_errors=True)  # what a crash left of the same one
    try:
        beside.mkdir(parents=True, mode=0o700)
        vectors = _Vectors(x)
        plain = json.dumps(vectors.taken_out_of(state))
        save_file(_named(manifest, x), beside / MODEL)
        save_file(vectors.named, beside / VECTORS)
        (beside / PLAIN).write_text(plain)
        for path in (*beside.iterdir(), beside):
            fsync(path)
        beside.rename(folder)
        fsync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise Unwritable(f"{folder}: no checkpoint could be written: {error}") from error


def save_model(path: Path, manifest: Manifest, x: Vector) -> None:
    """Write a model alone, under its parameters' own names. Raises UsageError where there is
    something already, Unwritable where it can not be.
    """
    if path.exists():
        raise UsageError(f"{path}: exists already; name another file")
    beside = path.with_name(UNFINISHED + path.name)
    try:
        save_file(_named(manifest, x), beside)
        beside.rename(path)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise Unwritable(f"{path}: no model could be written: {error}") from error


def _named(manifest: Manifest, x: Vector) -> dict[str, np.ndarray[Any, Any]]:
    places = zip(manifest.tensors, manifest.places(), strict=True)
    return {name: x[place].reshape(shape) for (name, shape), place in places}


def restore(folder: Path) -> Checkpoint:
    """Read a checkpoint back, to the last bit. Raises UsageError where it is none."""
    manifest, x = load(folder / MODEL)
    vectors = _tensors(folder / VECTORS)
    for vector in (x, *vectors.values()):
        vector.flags.writeable = False
    try:
        plain = json.loads((folder / PLAIN).read_text())
        state = _put_back(plain, {**vectors, THE_MODEL: x})
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: expected a checkpoint: {error}") from error
    return Checkpoint(manifest, x, state)


def kept(run: Path) -> list[Path]:
    """The checkpoints of a run, or in a folder of them, oldest first. Raises UsageError where
    there is none.
    """
    for folder in (run / CHECKPOINTS, run):
        if found := sorted(_all(folder), key=_order):
            return found
    raise UsageError(f"{run}: no checkpoint there; expected a run's directory (not of simulate)")


def model_file(path: Path) -> Path:
    """The file of a model that a path names: itself, a checkpoint's, or that of a run's newest.

    Raises UsageError where there is none.
    """
    if path.is_file():
        return path
    return (path if (path / MODEL).is_file() else kept(path)[-1]) / MODEL


def newest(folder: Path) -> Path | None:
    """The checkpoint of the most updates in a folder of them, if there is any."""
    return max(_all(folder), key=_order, default=None)


def place(folder: Path, updates: int) -> Path:
    """Where the next checkpoint after so many updates belongs: `000000042`, then `000000042.1`."""
    path, again = folder / f"{updates:09d}", 0
    while path.exists():
        again += 1
        path = folder / f"{updates:09d}.{again}"
    return path


def prune(folder: Path, keep: int, but: Collection[str] = ()) -> None:
    """Throw away all but the newest and those named `but`, and what a crash left unfinished."""
    for path in (*sorted(_all(folder), key=_order)[:-keep], *folder.glob(UNFINISHED + "*")):
        if path.name not in but:
            shutil.rmtree(path, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]


def updates(path: Path) -> int:
    """After how many updates this checkpoint was kept."""
    return _order(path)[0]


def _order(path: Path) -> tuple[int, int]:
    version, _, again = path.name.partition(".")
    return int(version), int(again or 0)


class _Vectors:
    """The arrays of a state under numbers for names: each once, however often it stands there."""

    def __init__(self, x: Vector) -> None:
        self.named: dict[str, np.ndarray[Any, Any]] = {}
        self._names = {id(x): THE_MODEL}

    def taken_out_of(self, tree: Any) -> Any:
        match tree:
            case np.ndarray():
                name = self._names.setdefault(id(tree), str(len(self.named)))
                if name != THE_MODEL:
                    self.named[name] = np.asarray(tree, order="C")
                return {ARRAY: name}
            case Mapping():
                return {key: self.taken_out_of(value) for key, value in tree.items()}
            case list() | tuple():
                return [self.taken_out_of(value) for value in tree]
            case _:
                return tree


def _put_back(tree: Any, vectors: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    match tree:
        case {"$array": name}:
            return vectors[name]
        case dict():
            return {key: _put_back(value, vectors) for key, value in tree.items()}
        case list():
            return [_put_back(value, vectors) for value in tree]
        case _:
            return tree


def fsync(path: Path) -> None:
    """What a file holds, or which names a folder has, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
