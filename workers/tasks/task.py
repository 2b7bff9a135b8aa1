"""The noun: what a task is. No task lives here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kardam.errors import TaskError


@dataclass(frozen=True, eq=False)
class Task:
    """A problem of supervised learning: a model, data, a loss.

    `train` and `test` are pairs (inputs, targets) of tensors with examples along the first axis.
    `loss(outputs, targets)` is the mean over a batch. Where targets are integers they are classes,
    and accuracy is the share of test examples whose largest output stands at the target.
    """

    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    batch: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(
                f"expected the model to be a torch.nn.Module, got {type(self.model).__name__}"
            )
        if not any(p.requires_grad for p in self.model.parameters()):
            raise TaskError("the model has no parameter that requires a gradient")
        for name in ("train", "test"):
            _check_pair(name, getattr(self, name))
        if type(self.batch) is not int or self.batch < 1:
            raise TaskError(f"expected batch to be an int >= 1, got {self.batch!r}")

    @property
    def classes(self) -> int:
        """How many classes the targets name; 0 where they are no classes."""
        targets = self.train[1]
        if targets.is_floating_point() or targets.dim() != 1:
            return 0
        return int(targets.max()) + 1


def _check_pair(name: str, pair: object) -> None:
    match pair:
        case (Tensor() as inputs, Tensor() as targets):
            if inputs.dim() == 0 or targets.dim() == 0:
                raise TaskError(f"expected {name} tensors with examples along the first axis")
            if len(inputs) != len(targets) or len(inputs) == 0:
                raise TaskError(
                    f"expected as many {name} inputs as targets, and at least one,"
                    f" got {len(inputs)} and {len(targets)}"
                )
        case _:
            raise TaskError(f"expected {name} to be a pair of tensors (inputs, targets)")
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise TaskError(
                f"expected {name} {what} of torch.float32, got {tensor.dtype}: convert with"
                " .float()"
            )
    if not targets.is_floating_point() and targets.dtype != torch.int64:
        raise TaskError(
            f"expected integer {name} targets of torch.int64, got {targets.dtype}: convert with"
            " .long()"
        )
