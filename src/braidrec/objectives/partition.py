"""log sum_j exp(x . y_j) over a whole table, the part that softmax losses and contrasts share, in blocks.

    L(X, Y) = sum_a w_a log sum_j exp(x_a . y_j)                      w_a = 1 / n: a mean
    contrast  sum_a w_a [ log sum_j exp(c(x_a, y_j) / t) - c(x_a, y_o(a)) / t ]    c the cosine: InfoNCE, a table its pool
The gradient needs the softmax alone, so each block of logits is turned into it in place and spent at once, as in
`braidrec.objectives.next_item`; rows that occur several times are worked out once, by their weight.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import DataError, TrainingError

_BLOCK = 2 << 20  # bytes of logits at a time: they stay in the cache, and products are no slower than larger ones
_FLOOR = -60.0  # below the row's peak: nothing to the sum, and subnormal numbers are slow


def log_partition(states: Tensor, table: Tensor, weights: Tensor | None = None) -> Tensor:
    """L; scalar.  states (n, D)    table (m, D)    weights (n,), None for a mean; n and m are at least 1.

    float32 inside at least.  Raises DataError on shapes that do not fit, TrainingError on a second derivative.
    """
    if states.dim() != 2 or table.dim() != 2 or states.shape[1] != table.shape[1] or not len(states) or not len(table):
        raise DataError(f"a sum over states {tuple(states.shape)} and table {tuple(table.shape)}: (n, D) and (m, D) are needed")
    exact = torch.promote_types(states.dtype, torch.float32)
    states, table = states.to(exact), table.to(exact)
    if not torch.is_grad_enabled():  # inside a Function the flag is off, and gradients would be worked out for nobody
        states, table = states.detach(), table.detach()
    own = states.new_full((len(states),), 1 / len(states)) if weights is None else weights.to(exact)
    with torch.autocast(states.device.type, enabled=False):
        found: Tensor = _LogPartition.apply(states, table, own)
    return found


def contrast(query: Tensor, pool: Tensor, own: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """InfoNCE of query (n, D) with all of pool (m, D) to choose from, of which ``own`` (n,) int64 are the right ones; scalar.

    weights (n,): of the rows; None for a mean
    """
    query, pool = F.normalize(query, dim=1, eps=1e-8) / temperature, F.normalize(pool, dim=1, eps=1e-8)
    right = (query * pool[own]).sum(dim=1)
    return log_partition(query, pool, weights) - (right.mean() if weights is None else (right * weights).sum())


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        need_states, need_table, _ = ctx.needs_input_grad
        grad_states = torch.empty_like(states) if need_states else None
        grad_table = torch.zeros_like(table) if need_table else None
        rows = min(len(states), max(1, _BLOCK // (len(table) * states.itemsize)))
        buffer, total = states.new_empty(rows, len(table)), states.new_zeros(())
        for first in range(0, len(states), rows):
            own, weight = states[first : first + rows], weights[first : first + rows, None]
            logits = torch.mm(own, table.T, out=buffer[: len(own)])
            peak = logits.amax(dim=1, keepdim=True)
            mass = logits.sub_(peak).clamp_min_(_FLOOR).exp_().sum(dim=1, keepdim=True)
            total += ((mass.log() + peak) * weight).sum()
            share = weight / mass
            if grad_states is not None:
                torch.mm(logits, table, out=grad_states[first : first + rows]).mul_(share)
            if grad_table is not None:
                grad_table.addmm_(logits.T, own * share)
        ctx.save_for_backward(grad_states, grad_table)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():  # create_graph: what follows would be constants, and a second derivative silently 0
            raise TrainingError("log_partition has no second derivative: take its gradient without create_graph")
        grad_states, grad_table = (None if each is None else each * grad for each in ctx.saved_tensors)
        return grad_states, grad_table, None
