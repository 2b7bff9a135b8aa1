"""The aggregators for CPU tensors of torch, without a copy: a rule sees the tensors' own memory.

Never in here: a rule.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kardam.aggregators import Rule
from kardam.messages import Vector


def on_tensors(rule: Rule) -> Callable[[Sequence[Tensor]], Tensor]:
    """The rule as a function of tensors of shape (d,), float32, on the CPU; gradients do not flow
    through it. What it gives shares the memory of what the rule returns, which may be one of those
    that it was given.

    Raises ValueError for another kind of tensor, and what the rule raises.
    """
    return lambda tensors: torch.from_numpy(rule([_vector(tensor) for tensor in tensors]))


def _vector(tensor: Tensor) -> Vector:
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or tensor.dim() != 1:
        raise ValueError(
            f"expected a float32 tensor of shape (d,) on the CPU, got {tensor.dtype} of shape"
            f" {tuple(tensor.shape)} on {tensor.device}"
        )
    vector: Vector = tensor.detach().numpy()
    return vector
