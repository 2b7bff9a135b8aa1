"""Anybody's arrays: images or tables in classes, from one .npz file, under a model of three kinds.

Nothing in the file is ever run: pickled objects are refused. What is wrong with it is one sentence,
which names the array.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor, nn

from kardam.errors import suggest
from workers.tasks.splits import by_class
from workers.tasks.task import Task

Array = NDArray[Any]

# x_train, X, test_images, yTest, train-labels, data, target ... with nothing but the letters.
_KEY = re.compile(
    r"(?P<before>train(?:ing)?|test(?:ing)?)?"
    r"(?:(?P<x>x|images?|data|inputs?|features)|y|labels?|targets?)"
    r"(?P<after>train(?:ing)?|test(?:ing)?)?"
)

# What a damaged archive raises, besides ValueError.
_BROKEN = (zipfile.BadZipFile, zlib.error)

# Images have one of so many colours.
CHANNELS = (1, 3, 4)

# Examples in double precision at a time.
CHUNK = 1024


class Held(NamedTuple):
    """An array of the file, under its key there."""

    key: str
    array: Array


def npz(
    seed: int,
    path: Path,
    model: Literal["linear", "mlp", "cnn"] = "mlp",
    hidden: int | None = None,
    batch: int = 32,
    held_out: float | None = None,
    x: str = "",
    y: str = "",
    x_test: str = "",
    y_test: str = "",
) -> Task:
    """Classification by the arrays of a file: `x_train`, `y_train`, `x_test`, `y_test` or the like;
    with `x` and `y` alone, a share `held_out` (0.2) of each class is drawn for the test.

    x is a table (examples, columns), or images H x W, H x W x C or C x H x W with 1, 3 or 4
    channels. Columns of a table, and channels of images, are shifted and scaled to mean 0 and
    standard deviation 1 over the training part; what is constant there is shifted alone. y holds
    one integer an example, and the classes are numbered in their order.

    `linear` is softmax regression; `mlp` has one layer of `hidden` (100) units; `cnn` has two
    3 x 3 convolutions of 16 and 32 channels, each with ReLU and a maximum over 2 x 2, then that
    layer. Raises ValueError for what cannot be read, or does not go together.
    """
    found = _read(path.expanduser(), {"x": x, "y": y, "x_test": x_test, "y_test": y_test})
    inputs, labels = _inputs(found["x"]), _labels(found["y"])
    _expect_pair(found["x"], found["y"])
    if "x_test" in found:
        if held_out is not None:
            raise ValueError(
                f"held_out={held_out}, but {found['x_test'].key!r} is held out already"
            )
        test_inputs, test_labels = _inputs(found["x_test"]), _labels(found["y_test"])
        _expect_pair(found["x_test"], found["y_test"])
        if inputs.shape[1:] != test_inputs.shape[1:]:
            raise ValueError(
                f"an example of {found['x'].key!r} has shape {found['x'].array.shape[1:]}, and one"
                f" of {found['x_test'].key!r} {found['x_test'].array.shape[1:]}"
            )
    else:
        train, test = _hold_out(labels, 0.2 if held_out is None else held_out, seed)
        test_inputs, test_labels = inputs[test], labels[test]
        inputs, labels = inputs[train], labels[train]
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"expected two classes at least in {found['y'].key!r}, got {classes[0]}")
    if len(unknown := np.setdiff1d(test_labels, classes)):
        raise ValueError(f"nothing of class {unknown[0]} is in the training part, but in the test")
    mean, deviation = _moments(inputs)
    scaled = _scaled(inputs, mean, deviation)
    return Task(
        _model(model, scaled.shape[1:], len(classes), hidden),
        train=(scaled, torch.from_numpy(np.searchsorted(classes, labels))),
        test=(
            _scaled(test_inputs, mean, deviation),
            torch.from_numpy(np.searchsorted(classes, test_labels)),
        ),
        batch=batch,
    )


# --- the file ---


def _read(path: Path, named: dict[str, str]) -> dict[str, Held]:
    """The arrays that play a part: x, y, and x_test and y_test where there are such."""
    if not path.is_file():
        raise ValueError(f"no such file: {path.absolute()}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path.absolute()}: {error.strerror}") from error
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except (OSError, EOFError, ValueError, *_BROKEN) as error:
            raise ValueError("expected an .npz file, as numpy.savez writes it") from error
        if not isinstance(archive, NpzFile):
            raise ValueError("expected an .npz file, as numpy.savez writes it, got a single array")
        keys = _cast(archive.files, named)
        return {part: Held(key, _array(archive, key)) for part, key in keys.items()}


def _array(archive: NpzFile, key: str) -> Array:
    try:
        array = archive[key]
    except (OSError, EOFError, ValueError, RuntimeError, MemoryError, *_BROKEN) as error:
        raise ValueError(f"{key!r} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{key!r} is no array")
    return array


def _cast(keys: Sequence[str], named: dict[str, str]) -> dict[str, str]:
    """Which key plays which part: the one the user named, else the only one that reads like it."""
    cast = {}
    for part, name in named.items():
        if name and name not in keys:
            raise ValueError(f"{part}={name}: no such array{suggest(name, keys)}")
        likely = [key for key in keys if _reads_like(key) == part and key not in named.values()]
        if name:
            cast[part] = name
        elif len(likely) == 1:
            cast[part] = likely[0]
        elif likely:
            one, other, *_ = likely
            raise ValueError(f"{one!r} or {other!r}? Say which with {part}=...")
    if cast.keys() != named.keys() and cast.keys() != {"x", "y"}:
        raise ValueError(
            "expected arrays like x_train, y_train, x_test, y_test, or x, y; found"
            f" {', '.join(sorted(keys)) or 'none'}: say which is which with"
            " x=...,y=...,x_test=...,y_test=..."
        )
    return cast


def _reads_like(key: str) -> str:
    match = _KEY.fullmatch(re.sub("[^a-z0-9]", "", key.lower()))
    if match is None or (match["before"] and match["after"]):
        return ""
    test = (match["before"] or match["after"] or "").startswith("test")
    return ("x" if match["x"] else "y") + ("_test" if test else "")


def _expect_pair(x: Held, y: Held) -> None:
    if len(x.array) != len(y.array):
        raise ValueError(
            f"{x.key!r} has {len(x.array)} examples, and {y.key!r} has {len(y.array)} labels"
        )


# --- the arrays ---


def _inputs(held: Held) -> Array:
    """As (examples, columns), or images as (examples, C, H, W)."""
    key, array = held
    if array.dtype.kind not in "buif":
        raise ValueError(f"{key!r} holds {array.dtype}, expected real numbers")
    if array.size == 0:
        raise ValueError(f"{key!r} is empty: its shape is {array.shape}")
    if array.dtype.kind == "f" and (lost := int(array.size - np.isfinite(array).sum())):
        raise ValueError(f"{key!r} holds {lost} values that are NaN or infinite")
    match array.shape:
        case (_, _):
            return array
        case (_, _, _):
            return array[:, None]
        case (_, _, _, channels) if channels in CHANNELS:
            return array.transpose(0, 3, 1, 2)
        case (_, channels, _, _) if channels in CHANNELS:
            return array
    raise ValueError(
        f"{key!r} has shape {array.shape}, expected a table (examples, columns) or images"
        f" (examples, H, W), (examples, H, W, C) or (examples, C, H, W) with C in {CHANNELS}"
    )


def _labels(held: Held) -> NDArray[np.int64]:
    """Integers of shape (examples,); whole numbers in floats, and columns, are taken for such."""
    key, array = held
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1:
        raise ValueError(f"{key!r} has shape {array.shape}, expected one label an example")
    whole = flat.dtype.kind == "f" and (flat == np.rint(flat)).all() and (abs(flat) < 2**53).all()
    if flat.dtype.kind not in "bui" and not whole:
        raise ValueError(f"{key!r} holds {flat.dtype}, expected integer labels")
    return flat.astype(np.int64)


def _hold_out(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and test examples: of each class the same share for the test, rounded down, so that
    training lacks none.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected 0 < held_out < 1, got {share}")
    train, test = [], []
    for members in by_class(labels, np.random.default_rng([seed, 0x7E57])):
        cut = int(share * len(members))
        test.append(members[:cut])
        train.append(members[cut:])
    if not any(map(len, test)):
        raise ValueError(f"held_out={share} of {len(labels)} examples holds out none of any class")
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _moments(inputs: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (1 where it is 0) of each column or channel, to be broadcast."""
    axes = (0, *range(2, inputs.ndim))
    count = inputs.size / inputs.shape[1]
    with np.errstate(all="ignore"):
        mean = sum(chunk.sum(axes, keepdims=True) for chunk in _chunks(inputs)) / count
        squares = sum(((chunk - mean) ** 2).sum(axes, keepdims=True) for chunk in _chunks(inputs))
        deviation = np.sqrt(squares / count)
    # By its range, too: a mean of equal floats may be off by a bit, and every difference with it.
    constant = inputs.max(axes, keepdims=True) == inputs.min(axes, keepdims=True)
    return mean, np.where(constant | (deviation == 0), 1.0, deviation)


def _scaled(inputs: Array, mean: Array, deviation: Array) -> Tensor:
    scaled = np.empty(inputs.shape, np.float32)
    with np.errstate(all="ignore"):
        for start, chunk in enumerate(_chunks(inputs)):
            scaled[start * CHUNK :][: len(chunk)] = (chunk - mean) / deviation
    if not np.isfinite(scaled).all():
        raise ValueError("scaled by the training part, some inputs are too large for a float32")
    return torch.from_numpy(scaled)


def _chunks(inputs: Array) -> Iterator[NDArray[np.float64]]:
    """In double precision, which takes no more room than a few examples need."""
    for start in range(0, len(inputs), CHUNK):
        yield inputs[start : start + CHUNK].astype(np.float64)


# --- the models ---


def _model(kind: str, shape: Sequence[int], classes: int, hidden: int | None) -> nn.Module:
    if kind == "linear":
        if hidden is not None:
            raise ValueError(f"hidden={hidden}, but model=linear has no hidden layer")
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    units = 100 if hidden is None else hidden
    if not units >= 1:
        raise ValueError(f"expected hidden >= 1, got {units}")
    if kind == "mlp":
        features = nn.Sequential(nn.Flatten())
        width = int(np.prod(shape))
    else:
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(
                "model=cnn needs images of 4 x 4 pixels at least, and an example has shape"
                f" {tuple(shape)}: take model=mlp"
            )
        features = nn.Sequential(
            *(nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )
        width = 32 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(*features, nn.Linear(width, units), nn.ReLU(), nn.Linear(units, classes))
