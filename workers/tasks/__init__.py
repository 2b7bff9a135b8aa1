"""What is trained: a model, a loss, data, and how the data are split. A task knows no worker, no
server and no lie.

Adding one is a file beside this and a line in the table; a user's own is named by its import path.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from kardam.errors import KardamError, TaskError, UsageError
from kardam.spec import build, is_import_path, load
from workers.tasks.digits import digits
from workers.tasks.npz import npz
from workers.tasks.splits import SPLITS, Shares, deal
from workers.tasks.synthetic import synthetic
from workers.tasks.task import Task
from workers.tasks.trial import try_out

__all__ = ["SPLITS", "TASKS", "Shares", "Task", "load_module", "load_task", "shares"]

TASKS: Mapping[str, Callable[..., Task]] = {
    "digits": digits,
    "npz": npz,
    "synthetic": synthetic,
}


def load_task(text: str, seed: int) -> Task:
    """The task that `--task` names, tried on a few examples; its first weights are the seed's.

    Raises UsageError for what the name says, TaskError for what building or trying it raises.
    """
    # Modules draw their first weights from torch's one global generator; there is no other way in.
    torch.manual_seed(seed)  # noqa: TID251
    try:
        task = build(text, TASKS, "--task", seed=seed)
        if not isinstance(task, Task):
            raise TaskError(f"expected a workers.tasks.Task, got {type(task).__name__}")
        try_out(task)
    except UsageError:
        raise
    except TaskError as error:
        raise TaskError(f"--task {text!r}: {error}") from error
    except Exception as error:
        raise TaskError(f"--task {text!r} raised {type(error).__name__}: {error}") from error
    return task


def load_module(text: str, knob: str, seed: int) -> nn.Module:
    """The module that a text names, or its task's: a function or class of the user's own that gives
    one. Its first weights are the seed's. Raises UsageError, or TaskError for what it raises.
    """
    if is_import_path(text):
        module, name, *_ = text.strip().split(":")
        if isinstance(made := load(module, name, knob), nn.Module):
            raise UsageError(
                f"{knob} {text!r}: is a {type(made).__name__} that is made already; name its class,"
                " or a function that returns it"
            )
    torch.manual_seed(seed)  # noqa: TID251
    try:
        found = build(text, TASKS, knob, seed=seed)
    except KardamError:
        raise
    except Exception as error:
        raise TaskError(f"{knob} {text!r} raised {type(error).__name__}: {error}") from error
    if isinstance(found, Task):
        return found.model
    if isinstance(found, nn.Module):
        return found
    raise TaskError(f"{knob} {text!r}: expected a torch.nn.Module, got {type(found).__name__}")


def shares(task: Task, n: int, seed: int, split: str = "iid") -> Shares:
    """Which training examples each of n workers holds, as `--split` says. Raises what `deal`
    raises.
    """
    return deal(split, task.train[1].numpy(), n, seed)
