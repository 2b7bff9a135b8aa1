"""What is trained: the table of tasks, files of arrays, a problem of any length, a trial before the
run; and who holds which examples.
"""

import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from kardam.errors import KardamError, TaskError, UsageError
from kardam.recipe import Recipe
from tests.test_worker import small_task
from tests.worlds import network, start
from workers.crew import crew
from workers.objective import Network
from workers.simulation import hire, simulate
from workers.tasks import SPLITS, TASKS, Task, load_task, shares
from workers.tasks.splits import deal

Array = NDArray[Any]

CHANCE = np.random.default_rng(7)


def table(examples: int, columns: int = 5, classes: int = 3) -> tuple[Array, Array]:
    """Columns of very different scale, and labels that the first of them tells."""
    y = np.arange(examples) % classes
    x = CHANCE.normal(size=(examples, columns)) * 10.0 ** np.arange(columns) + 100
    x[:, 0] += 5 * y
    return x, y


def images(examples: int, *shape: int) -> tuple[Array, Array]:
    return CHANCE.integers(0, 256, (examples, *shape), np.uint8), np.arange(examples) % 3


def four(x: Array, y: Array, test: int = 12) -> dict[str, Array]:
    """The usual four arrays, the first ones held out."""
    return {"x_train": x[test:], "y_train": y[test:], "x_test": x[:test], "y_test": y[:test]}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Write arrays into a file; the text that names it."""

    def write(**arrays: Array) -> str:
        np.savez(tmp_path / "data.npz", allow_pickle=True, **arrays)
        return f"npz:path={tmp_path / 'data.npz'}"

    return write


# --- the table ---


@pytest.fixture
def texts(save: Callable[..., str]) -> dict[str, str]:
    return {
        "digits": "digits",
        "npz": save(**four(*table(90))),
        "synthetic": "synthetic:d=120,examples=200",
    }


def test_every_task_of_the_table_is_in_the_battery(texts: dict[str, str]) -> None:
    assert texts.keys() == TASKS.keys()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_seed_determines_a_task_and_its_first_model(texts: dict[str, str], name: str) -> None:
    one, same, other = (Network(load_task(texts[name], seed)) for seed in (1, 1, 2))
    assert one.x.tobytes() == same.x.tobytes() != other.x.tobytes()
    for part in ("train", "test"):
        for mine, yours in zip(getattr(one.task, part), getattr(same.task, part), strict=True):
            assert torch.equal(mine, yours)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_example_is_in_both_parts_of_a_task(texts: dict[str, str], name: str) -> None:
    task = load_task(texts[name], 0)
    train = {tuple(row) for row in task.train[0].flatten(1).tolist()}
    test = [tuple(row) for row in task.test[0].flatten(1).tolist()]
    assert sum(row in train for row in test) / len(test) < 0.01  # a few images occur twice


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_is_learnt_by_plain_sgd_in_simulation(texts: dict[str, str], name: str) -> None:
    ours = Network(load_task(texts[name], 0))
    descent = Recipe.of(n=3, preset="none").descent(ours.x)
    before = ours.evaluate(ours.x)[0]
    for _ in islice(simulate(descent, hire(crew(n=3, latency="exponential:mean=1"), ours, 0)), 150):
        pass
    loss, accuracy = ours.evaluate(descent.model.x)
    assert loss < 0.7 * before
    assert accuracy > 0.75


def test_the_users_own_task_is_named_by_its_import_path() -> None:
    task = load_task("tests.test_worker:small_task:hidden=7", seed=0)
    assert Network(task).manifest.d == 5 * 7 + 7 + 7 * 2 + 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("digtis", "did you mean 'digits'"),
        ("digits:hiden=3", "did you mean 'hidden'"),
        ("tests.test_worker:raising_task", "raised OSError: no such data"),
        ("tests.test_worker:no_task", "expected a workers.tasks.Task, got int"),
        ("digits:batch=0", "expected batch to be an int >= 1, got 0"),
        ("npz", "the key 'path' is needed"),
    ],
)
def test_what_cannot_be_a_task_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(KardamError, match=words):
        load_task(text, 0)


# --- npz: which array is what ---


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("trainX", "trainY", "testX", "testY"),
        ("inputs", "targets", "inputs-test", "targets-test"),
        ("features.training", "label.training", "features.testing", "label.testing"),
    ],
)
def test_arrays_are_known_by_the_usual_names(
    save: Callable[..., str], keys: tuple[str, ...]
) -> None:
    usual = four(*table(60))
    expected = load_task(save(**usual), 0)
    renamed = dict(zip(keys, usual.values(), strict=True))
    task = load_task(save(**renamed, vocabulary=np.arange(3)), 0)
    for part in ("train", "test"):
        for mine, yours in zip(getattr(task, part), getattr(expected, part), strict=True):
            assert torch.equal(mine, yours)


def test_arrays_of_any_name_are_named_by_the_user(save: Callable[..., str]) -> None:
    x, y = table(60)
    text = save(pixels=x, kind=y, y=y[::-1], other=x[:5], answers=y[:5])
    task = load_task(f"{text},x=pixels,y=kind,x_test=other,y_test=answers", 0)
    assert len(task.train[1]) == 60
    assert task.train[1].tolist() == y.tolist()
    assert task.test[1].tolist() == y[:5].tolist()


def test_without_a_test_part_a_share_of_each_class_is_held_out(save: Callable[..., str]) -> None:
    x, y = table(200, classes=4)
    y[:150] = 0
    text = save(data=x, target=y)
    for held_out, share in (("", 0.2), (",held_out=0.5", 0.5)):
        task = load_task(text + held_out, 0)
        for label in range(4):
            total = int((y == label).sum())
            assert int((task.test[1] == label).sum()) == int(share * total)
            assert int((task.train[1] == label).sum()) == total - int(share * total)


def test_what_is_held_out_depends_on_the_seed(save: Callable[..., str]) -> None:
    text = save(**dict(zip("xy", table(100), strict=True)))
    one, same, other = (load_task(text, seed).test[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# --- npz: images and tables ---


@pytest.mark.parametrize(
    ("shape", "channels_first"),
    [
        ((6, 8), (1, 6, 8)),
        ((6, 8, 1), (1, 6, 8)),
        ((6, 8, 3), (3, 6, 8)),
        ((3, 6, 8), (3, 6, 8)),
        ((4, 6, 8), (4, 6, 8)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_every_layout_of_images_becomes_channels_height_width(
    save: Callable[..., str], shape: tuple[int, ...], channels_first: tuple[int, ...]
) -> None:
    x, y = images(40, *shape)
    task = load_task(save(**four(x, y)), 0)
    assert task.train[0].shape[1:] == channels_first
    assert task.train[0].dtype == torch.float32
    if len(shape) == 3 and shape[-1] in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    # An oracle: one channel at a time, by the book.
    for channel in range(channels_first[0]):
        plane = x.reshape(40, *channels_first)[:, channel].astype(np.float64)
        expected = (plane - plane[12:].mean()) / plane[12:].std()
        assert task.train[0][:, channel].numpy() == pytest.approx(expected[12:], abs=1e-5)
        assert task.test[0][:, channel].numpy() == pytest.approx(expected[:12], abs=1e-5)


def test_columns_of_a_table_have_mean_0_and_deviation_1_over_the_training_part(
    save: Callable[..., str],
) -> None:
    x, _ = load_task(save(**four(*table(3000))), 0).train  # more than one chunk
    assert x.mean(0).tolist() == pytest.approx([0] * 5, abs=1e-5)
    assert x.std(0, correction=0).tolist() == pytest.approx([1] * 5, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-300, 1e30])
def test_a_column_that_is_constant_in_training_becomes_nought(
    save: Callable[..., str], value: float
) -> None:
    x, y = table(60)
    x[:, 2] = value
    task = load_task(save(**four(x, y)), 0)
    assert task.train[0][:, 2].abs().max() < 1e-10 * max(value, 1)
    assert task.test[0][:, 2].isfinite().all()


@pytest.mark.parametrize("data", [table(60), images(60, 5, 5)], ids=["table", "images"])
def test_the_scale_is_of_the_training_part_alone(
    save: Callable[..., str], data: tuple[Array, Array]
) -> None:
    arrays = four(*data)
    one = load_task(save(**arrays), 0)
    other = load_task(save(**{**arrays, "x_test": arrays["x_test"] // 3}), 0)
    assert torch.equal(one.train[0], other.train[0])
    assert not torch.equal(one.test[0], other.test[0])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([-5, 3, 1000]),
        np.array([7, 8, 200], np.uint8),
        np.array([-1.0, 0.0, 4.0]),
    ],
    ids=str,
)
def test_labels_of_any_values_are_numbered_in_their_order(
    save: Callable[..., str], labels: Array
) -> None:
    x, y = table(60)
    arrays = four(x, labels[y])
    arrays["y_test"] = arrays["y_test"][:, None]  # a column will do
    task = load_task(save(**arrays), 0)
    assert task.train[1].tolist() == y[12:].tolist()
    assert task.test[1].tolist() == y[:12].tolist()
    assert (task.train[1].dtype, task.classes) == (torch.int64, 3)


def test_dates_in_seconds_keep_their_differences(save: Callable[..., str]) -> None:
    x, y = table(60)
    x[:, 0] = 1.7e9 + np.arange(60)  # neighbours are equal in float32
    assert len(set(load_task(save(**four(x, y)), 0).train[0][:, 0].tolist())) == 48


# --- npz: models ---


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("linear", 3 * 8 * 12 * 3 + 3),
        ("mlp", 3 * 8 * 12 * 100 + 100 + 100 * 3 + 3),
        ("mlp,hidden=7", 3 * 8 * 12 * 7 + 7 + 7 * 3 + 3),
        ("cnn,hidden=7", 27 * 16 + 16 + 144 * 32 + 32 + 32 * 2 * 3 * 7 + 7 + 7 * 3 + 3),
    ],
)
def test_the_three_models_have_the_length_that_their_description_says(
    save: Callable[..., str], model: str, d: int
) -> None:
    task = load_task(f"{save(**four(*images(40, 8, 12, 3)))},model={model}", 0)
    assert Network(task).manifest.d == d


# --- npz: what cannot be used ---

X, Y = table(60)
USUAL = four(X, Y)
NAN = np.where(np.arange(5) == 2, np.nan, X[:12])


@pytest.mark.parametrize(
    ("arrays", "rest", "words"),
    [
        pytest.param({}, "", r"found none: say which is which with x=", id="nothing"),
        pytest.param(
            {"ids_train": Y, "ids_test": Y, "vocab": Y},
            "",
            r"expected arrays like x_train, .*; found ids_test, ids_train, vocab: say",
            id="other names",
        ),
        pytest.param({"x": X, "x_test": X, "y": Y}, "", "found x, x_test, y:", id="half a test"),
        pytest.param(
            {"x": X, "x_train": X, "y": Y}, "", r"'x' or 'x_train'\? Say which with x=", id="two"
        ),
        pytest.param(USUAL, ",x=x_trian", r"x=x_trian: no such array; did you mean", id="typo"),
        pytest.param(
            {**USUAL, "y_train": Y[:9]},
            "",
            "'x_train' has 48 examples, and 'y_train' has 9 labels",
            id="lengths of the training part",
        ),
        pytest.param(
            {**USUAL, "y_test": Y[:9]},
            "",
            "'x_test' has 12 examples, and 'y_test' has 9 labels",
            id="lengths of the test part",
        ),
        pytest.param(
            {**USUAL, "x_test": X[:12, :4]},
            "",
            r"an example of 'x_train' has shape \(5,\), and one of 'x_test' \(4,\)",
            id="shapes that differ",
        ),
        pytest.param({"x": X[:0], "y": Y[:0]}, "", r"'x' is empty: its shape is \(0, 5\)", id="0"),
        pytest.param(
            {**USUAL, "x_test": NAN}, "", "'x_test' holds 12 values that are NaN or inf", id="NaN"
        ),
        pytest.param({"x": X * 1j, "y": Y}, "", "'x' holds complex128, expected real", id="1j"),
        pytest.param({"x": X[:, 0], "y": Y}, "", r"'x' has shape \(60,\), expected a tab", id="1d"),
        pytest.param(
            {"x": np.zeros((60, 7, 7, 7)), "y": Y}, "", r"with C in \(1, 3, 4\)", id="7 channels"
        ),
        pytest.param({"x": X, "y": Y / 2}, "", "'y' holds float64, expected integer", id="halves"),
        pytest.param({"x": X, "y": Y * np.nan}, "", "'y' holds float64, expected int", id="NaNs"),
        pytest.param({"x": X, "y": Y.astype(str)}, "", "'y' holds <U21, expected int", id="words"),
        pytest.param(
            {"x": X, "y": np.eye(3)[Y]},
            "",
            r"'y' has shape \(60, 3\), expected one label an example",
            id="one-hot labels",
        ),
        pytest.param({"x": X, "y": Y * 0 + 7}, "", "two classes at least in 'y', got 7", id="one"),
        pytest.param(
            {**USUAL, "y_test": Y[:12] + 1},
            "",
            "nothing of class 3 is in the training part, but in the test",
            id="a class for the test alone",
        ),
        pytest.param(
            {**USUAL, "x_test": X[:12] * 1e300}, "", "too large for a float32", id="out of scale"
        ),
        pytest.param(USUAL, ",model=cnn", r"model=cnn needs images .* \(5,\)", id="cnn on tables"),
        pytest.param(
            {"x": np.zeros((60, 3, 9)), "y": Y},
            ",model=cnn",
            r"of 4 x 4 pixels at least, and an example has shape \(1, 3, 9\)",
            id="cnn on slips",
        ),
        pytest.param(USUAL, ",model=cn", "did you mean 'cnn'", id="another model"),
        pytest.param(USUAL, ",hidden=0", "expected hidden >= 1, got 0", id="hidden=0"),
        pytest.param(USUAL, ",model=linear,hidden=3", "no hidden layer", id="hidden of linear"),
        pytest.param({"x": X, "y": Y}, ",held_out=1", "0 < held_out < 1, got 1.0", id="share"),
        pytest.param({"x": X, "y": Y}, ",held_out=nan", "0 < held_out < 1, got nan", id="no share"),
        pytest.param(
            {"x": X, "y": Y}, ",held_out=0.01", "of 60 examples holds out none", id="none held out"
        ),
        pytest.param(USUAL, ",held_out=0.3", "but 'x_test' is held out already", id="held out"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence_about_its_array(
    save: Callable[..., str], arrays: dict[str, Array], rest: str, words: str
) -> None:
    text = save(**arrays) + rest
    with pytest.raises(UsageError, match=words) as raised:
        load_task(text, 0)
    assert f"--task {text!r}: " in str(raised.value)
    assert "\n" not in str(raised.value)


def _pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04}\x94\x8c\x01x\x94K\x01s.")


def _objects(path: Path) -> None:
    np.savez(path, x=np.array([{}, []], object), y=Y)


def _single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def _damaged(path: Path) -> None:
    np.savez_compressed(path, x=X, y=Y)
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(data)


def _documents(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "no such file: /.*data.npz"),
        (lambda path: path.mkdir(), "no such file: /.*data.npz"),
        (lambda path: path.write_bytes(b""), "expected an .npz file, as numpy.savez writes it"),
        (lambda path: path.write_text("x,y\n1,2"), "expected an .npz file, as numpy.savez"),
        (lambda path: path.write_bytes(b"PK\x03\x04 or not"), "expected an .npz file"),
        (_pickle, "expected an .npz file"),
        (_single, "expected an .npz file, as numpy.savez writes it, got a single array"),
        (_objects, "'x' cannot be read: Object arrays cannot be loaded"),
        (_damaged, "'x' cannot be read: "),
        (_documents, "'x' is no array"),
    ],
    ids=["no file", "folder", "empty", "text", "cut", "pickle", "npy", "objects", "holes", "zip"],
)
def test_what_is_no_npz_file_is_one_sentence_that_names_it(
    tmp_path: Path, write: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "data.npz"
    write(path)
    with pytest.raises(UsageError, match=words) as raised:
        load_task(f"npz:path={path}", 0)
    assert str(path) in str(raised.value)


def test_a_path_is_relative_to_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., str]
) -> None:
    save(**USUAL)
    monkeypatch.chdir(tmp_path)
    assert len(load_task("npz:path=data.npz", 0).train[1]) == 48


# --- synthetic ---


@given(st.integers(2, 12), st.integers(1, 60))
def test_d_is_the_length_of_the_flat_vector(classes: int, p: int) -> None:
    task = load_task(f"synthetic:d={classes * p},classes={classes},examples=20", 0)
    assert Network(task).manifest.d == classes * p


@given(st.integers(-5, 2000), st.integers(2, 20))
def test_a_d_that_cannot_be_is_an_error_that_names_two_that_can(d: int, classes: int) -> None:
    if d >= classes and d % classes == 0:
        return
    with pytest.raises(
        UsageError, match=rf"a multiple of classes={classes}, like .*, got {d}"
    ) as e:
        load_task(f"synthetic:d={d},classes={classes}", 0)
    below, above = str(e.value).partition("like ")[2].split(",")[0].split(" or ")
    for good in (below, above):
        load_task(f"synthetic:d={good},classes={classes},examples=10", 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("synthetic:classes=1", "expected classes >= 2, got 1"),
        ("synthetic:examples=0", "expected examples >= 1, got 0"),
        ("synthetic:noise=-1", "expected noise >= 0, got -1"),
        ("synthetic:noise=nan", "expected noise >= 0, got nan"),
        ("synthetic:noise=inf", "expected noise >= 0, got inf"),
    ],
)
def test_a_synthetic_problem_that_cannot_be_is_an_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_task(text, 0)


def test_it_is_softmax_regression_on_the_inputs_that_the_coordinates_stand_for() -> None:
    task = load_task("synthetic:d=400,examples=50", 0)
    basis = task.model.get_buffer("basis")
    assert basis.T @ basis == pytest.approx(torch.eye(20), abs=1e-5)
    plain = nn.Linear(40, 10, bias=False)
    ours = Network(task)
    plain.weight.data = torch.from_numpy(ours.x).reshape(10, 40)
    z, labels = task.train
    loss = nn.functional.cross_entropy(plain(z @ basis.T), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    g, ours_loss = ours.gradient(ours.x, z, labels)
    assert plain.weight.grad is not None
    assert g == pytest.approx(plain.weight.grad.reshape(-1).numpy(), abs=1e-6)
    assert ours_loss == pytest.approx(loss.item(), rel=1e-5)


def test_the_problem_is_convex() -> None:
    ours = Network(load_task("synthetic:d=100,examples=50", 0))
    z, labels = ours.task.train
    for _ in range(20):
        a, b = (CHANCE.normal(size=100).astype(np.float32) for _ in range(2))
        between = a + np.float32(0.3) * (b - a)
        low, high, middle = (ours.gradient(x, z, labels)[1] for x in (a, b, between))
        assert middle <= 0.7 * low + 0.3 * high + 1e-5


def test_the_problem_is_the_same_at_every_d_but_for_its_length() -> None:
    small, large = (load_task(f"synthetic:d={d},examples=60", 3) for d in (200, 50_000))
    assert torch.equal(small.train[0], large.train[0])
    norms = []
    for task in (small, large):
        ours = Network(task)
        weights = torch.ones(10, 20) @ task.model.get_buffer("basis").T
        g, loss = ours.gradient(weights.reshape(-1).numpy(), *task.train)
        norms.append((float(np.linalg.norm(g)), loss))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_noise_makes_it_harder() -> None:
    losses = []
    for noise in (0.1, 1, 3):
        ours = Network(load_task(f"synthetic:d=200,noise={noise}", 0))
        x = ours.x
        for _ in range(50):
            x = x - np.float32(0.5) * ours.gradient(x, *ours.task.train)[0]
        losses.append(ours.evaluate(x)[0])
    assert losses == sorted(losses)
    assert losses[-1] > 4 * losses[0]


def test_a_million_parameters_keep_few_numbers() -> None:
    """W has d, the basis 20 for each of d / 10 inputs, and the examples 20 each."""
    task = load_task("synthetic:d=1000000", 0)
    kept = [*task.model.parameters(), *task.model.buffers(), *task.train, *task.test]
    assert sum(tensor.numel() for tensor in kept) < 4 * 1_000_000


# --- the trial ---


def swapped(**parts: Any) -> Task:
    task = small_task()
    usual = {"model": task.model, "train": task.train, "test": task.test, "loss": task.loss}
    return Task(**{**usual, **parts}, batch=8)


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def detached(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.detach(), targets)


def with_targets(change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    task = small_task()
    return {p: (getattr(task, p)[0], change(getattr(task, p)[1])) for p in ("train", "test")}


def with_inputs(change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    task = small_task()
    return {p: (change(getattr(task, p)[0]), getattr(task, p)[1]) for p in ("train", "test")}


FAULTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "too few outputs": (
        lambda: with_targets(lambda y: y + 1),
        r"output for 8 train examples of 3 classes to be of shape \(8, 3\), got \(8, 2\)",
    ),
    "an output an example": (
        lambda: {"model": nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))},
        r"of 2 classes to be of shape \(8, 2\), got \(8,\)",
    ),
    "no tensor": (lambda: {"model": nn.LSTM(5, 2)}, r"to be of shape \(8, 2\), got tuple"),
    "negative classes": (lambda: with_targets(lambda y: y - 1), "classes from 0 on, got neg"),
    "a loss an example": (
        lambda: {"loss": nn.CrossEntropyLoss(reduction="none")},
        r"expected the loss to be a tensor of one number, got shape \(8,\)",
    ),
    "a float": (
        lambda: {"loss": lambda o, t: nn.functional.cross_entropy(o, t).item()},
        "expected the loss to be a tensor of one number, got float",
    ),
    "NaN": (
        lambda: {"loss": lambda o, t: (o.sum() - o.sum()).log() * 0},
        "expected a finite loss, got nan for the first 8 train examples",
    ),
    "NaN in the data": (
        lambda: with_inputs(lambda x: x * torch.nan),
        "expected a finite loss, got nan for the first 8 train examples",
    ),
    "an error of the loss": (
        lambda: {"loss": lambda o, t: o[99, 99]},
        "the task raised IndexError: index 99 is out of bounds",
    ),
    "a shape that the model does not take": (
        lambda: with_inputs(lambda x: x[:, :4]),
        "the task raised RuntimeError: mat1 and mat2 shapes",
    ),
    "a test part of another shape": (
        lambda: {"test": (torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))},
        "the task raised RuntimeError: mat1 and mat2 shapes",
    ),
    "a loss that forgets the model": (
        lambda: {"loss": detached},
        "the loss depends on no parameter of the model",
    ),
    "doubles": (
        lambda: with_inputs(lambda x: x.double()),
        r"expected train inputs of torch.float32, got torch.float64: convert with .float\(\)",
    ),
    "double targets": (
        lambda: with_targets(lambda y: y.double()),
        r"expected train targets of torch.float32, got torch.float64",
    ),
    "short integers": (
        lambda: with_targets(lambda y: y.int()),
        r"integer train targets of torch.int64, got torch.int32: convert with .long\(\)",
    ),
    "a frozen model": (
        lambda: {"model": frozen(nn.Linear(5, 2))},
        "the model has no parameter that requires a gradient",
    ),
    "no parameters": (lambda: {"model": nn.Identity()}, "no parameter that requires a gradient"),
    "an empty test part": (
        lambda: {"test": (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))},
        "as many test inputs as targets, and at least one, got 0 and 0",
    ),
    "lengths": (
        lambda: {"test": (torch.zeros(1, 5), torch.zeros(30, dtype=torch.int64))},
        "as many test inputs as targets, and at least one, got 1 and 30",
    ),
    "numbers without an axis": (
        lambda: {"test": (torch.tensor(1.0), torch.tensor(1.0))},
        "expected test tensors with examples along the first axis",
    ),
    "one tensor": (lambda: {"train": torch.zeros(3)}, "expected train to be a pair of tensors"),
    "no model": (lambda: {"model": 7}, "expected the model to be a torch.nn.Module, got int"),
}


def faulty(fault: str) -> Task:
    return swapped(**FAULTS[fault][0]())


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_model_or_its_data_is_said_when_it_is_loaded(fault: str) -> None:
    text = f"tests.test_tasks:faulty:fault={fault}"
    with pytest.raises(TaskError, match=FAULTS[fault][1]) as raised:
        load_task(text, 0)
    assert str(raised.value).startswith(f"--task {text!r}: ")
    assert "\n" not in str(raised.value)


def normed() -> Task:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    return swapped(model=model)


def test_a_trial_leaves_no_trace() -> None:
    torch.manual_seed(3)  # noqa: TID251  # as load_task does
    untried, after = normed().model.state_dict(), torch.rand(3)
    tried = load_task("tests.test_tasks:normed", 3).model.state_dict()
    assert torch.equal(torch.rand(3), after)
    assert untried.keys() == tried.keys()
    assert all(torch.equal(untried[name], tried[name]) for name in untried)


def regression() -> Task:
    x = torch.arange(40.0).reshape(20, 2)
    parts = (x, x.sum(1, keepdim=True))
    return Task(nn.Linear(2, 1), parts, parts, loss=nn.functional.mse_loss)


def test_regression_and_models_with_more_outputs_than_classes_pass() -> None:
    assert load_task("tests.test_tasks:regression", 0).classes == 0
    assert swapped(model=nn.Linear(5, 9)).classes == 2


# --- splits ---

TEXTS = {
    "iid": st.just("iid"),
    "dirichlet": st.floats(1e-6, 1e6).map("dirichlet:alpha={}".format),
    "by_label": st.builds("by_label:share={},shards={}".format, st.floats(0, 1), st.integers(1, 4)),
}
labels = st.lists(st.integers(-3, 6), min_size=1, max_size=120).map(np.array)


def test_every_split_of_the_table_is_in_the_battery() -> None:
    assert TEXTS.keys() == SPLITS.keys()


@pytest.mark.parametrize("name", SPLITS)
@given(st.data(), labels, st.integers(1, 40), st.integers(0, 5))
def test_a_split_gives_every_example_to_exactly_one_worker_and_nobody_nothing(
    name: str, data: st.DataObject, targets: Array, n: int, seed: int
) -> None:
    text = data.draw(TEXTS[name])
    if len(targets) < n:
        with pytest.raises(TaskError, match=f"{len(targets)} training examples among {n} workers"):
            deal(text, targets, n, seed)
        return
    held = deal(text, targets, n, seed)
    assert len(held) == n
    assert min(map(len, held)) >= 1
    assert sorted(np.concatenate(held).tolist()) == list(range(len(targets)))
    again = deal(text, targets, n, seed)
    assert [share.tolist() for share in held] == [share.tolist() for share in again]


@given(labels, st.integers(1, 40), st.integers(0, 5))
def test_iid_shares_are_equal_give_or_take_one(targets: Array, n: int, seed: int) -> None:
    if len(targets) >= n:
        sizes = [len(share) for share in deal("iid", targets, n, seed)]
        assert max(sizes) - min(sizes) <= 1


MANY = np.arange(10_000) % 10


def mixes(text: str, n: int = 10, seed: int = 0) -> Array:
    """Which part of each worker's data is of each class: (n, 10)."""
    held = deal(text, MANY, n, seed)
    return np.array([np.bincount(MANY[share], minlength=10) / len(share) for share in held])


@pytest.mark.parametrize("text", ["iid", "dirichlet:alpha=10000", "by_label:share=0"])
def test_without_skew_every_worker_has_every_class_alike(text: str) -> None:
    assert mixes(text) == pytest.approx(np.full((10, 10), 0.1), abs=0.05)


def test_by_label_a_worker_holds_that_share_of_its_data_from_about_one_class() -> None:
    for share in (0.25, 0.5, 1.0):
        largest = mixes(f"by_label:share={share}").max(axis=1)
        assert largest == pytest.approx(share + (1 - share) / 10, abs=0.05)


def test_by_label_with_shards_a_worker_has_about_so_many_classes() -> None:
    """McMahan et al. 2017: two shards each, so that most workers have two digits."""
    classes = (mixes("by_label:share=1,shards=2", n=100) > 0).sum(axis=1)
    assert classes.max() <= 4
    assert np.median(classes) == 2


def test_the_lot_decides_who_gets_which_class() -> None:
    assert len({tuple(mixes("by_label:share=1", seed=seed).argmax(1)) for seed in range(5)}) == 5


def test_dirichlet_has_the_moments_of_its_distribution() -> None:
    """p_i ~ Beta(a, (n-1) a): mean 1/n, variance (n-1) / (n^2 (n a + 1))."""
    n, alpha = 4, 0.5
    parts = []
    for seed in range(200):
        held = deal(f"dirichlet:alpha={alpha}", MANY, n, seed)
        parts.append([np.bincount(MANY[share], minlength=10) / 1000 for share in held])
    measured = np.array(parts)
    assert measured.mean() == pytest.approx(1 / n)
    assert measured.var() == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.05)


def test_a_small_alpha_skews_more() -> None:
    spread = [mixes(f"dirichlet:alpha={alpha}").max(axis=1).mean() for alpha in (0.05, 1, 100)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 0.6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("idd", "--split: unknown name 'idd'; did you mean 'iid'"),
        ("dirichlet:alpha=0", "expected alpha > 0, got 0.0"),
        ("dirichlet:alpha=nan", "expected alpha > 0, got nan"),
        ("dirichlet:alpha=inf", "expected alpha > 0, got inf"),
        ("by_label:share=1.5", "expected 0 <= share <= 1, got 1.5"),
        ("by_label:shards=0", "expected shards >= 1, got 0"),
        (
            "tests.test_tasks:forgetful",
            r"exactly one of 4 workers, .* got shares of \[1, 1, 1, 1\]",
        ),
        ("tests.test_tasks:greedy", "exactly one of 4 workers, and one each at least"),
        ("tests.test_tasks:twice", "exactly one of 4 workers, and one each at least"),
        ("tests.test_tasks:raising", "raised KeyError: 'x'"),
        ("tests.test_tasks:nothing", "expected a function, got NoneType"),
    ],
)
def test_what_cannot_be_a_split_is_an_error_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        deal(text, MANY, 4, 0)


def forgetful() -> Any:
    return lambda targets, n, rng: np.arange(n)[:, None]


def greedy() -> Any:
    return lambda targets, n, rng: [np.arange(len(targets)), *([np.arange(0)] * (n - 1))]


def twice() -> Any:
    return lambda targets, n, rng: [np.arange(len(targets))] * n


def raising() -> Any:
    return lambda targets, n, rng: {"y": n}["x"]


def nothing() -> Any:
    return None


@pytest.mark.parametrize("name", SPLITS)
def test_where_targets_are_no_classes_only_iid_will_do(name: str) -> None:
    task = regression()
    if name == "iid":
        assert len(shares(task, 4, 0, name)) == 4
        return
    with pytest.raises(UsageError, match=f"--split '{name}': expected classes, .* iid alone"):
        shares(task, 4, 0, name)


def test_workers_hold_what_the_split_says() -> None:
    """Each with one class alone: then plain SGD's first gradients differ more than with iid."""
    task = network().task
    spread = {}
    for split in ("iid", "by_label:share=1"):
        workers = hire(crew(n=10), network(), 0, split)
        first = np.array([w.answer(1, 0, start()).gradient.g for w in workers])
        spread[split] = np.linalg.norm(first - first.mean(0), axis=1).mean()
        held = shares(task, 10, 0, split)
        assert len(held) == len(workers)
    assert spread["by_label:share=1"] > 2 * spread["iid"]
