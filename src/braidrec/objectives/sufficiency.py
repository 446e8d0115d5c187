"""Sufficiency: patterns should tell a click from a non-click (InfoMax in its GAN/JSD form; DisCo, eq. 25; EDK, eq. 14).

    h -> anchors    H -> patterns    i+ another sample of the anchor's class    i- a sample of the other class
    l = E[ softplus(-D(h_i, H_i+)) + softplus(D(h_i, H_i-)) ]        D bilinear, in logits

Departure: both papers print ``1 - log D(negative)``, which is unbounded and not the objective they cite; this is
``log(1 - D(negative))``.  Its minimum over every D is 2 ln 2 - 2 JSD(same-class pairs, cross-class pairs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.objectives.partners import partners


class BilinearDiscriminator(nn.Module):
    """D(h, H) = h^T W H + b, in logits.  W (dim, pattern_dim) Xavier-uniform, b = 0."""

    def __init__(self, dim: int, pattern_dim: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, pattern_dim)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, anchors: Tensor, patterns: Tensor) -> Tensor:
        """(...) logits.  anchors: (..., dim), patterns: (..., pattern_dim)."""
        logits: Tensor = ((anchors @ self.weight) * patterns).sum(dim=-1) + self.bias
        return logits


@dataclass(frozen=True)
class Pairs:
    """Partners of every anchor: positions in the batch, int64, of the shape asked for."""

    same: Tensor  # another sample with the anchor's label
    other: Tensor  # a sample with the opposite label


def sample_pairs(labels: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Pairs:
    """Uniform partners, with replacement between anchors.

    labels: (B,), positive above .5.  shape: (B,), or (B, K) for K anchors per sample.  Partners are meaningful where both
    classes hold two samples or more; elsewhere they are valid positions of any label.
    """
    positive = labels > 0.5
    members = positive.long().argsort(stable=True)  # positions, the negatives first
    seat = members.argsort()  # where each sample sits among the members
    positives = positive.sum()
    negatives = len(labels) - positives
    own = torch.where(positive, positives, negatives)
    first, first_other = torch.where(positive, negatives, 0), torch.where(positive, 0, negatives)
    column = (-1, *[1] * (len(shape) - 1))
    own, seat, first, first_other = own.view(column), seat.view(column), first.view(column), first_other.view(column)
    # integers far beyond any batch, so that a remainder is uniform to 2^-40 and exactly in range
    draws = torch.randint(2**62, (2, *shape), generator=generator, device=generator.device).to(labels.device)
    step = 1 + draws[0] % (own - 1).clamp_min(1)  # 1 .. own - 1 seats onwards, round the class: never the anchor itself
    same = first + (seat - first + step) % own
    other = first_other + draws[1] % (len(labels) - own).clamp_min(1)
    return Pairs(members[same], members[other.clamp_max(len(labels) - 1)])


def sufficiency(
    anchors: Tensor,
    patterns: Tensor,
    labels: Tensor,
    discriminator: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Eq. 25 for one space: the mean over the two anchor classes of each class's mean.  Scalar, 2 ln 2 at D = .5.

    anchors: (B, d) candidates, or (B, K, d) histories (or several vectors per sample).  patterns: (B, d_H).
    labels: (B,) 0/1.  mask: (B, K) bool, False on padded anchors, which take no part.  generator: draws the pairs and
    nothing else, so leaving the term out changes no other random number.
    groups: (B,) int, rows that are not drawn independently, such as those of one user; partners then come from other groups,
    and an anchor that lacks one takes no part.
    Exactly 0, with zero gradients, where a class has fewer than two samples or no anchor left.
    """
    positive, shape = labels > 0.5, tuple(anchors.shape[:-1])
    if groups is None:
        pairs = sample_pairs(labels, shape, generator)
    else:
        found = {side: partners(groups, positive == side, shape, generator) for side in (True, False)}
        column = positive.view(-1, *[1] * (len(shape) - 1))
        pairs = Pairs(*(torch.where(column, found[side][0], found[not side][0]) for side in (True, False)))
        both = (found[True][1] & found[False][1]).view(column.shape).expand(shape)
        mask = both if mask is None else mask & both
    terms = F.softplus(-discriminator(anchors, patterns[pairs.same])) + F.softplus(
        discriminator(anchors, patterns[pairs.other])
    )
    present = torch.ones_like(terms, dtype=torch.bool) if mask is None else mask
    loss, usable = terms.new_zeros(()), torch.ones((), dtype=torch.bool, device=terms.device)
    for members in (positive, ~positive):
        chosen = members.view(-1, *[1] * (terms.dim() - 1)) & present
        count = chosen.sum()
        loss = loss + torch.where(chosen, terms, 0.0).sum() / count.clamp_min(1) / 2
        usable = usable & (members.sum() >= 2) & (count > 0)
    return torch.where(usable, loss, 0.0)
