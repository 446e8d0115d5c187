"""Sums of exponentials over a table and contrasts, against what plain arithmetic gives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.errors import DataError, TrainingError
from braidrec.objectives import partition
from braidrec.objectives.info_nce import info_nce
from braidrec.objectives.partition import contrast, log_partition


def drawn(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 7), st.booleans())
def test_values_and_gradients_are_those_of_logsumexp_in_blocks_of_any_size(seed: int, n: int, m: int, weighted: bool) -> None:
    states, table = drawn(n, 3, seed), drawn(m, 3, seed + 1)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) if weighted else None
    own = torch.full((n,), 1 / n, dtype=torch.float64) if weights is None else weights
    wanted = (torch.logsumexp(states @ table.T, dim=1) * own).sum()
    before = torch.autograd.grad(wanted, (states, table))
    size = partition._BLOCK
    try:
        for block in (1, 8 * m * 2, size):
            partition._BLOCK = block
            found = log_partition(states, table, weights)
            assert torch.allclose(found, wanted)
            for each, other in zip(torch.autograd.grad(found, (states, table)), before, strict=True):
                assert torch.allclose(each, other)
    finally:
        partition._BLOCK = size


def test_a_contrast_with_one_to_choose_from_is_zero_and_with_several_a_cross_entropy() -> None:
    query = drawn(1, 4, 0).float()
    assert contrast(query, query, torch.tensor([0]), 0.1).item() == pytest.approx(0, abs=1e-6)
    query, pool, own = drawn(5, 4, 1), drawn(9, 4, 2), torch.tensor([3, 0, 8, 3, 1])
    logits = F.normalize(query, dim=1) @ F.normalize(pool, dim=1).T / 0.3
    assert contrast(query, pool, own, 0.3).item() == pytest.approx(F.cross_entropy(logits, own).item())
    twice = contrast(query[[0, 0, 1]], pool, own[[0, 0, 1]], 0.3) * 3
    once = contrast(query[[0, 1]], pool, own[[0, 1]], 0.3, torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert float(twice) == pytest.approx(float(once))
    other = drawn(5, 4, 3)
    assert float(contrast(query, other, torch.arange(5), 0.2)) == pytest.approx(float(info_nce(query, other, temperature=0.2)))


def test_equal_scores_make_the_logarithm_of_their_number_and_large_ones_no_infinity() -> None:
    assert float(log_partition(torch.zeros(3, 2), torch.randn(7, 2))) == pytest.approx(math.log(7))
    large = torch.full((1, 1), 1e4, requires_grad=True)
    found = log_partition(large, torch.tensor([[1.0], [-1.0]]))
    found.backward()
    assert float(found) == 1e4
    assert float(large.grad) == 1.0  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="are needed"):
        log_partition(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(DataError, match="are needed"):
        log_partition(torch.zeros(0, 2), torch.zeros(3, 2))
    states = torch.ones(2, 2, requires_grad=True)
    with pytest.raises(TrainingError, match="no second derivative"):
        torch.autograd.grad(log_partition(states, torch.ones(2, 2)), states, create_graph=True)
