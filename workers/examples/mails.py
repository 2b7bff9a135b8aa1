"""Logistic regression on mails like those of Spambase: how often 57 words stand in each, made up.

    kardam simulate --task workers.examples.mails:logistic --byzantine 3 --attack label_flip

The real file (UCI), as an .npz, is `--task npz:path=spambase.npz,model=linear`.
"""

import torch
from torch import nn

from workers.tasks import Task

# As in Spambase.
MAILS, HELD_OUT, WORDS, SPAM = 4601, 921, 57, 0.394


def logistic(seed: int, tells: float = 0.8, batch: int = 32) -> Task:
    """4,601 mails, 39.4 % of them spam, of which 921 are held out. Word j stands c_j times in one,
    c_j ~ Poisson(exp(a_j)) and, in spam, Poisson(exp(a_j + tells b_j)), a ~ N(-1.5, 1), b ~ N(0, 1)
    for each word; the inputs are log(1 + c). Most of them are 0, as in Spambase.

    Raises ValueError.
    """
    if not 0 <= tells < float("inf"):
        raise ValueError(f"expected tells >= 0, got {tells}")
    chance = torch.Generator().manual_seed(seed)
    spam = (torch.rand(MAILS, generator=chance) < SPAM).long()
    often = torch.randn(WORDS, generator=chance) - 1.5
    more = tells * torch.randn(WORDS, generator=chance)
    counts = torch.poisson((often + spam[:, None] * more).exp(), generator=chance)
    x = counts.log1p()
    train, test = (x[HELD_OUT:], spam[HELD_OUT:]), (x[:HELD_OUT], spam[:HELD_OUT])
    return Task(nn.Linear(WORDS, 2), train, test, batch=batch)
