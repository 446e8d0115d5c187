"""SASRec: self-attention over the history (Kang & McAuley, ICDM 2018), in the two forms in use.

    authors (PAD's code):  h = Drop(LN(v + P));  a = LN(h + Drop(W_O MHA(h)));  h' = LN(a + Drop(W_2 ReLU(W_1 a + b_1) + b_2))
    classic (the common PyTorch port of the paper):  h = Drop(sqrt(D) v + P);  q = LN(h);  a = LN(q + MHA(q, h, h));
                           h' = a + Drop(W_2 Drop ReLU(W_1 a + b_1) + b_2);  after the last block LN(h')
    v -> items (B, K, D)    P -> positions, the newest item has the last one whatever K is
authors: attention without bias, W_1 (D, 4 D), LayerNorm eps 1e-6.  classic: biased attention, W_1 (D, D), eps 1e-8.
Dropout on the attention weights in both.
``positions = "items"`` starts them as small as item rows usually are.  At Xavier's size over 20 rows (.116, items at .0154 on
Prime Pantry) 1.5 % of an untrained state's variance is the item's, and training first spends epochs on popularity alone.
Departures of classic from the port: padded keys take no part (the port zeroes their vectors and still attends to their
biases, so its states depend on how wide the padding is), its ReLU stands before the inner dropout (the same distribution),
and there is no row for the position of padding.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.mlp import initialise
from braidrec.layers.transformer import CausalAttention, Heads, Packing, dropout
from braidrec.registry import Spec
from braidrec.sequential.contracts import EncoderSizes
from braidrec.strict import Depth, Strict


class SASRecConfig(Strict):
    variant: Literal["authors", "classic"] = "authors"
    blocks: Depth = 5
    heads: Depth = 2  # divides the width D
    dropout: float = Setting(default=0.1, ge=0, lt=1)
    positions: Literal["xavier", "items"] = "xavier"  # how their rows start: by their own shape, or as the item rows do


class SASRec(nn.Module):
    """items (B, K, D), mask (B, K) bool, padded on the left, K <= length -> states (B, K, D), zeros in padding.

    State t reads items 1..t.  Padding may hold anything.  Columns that are padding in every row may be cut off.
    Raises ConfigError when ``heads`` does not divide ``dim`` and when a batch is wider than ``length``.
    """

    def __init__(self, config: SASRecConfig, sizes: EncoderSizes):
        super().__init__()
        dim, length = sizes.dim, sizes.length
        self.length, self.heads, self.rate = length, config.heads, config.dropout
        self.classic = config.variant == "classic"
        self.positions = nn.Embedding(length, dim)
        if config.positions == "items":
            nn.init.normal_(self.positions.weight, std=sizes.item_std)
        else:
            nn.init.xavier_normal_(self.positions.weight)
        self.norm = nn.LayerNorm(dim, eps=1e-8 if self.classic else 1e-6)  # authors: of the input; classic: of the output
        block = ClassicBlock if self.classic else Block
        self.blocks = nn.ModuleList(block(dim, config.heads, config.dropout) for _ in range(config.blocks))

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        packing = Packing(mask)
        return packing.unpack(self._states(items, packing, newest=False))

    def last(self, items: Tensor, mask: Tensor) -> Tensor:
        """The newest position's state (B, D), zeros for an empty history: the last block computes no other."""
        return self._states(items, Packing(mask), newest=True).masked_fill(~mask[:, -1:], 0.0)

    def _states(self, items: Tensor, packing: Packing, *, newest: bool) -> Tensor:
        """(n, D), or (B, D) for the newest positions."""
        unused = self.length - packing.width
        if unused < 0:
            raise ConfigError(
                f"a batch of {packing.width} columns for SASRec of length = {self.length}; pass the last {self.length} or fewer"
            )
        heads = Heads(packing, self.heads, items.dtype)
        places = self.positions(packing.index % packing.width + unused)
        rows = packing.pack(items)
        rows = rows * rows.shape[1] ** 0.5 + places if self.classic else self.norm(rows + places)
        rows = dropout(rows, self.rate, self.training)
        *blocks, final = self.blocks
        for block in blocks:
            rows = block(rows, rows, heads)
        rows = final(packing.unpack(rows)[:, -1], rows, heads, newest=True) if newest else final(rows, rows, heads)
        return self.norm(rows) if self.classic else rows


class Block(nn.Module):
    """Attention and a feed-forward layer of inner width 4 D, each with its norm after the residual sum."""

    def __init__(self, dim: int, heads: int, rate: float):
        super().__init__()
        self.rate = rate
        self.attention = CausalAttention(dim, heads, dropout=rate, bias=False)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.inner, self.outer = initialise(nn.Linear(dim, 4 * dim)), initialise(nn.Linear(4 * dim, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, queries: Tensor, rows: Tensor, heads: Heads, *, newest: bool = False) -> Tensor:
        """Shapes as in `CausalAttention`; ``queries`` are the rows, or the newest of them."""
        mixed = dropout(self.attention(queries, rows, heads, newest=newest), self.rate, self.training)
        mixed = self.attention_norm(queries + mixed)
        deep = dropout(self.outer(F.relu(self.inner(mixed), inplace=True)), self.rate, self.training)
        out: Tensor = self.norm(mixed + deep)
        return out


class ClassicBlock(nn.Module):
    """Norms before the parts, queries alone normalised; a point-wise feed-forward layer of width D."""

    def __init__(self, dim: int, heads: int, rate: float):
        super().__init__()
        self.rate = rate
        self.attention_norm = nn.LayerNorm(dim, eps=1e-8)
        self.attention = CausalAttention(dim, heads, dropout=rate, bias=True)
        self.norm = nn.LayerNorm(dim, eps=1e-8)
        self.inner, self.outer = initialise(nn.Linear(dim, dim)), initialise(nn.Linear(dim, dim))

    def forward(self, queries: Tensor, rows: Tensor, heads: Heads, *, newest: bool = False) -> Tensor:
        """Shapes as in `CausalAttention`; ``queries`` are the rows, or the newest of them."""
        queries = self.attention_norm(queries)
        mixed = self.norm(queries + self.attention(queries, rows, heads, newest=newest))
        deep = dropout(F.relu(self.inner(mixed), inplace=True), self.rate, self.training)
        return mixed + dropout(self.outer(deep), self.rate, self.training)


SPEC = Spec(
    "sasrec",
    "SASRec",
    SASRecConfig,
    SASRec,
    presets={
        "ours": {"blocks": 2},
        "paper": {"blocks": 2},  # PAD names no depth; two blocks reproduce its SASRec, five are its launcher's
        "authors": {},
        "textbook": {"variant": "classic", "blocks": 2},
    },
)
