"""Patterns of one sample should differ from one another (EDK, equations 16 and 17).

    z -> views (B, K, d): K patterns of each of B samples, seen twice
    l = mean_i -log( exp(cos(z1_i, z2_i) / t) / sum_{j != i} exp(cos(z1_i, z2_j) / t) )

Departure: printed without exponentials, as ratios of inner products that may be negative, whose logarithm is none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.objectives.sufficiency import BilinearDiscriminator


def pattern_contrast(first: Tensor, second: Tensor, *, temperature: float = 0.2, include_positive: bool = False) -> Tensor:
    """Scalar: mean over samples and patterns; ln(K - 1) where all are alike, 0 of a single pattern.

    first, second: (B, K, d).  include_positive: the pattern's own other view in the denominator, too, as InfoNCE has it.
    """
    count = first.shape[1]
    if count < 2:
        return 0.0 * (first.sum() + second.sum())
    alike = F.normalize(first, dim=2) @ F.normalize(second, dim=2).transpose(1, 2) / temperature
    own = alike.diagonal(dim1=1, dim2=2)
    if not include_positive:
        alike = alike.masked_fill(torch.eye(count, dtype=torch.bool, device=alike.device), -torch.inf)
    return (alike.logsumexp(dim=2) - own).mean()


def pattern_infomin(first: Tensor, second: Tensor, discriminator: BilinearDiscriminator, generator: torch.Generator) -> Tensor:
    """The same end by a classifier: two views of a pattern are real, views of two patterns of a sample are not.

    Binary cross-entropy, both halves added: 2 ln 2 of a classifier that says nothing, 0 of a single pattern.
    generator: draws the other patterns.
    """
    batch, count, _ = first.shape
    if count < 2:
        return 0.0 * (first.sum() + second.sum())
    step = torch.randint(1, count, (batch, count), generator=generator, device=generator.device).to(first.device)
    other = (torch.arange(count, device=first.device) + step) % count
    strange = second.gather(1, other[:, :, None].expand_as(second))
    return F.softplus(-discriminator(first, second)).mean() + F.softplus(discriminator(first, strange)).mean()
