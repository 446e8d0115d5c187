"""Causal self-attention that computes real positions only, and the packing that every sequence encoder shares.

Histories are short and padded to one width: of (B, K) slots perhaps a third are real.  Projections, feed-forward layers and
norms know nothing of neighbours, so they run on the n real positions as rows (n, D); only attention, whose products are
small, lays them out as (B * heads, K, D / heads).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.mlp import initialise


class Packing:
    """The n real slots of a padded batch.  mask: (B, K) bool; rows are in the order of the slots.

    index: (n,) int64 slots b * K + k    full: there is no padding, so packing is a view
    """

    def __init__(self, mask: Tensor):
        self.mask = mask
        self.batch, self.width = mask.shape
        self.index = mask.flatten().nonzero().squeeze(1)
        self.full = len(self.index) == mask.numel()

    def pack(self, grid: Tensor) -> Tensor:
        """(B, K, W) -> (n, W), (B, K) -> (n,).  Padding is never read, so it may hold anything."""
        flat = grid.flatten(0, 1)
        return flat if self.full else flat.index_select(0, self.index)

    def unpack(self, rows: Tensor) -> Tensor:
        """(n, W) -> (B, K, W), zeros in padding."""
        flat = rows if self.full else spread(rows, self.index, self.batch * self.width)
        return flat.view(self.batch, self.width, rows.shape[1])


def spread(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """``size`` rows of zeros with ``rows`` (n, W) added at ``index`` (n,) -> (size, W)."""
    return rows.new_zeros(size, rows.shape[1]).index_add(0, index, rows)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout from the global generator.  On a CPU four places share one 64-bit draw, which takes a third of the time.

    There the rate is rounded to a multiple of 2^-16 and the scale follows it, so that the mean is kept exactly.
    """
    if not training or not rate:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    cut = min(round(rate * 2**16), 2**16 - 1)  # of 2^16 equally likely values, how many drop a place
    draws = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= cut - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - cut))


class Heads:
    """Where attention finds packed rows, (n, D) <-> (B * heads, K, D / heads), and what each query may see.

    slots: (n * heads,) int64    forbidden: (B * heads, K, K) added to the logits of queries x keys
    Query t sees real keys 1..t and itself.  The latter matters in padding only: no row is without a key, hence none is NaN,
    whatever the precision makes of the lowest number.
    """

    def __init__(self, packing: Packing, heads: int, dtype: torch.dtype):
        self.heads, self.batch, self.width = heads, packing.batch, packing.width
        index, device = packing.index, packing.index.device
        history, place = index // self.width * heads, index % self.width
        self.slots = ((history[:, None] + torch.arange(heads, device=device)) * self.width + place[:, None]).flatten()
        earlier = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril(-1)
        visible = (earlier & packing.mask[:, None, :]) | torch.eye(self.width, dtype=torch.bool, device=device)
        forbidden = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)
        self.forbidden = forbidden.repeat_interleave(heads, dim=0)

    def split(self, rows: Tensor) -> Tensor:
        """(n, D) -> (B * heads, K, D / heads), zeros in padding."""
        parts = rows.reshape(len(self.slots), rows.shape[1] // self.heads)
        grid = spread(parts, self.slots, self.batch * self.heads * self.width)
        return grid.view(self.batch * self.heads, self.width, parts.shape[1])

    def join(self, grid: Tensor) -> Tensor:
        """(B * heads, K, D / heads) -> (n, D)."""
        return grid.flatten(0, 1).index_select(0, self.slots).view(-1, self.heads * grid.shape[2])


class CausalAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al., NIPS 2017, section 3.2) over real positions 1..t.

    Plain products: over rows this short they take a fifth less time than `scaled_dot_product_attention`, forward and back,
    with and without dropout (128 histories, 2 heads, 20 x 64, one CPU core).
    Raises ConfigError when ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float, bias: bool):
        super().__init__()
        if dim % heads:
            raise ConfigError(f"heads = {heads} does not divide dim = {dim}: every head takes dim / heads columns; change one")
        self.scale, self.rate = (dim // heads) ** -0.5, dropout
        self.query, self.key, self.value, self.out = (initialise(nn.Linear(dim, dim, bias=bias)) for _ in range(4))

    def forward(self, queries: Tensor, rows: Tensor, heads: Heads, *, newest: bool = False) -> Tensor:
        """rows (n, D) and their queries (n, D) -> (n, D); with ``newest`` one query (B, D) in each last column -> (B, D)."""
        query, forbidden = self.query(queries) * self.scale, heads.forbidden
        if newest:
            query, forbidden = query.view(len(forbidden), 1, -1), forbidden[:, -1:]
        else:
            query = heads.split(query)
        weights = torch.baddbmm(forbidden, query, heads.split(self.key(rows)).transpose(1, 2)).softmax(dim=2)
        mixed = torch.bmm(dropout(weights, self.rate, self.training), heads.split(self.value(rows)))
        out: Tensor = self.out(mixed.view(queries.shape) if newest else heads.join(mixed))
        return out
