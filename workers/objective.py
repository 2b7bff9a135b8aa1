"""A task as a function of one flat vector: x in, gradient out. Knows torch; knows no worker, attack
or wire.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kardam.errors import TaskError
from kardam.messages import Vector
from kardam.trusted import Root
from workers.parameters import manifest_of, trained, vector_of
from workers.tasks import Task
from workers.worker import Poison

# Held-out examples in one forward pass: what a convolution makes of ten thousand takes gigabytes.
AT_ONCE = 1000


@contextlib.contextmanager
def _of_the_task() -> Iterator[None]:
    """What is raised inside is the task's doing: a TaskError."""
    try:
        yield
    except Exception as error:
        raise TaskError(f"the task raised {type(error).__name__}: {error}") from error


class Network:
    """A task's model as one flat float32 vector x of shape (d,).

    The module's parameters are views into one tensor, in the order of their names, and so are their
    gradients: a model is one copy in, a gradient one copy out.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        named = trained(task.model)
        self.manifest = manifest_of(named)
        self._x = torch.from_numpy(vector_of(named))
        self._g = torch.zeros(self.manifest.d)
        for (_, p), place in zip(named, self.manifest.places(), strict=True):
            p.data = self._x[place].view(p.shape)
            p.grad = self._g[place].view(p.shape)

    @property
    def x(self) -> Vector:
        """A copy of the parameters as they stand."""
        return self._x.numpy().copy()

    def gradient(self, x: Vector, inputs: Tensor, targets: Tensor) -> tuple[Vector, float]:
        """The gradient of the loss over these examples, and the loss. Raises TaskError where the
        task raises.
        """
        self._x.numpy()[:] = x
        self._g.zero_()
        self.task.model.train()
        with _of_the_task():
            loss = self.task.loss(self.task.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
        return self._g.numpy().copy(), loss.item()

    @torch.no_grad()
    def evaluate(self, x: Vector) -> tuple[float, float]:
        """Mean loss and accuracy over the held-out examples; accuracy is NaN where targets are no
        classes. A batch norm's statistics are those of the first AT_ONCE training examples at x:
        they are not in the vector, and who evaluates has trained on nothing. Raises TaskError where
        the task raises.
        """
        self._x.numpy()[:] = x
        with torch.random.fork_rng(devices=[]), _of_the_task():
            torch.optim.swa_utils.update_bn([self.task.train[0][:AT_ONCE]], self.task.model)
        self.task.model.eval()
        inputs, targets = self.task.test
        examples = len(targets)
        parts = [slice(at, at + AT_ONCE) for at in range(0, examples, AT_ONCE)]
        loss, right = np.sum([self._count(inputs[part], targets[part]) for part in parts], axis=0)
        return float(loss / examples), float(right / examples) if self.task.classes else math.nan

    def _count(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """The sum of losses, and how many outputs are right."""
        with _of_the_task():
            outputs = self.task.model(inputs)
            loss = float(self.task.loss(outputs, targets))
        right = int((outputs.argmax(1) == targets).sum()) if self.task.classes else 0
        return len(targets) * loss, right


class LocalObjective:
    """What one worker minimizes: the loss over its share of the training examples. An Objective."""

    def __init__(self, network: Network, share: NDArray[np.int64]) -> None:
        self.network = network
        self.batch = network.task.batch
        self._share = share

    def gradient(self, x: Vector, rng: np.random.Generator, poison: Poison) -> tuple[Vector, float]:
        """The gradient, shape (d,), and the loss on one mini-batch, drawn with replacement from the
        share.
        """
        task = self.network.task
        batch = torch.from_numpy(self._share[rng.integers(len(self._share), size=self.batch)])
        inputs, targets = poison(task.train[0][batch], task.train[1][batch], task.classes)
        return self.network.gradient(x, inputs, targets)


def root_of(network: Network, examples: int, seed: int) -> Root | None:
    """The gradient on so many training examples that the server trusts, drawn for the run; workers
    may hold them, too. None of none. Raises TaskError where there are fewer.
    """
    inputs, targets = network.task.train
    if examples > len(targets):
        raise TaskError(f"--root-examples: expected at most {len(targets)}, got {examples}")
    chance = np.random.default_rng([seed, 0x12007])
    drawn = torch.from_numpy(chance.choice(len(targets), examples, replace=False))
    return (lambda x: network.gradient(x, inputs[drawn], targets[drawn])[0]) if examples else None
