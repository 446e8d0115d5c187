"""GRU4Rec: a gated recurrent unit over the history (Hidasi et al., ICLR 2016), in the common library form.

    h_t = GRU(Drop(v_t), h_{t-1}),  state_t = W h_t + b
    v_t -> items (B, K, D)    h_t (B, hidden), 0 before the first real item
Departures from the paper: item vectors for one-hot ids and a linear layer without activation behind the unit; its
session-parallel batches and ranking losses are the training's side, not the encoder's.
"""

from __future__ import annotations

import torch
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from braidrec.layers.mlp import initialise
from braidrec.layers.transformer import dropout, spread
from braidrec.registry import Spec
from braidrec.sequential.contracts import EncoderSizes
from braidrec.strict import Depth, Strict, Width


class GRU4RecConfig(Strict):
    hidden: Width = 128
    layers: Depth = 1
    dropout: float = Setting(default=0.1, ge=0, lt=1)  # on the item vectors
    bias: bool = False  # of the recurrent unit


class GRU4Rec(nn.Module):
    """items (B, K, D), mask (B, K) bool, padded on the left -> states (B, K, D), zeros in padding.

    State t reads items 1..t.  Padding is never read, so it may hold anything, and with a bias, too, the state starts at the
    first real item.  A recurrence has no window: ``length``, which every backbone is given, sets nothing, and K is free.
    """

    def __init__(self, config: GRU4RecConfig, sizes: EncoderSizes):
        super().__init__()
        self.rate = config.dropout
        self.gru = nn.GRU(sizes.dim, config.hidden, config.layers, bias=config.bias, batch_first=True)
        for name, weight in self.gru.named_parameters():
            nn.init.zeros_(weight) if name.startswith("bias") else nn.init.xavier_uniform_(weight)
        self.dense = initialise(nn.Linear(config.hidden, sizes.dim))

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):  # one stride per step: the backward pass of packed rows takes a third longer here
            states: Tensor = self.dense(self.gru(dropout(items, self.rate, self.training))[0])
            return states
        _, slots, sizes = time_major(mask)
        if not len(slots):
            return torch.zeros_like(items)
        return spread(self.dense(self._packed(items, slots, sizes)[0].data), slots, mask.numel()).view(items.shape)

    def last(self, items: Tensor, mask: Tensor) -> Tensor:
        """The newest position's state (B, D), zeros for an empty history."""
        order, slots, sizes = time_major(mask)
        if not len(slots):
            return torch.zeros_like(items[:, 0])
        newest = self._packed(items, slots, sizes)[1][-1]  # (histories that are not empty, hidden)
        return spread(self.dense(newest), order[: len(newest)], len(items))

    def _packed(self, items: Tensor, slots: Tensor, sizes: Tensor) -> tuple[PackedSequence, Tensor]:
        rows = dropout(items.flatten(0, 1).index_select(0, slots), self.rate, self.training)
        states: PackedSequence
        states, newest = self.gru(PackedSequence(rows, sizes))
        return states, newest


def time_major(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The real slots of ``mask`` (B, K), padded on the left, step by step, longest history first.

    -> order (B,) of the histories, slots (n,) b * K + k, sizes (steps,) histories still running, on the CPU
    """
    width = mask.shape[1]
    lengths, order = mask.sum(dim=1).sort(descending=True, stable=True)
    step = torch.arange(width, device=mask.device)[:, None]
    running = step < lengths  # (K, B)
    sizes = running.sum(dim=1)
    slots = (order * width + width - lengths + step)[running]
    return order, slots, sizes[sizes > 0].cpu()


SPEC = Spec("gru4rec", "GRU4Rec", GRU4RecConfig, GRU4Rec)
