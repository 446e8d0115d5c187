"""The slots of a sequence model: an encoder reads item vectors, an item map makes them, a catalogue ranks with them.

Encoder         a backbone's        ``Spec.build(config, sizes: EncoderSizes) -> Encoder``, an nn.Module
StageModule     what a stage trains: a method's ``Spec.build(config, parts: Parts) -> list[Stage]``
NextItemModel   a StageModule that ranks the catalogue; the last stage's is what a run keeps
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from braidrec.data.sequences import SequenceBatch
from braidrec.training.step import Step


@dataclass(frozen=True)
class EncoderSizes:
    """What a backbone is built for: item vectors of width ``dim``, histories of at most ``length`` items.

    item_std: of the normal distribution that fresh id rows are drawn from
    """

    dim: int
    length: int
    item_std: float = 0.02


class Encoder(Protocol):
    """Item vectors (B, K, D), mask (B, K) -> states (B, K, D): position t reads items 1..t only.  Owns no item table.

    last: the state of the newest position alone, (B, D)
    """

    def __call__(self, items: Tensor, mask: Tensor) -> Tensor: ...

    def last(self, items: Tensor, mask: Tensor) -> Tensor: ...


class ItemMap(Protocol):
    """Catalogue rows (n,) int64 below ``num_rows`` -> vectors (n, D); row 0 is padding and gives zeros.

    reads_text: whether it tells items apart by their text    spaces: what the vectors are made of, (n, D') by name
    export: reduce text to what is made of it    add: append items by their text vectors (m, S); they have no id row, so an
    id part gives them a stand-in
    """

    reads_text: ClassVar[bool]

    @property
    def num_rows(self) -> int: ...

    def __call__(self, rows: Tensor) -> Tensor: ...

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]: ...

    def export(self) -> None: ...

    def add(self, vectors: Tensor) -> None: ...


@dataclass(frozen=True)
class States:
    """What a model knows of B users.  vectors (B, S)    last (B,) int64 the newest item, 0 where there is none."""

    vectors: Tensor
    last: Tensor


class Catalogue(Protocol):
    """Every item's side of the score, computed once for many users.

    scores: (B, n) float32 of the catalogue rows ``rows`` (n,) int64, or of all I + 1 rows, padding included, for None
    """

    def scores(self, states: States, rows: Tensor | None = None) -> Tensor: ...


class StageModule(Protocol):
    """What a stage trains, an nn.Module.  Who inherits from this has to write ``step`` alone."""

    def step(self, batch: SequenceBatch) -> Step: ...

    @property
    def draws(self) -> bool:
        """Whether ``step`` reads the batch's negatives; else none are drawn, and nobody has to lack an item."""
        return True

    def validation(self) -> Mapping[str, float]:
        """What it watches besides rankings, by name; asked in evaluation mode, without gradients."""
        return {}

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        """Vectors (n, D) of catalogue rows (n,) by the space they are in: "id", "text", "aligned_id" and so on."""
        return {}

    def ranks(self) -> NextItemModel | None:
        """Itself where it ranks the catalogue, None where it recommends nothing."""
        return None


class NextItemModel(StageModule, Protocol):
    """What evaluation and a run ask of a sequence model.

    reads_text: whether it can know an item by text alone    stand_in: what an item that comes after training has in the
    place of what only training gives, in words
    """

    @property
    def reads_text(self) -> bool: ...

    @property
    def stand_in(self) -> str: ...

    def states(self, items: Tensor, mask: Tensor) -> States:
        """items (B, K) catalogue rows, padded on the left, mask (B, K)."""
        ...

    def catalogue(self) -> Catalogue: ...

    def export(self) -> None:
        """Reduce text to what the model makes of it."""
        ...

    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S), of an exported model; no tensor is written into."""
        ...

    def ranks(self) -> NextItemModel | None:
        return self

    def facts(self) -> Mapping[str, Any]:
        """What a look inside gives as plain numbers (JSON), such as the shares of a gate."""
        return {}


def spread_rows(num_rows: int, device: torch.device) -> Tensor:
    """Up to 1,024 catalogue rows from end to end, without padding; the same ones on every device."""
    return torch.linspace(1, num_rows - 1, min(1_024, num_rows - 1)).long().to(device)


@dataclass(frozen=True)
class DotProducts:
    """Scores are inner products.  vectors (I + 1, S)."""

    vectors: Tensor

    def scores(self, states: States, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            return states.vectors @ self.vectors.T
        if 2 * len(rows) > len(self.vectors):  # to gather scores costs less than to gather vectors
            return (states.vectors @ self.vectors.T).index_select(1, rows)
        return states.vectors @ self.vectors.index_select(0, rows).T


@dataclass(frozen=True)
class Distinct:
    """Every distinct item of a batch once.  rows (n,) int64 ascending, the first is padding; the rest are places in it.

    items, targets (B, K)    negatives (B, K, M)
    """

    rows: Tensor
    items: Tensor
    targets: Tensor
    negatives: Tensor

    @classmethod
    def of(cls, batch: SequenceBatch) -> Distinct:
        parts = (batch.items, batch.targets, batch.negatives)
        flat = torch.cat([torch.zeros(1, dtype=torch.int64, device=batch.items.device), *(part.reshape(-1) for part in parts)])
        rows, places = flat.unique(return_inverse=True)
        split = places[1:].split([part.numel() for part in parts])
        return cls(rows, *(place.view(part.shape) for place, part in zip(split, parts, strict=True)))
