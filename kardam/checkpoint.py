"""Models as files, in safetensors: names, shapes and numbers, and nothing that could run."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from kardam.errors import UsageError
from kardam.messages import Manifest, Vector


def load(path: Path) -> tuple[Manifest, Vector]:
    """The tensors of a safetensors file as one float32 vector, in the order of their names.

    Raises UsageError where there is no such file, or it holds no floating-point numbers.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, TypeError) as error:
        raise UsageError(f"{path}: expected a safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            raise UsageError(f"{path}: {name!r} holds {tensor.dtype}, expected floats")
    manifest = Manifest(tuple((name, tensor.shape) for name, tensor in tensors.items()))
    if manifest.d == 0:
        raise UsageError(f"{path} holds no numbers")
    flat = [tensor.astype(np.float32).reshape(-1) for tensor in tensors.values()]
    return manifest, np.concatenate(flat)
