"""Frozen text vectors, held once for everything that reads them, and the small trained networks that read them.

TextTable    the vectors of a catalogue, and what is prepared from them once: shared, moved once, never saved
TextReader   a trained network over one preparation; after `export` a table of what the network made of each item
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.memory import held_whole

Preparation = Literal["plain", "normed", "centred"]
# Of the usual length, or of the mean's: what is nearer to the mean is an item without text, which got the mean itself.  The
# mean is stored in half precision, which rounds by less.
NO_TEXT = 1e-3
_COLUMNS = 64  # whose mean is taken at a time: whole registers of every CPU, so each column is summed as if all were
_ROWS = 8192  # of a large table, read at a time without gradients


def prepare(vectors: Tensor, how: Preparation, mean: Tensor | None = None) -> Tensor:
    """(n, S) text vectors as a network reads them; a new tensor, but for "plain", which leaves them as they are.

    normed: every row to mean 0 and variance 1, float32: a LayerNorm without weights, the same in every step
    centred: less ``mean`` (S,), at length 1, float32: sentence vectors share a large common part; zeros for an item without
        text, which got the mean: what rounding leaves of it would be a direction like any other
    """
    if how == "plain":
        return vectors
    if how == "normed":
        return F.layer_norm(vectors.float(), vectors.shape[-1:])
    assert mean is not None
    away = vectors.float() - mean
    silent = away.norm(dim=1, keepdim=True) < NO_TEXT * mean.norm()
    return F.normalize(away, dim=1, out=away).masked_fill_(silent, 0.0)


class TextTable(nn.Module):
    """vectors: (I + 1, S) by catalogue row, row 0 zero, in the memory and the dtype in which they are given.

    whole: they are small (`braidrec.memory.held_whole`).  Readers then share each preparation, which is made when the first of
    them asks for it.  Preparations are buffers: they go where ``.to`` sends any module that reads them, once, and are in no
    state_dict; ``vectors`` stay where they are.
    Else there is no second copy: ``vectors`` are the buffer, and rows are prepared as they are read, on a CPU to the same bits.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor | NDArray[np.floating[Any]]):
        super().__init__()
        given = torch.as_tensor(vectors)
        self.whole = held_whole(*given.shape)
        if self.whole:
            self.vectors = given
        else:
            self.register_buffer("vectors", given, persistent=False)

    @classmethod
    def of(cls, vectors: TextTable | Tensor | None) -> TextTable | None:
        """A table as it is, vectors as a table of their own, None as None."""
        return vectors if vectors is None or isinstance(vectors, TextTable) else cls(vectors)

    @property
    def num_rows(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def mean(self) -> Tensor:
        """(S,) float32 over the catalogue, padding left out; items that come later are centred by it, too."""
        # some columns at a time, the last ones with what is left over, is no other sum and needs no float32 copy of it all
        ends = [] if self.whole else [*range(_COLUMNS, self.width - _COLUMNS + 1, _COLUMNS)]
        ends.append(self.width)
        parts = zip([0, *ends[:-1]], ends, strict=True)
        return torch.cat([self.vectors[1:, first:last].float().mean(dim=0) for first, last in parts])

    def prepared(self, how: Preparation) -> Tensor:
        """(I + 1, S), the same tensor for everybody; "plain" in the dtype of ``vectors``, the others float32."""
        found = self._buffers.get(how)
        if found is None:
            with torch.no_grad():
                found = prepare(self.vectors, how, self.mean if how == "centred" else None)
            self.register_buffer(how, found, persistent=False)
        return found

    def ready(self, how: Preparation) -> None:
        """Make what readers share, before any of them is moved."""
        if self.whole:
            self.prepared(how)
        elif how == "centred" and "centre" not in self._buffers:
            self.register_buffer("centre", self.mean, persistent=False)

    @torch.no_grad()
    def read(self, how: Preparation, rows: Tensor | None = None) -> Tensor:
        """(n, S) of ``rows`` (n,), or of all, which is no copy where the table is whole; dtypes as `prepared` has them."""
        table = self.prepared(how) if self.whole else self.vectors
        taken = table if rows is None else table.index_select(0, rows)
        return taken if self.whole else prepare(taken, how, self._buffers.get("centre"))

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """``rows`` in parts of nearly one length, so that what is prepared of them at a time stays small."""
        yield from (rows,) if self.whole else rows.tensor_split(max(-(-len(rows) // _ROWS), 1))


class TextReader(nn.Module):
    """v_i = mlp(x_i): a trained network over text vectors; after `export` row i of ``reduced`` (I + 1, D).

    source: None to load a model that was exported    mean: the one that ``source`` is centred by, saved with the network
    Neither `export` nor `add` writes into a tensor, so what shares tensors with this (`braidrec.layers.twins`) keeps its own.
    """

    source: TextTable | None
    mean: Tensor | None
    reduced: Tensor | None

    def __init__(self, source: TextTable | None, mlp: nn.Module, how: Preparation, *, mean: Tensor | None = None):
        super().__init__()
        self.how, self.mlp, self.source = how, mlp, source
        self.register_buffer("mean", mean)
        self.register_buffer("reduced", None)
        if source is not None:
            source.ready(how)

    @property
    def knowledge(self) -> Tensor | None:
        """(I + 1, S) what the network reads, float; None after `export`."""
        return None if self.source is None else self.text(None)

    @property
    def num_rows(self) -> int:
        if self.reduced is not None:
            return len(self.reduced)
        assert self.source is not None
        return self.source.num_rows

    def forward(self, rows: Tensor) -> Tensor:
        """rows (n,) int64 catalogue rows -> (n, D); without gradients, of a large table, some rows at a time."""
        if self.reduced is not None:
            return self.reduced[rows]
        if self.source is None or self.training or torch.is_grad_enabled():
            return self.read(rows)
        found = [self.read(part) for part in self.source.blocks(rows)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def read(self, rows: Tensor) -> Tensor:
        """(n,) -> (n, D) by the network, of a reader that is not exported."""
        vectors: Tensor = self.mlp(self.text(rows))
        return vectors

    def text(self, rows: Tensor | None) -> Tensor:
        """(n, S) what the network reads of ``rows``, or of all rows, which is no copy where the table is whole."""
        assert self.source is not None
        return self._typed(self.source.read(self.how, rows))

    @torch.no_grad()
    def export(self, block: int = 65_536) -> None:
        """Replace the text by what the network makes of it; the network stays for items that are added later."""
        if self.source is not None:
            rows = torch.arange(self.source.num_rows, device=self._weight.device)
            self.reduced = torch.cat([self(part) for part in rows.split(block)])
            self.source = None

    @torch.no_grad()
    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S); needs `export` first."""
        assert self.reduced is not None
        new = prepare(vectors.to(self.reduced.device), self.how, self.mean)
        self.reduced = torch.cat([self.reduced, self.mlp(self._typed(new))])

    @property
    def _weight(self) -> Tensor:
        return next(self.mlp.parameters())

    def _typed(self, vectors: Tensor) -> Tensor:
        """In the dtype of the network, so that a table of half precision takes no more room than it needs."""
        return vectors.to(self._weight.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """A reader without a source takes a reduced table of any length."""
        if self.source is None and (saved := state_dict.get(f"{prefix}reduced")) is not None:
            self.reduced = torch.empty_like(saved, device=self._weight.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
