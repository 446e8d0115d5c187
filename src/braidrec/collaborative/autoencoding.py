"""What autoencoders of people's rows have in common: sparse rows in, how likely what each has is under a softmax of items."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.collaborative.graph import Graph


class Annealing(nn.Module):
    """How much of its weight a term has by now: it rises by 1 in ``epochs``, to at most ``weight``; here as a share of that.

    seen () int64: people that training went through, which a checkpoint holds
    """

    seen: Tensor

    def __init__(self, weight: float, epochs: float):
        super().__init__()
        self.weight, self.epochs = weight, epochs
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def share(self, people: int, of: int) -> Tensor:
        """() after ``people`` more, where an epoch has ``of``."""
        if not self.weight * self.epochs:
            return torch.ones((), device=self.seen.device)
        found = (self.seen / (self.weight * self.epochs * of)).clamp_max(1.0)
        self.seen += people
        return found


def entry_table(num_items: int, width: int, data: Graph | None) -> nn.Parameter:
    """(I + 1, width): what each item adds to the first layer, drawn as `nn.Linear` draws.

    Zeros for what nobody of training has: no gradient ever reaches such a row, so it would stay what was drawn.
    """
    table = torch.empty(num_items + 1, width).uniform_(-1, 1) / math.sqrt(num_items)
    table[0] = 0
    if data is not None:
        table[torch.from_numpy(data.item_counts == 0)] = 0
    return nn.Parameter(table)


def kept_of(shape: tuple[int, ...], dropout: float, rng: torch.Generator, device: torch.device) -> Tensor:
    """Of a shape: 1 / (1 - dropout) where something is kept, and else 0; drawn on the CPU."""
    return (torch.rand(shape, generator=rng) >= dropout).float().div_(1 - dropout).to(device)


def normal(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn on the CPU."""
    return torch.randn(like.shape, generator=rng).to(like)


def with_padding(scores: Tensor) -> Tensor:
    """(b, I + 1) from (b, I)."""
    return F.pad(scores, (1, 0))
