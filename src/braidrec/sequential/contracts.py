"""The slots of a sequence model: an encoder reads item vectors, an item map makes them, a catalogue ranks with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.objectives.step import Step


class Encoder(Protocol):
    """Item vectors (B, K, D), mask (B, K) -> states (B, K, D): position t reads items 1..t only.  Owns no item table.

    last: the state of the newest position alone, (B, D)
    """

    def __call__(self, items: Tensor, mask: Tensor) -> Tensor: ...

    def last(self, items: Tensor, mask: Tensor) -> Tensor: ...


class ItemMap(Protocol):
    """Catalogue rows (n,) int64 below ``num_rows`` -> vectors (n, D); row 0 is padding and gives zeros.

    export: reduce text to what is made of it    add: append items by their text vectors (m, S); they have no id row, so an
    id part gives them a stand-in
    """

    @property
    def num_rows(self) -> int: ...

    def __call__(self, rows: Tensor) -> Tensor: ...

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


class NextItemModel(Protocol):
    """What training, evaluation and a run ask of a sequence model, which is an nn.Module."""

    def step(self, batch: SequenceBatch) -> Step: ...

    def states(self, items: Tensor, mask: Tensor) -> States: ...

    def catalogue(self) -> Catalogue: ...


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
class Group:
    """Parameters at a rate of their own; None: the phase's own value."""

    name: str
    parameters: Sequence[nn.Parameter]
    lr: float | None = None
    weight_decay: float | None = None
    steps: int = 1


@dataclass(frozen=True)
class Stage:
    """One phase of a method, without the data: what trains, on which losses, from which earlier weights.

    weights: loss name -> weight    starts: earlier stage -> prefix of names there -> prefix here
    groups: "main" and others; parameters in none are frozen
    monitor: of validation, a ranking metric, or a loss of the module's own ``validate``
    """

    name: str
    module: nn.Module
    weights: Mapping[str, float]
    groups: Sequence[Group]
    starts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"


def main_group(module: nn.Module, *apart: Sequence[nn.Parameter]) -> Group:
    """Everything that trains except what has a group of its own."""
    others = {id(parameter) for group in apart for parameter in group}
    return Group("main", [each for each in module.parameters() if each.requires_grad and id(each) not in others])


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
        parts: list[Any] = [batch.items, batch.targets, batch.negatives]
        flat = torch.cat([torch.zeros(1, dtype=torch.int64, device=batch.items.device), *(part.reshape(-1) for part in parts)])
        rows, places = flat.unique(return_inverse=True)
        split = places[1:].split([part.numel() for part in parts])
        return cls(rows, *(place.view(part.shape) for place, part in zip(split, parts, strict=True)))
