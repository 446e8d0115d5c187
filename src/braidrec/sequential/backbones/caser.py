"""Caser: convolutions over the last L items as an L x D image (Tang & Wang, WSDM 2018).

    vertical:    o_t = [sum_s w_f[s] v_{t-L+s}]_f                         filters f of size L x 1  -> (n_v D,)
    horizontal:  o'_t = [ReLU(max_p sum_i <W_{h,f}[i], v_{p+i}> + b)]_{h,f}  heights h = 1..L, inside the window -> (L n_h,)
    state_t = act(W Drop([o_t ; o'_t]) + b)
    v -> items (B, K, D), zeros before the first real item, so that every position has a full window
Departures from the paper: one linear layer and no user vector, as in PAD's code; the ReLU stands behind the maximum, which
gives the same numbers.

The windows of one history overlap in all but one item, so no window is ever built.  Each real item meets every filter row
once, (n, D) @ (D, L L n_h); item p's product with row i belongs to the filter that starts at p - i and is added there, and
a position's feature is the maximum over the starts in its window.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.mlp import initialise
from braidrec.layers.transformer import Packing, dropout, spread
from braidrec.registry import Spec
from braidrec.sequential.contracts import EncoderSizes
from braidrec.strict import Depth, Strict


class CaserConfig(Strict):
    vertical: Depth = 2  # n_v filters over all L items, shared by the D columns
    horizontal: Depth = 2  # n_h filters of each height 1..L
    dropout: float = Setting(default=0.1, ge=0, lt=1)
    final_activation: Literal["relu", "none"] = "relu"


class Caser(nn.Module):
    """items (B, K, D), mask (B, K) bool, padded on the left -> states (B, K, D), zeros in padding.

    State t reads the last ``length`` of items 1..t.  Padding may hold anything; K is free, since a window pads itself.
    Filters start as Xavier-normal convolutions, each height by its own fans; biases at 0.
    """

    places: Tensor
    late: Tensor

    def __init__(self, config: CaserConfig, sizes: EncoderSizes):
        super().__init__()
        dim, length = sizes.dim, sizes.length
        self.length, self.rate, self.activated = length, config.dropout, config.final_activation == "relu"
        heights = torch.arange(1, length + 1).repeat_interleave(config.horizontal)  # (L n_h,) height of each filter
        self.vertical = nn.Parameter(torch.empty(config.vertical, length))
        self.vertical_bias = nn.Parameter(torch.zeros(config.vertical))
        self.horizontal = nn.Parameter(torch.empty(int(heights.sum()), dim))  # rows of the first filter, of the second, ...
        self.horizontal_bias = nn.Parameter(torch.zeros(len(heights)))
        self.dense = initialise(nn.Linear(config.vertical * dim + len(heights), dim))
        with torch.no_grad():
            nn.init.xavier_normal_(self.vertical.view(config.vertical, 1, length, 1))
            for height, rows in enumerate(self.horizontal.split((heights.view(length, -1).sum(dim=1)).tolist()), start=1):
                nn.init.xavier_normal_(rows.view(config.horizontal, 1, height, dim))
        # Where each filter row goes among L x (L n_h), the first rows of all filters, then the second ones, ...
        row = torch.cat([torch.arange(size) for size in heights.tolist()])
        filters = torch.arange(len(heights)).repeat_interleave(heights)
        self.register_buffer("places", row * len(heights) + filters, persistent=False)
        # (L, L n_h): -inf where a filter that starts there would end behind the window
        late = torch.arange(length)[:, None] + heights > length
        self.register_buffer("late", torch.zeros(late.shape).masked_fill(late, -torch.inf), persistent=False)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        packing = Packing(mask)
        rows = packing.pack(items)
        vertical = packing.pack(self._vertical(packing.unpack(rows), newest=False))
        return packing.unpack(self._states(vertical, self._horizontal(rows, packing, newest=False)))

    def last(self, items: Tensor, mask: Tensor) -> Tensor:
        """The newest position's state (B, D), zeros for an empty history: one window each."""
        packing = Packing(mask)
        rows = packing.pack(items)
        vertical = self._vertical(packing.unpack(rows), newest=True)[:, 0]
        states = self._states(vertical, self._horizontal(rows, packing, newest=True))
        return states.masked_fill(~mask[:, -1:], 0.0)

    def _vertical(self, grid: Tensor, *, newest: bool) -> Tensor:
        """(B, K, D), zeros in padding -> (B, K, n_v D), or (B, 1, n_v D) for the newest positions."""
        batch, width, dim = grid.shape
        step = torch.arange(width, device=grid.device)
        age = (step[-1:] if newest else step)[:, None] - step  # (positions, K)
        tap = torch.where((age >= 0) & (age < self.length), self.length - 1 - age, self.length)  # the last is a zero
        reach = F.pad(self.vertical, (0, 1))[:, tap].transpose(0, 1)  # (positions, n_v, K)
        mixed = torch.bmm(reach.flatten(0, 1).expand(batch, -1, -1), grid).view(batch, len(tap), -1, dim)
        return (mixed + self.vertical_bias[:, None]).flatten(2)

    def _horizontal(self, rows: Tensor, packing: Packing, *, newest: bool) -> Tensor:
        """(n, D) -> (n, L n_h), or (B, L n_h) for the newest positions."""
        length, filters = self.length, len(self.horizontal_bias)
        span = length - 1 + packing.width  # starts of a history: L - 1 before its first column, then its K columns
        offset = torch.arange(length, device=rows.device)
        own = packing.index // packing.width * span + packing.index % packing.width + length - 1  # (n,)
        taps = rows @ spread(self.horizontal, self.places, length * filters).T  # (n, L x L n_h)
        starts = spread(taps.view(-1, filters), (own[:, None] - offset).flatten(), packing.batch * span)
        ends = torch.arange(1, packing.batch + 1, device=rows.device) * span - 1 if newest else own
        window = (ends[:, None] - (length - 1) + offset).flatten()
        inside = starts.index_select(0, window).view(-1, length, filters) + self.late
        return F.relu(inside.max(dim=1).values + self.horizontal_bias)

    def _states(self, vertical: Tensor, horizontal: Tensor) -> Tensor:
        states: Tensor = self.dense(dropout(torch.cat([vertical, horizontal], dim=1), self.rate, self.training))
        return F.relu(states) if self.activated else states


SPEC = Spec("caser", "Caser", CaserConfig, Caser)
