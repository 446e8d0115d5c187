"""Behaviours that random hyperplanes put where the candidate is: those of a user are summed once for all of their candidates.

A vector's code in a group is which side of each of the group's planes it lies on, so that two vectors at an angle of t share
the code of b planes with probability (1 - t / pi)^b.  No gradient goes through codes.

Of the sums s_g over the behaviours that have the candidate's code in group g, and the shares c_g of signals among them, both
functions give mean_g s_g / |s_g| (B, W) and mean_g c_g (B, R + 1); a group without any counts as zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from braidrec.data.history import Run

_BLOCK = 1 << 18  # gathered floats worked on at a time: 1 MiB, which stays in a core's cache
_LEAST = 1e-8  # a sum's length, below which it has no direction


@torch.no_grad()
def codes_of(rows: Tensor, planes: Tensor) -> Tensor:
    """Codes (n, G) int64 in 0 .. 2^b - 1 of rows (n, W); planes (G, b, W).

    In double precision, where there is one: a vector on the very edge of a plane then falls to one side of it in every batch.
    """
    exact = torch.float32 if rows.device.type == "mps" else torch.float64
    sides = rows.to(exact) @ planes.to(exact).flatten(0, 1).T > 0
    return (sides.unflatten(1, planes.shape[:2]) << torch.arange(planes.shape[1], device=rows.device)).sum(dim=2)


def own_buckets(
    rows: Tensor, codes: Tensor, asked: Tensor, index: Tensor, mask: Tensor, signals: Tensor, num_signals: int
) -> tuple[Tensor, Tensor]:
    """Of histories each sample's own.

    rows (n, W) and codes (n, G) of a table, asked (B, G), index into it, mask, signals (B, K) -> (B, W), (B, R + 1)
    """
    with _whole_precision(rows):
        found, shares = _OwnBuckets.apply(rows, codes, asked, index, mask, signals, num_signals)
    return found, shares


def run_buckets(rows: Tensor, sides: Tensor, asked: Tensor, at: Tensor, hot: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    """Of V windows of L events that T targets share.

    rows (n, W) and sides (n, G, buckets) of a table, one at the bucket of each group    asked (V, T, G)
    at (V, L) into it, hot (V, L, R + 1) one at the signal of an event -> (V, T, W), (V, T, R + 1)
    """
    with _whole_precision(rows):
        found, shares = _RunBuckets.apply(rows, sides, asked, at, hot, run)
    return found, shares


def _whole_precision(rows: Tensor) -> torch.autocast:
    """Sums over a thousand behaviours, and counts of them, are not made in half precision."""
    return torch.autocast(rows.device.type, enabled=False)


class _OwnBuckets(torch.autograd.Function):
    """Both passes gather anew, in blocks that fit the cache."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, codes: Tensor, asked: Tensor, index: Tensor, mask: Tensor, signals: Tensor, num_signals: int
    ) -> tuple[Tensor, Tensor]:
        sums = rows.new_empty(*asked.shape, rows.shape[1])
        found, shares = rows.new_empty(len(asked), rows.shape[1]), rows.new_empty(len(asked), num_signals + 1)
        carried = torch.eye(num_signals + 1, dtype=rows.dtype, device=rows.device)
        for at in _blocks(index, rows.shape[1] + codes.shape[1]):
            weights = _same(index[at], mask[at], codes, asked[at]).to(rows.dtype)
            torch.bmm(weights, _gathered(rows, index[at]), out=sums[at])
            found[at] = _mean_direction(sums[at])
            shares[at] = _mean_share(weights @ _gathered(carried, signals[at]))
        ctx.save_for_backward(codes, asked, index, mask, sums)
        ctx.shape = rows.shape
        ctx.mark_non_differentiable(shares)
        return found, shares

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        codes, asked, index, mask, sums = ctx.saved_tensors
        found = grad.new_zeros(ctx.shape)
        for at in _blocks(index, ctx.shape[1] + codes.shape[1]):
            weights = _same(index[at], mask[at], codes, asked[at]).to(grad.dtype)
            by_items = weights.transpose(1, 2) @ _by_sums(grad[at], sums[at])
            found.index_add_(0, index[at].flatten(), by_items.flatten(0, 1))
        return found, *[None] * 6


class _RunBuckets(torch.autograd.Function):
    """Window by window, in what fits the cache: events that all targets read are summed bucket by bucket once, and of the ends,
    which only some of them read, each target adds what is in its own buckets.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sides: Tensor, asked: Tensor, at: Tensor, hot: Tensor, run: Run
    ) -> tuple[Tensor, Tensor]:
        (windows, targets, groups), width = asked.shape, rows.shape[1]
        own = (asked + torch.arange(groups, device=asked.device) * sides.shape[2]).flatten(1)  # (V, T * G), of all buckets
        sides, reads = sides.flatten(1), (run.last > run.first).to(rows.dtype)
        sums = rows.new_empty(windows, targets, groups, width)
        found, shares = rows.new_empty(windows, targets, width), rows.new_empty(windows, targets, hot.shape[2])
        spans, weights = _spans(run), []
        for window, span in enumerate(spans):
            values = torch.cat([rows.index_select(0, at[window]), hot[window].to(rows.dtype)], dim=1)
            whole = sides.index_select(0, at[window, span.common]).T @ values[span.common]
            mine = whole.index_select(0, own[window])  # (T * G, W + R + 1)
            if span.ends is not None:
                weights.append(_of_ends(span.ends, run, sides, at[window], own[window], window))
                mine.addmm_(weights[-1], values.index_select(0, span.ends))
            each = mine.view(targets, groups, -1) * reads[window, :, None, None]
            sums[window] = each[..., :width]
            found[window], shares[window] = _mean_direction(sums[window]), _mean_share(each[..., width:])
        ctx.save_for_backward(own, at, sides, sums, reads)
        ctx.spans, ctx.weights, ctx.shape = spans, weights, rows.shape
        ctx.mark_non_differentiable(shares)
        return found, shares

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        own, at, sides, sums, reads = ctx.saved_tensors
        found, weights = grad.new_zeros(ctx.shape), iter(ctx.weights)
        for window, span in enumerate(ctx.spans):
            mine = _by_sums(grad[window] * reads[window, :, None], sums[window]).flatten(0, 1)  # (T * G, W)
            whole = grad.new_zeros(sides.shape[1], grad.shape[2]).index_add_(0, own[window], mine)
            events = at[window, span.common]
            found.index_add_(0, events, sides.index_select(0, events) @ whole)
            if span.ends is not None:
                found.index_add_(0, at[window].index_select(0, span.ends), next(weights).T @ mine)
        return found, *[None] * 5


def _mean_direction(sums: Tensor) -> Tensor:
    """(n, G, W) -> (n, W)"""
    scale = sums.norm(dim=2).clamp_min(_LEAST).mul(sums.shape[1]).reciprocal()
    return (scale[:, None] @ sums)[:, 0]


def _by_sums(grad: Tensor, sums: Tensor) -> Tensor:
    """The derivative (n, G, W) of `_mean_direction` by its sums, from that of what it gives (n, W); 0 where there is no sum."""
    length = sums.norm(dim=2)
    scale = torch.where(length > _LEAST, length.clamp_min(_LEAST).mul(sums.shape[1]).reciprocal(), 0.0)
    along = (sums @ grad[:, :, None])[:, :, 0] * scale / length.clamp_min(_LEAST).square()
    return (scale[:, :, None] * grad[:, None]).addcmul_(along[:, :, None], sums, value=-1)


def _mean_share(counts: Tensor) -> Tensor:
    """(n, G, R + 1) -> (n, R + 1)"""
    scale = counts.sum(dim=2).clamp_min(1).mul(counts.shape[1]).reciprocal()
    return (scale[:, None] @ counts)[:, 0]


def _blocks(index: Tensor, width: int) -> list[slice]:
    step = max(1, _BLOCK // max(index.shape[1] * width, 1))
    return [slice(at, min(at + step, len(index))) for at in range(0, len(index), step)]


def _gathered(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)


def _same(index: Tensor, mask: Tensor, codes: Tensor, asked: Tensor) -> Tensor:
    """(B, G, K) bool: which places are in the bucket asked for."""
    return (_gathered(codes, index).transpose(1, 2) == asked[:, :, None]) & mask[:, None, :]


@dataclass(frozen=True)
class _Span:
    """Of a window, the events that all targets read, and the places (E,) of those that only some read; None without any."""

    common: slice
    ends: Tensor | None


def _spans(run: Run) -> list[_Span]:
    reads, end = run.last > run.first, run.items.shape[1]
    bounds = torch.stack(
        [
            torch.where(reads, run.first, end).amin(dim=1),
            torch.where(reads, run.first, 0).amax(dim=1),
            torch.where(reads, run.last, end).amin(dim=1),
            torch.where(reads, run.last, 0).amax(dim=1),
        ],
        dim=1,
    )
    found = []
    for low, begin, until, high in bounds.tolist():
        behind = max(begin, until)
        ends = [*range(low, begin), *range(behind, high)]
        found.append(_Span(slice(begin, behind), torch.tensor(ends, device=run.first.device) if ends else None))
    return found


def _of_ends(ends: Tensor, run: Run, sides: Tensor, at: Tensor, own: Tensor, window: int) -> Tensor:
    """(T * G, E) one where a target reads an event of the ends and both have the same code in a group."""
    inside = (ends >= run.first[window, :, None]) & (ends < run.last[window, :, None])  # (T, E)
    same = sides.index_select(0, at.index_select(0, ends)).T.contiguous().index_select(0, own)
    return same.view(len(inside), -1, len(ends)).mul_(inside[:, None].to(same.dtype)).flatten(0, 1)
