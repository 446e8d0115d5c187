"""Behaviours that random hyperplanes put where the candidate is, summed: those of a user once for all of their candidates.

A vector's code in a group is which side of each of the group's planes it lies on, so that two vectors at an angle of t share
the code of b planes with probability (1 - t / pi)^b.  No gradient goes through codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braidrec.data.history import Run

_BLOCK = 1 << 18  # gathered floats worked on at a time: 1 MiB, which stays in a core's cache


@torch.no_grad()
def codes_of(rows: Tensor, planes: Tensor) -> Tensor:
    """Codes (n, G) int64 in 0 .. 2^b - 1 of rows (n, W); planes (G, b, W).

    In double precision, where there is one: a vector on the very edge of a plane then falls to one side of it in every batch.
    """
    exact = torch.float32 if rows.device.type == "mps" else torch.float64
    sides = rows.to(exact) @ planes.to(exact).flatten(0, 1).T > 0
    return (sides.unflatten(1, planes.shape[:2]) << torch.arange(planes.shape[1], device=rows.device)).sum(dim=2)


class _OwnBuckets(torch.autograd.Function):
    """rows (n, W), codes (n, G), asked (B, G), index, mask, signals (B, K) -> sums (B, G, W) over the places of a row whose
    code is the one asked for, and how many of them carry each signal.  Both passes gather anew, in blocks that fit the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, codes: Tensor, asked: Tensor, index: Tensor, mask: Tensor, signals: Tensor, num_signals: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(codes, asked, index, mask)
        ctx.shape = rows.shape
        sums = rows.new_empty(*asked.shape, rows.shape[1])
        counts = rows.new_empty(*asked.shape, num_signals + 1)
        carried = torch.eye(num_signals + 1, dtype=rows.dtype, device=rows.device)
        for at in _blocks(index, rows.shape[1] + codes.shape[1]):
            weights = _shared(index[at], mask[at], codes, asked[at]).to(rows.dtype)
            torch.bmm(weights, _gathered(rows, index[at]), out=sums[at])
            torch.bmm(weights, _gathered(carried, signals[at]), out=counts[at])
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        codes, asked, index, mask = ctx.saved_tensors
        found = grad.new_zeros(ctx.shape)
        for at in _blocks(index, ctx.shape[1] + codes.shape[1]):
            weights = _shared(index[at], mask[at], codes, asked[at]).to(grad.dtype)
            found.index_add_(0, index[at].flatten(), (weights.transpose(1, 2) @ grad[at]).flatten(0, 1))
        return found, *[None] * 6


def _blocks(index: Tensor, width: int) -> list[slice]:
    step = max(1, _BLOCK // max(index.shape[1] * width, 1))
    return [slice(at, min(at + step, len(index))) for at in range(0, len(index), step)]


def _gathered(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)


def _shared(index: Tensor, mask: Tensor, codes: Tensor, asked: Tensor) -> Tensor:
    """(B, G, K) bool: which places are in the bucket asked for."""
    return (_gathered(codes, index).transpose(1, 2) == asked[:, :, None]) & mask[:, None, :]


def own_buckets(
    rows: Tensor, codes: Tensor, asked: Tensor, index: Tensor, mask: Tensor, signals: Tensor, num_signals: int
) -> tuple[Tensor, Tensor]:
    """Of histories (B, K), each its own: sums (B, G, W) and counts by signal (B, G, R + 1); see `_OwnBuckets`."""
    sums, counts = _OwnBuckets.apply(rows, codes, asked, index, mask, signals, num_signals)
    return sums, counts


def run_buckets(run: Run, values: Tensor, codes: Tensor, sides: Tensor, asked: Tensor, buckets: int) -> Tensor:
    """The same sums (V, T, G, W') for T targets of each of V windows of L events, which they share.

    values (V, L, W') of the events, codes (V, L, G), sides (V, L, G * buckets) one at an event's own bucket of each group
    asked (V, T, G)
    What all targets of a window read is summed bucket by bucket once; of each target's own ends only the difference is.
    """
    reads, end = run.last > run.first, values.shape[1]
    low, high = torch.where(reads, run.first, end).amin(dim=1), torch.where(reads, run.last, 0).amax(dim=1)
    begin = torch.where(reads, run.first, 0).amax(dim=1)  # of what all read, which ends at until
    until = torch.where(reads, run.last, end).amin(dim=1).maximum(begin)
    steps = torch.arange(end, device=begin.device)
    common = ((steps >= begin[:, None]) & (steps < until[:, None])).to(values.dtype)
    whole = sides.transpose(1, 2) @ (values * common[:, :, None])  # (V, G * buckets, W')
    windows, groups = len(asked), asked.shape[2]
    first = torch.arange(windows * groups, device=begin.device).view(windows, 1, groups) * buckets
    sums = _gathered(whole.flatten(0, 1), first + asked) * reads[:, :, None, None]
    left, right = (begin - low).clamp_min(0), (high - until).clamp_min(0)
    edges = torch.arange(int((left + right).max()) if windows else 0, device=begin.device)
    if not len(edges):
        return sums
    at = torch.where(edges < left[:, None], low[:, None] + edges, until[:, None] + edges - left[:, None])
    there = edges < (left + right)[:, None]
    at = (at * there).clamp_max(end - 1)
    inside = (at[:, None] >= run.first[:, :, None]) & (at[:, None] < run.last[:, :, None]) & there[:, None]  # (V, T, edges)
    rows = at + torch.arange(windows, device=at.device)[:, None] * end
    chosen, own = (_gathered(part.flatten(0, 1), rows) for part in (values, codes))
    weights = (own.transpose(1, 2)[:, None] == asked[:, :, :, None]) & inside[:, :, None]  # (V, T, G, edges)
    return sums + (weights.flatten(1, 2).to(values.dtype) @ chosen).unflatten(1, asked.shape[1:])
