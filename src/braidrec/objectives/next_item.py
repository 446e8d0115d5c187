"""Next-item losses: one sampled negative against the item that came, or every item of the catalogue against it.

    L_bce = -mean log sigmoid(y+) - mean log(1 - sigmoid(y-))                      PAD, equation (2): two means, summed
    L_ce  = -mean_a log( exp(y_a,t(a)) / sum_{j=1..I} exp(y_aj) )    y = S V^T     row 0 of V is padding and no candidate

The gradient of L_ce needs its softmax minus one-hot and nothing else, so each block of logits is turned into it in place
and spent on the gradients at once; the logits (n x I, a hundred times the states) never exist as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import ConfigError, DataError, TrainingError

Offset = Callable[[int, int], Tensor]  # begin, end -> (end - begin, I + 1) added to the logits of rows begin..end
_FLOOR = -60.0  # below the row's peak: 1e-26 of it is nothing to the sum, and subnormal numbers would double the time of a step
_LEAST_BLOCK = 8 << 20  # bytes; narrower products are slower, larger blocks leave the cache


def binary_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -log sigmoid over the positives plus mean of -log(1 - sigmoid) over all negatives; scalar, 2 ln 2 at zero.

    positive: (n,) logits, n >= 1.  negative: (n,) or (n, m) logits.  At least float32 inside, whatever comes in.
    Raises DataError where either is empty: a mean of nothing would be NaN.
    """
    if not positive.numel() or not negative.numel():
        raise DataError(
            f"binary cross-entropy of positives {tuple(positive.shape)} and negatives {tuple(negative.shape)}: "
            "both need a logit; leave out batches without a target"
        )
    exact = torch.promote_types(positive.dtype, torch.float32)
    return F.softplus(-positive.to(exact)).mean() + F.softplus(negative.to(exact)).mean()


def full_cross_entropy(
    states: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Offset | None = None,
    offset_weight: Tensor | None = None,
    block_bytes: int | None = None,
) -> Tensor:
    """Mean over rows of -log softmax of the target among items 1..I, with logits S V^T + bias + weight * offset; scalar.

    states: (n, D), n >= 1.  items: (I + 1, D).  target: (n,) integers in 1..I.  bias: (I + 1,), may be learned.
    offset: extra logits without a gradient (log counts, transitions), asked for block by block so that they need not exist
    as a whole either; finite where offset_weight learns.  offset_weight: scalar tensor, may be learned; 1 without it.
    block_bytes: size of the one block of logits; by default as large as the item table or 8 MiB, whichever is more.
    Gradients, once differentiable, are worked out on the way for the tensors that need one.  float32, or float64 if given.
    Raises DataError on shapes that do not fit and, on the CPU, on a target outside 1..I (elsewhere the device asserts, so
    that no step waits for it); ConfigError on an offset_weight without an offset; TrainingError on a second derivative.
    """
    count, rows = len(states), len(items)
    if states.dim() != 2 or items.dim() != 2 or target.shape != (count,) or states.shape[1] != items.shape[1] or not count:
        raise DataError(
            f"cross-entropy of states {tuple(states.shape)}, items {tuple(items.shape)}, target {tuple(target.shape)}: "
            "they must be (n, D), (I + 1, D) and (n,) with n >= 1"
        )
    if target.device.type == "cpu" and not 1 <= int(target.min()) <= int(target.max()) < rows:
        raise DataError(f"targets reach from {int(target.min())} to {int(target.max())}; the catalogue holds 1..{rows - 1}")
    if bias is not None and bias.shape != (rows,):
        raise DataError(f"bias has shape {tuple(bias.shape)}; {rows} item rows need ({rows},)")
    if offset_weight is not None and offset is None:
        raise ConfigError("full_cross_entropy got offset_weight without offset, which it would weigh: pass both or neither")
    exact = torch.promote_types(states.dtype, torch.float32)
    inputs = [None if each is None else each.to(exact) for each in (states, items, bias, offset_weight)]
    if not torch.is_grad_enabled():  # inside a Function the flag is always off, and gradients would be worked out for nobody
        inputs = [None if each is None else each.detach() for each in inputs]
    row_bytes = rows * exact.itemsize
    if block_bytes is None:
        block_bytes = max(row_bytes * states.shape[1], _LEAST_BLOCK)
    with torch.autocast(states.device.type, enabled=False):
        loss: Tensor = _FullCrossEntropy.apply(*inputs, target.long(), offset, max(1, block_bytes // row_bytes))
    return loss


class _FullCrossEntropy(torch.autograd.Function):
    """With E = exp(logits - peak) and Z = its row sums, dL/dlogits = (E - Z onehot) / (n Z).

    E stays in the buffer, the one-hot is subtracted there, and 1 / (n Z) scales rows of width D instead of width I.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        bias: Tensor | None,
        offset_weight: Tensor | None,
        target: Tensor,
        offset: Offset | None,
        block: int,
    ) -> Tensor:
        grads = [
            torch.zeros_like(each) if each is not None and need else None
            for each, need in zip((states, items, bias, offset_weight), ctx.needs_input_grad, strict=False)
        ]
        grad_states, grad_items, grad_bias, grad_weight = grads
        count, candidates = len(states), items[1:]
        losses, buffer = states.new_empty(count, 1), states.new_empty(min(block, count), len(candidates))
        extra = None
        for begin in range(0, count, block):
            end = min(begin + block, count)
            own, place = states[begin:end], target[begin:end, None] - 1
            logits = torch.mm(own, candidates.T, out=buffer[: end - begin])
            if bias is not None:
                logits.add_(bias[1:])
            if offset is not None:
                extra = offset(begin, end)
                if extra.shape != (end - begin, len(items)):
                    raise DataError(
                        f"offset({begin}, {end}) has shape {tuple(extra.shape)}; needed: {(end - begin, len(items))}"
                    )
                extra = extra.detach()[:, 1:].to(logits)
                logits = logits.add_(extra) if offset_weight is None else logits.addcmul_(extra, offset_weight)
            chosen, peak = logits.gather(1, place), logits.amax(dim=1, keepdim=True)
            total = logits.sub_(peak).clamp_min_(_FLOOR).exp_().sum(dim=1, keepdim=True)
            losses[begin:end] = total.log() + (peak - chosen)
            logits.scatter_add_(1, place, -total)
            share = 1 / (count * total)
            if grad_states is not None:
                torch.mm(logits, candidates, out=grad_states[begin:end]).mul_(share)
            if grad_items is not None:
                grad_items[1:].addmm_(logits.T, own * share)
            if grad_bias is not None:
                grad_bias[1:].addmv_(logits.T, share.squeeze(1))
            if grad_weight is not None and extra is not None:
                grad_weight.add_((torch.linalg.vecdot(logits, extra) * share.squeeze(1)).sum())
        ctx.save_for_backward(*grads)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: what follows would be constants, and a second derivative silently 0
            raise TrainingError("full_cross_entropy has no second derivative: take its gradient without create_graph")
        return (*(None if each is None else each * grad for each in ctx.saved_tensors), None, None, None)
