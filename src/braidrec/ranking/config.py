"""What every ranking model has in its [model] table, besides the settings of its backbone and its enhancers."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field as Setting

from braidrec.config import ModelConfig, RunConfig
from braidrec.layers.embedding import Initial
from braidrec.strict import Strict


class HistoryConfig(Strict):
    kind: Literal["recent", "semantic_topk"] = "recent"
    length: int = Setting(default=30, ge=1)
    mean: bool = True  # mean history as two extra fields, for backbones without a history of their own


class RankingConfig(ModelConfig):
    """The tables, and what of the log they read."""

    dim: int = Setting(default=32, ge=2)
    initial: Initial = "xavier"
    unknown_rate: float = Setting(default=0.01, ge=0.0, lt=1.0)
    statistics: bool = False  # time-causal counts and rates as one more field
    history: HistoryConfig = HistoryConfig()


def settings_of(config: RunConfig) -> RankingConfig:
    """The [model] table of a run of this task."""
    return cast(RankingConfig, config.model)
