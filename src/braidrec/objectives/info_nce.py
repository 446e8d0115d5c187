"""InfoNCE with in-batch negatives (van den Oord et al., 2018; PAD, equation 14)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import ConfigError, DataError
from braidrec.objectives.next_item import full_cross_entropy


def info_nce(query: Tensor, key: Tensor, *, temperature: float = 0.1, symmetric: bool = False) -> Tensor:
    """-mean_a log( exp(c(q_a, k_a) / t) / sum_b exp(c(q_a, k_b) / t) ), c the cosine; scalar, log n where all rows agree.

    query, key: (n, D), n >= 1, rows matched by place; every other key of the batch is a negative, so rows of one item given
    twice are false negatives.  symmetric: the mean of both directions (each side is the query once).  At least float32
    inside; the (n, n) logits exist in blocks only.
    Raises DataError on shapes that differ or no row, ConfigError on a temperature that is not positive.
    """
    if query.dim() != 2 or query.shape != key.shape or not len(query):
        raise DataError(f"InfoNCE of query {tuple(query.shape)} and key {tuple(key.shape)}: both must be (n, D) with n >= 1")
    if not temperature > 0:
        raise ConfigError(f"InfoNCE temperature = {temperature}: it must be above 0")
    with torch.autocast(query.device.type, enabled=False):
        exact = torch.promote_types(query.dtype, torch.float32)
        query, key = F.normalize(query.to(exact), eps=1e-8), F.normalize(key.to(exact), eps=1e-8)
        own = torch.arange(1, len(query) + 1, device=query.device)
        loss = _one_way(query / temperature, key, own)
        return (loss + _one_way(key / temperature, query, own)) / 2 if symmetric else loss


def _one_way(query: Tensor, key: Tensor, own: Tensor) -> Tensor:
    return full_cross_entropy(query, F.pad(key, (0, 0, 1, 0)), own)  # row 0 is padding there
