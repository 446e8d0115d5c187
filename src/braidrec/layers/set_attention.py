"""Softmax attention among the few members of each of many small sets: fields of a sample, members that gates let in.

By hand, since PyTorch's softmax of a handful of numbers takes longer than all products beside it, and its fused attention has
no gradient for what is added to logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Attend(torch.autograd.Function):
    """O = A V, A = softmax(Q K^T + favour):  dS = A * (dO V^T - sum_w dO * O), dQ = dS K, dK = dS^T Q, dV = A^T dO."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, favour: Tensor | None) -> Tensor:
        weights = query @ key.transpose(1, 2)
        if favour is not None:
            weights.unflatten(0, (-1, len(favour))).add_(favour[:, None])
        weights.sub_(weights.amax(dim=2, keepdim=True)).exp_()
        weights.div_(weights.sum(dim=2, keepdim=True))
        mixed = weights @ value
        ctx.sets = None if favour is None else len(favour)
        ctx.save_for_backward(query, key, value, weights, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        query, key, value, weights, mixed = ctx.saved_tensors
        logits = grad @ value.transpose(1, 2)
        logits.sub_((grad * mixed).sum(dim=2, keepdim=True)).mul_(weights)
        favour = None if ctx.sets is None else logits.unflatten(0, (-1, ctx.sets)).sum(dim=(0, 2))
        return logits @ key, logits.transpose(1, 2) @ query, weights.transpose(1, 2) @ grad, favour


def set_attention(query: Tensor, key: Tensor, value: Tensor, favour: Tensor | None = None) -> Tensor:
    """H heads, which stand in front of all sets: query, key (H n, F, w), value (H n, F, v) -> (H n, F, v).

    favour: (n, F) added to every query's logits of a member.  Logits are not scaled.  Under autocast it stays in float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        half = query.dtype in (torch.float16, torch.bfloat16)
        parts = (part.float() for part in (query, key, value)) if half else (query, key, value)
        found: Tensor = _Attend.apply(*parts, favour)
    return found
