"""Attention of one candidate over a history of K behaviours, written so that a history is never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from braidrec.layers.mlp import BatchNorm, initialise


def gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of ``table`` (n, W) at ``index`` (B, K) -> (B, K, W).  Its backward pass is one indexed sum."""
    return table.index_select(0, index.reshape(-1)).view(*index.shape, table.shape[1])


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the entries where ``mask`` is True; a row without any gives zeros, never NaN."""
    empty = ~mask.any(dim=dim, keepdim=True)
    return logits.masked_fill(~mask, -torch.inf).masked_fill(empty, 0.0).softmax(dim=dim) * mask


_BLOCK = 1 << 18  # gathered floats worked on at a time: 1 MiB, which stays in a core's cache


class _Attend(torch.autograd.Function):
    """Softmax attention over gathered rows that never holds the gathered history as a whole.

    With X = table[index], A = softmax(Q X^T) over K and P = A X:  dS = A * (dA - sum_K A dA), dA = dP X^T + dA_out,
    dX = A^T dP + dS^T Q (one product of the joined factors), dQ = dS X.  Both passes walk the batch in blocks that fit
    the cache; the backward pass gathers again, which costs less than keeping B x K x W floats and reading them back.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        pooled, weights = torch.empty_like(queries), queries.new_empty(len(index), queries.shape[1], index.shape[1])
        full = bool(mask.all())
        for at in _blocks(index, table.shape[1]):
            items = gather(table, index[at])
            scores = queries[at] @ items.transpose(1, 2)
            weights[at] = scores.softmax(dim=2) if full else masked_softmax(scores, mask[at, None, :], dim=2)
            torch.bmm(weights[at], items, out=pooled[at])
        ctx.save_for_backward(table, index, queries, weights)
        return pooled, weights

    @staticmethod
    def backward(ctx: Any, grad_pooled: Tensor, grad_weights: Tensor) -> tuple[Tensor, None, Tensor, None]:
        table, index, queries, weights = ctx.saved_tensors
        grad_table, grad_queries = torch.zeros_like(table), torch.empty_like(queries)
        sides = torch.cat([grad_pooled, queries], dim=1)  # (B, 2H, W), what dX is made of
        for at in _blocks(index, table.shape[1]):
            items, own = gather(table, index[at]), weights[at]
            scores = torch.baddbmm(grad_weights[at], grad_pooled[at], items.transpose(1, 2))
            scores.sub_((own * scores).sum(dim=2, keepdim=True)).mul_(own)
            grad_items = torch.cat([own, scores], dim=1).transpose(1, 2) @ sides[at]
            grad_table.index_add_(0, index[at].reshape(-1), grad_items.flatten(0, 1))
            torch.bmm(scores, items, out=grad_queries[at])
        return grad_table, None, grad_queries, None


def _blocks(index: Tensor, width: int) -> Iterator[slice]:
    """Runs of samples whose gathered history holds about `_BLOCK` floats."""
    count, step = len(index), max(1, _BLOCK // max(index.shape[1] * width, 1))
    return (slice(at, min(at + step, count)) for at in range(0, count, step))


def attend(table: Tensor, index: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """H heads of softmax attention over histories.

    table (n, W) distinct items, index (B, K) int64 into them, queries (B, H, W), mask (B, K) bool
    -> pooled (B, H, W), weights (B, H, K) that sum to 1 over K (to 0 where the mask is empty).
    Padded places take no part, whatever row they point to, as long as it is finite.
    """
    with torch.autocast(table.device.type, enabled=False):
        pooled, weights = _Attend.apply(table.float(), index, queries.float().contiguous(), mask)
    return pooled, weights


class BilinearAttention(nn.Module):
    """Softmax over k . (W q), the form behind the DisCo authors' "DIN" (bilinear, no MLP).

    target (B, Q), items (n, W) distinct item vectors, index (B, K) into them, mask (B, K) -> pooled (B, W), weights (B, K)
    """

    def __init__(self, target_width: int, item_width: int):
        super().__init__()
        self.query = initialise(nn.Linear(target_width, item_width, bias=False))

    def forward(self, target: Tensor, items: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        pooled, weights = attend(items, index, self.query(target)[:, None], mask)
        return pooled[:, 0], weights[:, 0]


class Dice(nn.Module):
    """Data-adaptive activation (Zhou et al., KDD 2018, eq. 3).  (n, C) rows -> (n, C).

    p = sigmoid(BatchNorm(s)) without affine, out = p s + alpha (1 - p) s, one alpha per channel from 0.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = BatchNorm(width, eps=1e-9, momentum=0.01, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        gate = torch.sigmoid(self.norm(rows))
        return rows * (self.alpha + (1.0 - self.alpha) * gate)


class ActivationUnit(nn.Module):
    """DIN's attention (Zhou et al., KDD 2018, section 4.3): an MLP on [q, k, q - k, q * k] weighs each behaviour.

    The first layer is linear in its four parts, so W [q, k, q - k, q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k): the
    first term is taken once per sample and the second once per distinct item.  Only real behaviours are computed.
    Shapes as in `BilinearAttention`; without ``softmax`` (the paper) weights need not sum to 1.
    """

    def __init__(self, width: int, *, hidden: int = 64, softmax: bool = False):
        super().__init__()
        self.softmax = softmax
        self.first = initialise(nn.Linear(4 * width, hidden))
        self.activation = Dice(hidden)
        self.last = initialise(nn.Linear(hidden, 1))

    def forward(self, target: Tensor, items: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        own, other, difference, product = self.first.weight.chunk(4, dim=1)
        from_target = target @ (own + difference).T + self.first.bias  # (B, hidden)
        from_items = items @ (other - difference).T  # (n, hidden)
        behaviours = gather(items, index)  # (B, K, W)
        shifts = (gather(from_items, index) + from_target[:, None]).flatten(0, 1)
        hidden = torch.addmm(shifts, (behaviours * target[:, None]).flatten(0, 1), product.T).view(*index.shape, -1)
        if bool(mask.all()):
            logits = self.last(self.activation(hidden.flatten(0, 1))).view(mask.shape)
        else:
            logits = hidden.new_zeros(mask.shape).masked_scatter(mask, self.last(self.activation(hidden[mask])).squeeze(1))
        weights = masked_softmax(logits, mask, dim=1) if self.softmax else logits * mask
        return (weights[:, None, :] @ behaviours).squeeze(1), weights
