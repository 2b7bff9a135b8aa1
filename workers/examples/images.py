"""A convolutional network with batch norm, on scikit-learn's images of digits.

kardam simulate --task workers.examples.images:cnn --byzantine 3 --arrivals 2000
"""

from torch import nn

from workers.tasks import Task
from workers.tasks.digits import digits


def cnn(seed: int, channels: int = 8, batch: int = 32) -> Task:
    """1,797 images of 8 x 8 in ten classes: two 3 x 3 convolutions, each with batch norm, ReLU and
    a maximum over 2 x 2, and a linear layer. Raises ValueError.
    """
    if not channels >= 1:
        raise ValueError(f"expected channels >= 1, got {channels}")
    data = digits(seed)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *_block(1, channels),
        *_block(channels, 2 * channels),
        nn.Flatten(),
        nn.Linear(2 * channels * 2 * 2, 10),
    )
    return Task(model, data.train, data.test, batch=batch)


def _block(channels: int, more: int) -> list[nn.Module]:
    # No bias: the batch norm that follows has one.
    convolution = nn.Conv2d(channels, more, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(more), nn.ReLU(), nn.MaxPool2d(2)]
