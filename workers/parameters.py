"""A torch module's trained parameters as one flat float32 vector: which they are, and in which
order. Never in here: data, a loss, a worker.

In the vector are the parameters that require a gradient, in the order of their names; parameters
that are tied are one, under the first of their names. Frozen parameters and buffers (running
statistics) are not: they are each process's own.
"""

import itertools
from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kardam.errors import TaskError
from kardam.messages import Manifest, Vector

# Parameters by their names, as `trained` orders them.
Named = Sequence[tuple[str, nn.Parameter]]


def trained(module: nn.Module) -> Named:
    """What of the module is in the vector. Raises TaskError where that is nothing."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise TaskError("the model has no parameter that requires a gradient")
    for name, parameter in named:
        if is_lazy(parameter):
            raise TaskError(
                f"{name!r} has no shape yet: call a lazy module on an example before it is returned"
            )
    return sorted(named, key=itemgetter(0))


def manifest_of(named: Named) -> Manifest:
    """What the vector is made of."""
    return Manifest(tuple((name, tuple(p.shape)) for name, p in named))


def vector_of(named: Named) -> Vector:
    """The parameters as they stand, of shape (d,): a copy."""
    flat = [p.detach().to("cpu", torch.float32).reshape(-1) for _, p in named]
    return torch.cat(flat).numpy()


def agree(ours: Manifest, theirs: Manifest) -> None:
    """Raise TaskError, with both sizes and the first difference, unless two are made alike."""
    for mine, yours in itertools.zip_longest(ours.tensors, theirs.tensors):
        if mine != yours:
            raise TaskError(
                f"{ours.d:,} trained numbers here, and {theirs.d:,} at the server; the first"
                f" difference: here is {_says(mine)} where the server has {_says(yours)}"
            )


def _says(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{tensor[0]!r} of shape {tensor[1]}" if tensor else "no more parameters"
