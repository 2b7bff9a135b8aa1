"""A language model of characters: the next one after so many, on the text that Python carries.

kardam simulate --task workers.examples.text:characters --rate constant:gamma=0.5
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from workers.tasks import Task

# Of the text, the last tenth is held out.
HELD_OUT = 0.1


class Characters(nn.Module):
    """Logits of the next character, after those that a GRU has read from its beginning."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocabulary)
        self.out.weight = self.embedding.weight  # tied: Press and Wolf 2017

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(characters))
        logits: Tensor = self.out(states[:, -1])
        return logits


def characters(
    seed: int,
    path: Path | None = None,
    context: int = 16,
    hidden: int = 48,
    examples: int = 50_000,
    batch: int = 32,
) -> Task:
    """The text of a file, or else of Python's own manual (`pydoc_data.topics`): windows of
    `context` characters, drawn from its first nine tenths for training and from the last for the
    test; the loss is in nats a character. What is rare in the text (fewer than 10) is one sign.

    Raises ValueError for a file that cannot be read, or is too short.
    """
    if not context >= 1 or not hidden >= 1 or not examples >= 1:
        raise ValueError("expected context, hidden and examples >= 1")
    codes, vocabulary = _numbered(_manual() if path is None else _read(path.expanduser()))
    end = round((1 - HELD_OUT) * len(codes))
    if end <= context or len(codes) - end <= context:
        raise ValueError(f"expected more than {context} characters in a tenth of the text")
    chance = torch.Generator().manual_seed(seed)

    def draw(text: Tensor, count: int) -> tuple[Tensor, Tensor]:
        windows = text.unfold(0, context + 1, 1)
        drawn = windows[torch.randint(len(windows), (count,), generator=chance)]
        return drawn[:, :-1].contiguous(), drawn[:, -1].contiguous()

    train, test = draw(codes[:end], examples), draw(codes[end:], 1000)
    return Task(Characters(vocabulary, hidden), train, test, batch=batch)


def _manual() -> str:
    from pydoc_data.topics import topics  # half a megabyte: only who trains on it pays

    return "\n".join(topics[name] for name in sorted(topics))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _numbered(text: str) -> tuple[Tensor, int]:
    """Each character's number, from 1 in their order, 0 for the rare; and how many numbers."""
    codes = torch.tensor([ord(character) for character in text], dtype=torch.int64)
    _, places, counts = torch.unique(codes, return_inverse=True, return_counts=True)
    kept = counts >= 10
    numbers = torch.where(kept, kept.cumsum(0), 0)
    return numbers[places], int(kept.sum()) + 1
