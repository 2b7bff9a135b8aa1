"""scikit-learn's digits, which its package carries: real data anywhere, without a download."""

import torch
from torch import nn

from workers.tasks.task import Task

HELD_OUT = 397


def digits(seed: int, hidden: int = 32, batch: int = 32) -> Task:
    """1,797 images of 8 x 8 in ten classes, 397 of them held out; an MLP 64-hidden-10."""
    from sklearn.datasets import load_digits  # takes a second to import: only who trains on it pays

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32) / 16
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    return Task(model, (x[train], y[train]), (x[test], y[test]), batch=batch)
