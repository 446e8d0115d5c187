"""Who may stand beside whom where rows of a batch are not drawn independently: partners from other groups, such as users."""

from __future__ import annotations

import torch
from torch import Tensor


def partners(groups: Tensor, eligible: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform partners of every anchor among the eligible rows of other groups, with replacement between anchors.

    groups (B,) int, eligible (B,) bool, shape (B,), or (B, K) for K anchors a row -> positions in the batch, int64, of that
    shape, and whether there was anybody to draw (B,); where not, a position means nothing.
    """
    order = (groups.long() * 2 + ~eligible).argsort(stable=True)  # group by group, those who may be drawn first
    order = order[eligible[order]]
    place = groups.unique(return_inverse=True)[1]
    own = torch.zeros(int(place.max()) + 1, dtype=torch.long, device=groups.device).index_add(0, place, eligible.long())
    begin = (own.cumsum(0) - own)[place]
    own = own[place]
    left = len(order) - own
    column = (-1, *[1] * (len(shape) - 1))
    draws = torch.randint(2**62, shape, generator=generator, device=generator.device).to(groups.device)
    draws = draws % left.clamp_min(1).view(column)
    seats = torch.where(draws < begin.view(column), draws, draws + own.view(column))
    if not len(order):
        return torch.zeros_like(seats), left > 0
    return order[seats.clamp_max(len(order) - 1)], left > 0
