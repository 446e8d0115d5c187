"""What every ranking model has in its [model] table, besides the settings of its backbone and its enhancers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self, cast

from pydantic import Field as Setting

from braidrec.config import ModelConfig, RunConfig
from braidrec.data.splits import KNOWLEDGE
from braidrec.evaluation.by_user import UserMetric
from braidrec.layers.embedding import Initial
from braidrec.ranking.parts import BackboneConfig, Beside, SourceConfig
from braidrec.strict import LONGEST, WIDEST, Strict


class HistoryConfig(Strict):
    """What of a user's past a model reads, and in which order it learns.

    run: how many samples of one user follow one another in training, sharing a window of the past, runs shuffled; 1: samples in
    any order, each with a window of its own.  Predictions are the same either way
    """

    kind: Literal["recent", "semantic_topk"] = "recent"
    length: int = Setting(default=30, ge=1, le=LONGEST)
    run: int = Setting(default=1, ge=1, le=LONGEST)
    mean: bool = True  # mean history as two extra fields, for backbones without a history of their own


Monitor = Literal["auc", "log_loss", UserMetric]
TrainOn = Literal["train", "knowledge+train"]


class RankingConfig(ModelConfig):
    """The tables, what of the log they read, and what of validation chooses the weights.

    monitor: AUC or log loss of all validation rows, or Recall, HR or nDCG within k of each user's own rows, as in reports
    train_on: the part of the split that the model learns to rank on, or with all older ones, of a knowledge split
    start_from: stage -> run directory whose stage of that name is taken over instead of being trained again
    """

    dim: int = Setting(default=32, ge=2, le=WIDEST)
    initial: Initial = "xavier"
    unknown_rate: float = Setting(default=0.01, ge=0.0, lt=1.0)
    statistics: bool = False  # time-causal counts and rates as one more field
    rates: bool = False  # time-causal rates of items, users, and users with item fields, as one more
    history: HistoryConfig = HistoryConfig()
    monitor: Monitor = "auc"
    train_on: TrainOn = "train"
    start_from: Mapping[str, str] = {}

    @property
    def rows(self) -> str:
        """What is trained on, as a split names it."""
        return "train" if self.train_on == "train" else "+".join((*KNOWLEDGE, "train"))

    def all_idle(self, enhancers: Mapping[str, Strict]) -> Mapping[str, str]:
        backbone = BackboneConfig.of(self.backbone)
        sources = {name: SourceConfig.of(own) for name, own in enhancers.items()}
        places = {source.takes_place_of for source in sources.values()} - {"nothing"}
        mean = self.history.mean and backbone.takes_mean
        # history.mean = false is no such key: a model that has no mean history anyway is what it asks for
        extras = mean or not all(source.deep for source in sources.values())
        beside = Beside(self.dim, extras, backbone.mixes_extras, "history" not in places, mean, backbone.pools_history)
        reads = (mean and not places) or (beside.pooled and beside.own_history)
        found = dict(backbone.unread(beside))
        if not reads and not any(source.reads_history for source in sources.values()):
            found |= dict.fromkeys(("history.kind", "history.length"), "nothing of this model reads the history")
        found |= {f"backbone.{key}": why for key, why in backbone.idle_beside(beside).items()}
        return found | {f"{name}.{key}": why for name, own in sources.items() for key, why in own.idle_beside(beside).items()}

    def givers(self) -> Mapping[str, str]:
        return self.start_from

    def with_givers(self, givers: Mapping[str, str]) -> Self:
        return self.model_copy(update={"start_from": dict(givers)})


def settings_of(config: RunConfig) -> RankingConfig:
    """The [model] table of a run of this task."""
    return cast(RankingConfig, config.model)
