"""Aggregators over tensors are those over vectors, and look at the same memory."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from kardam.aggregators import AGGREGATORS, Rule
from kardam.messages import Vector
from kardam.spec import build
from workers.tensors import on_tensors


def tensors(n: int = 11, d: int = 50) -> list[torch.Tensor]:
    return list(torch.randn(n, d, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_a_rule_says_of_tensors_what_it_says_of_their_numbers(name: str) -> None:
    rule: Rule = build(name, AGGREGATORS, "--aggregator", n=11, f=2)
    given = tensors()
    assert on_tensors(rule)(given).tolist() == rule([t.numpy() for t in given]).tolist()


def test_nothing_is_copied_on_the_way_in_or_out() -> None:
    given = [t.requires_grad_() for t in tensors(3)]
    seen: list[Vector] = []

    def last(vectors: Sequence[Vector]) -> Vector:
        seen.extend(vectors)
        return vectors[-1]

    found = on_tensors(last)(given)
    for vector, tensor in zip(seen, given, strict=True):
        assert np.shares_memory(vector, tensor.detach().numpy())
    assert found.data_ptr() == given[-1].data_ptr()
    seen[-1][0] = 7
    assert (float(found[0]), float(given[-1].detach()[0])) == (7, 7)


@pytest.mark.parametrize("wrong", [torch.ones(3, dtype=torch.float64), torch.ones(3, 1)])
def test_what_is_no_vector_of_float32_is_refused_with_its_shape(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a float32 tensor of shape \(d,\) on the CPU"):
        on_tensors(lambda vectors: vectors[0])([wrong])
