"""What is trained: a model, a loss, data, and how the data are split. A task knows no worker, no
server and no lie.

Adding one is a file beside this and a line in the table; a user's own is named by its import path.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kardam.errors import TaskError, UsageError
from kardam.spec import build
from workers.tasks.digits import digits
from workers.tasks.task import Task

__all__ = ["TASKS", "Task", "load_task", "split"]

TASKS: Mapping[str, Callable[..., Task]] = {"digits": digits}


def load_task(text: str, seed: int) -> Task:
    """The task that `--task` names; its first weights are the seed's.

    Raises UsageError for what the name says, TaskError for what building it raises.
    """
    # Modules draw their first weights from torch's one global generator; there is no other way in.
    torch.manual_seed(seed)  # noqa: TID251
    try:
        task = build(text, TASKS, "--task", seed=seed)
    except (UsageError, TaskError):
        raise
    except Exception as error:
        raise TaskError(f"--task {text!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise TaskError(
            f"--task {text!r}: expected a workers.tasks.Task, got {type(task).__name__}"
        )
    return task


def split(examples: int, n: int, seed: int) -> list[NDArray[np.int64]]:
    """Which training examples each of n workers holds: shuffled by the seed, in n equal parts, give
    or take one.
    """
    if examples < n:
        raise TaskError(
            f"{examples} training examples among {n} workers: expected one each at least"
        )
    return np.array_split(np.random.default_rng([seed, 0x5911]).permutation(examples), n)
