"""Codes by hand, sums of buckets against loops, and their derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from braidrec.data.history import History, Run, SharedHistory
from braidrec.layers.attention import behaviours
from braidrec.layers.hashing import codes_of, own_buckets


def test_codes_by_hand() -> None:
    planes = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [1.0, 1.0]]])  # two groups of two planes
    rows = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [1.0, -3.0], [0.0, 0.0]])
    assert codes_of(rows, planes).tolist() == [[3, 2], [2, 1], [1, 0], [0, 0]]
    assert codes_of(7 * rows, planes).equal(codes_of(rows, planes))


def test_vectors_at_an_angle_share_codes_as_often_as_they_should() -> None:
    planes = torch.randn(20_000, 3, 2, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([[1.0, 0.0], [math.cos(0.6), math.sin(0.6)], [-1.0, 0.0]])
    first, second, opposite = codes_of(rows, planes)
    assert (first == second).double().mean().item() == pytest.approx((1 - 0.6 / math.pi) ** 3, abs=0.01)
    assert not (first == opposite).any()


def drawn(count: int, high: int, *shape: int) -> Tensor:
    return torch.randint(count, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


def shared(first: list[list[int]], last: list[list[int]], width: int) -> SharedHistory:
    """One run of windows of ``width`` events; every target is a row of the batch."""
    firsts, lasts = torch.tensor(first), torch.tensor(last)
    rows = torch.arange(firsts.numel()).view_as(firsts)
    run = Run(drawn(1, 9, len(firsts), width).int(), drawn(1, 4, len(firsts), width).int(), rows, firsts, lasts)
    return SharedHistory((run,), rows.flatten(), rows.flatten().int(), rows[:, 0], rows.flatten() // rows.shape[1], width)


WINDOWS = [
    ([[0, 0, 0], [0, 0, 0]], [[4, 4, 4], [9, 9, 9]]),  # one window for all targets, as for the items of one user
    ([[0, 1, 2], [3, 3, 5]], [[6, 7, 8], [7, 9, 9]]),  # most of it common
    ([[0, 3, 6], [0, 0, 4]], [[3, 6, 9], [0, 4, 8]]),  # nothing common
    ([[0, 0, 0], [0, 0, 2]], [[0, 0, 0], [0, 7, 9]]),  # some read nothing
    ([[0, 2, 5], [0, 0, 0]], [[9, 6, 6], [1, 2, 3]]),
]


@pytest.mark.parametrize(("first", "last"), WINDOWS)
def test_sums_of_a_shared_window_are_those_of_a_window_each_and_of_loops(first: list[list[int]], last: list[list[int]]) -> None:
    history = shared(first, last, 9)
    rows, codes = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), drawn(0, 4, 9, 5)
    asked = codes[drawn(1, 9, 6)]
    rows.requires_grad_()
    together = behaviours(history, history.slots.long(), 3).bucketed(rows, codes, asked, 4)
    own = History(history.items, history.signals, history.mask)
    apart = behaviours(own, own.items.long(), 3).bucketed(rows, codes, asked, 4)
    expected, shares = torch.zeros(6, 4), torch.zeros(6, 4)
    for row in range(6):
        sums, counts = torch.zeros(5, 4), torch.zeros(5, 4)
        for item, signal in zip(own.items[row, own.mask[row]].tolist(), own.signals[row, own.mask[row]].tolist(), strict=True):
            for group in (codes[item] == asked[row]).nonzero().flatten():
                sums[group] += rows[item].detach()
                counts[group, signal] += 1
        expected[row] = torch.stack([each / max(each.norm().item(), 1e-8) for each in sums]).mean(dim=0)
        shares[row] = (counts / counts.sum(dim=1, keepdim=True).clamp_min(1)).mean(dim=0)
    gradients = []
    for pooled, found in (together, apart):
        torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, shares)
        gradients.append(torch.autograd.grad((pooled * pooled.detach().cos()).sum(), rows)[0])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("first", "last"), WINDOWS)
def test_directions_are_those_of_vectors_of_any_length(first: list[list[int]], last: list[list[int]]) -> None:
    """Tables begin as near zero as 1e-4, in the form of the papers' own code."""
    history, codes = shared(first, last, 9), drawn(0, 4, 9, 5)
    rows, asked = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), codes[drawn(1, 9, 6)]
    own = History(history.items, history.signals, history.mask)
    for past in (behaviours(history, history.slots.long(), 3), behaviours(own, own.items.long(), 3)):
        short, usual = (past.bucketed(length * rows, codes, asked, 4)[0] for length in (1e-4, 1.0))
        torch.testing.assert_close(short, usual, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("first", "last"), WINDOWS)
def test_half_precision_around_them_leaves_the_sums_as_they_are(first: list[list[int]], last: list[list[int]]) -> None:
    history, codes = shared(first, last, 9), drawn(0, 4, 9, 5)
    rows, asked = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), codes[drawn(1, 9, 6)]
    own = History(history.items, history.signals, history.mask)
    for past in (behaviours(history, history.slots.long(), 3), behaviours(own, own.items.long(), 3)):
        expected = past.bucketed(rows, codes, asked, 4)
        with torch.autocast("cpu", torch.bfloat16):
            found = past.bucketed(rows, codes, asked, 4)
        assert all(map(torch.equal, found, expected))


def test_derivatives() -> None:
    index, mask = drawn(0, 7, 5, 6), torch.arange(6) < torch.tensor([6, 0, 3, 1, 6])[:, None]
    codes, asked, signals = drawn(0, 3, 7, 4), drawn(0, 3, 5, 4), drawn(0, 3, 5, 6)
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: own_buckets(each, codes, asked, index, mask, signals, 3)[0], rows)
