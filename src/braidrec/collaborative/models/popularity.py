"""Popularity: who has most comes first, whoever asks.  The floor of every table."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.training.stages import AnyStage, Fitted


class PopularityConfig(Strict):
    """Nothing to set."""


class Popularity(nn.Module, MatrixModel):
    """counts (I + 1,) float32: users of each item."""

    counts: Tensor

    def __init__(self, num_items: int):
        super().__init__()
        self.num_items = num_items
        self.register_buffer("counts", None)

    @property
    def num_rows(self) -> int:
        return self.num_items + 1

    def scores(self, baskets: Baskets) -> Tensor:
        return self.counts.repeat(len(baskets), 1)

    @property
    def unexplained(self) -> str:
        return "popularity gives everybody the same scores, so nothing that somebody has is behind them"


def stages(config: PopularityConfig, parts: Parts) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        return {"counts": torch.from_numpy(parts.graph.item_counts).float()}

    return [Fitted("fit", Popularity(parts.num_items), fit)]


SPEC = Spec("popularity", "popularity", PopularityConfig, stages, fitted=True)
