"""Frozen text vectors, held once for everything that reads them, and the small trained networks that read them.

TextTable    the vectors of a catalogue, and what is prepared from them once: shared, moved once, never saved
TextReader   a trained network over one preparation; after `export` a table of what the network made of each item
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Preparation = Literal["plain", "normed", "centred"]


def prepare(vectors: Tensor, how: Preparation, mean: Tensor | None = None) -> Tensor:
    """(n, S) text vectors as a network reads them; a new tensor, but for "plain", which leaves them as they are.

    normed: every row to mean 0 and variance 1, float32: a LayerNorm without weights, the same in every step
    centred: less ``mean`` (S,), at length 1, float32: sentence vectors share a large common part
    """
    if how == "plain":
        return vectors
    if how == "normed":
        return F.layer_norm(vectors.float(), vectors.shape[-1:])
    assert mean is not None
    away = vectors.float() - mean
    return F.normalize(away, dim=1, out=away)


class TextTable(nn.Module):
    """vectors: (I + 1, S) by catalogue row, row 0 zero, in the memory and the dtype in which they are given.

    Readers of one table share each preparation, which is made when the first of them asks for it.  Preparations are buffers:
    they go where ``.to`` sends any module that reads them, once, and are in no state_dict.  ``vectors`` stay where they are.
    """

    def __init__(self, vectors: Tensor | NDArray[np.floating[Any]]):
        super().__init__()
        self.vectors = torch.as_tensor(vectors)

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
        return self.vectors[1:].float().mean(dim=0)

    def prepared(self, how: Preparation) -> Tensor:
        """(I + 1, S), the same tensor for everybody; "plain" in the dtype of ``vectors``, the others float32."""
        found = self._buffers.get(how)
        if found is None:
            with torch.no_grad():
                found = prepare(self.vectors, how, self.mean if how == "centred" else None)
            self.register_buffer(how, found, persistent=False)
        return found


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
            source.prepared(how)  # before the module is moved

    @property
    def knowledge(self) -> Tensor | None:
        """(I + 1, S) what the network reads, float; None after `export`."""
        return None if self.source is None else self._typed(self.source.prepared(self.how))

    @property
    def num_rows(self) -> int:
        if self.reduced is not None:
            return len(self.reduced)
        assert self.source is not None
        return self.source.num_rows

    def forward(self, rows: Tensor) -> Tensor:
        """rows (n,) int64 catalogue rows -> (n, D)."""
        return self.read(rows) if self.reduced is None else self.reduced[rows]

    def read(self, rows: Tensor) -> Tensor:
        """(n,) -> (n, D) by the network, of a reader that is not exported."""
        vectors: Tensor = self.mlp(self.text(rows))
        return vectors

    def text(self, rows: Tensor | None) -> Tensor:
        """(n, S) what the network reads of ``rows``, or of all rows, which then is no copy."""
        assert self.source is not None
        table = self.source.prepared(self.how)
        return self._typed(table if rows is None else table[rows])

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
