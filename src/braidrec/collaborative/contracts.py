"""The slot of a whole model: rows of a user-item matrix in, scores of every item out.

``Spec.build(config, parts: Parts) -> list[AnyStage]``; the module of the last stage is a `MatrixModel`, which a run keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.graph import Graph
from braidrec.errors import RunError
from braidrec.layers.text import TextTable
from braidrec.training.stages import AnyStage

__all__ = ["MatrixModel", "Parts", "kept_module"]


@dataclass(frozen=True)
class Parts:
    """What a model is built from.  Of a saved one, ``data`` is None: its tensors are put in afterwards.

    text: vectors of I + 1 rows, None where the model reads none    device: where large matrices are solved, the CPU for None
    judge: of a module whose users have what a graph says: the monitored metric of the validation part
    """

    num_items: int
    data: Graph | None = None
    text: TextTable | None = None
    device: torch.device | None = None
    judge: Callable[[nn.Module, Graph], float] | None = None

    @property
    def graph(self) -> Graph:
        """Asked for by what fits alone."""
        assert self.data is not None
        return self.data


class MatrixModel(Protocol):
    """What a run and evaluation ask of a whole model, an nn.Module; items are catalogue rows, those added later behind them.

    reads_text: whether it can know an item by text alone    stand_in: how it knows an item that comes after training, in words
    """

    @property
    def reads_text(self) -> bool:
        return False

    @property
    def stand_in(self) -> str:
        return ""

    @property
    def remarks(self) -> Sequence[str]:
        """What a reader of its recommendations must know, such as a form that stands in for another."""
        return ()

    @property
    def num_rows(self) -> int:
        """I + 1, and the items that were added."""
        ...

    def scores(self, baskets: Baskets) -> Tensor:
        """(b, num_rows) float32 of all items, for what each of b people has; training need not know them."""
        ...

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        """What each of ``items`` (n,), which somebody has and no others, brings to the score of ``target``.

        Returns (n,), which add up to the score, and (n,) of it that comes by text, None where no text is read.
        """
        ...

    def item_vectors(self) -> Mapping[str, Tensor]:
        """(I + 1, D) by what they are, where it has such."""
        return {}

    def check(self) -> None:
        """Raise RunError, or what NumPy, SciPy and torch raise, where tensors that were read do not go together."""

    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S); no tensor is written into."""
        raise RunError("knows items by who has them alone")


def kept_module(stages: list[AnyStage]) -> nn.Module:
    """The module that a run keeps: the last stage's."""
    return stages[-1].module
