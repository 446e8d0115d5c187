"""The tables of a ranking model: one embedding row per known value, shared by candidates and histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.layers.mlp import initialise

Initial = Literal["xavier", "normal"]


@dataclass(frozen=True)
class TableLayout:
    """What the embedding layer must know of a data set; sizes only, no data.

    rows: rows of the id table, padding row 0 included       unknown (F,): each single-valued field's unknown row, 0 if none
    item_slice: which of the F fields describe the item      bags: (name, unknown row) of each multi-valued field
    numbers: (name, width) of each numeric field             signals: distinct ratings or labels a behaviour can carry
    """

    rows: int
    names: tuple[str, ...]
    unknown: tuple[int, ...]
    item_slice: tuple[int, int]
    bags: tuple[tuple[str, int], ...]
    numbers: tuple[tuple[str, int], ...]
    signals: int

    @property
    def num_fields(self) -> int:
        return len(self.names) + len(self.bags) + len(self.numbers)

    @property
    def num_item_fields(self) -> int:
        return self.item_slice[1] - self.item_slice[0]


@dataclass(frozen=True)
class ItemTable:
    """The distinct items of a batch, each embedded once.

    rows (n,) int64 catalogue rows, rows[0] = 0 is padding     fields (n, F_I, D) their id fields, embedded
    candidate (B,) and history (B, K) int64: where in the table each item of the batch is
    """

    rows: Tensor
    fields: Tensor
    candidate: Tensor
    history: Tensor


class FieldEmbedding(nn.Module):
    """Ids, bags and numbers to vectors of one width D.

    The id table has one row per value and row 0 for padding, which stays zero.  In training each id is replaced by its
    field's unknown row with probability ``unknown_rate``, so that row is trained and an unseen id has something to say.
    ``item_fields`` (I + 1, F_I) int32 lets histories look their items' fields up; it grows when items are added.
    """

    item_fields: Tensor
    _unknown: Tensor

    def __init__(
        self,
        layout: TableLayout,
        item_fields: Tensor,
        dim: int,
        *,
        initial: Initial = "xavier",
        unknown_rate: float = 0.01,
        linear: bool = False,
        sparse: bool = False,
    ):
        super().__init__()
        self.layout, self.dim, self.unknown_rate = layout, dim, unknown_rate
        self.table = nn.Embedding(layout.rows, dim, padding_idx=0, sparse=sparse)
        self.signals = nn.Embedding(layout.signals + 1, dim, padding_idx=0)
        self.numbers = nn.ModuleList(nn.Linear(width, dim) for _, width in layout.numbers)
        self.linear = nn.Embedding(layout.rows, 1, padding_idx=0, sparse=sparse) if linear else None
        self.number_linear = nn.ModuleList(nn.Linear(width, 1, bias=False) for _, width in layout.numbers) if linear else None
        self.register_buffer("item_fields", item_fields)
        self.register_buffer("_unknown", torch.tensor(layout.unknown, dtype=torch.int32), persistent=False)
        for embedding in (self.table, self.signals):
            if initial == "xavier":
                nn.init.xavier_normal_(embedding.weight)
            else:
                nn.init.normal_(embedding.weight, std=1e-4)
            with torch.no_grad():
                embedding.weight[0] = 0.0
        initialise(self.numbers)
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)

    @property
    def num_fields(self) -> int:
        return self.layout.num_fields

    @cached_property
    def may_replace(self) -> bool:
        return self.unknown_rate > 0 and any((*self.layout.unknown, *(row for _, row in self.layout.bags)))

    def replace_unknown(self, ids: Tensor, unknown: Tensor | int) -> Tensor:
        """In training, ids (n, F) with a seeded share swapped for the unknown row of their field (F,); padding stays."""
        if not (self.training and self.may_replace):
            return ids
        swap = (torch.rand(ids.shape, device=ids.device) < self.unknown_rate) & (unknown > 0) & (ids > 0)
        return torch.where(swap, unknown, ids)

    def forward(self, ids: Tensor, bags: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """ids (B, F) int32, bags (B, M) int32 each, numbers (B, N) float32 -> (B, F + bags + number groups, D)."""
        parts = [self.table(ids)]
        parts += [self._pool(self.table, bag)[:, None] for bag in bags]
        at = 0
        for layer, (_, width) in zip(self.numbers, self.layout.numbers, strict=True):
            parts.append(layer(numbers[:, at : at + width])[:, None])
            at += width
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def first_order(self, ids: Tensor, bags: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """One weight per value, (B, F + bags + number groups); needs ``linear=True`` at construction."""
        assert self.linear is not None
        assert self.number_linear is not None
        parts = [self.linear(ids).squeeze(-1)] + [self._pool(self.linear, bag) for bag in bags]
        at = 0
        for layer, (_, width) in zip(self.number_linear, self.layout.numbers, strict=True):
            parts.append(layer(numbers[:, at : at + width]))
            at += width
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @staticmethod
    def _pool(table: nn.Embedding, bag: Tensor) -> Tensor:
        """Mean over the values present, zero for an empty cell.  (B, M) -> (B, W)."""
        count = (bag > 0).sum(dim=1, keepdim=True).clamp_min(1)
        pooled: Tensor = table(bag).sum(dim=1) / count
        return pooled

    def items(self, candidate: Tensor, history: Tensor) -> ItemTable:
        """Embed each distinct item of candidate (B,) and history (B, K) once.

        A catalogue no larger than the batch's item slots is taken whole, which needs no search for the distinct ones.
        """
        size = len(self.item_fields)
        if size <= candidate.numel() + history.numel():
            rows, at_candidate, at_history = torch.arange(size, device=candidate.device), candidate.long(), history.long()
        else:
            met = torch.zeros(size, dtype=torch.bool, device=candidate.device)
            met[0] = True
            met[candidate.long()] = True
            met[history.reshape(-1).long()] = True
            place = met.cumsum(0) - 1
            rows, at_candidate, at_history = met.nonzero().squeeze(1), place[candidate.long()], place[history.long()]
        first, last = self.layout.item_slice
        ids = self.replace_unknown(self.item_fields[rows], self._unknown[first:last])
        return ItemTable(rows, F.embedding(ids, self.table.weight, 0, sparse=self.table.sparse), at_candidate, at_history)

    def signal_mix(self, signals: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of the behaviours' label vectors.  signals (B, K) int, weights (B, H, K) -> (B, H, D).

        Few distinct signals exist, so their weights are added up first and the label vectors read once.
        """
        hot = weights.new_zeros(*signals.shape, self.layout.signals + 1).scatter_(2, signals.long()[:, :, None], 1.0)
        mixed: Tensor = (weights @ hot) @ self.signals.weight
        return mixed
