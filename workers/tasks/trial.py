"""A trial of a task before anybody works on it: a few examples, forward and back, on a copy.

What is wrong with a model or a loss is said here, once. Never in here: training, or a vector.
"""

import copy

import torch
from torch import Tensor, nn

from kardam.errors import TaskError
from workers.tasks.task import Task

# Enough for a batch norm, and next to nothing for anybody.
EXAMPLES = 8


def try_out(task: Task) -> None:
    """Raise TaskError, in one sentence, unless model, loss and data go together."""
    classes = _classes(task)
    # A forward pass may change a model (running means), and draw (dropout): neither shall show.
    model = copy.deepcopy(task.model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()  # as every worker will hold it
    with torch.random.fork_rng(devices=[]):
        loss = _loss(task, model.train(), "train", classes)
        if not loss.requires_grad:
            raise TaskError("the loss depends on no parameter of the model: it has no gradient")
        try:
            torch.autograd.grad(loss, trained, allow_unused=True)
        except Exception as error:
            raise _raised(error) from error
        with torch.no_grad():
            _loss(task, model.eval(), "test", classes)


def _classes(task: Task) -> int:
    """How many classes both parts name; 0 where targets are no classes."""
    if not task.classes:
        return 0
    both = [task.train[1], task.test[1]]
    if min(int(targets.min()) for targets in both) < 0:
        raise TaskError("expected integer targets to be classes from 0 on, got negative ones")
    return max(int(targets.max()) for targets in both) + 1


def _loss(task: Task, model: nn.Module, part: str, classes: int) -> Tensor:
    inputs, targets = (tensor[:EXAMPLES] for tensor in getattr(task, part))
    try:
        outputs = model(inputs)
    except Exception as error:
        raise _raised(error) from error
    if classes:
        _check_outputs(outputs, part, len(inputs), classes)
    try:
        loss = task.loss(outputs, targets)
    except Exception as error:
        raise _raised(error) from error
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"expected the loss to be a tensor of one number, got {got}")
    if not loss.isfinite():
        raise TaskError(
            f"expected a finite loss, got {loss.item()} for the first {len(inputs)} {part} examples"
        )
    return loss


def _check_outputs(outputs: object, part: str, examples: int, classes: int) -> None:
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    match shape:
        case (rows, columns) if rows == examples and columns >= classes:
            return
    raise TaskError(
        f"expected the model's output for {examples} {part} examples of {classes} classes to be"
        f" of shape ({examples}, {classes}), got {shape}"
    )


def _raised(error: Exception) -> TaskError:
    words = " ".join(str(error).split())
    return TaskError(f"the task raised {type(error).__name__}: {words}")
