"""From a run's config and its data to the stages of a sequence model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.data.popularity import frequency_buckets, train_counts
from braidrec.data.sequences import disliked, training_ends
from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable
from braidrec.sequential.config import SequentialConfig
from braidrec.sequential.contracts import EncoderSizes, StageModule
from braidrec.sequential.maps import xavier_std
from braidrec.sequential.parts import Parts
from braidrec.sequential.stages import plain_stages
from braidrec.training.stages import AnyStage

_ROWS = 4096  # of text vectors checked at a time


def settings_of(config: RunConfig) -> SequentialConfig:
    """The [model] table of a run of this task."""
    return cast(SequentialConfig, config.model)


def make_parts(config: RunConfig, dataset: Dataset, text: Tensor | NDArray[np.floating[Any]] | None) -> Parts:
    """text (I + 1, S) vectors; None where the model reads no text.

    Raises DataError for a split without sequences, ConfigError for a vector that is no number.
    """
    counts = torch.from_numpy(train_counts(dataset.followed.log, training_ends(dataset.followed), dataset.num_items))
    vectors = None if text is None else torch.as_tensor(text)
    row = None if vectors is None else _first_odd(vectors)
    if row is not None:
        raise ConfigError(
            f"the text vector of item '{dataset.item_ids[row - 1]}' holds NaN or infinity; build the knowledge base again"
        )
    below = None if dataset.followed is dataset else torch.from_numpy(np.unique(disliked(dataset)[1])).long()
    return parts_of(config, counts, text=TextTable.of(vectors), below=below)


def parts_of(
    config: RunConfig,
    counts: Tensor,
    bucket: Tensor | None = None,
    *,
    text: TextTable | None = None,
    semantic_width: int = 0,
    below: Tensor | None = None,
) -> Parts:
    """Parts without a data set: of a saved model, or of a made-up catalogue.

    counts (I + 1,) int64 training events of each item    bucket (I + 1,) int64; None: cut from the counts
    semantic_width: of the text that a saved model was trained on    below: `Parts.disliked`
    """
    settings, backbone = settings_of(config), config.chosen.backbone
    std = xavier_std(len(counts) - 1, settings.dim) if settings.initial_std is None else settings.initial_std
    sizes = EncoderSizes(settings.dim, settings.length, std)
    if bucket is None:
        bucket = torch.from_numpy(frequency_buckets(counts.numpy(), settings.buckets)).long()
    return Parts(
        dim=settings.dim,
        counts=counts,
        bucket=bucket,
        num_buckets=settings.buckets,
        make_encoder=lambda: backbone.build(settings.backbone, sizes),
        loss=settings.loss,
        trained_softmax=settings.trained_softmax,
        initial_std=settings.initial_std,
        knowledge=text,
        semantic_width=semantic_width,
        disliked=below,
    )


def _first_odd(vectors: Tensor) -> int | None:
    """The first row that holds NaN or infinity."""
    for first, part in enumerate(vectors.split(_ROWS)):
        if not bool(torch.isfinite(part).all()):
            return first * _ROWS + int((~torch.isfinite(part)).any(dim=1).nonzero()[0])
    return None


def build_stages(config: RunConfig, parts: Parts) -> Sequence[AnyStage]:
    """The training stages in order, those that ``start_from`` names included.

    Weights are drawn from the global torch generator: seed it first.  Raises ConfigError for two methods at once, and for a
    text model without a knowledge base.
    """
    settings, chosen = settings_of(config), config.chosen
    if len(chosen.enhancers) > 1:
        names = [spec.name for spec in chosen.enhancers]
        raise ConfigError(
            f"enhance = {', '.join(names)}: a method for sequence models is a plan of stages of its own, so a run takes one; "
            f"choose {' or '.join(names)}"
        )
    if config.backbone in chosen.task.models:  # a whole model plans its stages like a method
        return cast(Sequence[AnyStage], chosen.backbone.build(settings.backbone, parts))
    for method in chosen.enhancers:
        return cast(Sequence[AnyStage], method.build(settings.of(method.name), parts))
    return plain_stages(parts)


def kept_module(stages: Sequence[AnyStage]) -> nn.Module:
    """The module that a run keeps: the last stage's.  Raises ConfigError where it does not rank."""
    last = stages[-1]
    if cast(StageModule, last.module).ranks() is None:
        raise ConfigError(
            f"the last stage '{last.name}' trains a {type(last.module).__name__}, which does not rank the catalogue; "
            "a method ends with a NextItemModel"
        )
    return last.module


def build_model(config: RunConfig, parts: Parts) -> nn.Module:
    """The module that a run keeps, untrained."""
    return kept_module(build_stages(config, parts))
