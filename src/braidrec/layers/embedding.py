"""The tables of a ranking model: one embedding row per known value, shared by candidates and histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.data.history import History, SharedHistory
from braidrec.layers.attention import Behaviours, behaviours, weights_by_signal
from braidrec.layers.kept import ANEW, Anew
from braidrec.layers.mlp import Repeated, initialise

Initial = Literal["xavier", "normal"]
_FEWER = 4  # slots per item of the catalogue from which on most of it is met in shared windows
_SPARSE = 32  # items of the catalogue per slot of a batch from which on sorting the slots is faster than marking the catalogue


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
    candidate (B,) int64: where in the table they are    past: the behaviours, likewise
    kept: by which what depends on an item alone is made once, of all of them
    """

    rows: Tensor
    fields: Tensor
    candidate: Tensor
    past: Behaviours
    kept: Anew = ANEW


class FieldEmbedding(nn.Module):
    """Ids, bags and numbers to vectors of one width D.

    The id table has one row per value and row 0 for padding, which stays zero.  In training each id is replaced by its
    field's unknown row with probability ``unknown_rate``, so that row is trained and an unseen id has something to say.
    ``item_fields`` (I + 1, F_I) int32 lets histories look their items' fields up; `add` makes it grow.

    fields, items: whether vectors of the fields, and of candidates and histories, are read at all; without either there is
    no table    linear: one weight per value besides    field_aware: of each field a vector of this width for each of the
    others, of which ``num_extras`` more come from elsewhere (0: none)    sparse: tables whose rows are updated lazily
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
        fields: bool = True,
        items: bool = True,
        linear: bool = False,
        field_aware: int = 0,
        num_extras: int = 0,
        sparse: bool = False,
    ):
        super().__init__()
        self.layout, self.dim, self.unknown_rate, self.sparse = layout, dim, unknown_rate, sparse
        self.field_width = field_aware
        self.table = nn.Embedding(layout.rows, dim, padding_idx=0, sparse=sparse) if fields or items else None
        self.signals = nn.Embedding(layout.signals + 1, dim, padding_idx=0) if fields or items else None
        self.numbers = nn.ModuleList(nn.Linear(width, dim) for _, width in layout.numbers) if fields else None
        self.linear = nn.Embedding(layout.rows, 1, padding_idx=0, sparse=sparse) if linear else None
        self.number_linear = nn.ModuleList(nn.Linear(width, 1, bias=False) for _, width in layout.numbers) if linear else None
        self.register_buffer("item_fields", item_fields)
        self.register_buffer("_unknown", torch.tensor(layout.unknown, dtype=torch.int32), persistent=False)
        for embedding in (self.table, self.signals):
            self._draw(embedding, initial)
        if self.numbers is not None:
            initialise(self.numbers)
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
        whole = field_aware * (layout.num_fields + num_extras - 1)
        self.aware = nn.Embedding(layout.rows, whole, padding_idx=0, sparse=sparse) if field_aware else None
        self.number_aware = nn.ModuleList(nn.Linear(width, whole) for _, width in layout.numbers) if field_aware else None
        self._draw(self.aware, initial)
        if self.number_aware is not None:
            initialise(self.number_aware)

    @staticmethod
    def _draw(embedding: nn.Embedding | None, initial: Initial) -> None:
        if embedding is None:
            return
        if initial == "xavier":
            nn.init.xavier_normal_(embedding.weight)
        else:
            nn.init.normal_(embedding.weight, std=1e-4)
        with torch.no_grad():
            embedding.weight[0] = 0.0

    @property
    def num_fields(self) -> int:
        return self.layout.num_fields

    @property
    def tables(self) -> dict[str, nn.Embedding]:
        """Those with a row per value, by the attribute's name."""
        found = {"table": self.table, "linear": self.linear, "aware": self.aware}
        return {name: table for name, table in found.items() if table is not None}

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
        """ids (B, F) int32, bags (B, M) int32 each, numbers (B, N) float32 -> (B, F + bags + number groups, D).

        (B, 0, D) of an embedding without ``fields``.
        """
        if self.numbers is None:
            return numbers.new_zeros(len(ids), 0, self.dim)
        return self._read(self.table, self.numbers, ids, bags, numbers)

    def of_users(self, ids: Tensor, replaced: Tensor, leaders: Tensor, run_of: Tensor) -> Repeated:
        """The id fields of the user side by side, (B, F_U * D), of rows in runs of one user.

        ids (B, F) as they are, and as `replace_unknown` left them: a run has the fields of its first row (R,), but where one
        was swapped the row has its own.
        """
        assert self.table is not None
        first, _ = self.layout.item_slice
        if ids is replaced:
            return Repeated(self.rows_of(ids.index_select(0, leaders)[:, :first]).flatten(1), run_of)
        ids, replaced = ids[:, :first], replaced[:, :first]
        own = (ids != replaced).any(dim=1)
        index = torch.where(own, len(leaders) + own.cumsum(0) - 1, run_of)
        rows = torch.cat([ids.index_select(0, leaders), replaced[own]])
        return Repeated(self.rows_of(rows).flatten(1), index)

    def first_order(self, ids: Tensor, bags: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """One weight per value, (B, F + bags + number groups); needs ``linear=True`` at construction."""
        return self._read(self.linear, self.number_linear, ids, bags, numbers).squeeze(2)

    def field_aware(self, ids: Tensor, bags: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """(B, F, F + E - 1, d_f): of each field one vector per other field, extras last; needs ``field_aware``.

        Fields count all of them here, bags and number groups too.  The vector of field f for field g stands at g where g
        comes before f, and at g - 1 behind it.
        """
        return self._read(self.aware, self.number_aware, ids, bags, numbers).unflatten(2, (-1, self.field_width))

    def _read(
        self, table: nn.Embedding | None, layers: nn.ModuleList | None, ids: Tensor, bags: Sequence[Tensor], numbers: Tensor
    ) -> Tensor:
        """(B, F + bags + number groups, W) by a table of width W and a layer to W for each number group."""
        assert table is not None
        assert layers is not None
        parts = [table(ids)]
        parts += [self._pool(table, bag)[:, None] for bag in bags]
        at = 0
        for layer, (_, width) in zip(layers, self.layout.numbers, strict=True):
            parts.append(layer(numbers[:, at : at + width])[:, None])
            at += width
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @staticmethod
    def _pool(table: nn.Embedding, bag: Tensor) -> Tensor:
        """Mean over the values present, zero for an empty cell.  (B, M) -> (B, W)."""
        count = (bag > 0).sum(dim=1, keepdim=True).clamp_min(1)
        pooled: Tensor = table(bag).sum(dim=1) / count
        return pooled

    def items(self, candidate: Tensor, history: History | SharedHistory, kept: Anew = ANEW) -> ItemTable:
        """Embed each distinct item of candidate (B,) and history once.

        A catalogue no larger than the batch's item slots is taken whole, which needs no search for the distinct ones; shared
        windows repeat less, so there it must be much smaller.  ``kept`` may hold it whole at any size.
        """
        size, slots = len(self.item_fields), history.slots
        if kept.whole:
            rows = kept.of(self, "rows", lambda: torch.arange(size, device=candidate.device))
            fields = kept.of(self, "fields", lambda: self.rows_of(self.item_fields))
            return ItemTable(rows, fields, candidate.long(), behaviours(history, slots.long(), self.layout.signals), kept)
        if size * (_FEWER if history.runs else 1) <= candidate.numel() + slots.numel():
            rows, at_candidate, at_history = torch.arange(size, device=candidate.device), candidate.long(), slots.long()
        elif size >= _SPARSE * (candidate.numel() + slots.numel()):
            parts = [candidate.new_zeros(1), candidate, slots.reshape(-1)]
            rows, place = torch.cat(parts).long().unique(return_inverse=True)
            at_candidate, at_history = place[1 : 1 + len(candidate)], place[1 + len(candidate) :].view(slots.shape)
        else:
            met = torch.zeros(size, dtype=torch.bool, device=candidate.device)
            met[0] = True
            met[candidate.long()] = True
            met[slots.reshape(-1).long()] = True
            place = met.cumsum(0) - 1
            rows, at_candidate, at_history = met.nonzero().squeeze(1), place[candidate.long()], place[slots.long()]
        first, last = self.layout.item_slice
        ids = self.replace_unknown(self.item_fields[rows], self._unknown[first:last])
        past = behaviours(history, at_history, self.layout.signals)
        return ItemTable(rows, self.rows_of(ids), at_candidate, past, kept)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Vectors (..., D) of rows of the id table (...) int."""
        assert self.table is not None
        return F.embedding(ids, self.table.weight, 0, sparse=self.sparse)

    def signal_mix(self, signals: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of the behaviours' label vectors.  signals (B, K) int, weights (B, H, K) -> (B, H, D).

        Few distinct signals exist, so their weights are added up first and the label vectors read once.
        """
        return self.labels(weights_by_signal(signals, weights, self.layout.signals))

    def labels(self, by_signal: Tensor) -> Tensor:
        """Label vectors (..., D), mixed by how much weight each signal got (..., R + 1)."""
        return by_signal @ self.label_vectors

    @property
    def label_vectors(self) -> Tensor:
        """(R + 1, D)."""
        assert self.signals is not None
        return self.signals.weight

    def read_rows(self, item: Tensor, history: Tensor, ids: Tensor, bags: Sequence[Tensor]) -> Tensor:
        """(n,) int64 rows of the tables that a batch reads, the unknown ones among them, each once."""
        items = torch.cat([item.reshape(-1), history.reshape(-1)]).unique()
        unknown = [*self.layout.unknown, *(row for _, row in self.layout.bags)]
        parts = [ids, self.item_fields[items.long()], *bags, torch.tensor(unknown, device=item.device)]
        return torch.cat([part.reshape(-1).long() for part in parts]).unique()

    def add(self, fields: Tensor) -> None:
        """Put items behind the catalogue by their id fields (n, F_I) int32; no tensor is written into."""
        self.item_fields = torch.cat([self.item_fields, fields.to(self.item_fields.device)])
