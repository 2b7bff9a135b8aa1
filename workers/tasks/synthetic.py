"""A convex problem of any length d: softmax regression on Gaussian classes, made from the seed."""

import torch
from torch import Tensor, nn

from workers.tasks.task import Task

# The dimension of the subspace that the inputs lie in.
INTRINSIC = 20

HELD_OUT = 1000


class Subspace(nn.Module):
    """Softmax regression without bias, W of shape (classes, p), on inputs x = Bz in R^p that are
    given by their coordinates z: W x = (W B) z. So neither memory nor time grows with
    examples x p; both grow with p x INTRINSIC.
    """

    basis: Tensor

    def __init__(self, basis: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        p = len(basis)
        self.weight = nn.Parameter(torch.empty(classes, p).uniform_(-(p**-0.5), p**-0.5))

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.weight @ self.basis)


def synthetic(
    seed: int,
    d: int = 1000,
    classes: int = 10,
    examples: int = 3000,
    noise: float = 1.0,
    batch: int = 32,
) -> Task:
    """d is the length of the flat vector, exactly: classes x p, for inputs of p numbers, no bias.

    z = m_y + noise * e, with the centre m_y of class y and e drawn from N(0, I) in R^k, where
    k = min(20, p); the inputs are x = Bz for p x k orthonormal B. Since B keeps lengths and angles,
    the problem is the same at every d of 20 x classes and more, but for its length: gradients are
    dense in all d numbers and have rank k. `examples` are for training, and 1,000 more are held
    out. Raises ValueError for a d that is no multiple of `classes`, and for what is out of range.
    """
    if not classes >= 2:
        raise ValueError(f"expected classes >= 2, got {classes}")
    if not d >= classes or d % classes:
        below = max(d // classes, 1) * classes
        raise ValueError(
            f"expected d to be a multiple of classes={classes}, like {below} or {below + classes},"
            f" got {d}"
        )
    if not examples >= 1:
        raise ValueError(f"expected examples >= 1, got {examples}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"expected noise >= 0, got {noise}")
    chance = torch.Generator().manual_seed(seed)
    p = d // classes
    k = min(INTRINSIC, p)
    centres = torch.randn(classes, k, generator=chance)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(classes, (count,), generator=chance)
        return centres[labels] + noise * torch.randn(count, k, generator=chance), labels

    train, test = draw(examples), draw(HELD_OUT)
    # Last, so that what comes before is the same at every d.
    basis, _ = torch.linalg.qr(torch.randn(p, k, generator=chance))
    return Task(Subspace(basis, classes), train, test, batch=batch)
