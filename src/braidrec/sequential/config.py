"""The keys of a sequence model's [model] table that no single backbone or method owns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field as Setting

from braidrec.config import ModelConfig
from braidrec.data.sequences import Windows
from braidrec.sequential.next_item import Loss
from braidrec.strict import LONGEST, WIDEST


class SequentialConfig(ModelConfig):
    """One model: a backbone, perhaps a method, and how both are trained to name the next item.

    windows: "last" trains on each user's latest ``length`` targets (PAD), "all" on every target
    trained_softmax: with full_ce, only items that training met, liked or not, are candidates; nothing pushes the others
        away
    own_negatives: a position's first negative is an item that its user met without a positive label, where there is one
    start_from: stage -> run directory whose stage of that name is taken over instead of being trained again
    """

    dim: int = Setting(default=128, ge=2, le=WIDEST)
    length: int = Setting(default=20, ge=1, le=LONGEST)
    windows: Windows = "last"
    negatives: int = Setting(default=1, ge=1, le=LONGEST)  # drawn per position, where a loss reads them
    own_negatives: bool = False
    loss: Loss = "bce"
    trained_softmax: bool = False
    initial_std: float | None = Setting(default=None, gt=0)  # of fresh id rows; None: Xavier-normal
    buckets: int = Setting(default=10, ge=1, le=LONGEST)
    monitor: Literal["hr@10", "ndcg@10"] = "hr@10"
    start_from: Mapping[str, str] = {}

    def givers(self) -> Mapping[str, str]:
        return self.start_from

    def with_givers(self, givers: Mapping[str, str]) -> Self:
        return self.model_copy(update={"start_from": dict(givers)})
