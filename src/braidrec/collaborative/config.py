"""The keys of a collaborative model's [model] table that no single model owns."""

from __future__ import annotations

from typing import Literal

from braidrec.config import ModelConfig


class CollaborativeConfig(ModelConfig):
    """One model of who has what.  monitor: the validation metric that is kept beside a fitted model."""

    monitor: Literal["recall@20", "ndcg@20"] = "recall@20"
