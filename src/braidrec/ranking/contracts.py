"""The two slots of a ranking model: a backbone scores fields, a pattern source adds some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from braidrec.data.batches import RankingBatch
from braidrec.layers.attention import gather
from braidrec.layers.embedding import FieldEmbedding, ItemTable
from braidrec.objectives.step import Losses


@dataclass(frozen=True)
class Needs:
    """What a backbone asks the embedding layer for, beyond the fields themselves."""

    linear: bool = False  # one weight per id: RankingInput.linear
    history: bool = False  # the user's behaviours: RankingInput.history


@dataclass(frozen=True)
class BehaviourInput:
    """A candidate and its user's behaviours, each distinct item embedded once.

    target (B, F_I, D) the candidate's id fields      items (n, F_I, D) the distinct items' fields
    index (B, K) int64 into items, mask (B, K) bool   signals (B, K) int rows of the rating or label
    """

    target: Tensor
    items: Tensor
    index: Tensor
    mask: Tensor
    signals: Tensor
    embed: FieldEmbedding

    def mix_signals(self, weights: Tensor) -> Tensor:
        """Label vectors pooled by ``weights`` (B, K) -> (B, D)."""
        return self.embed.signal_mix(self.signals, weights[:, None])[:, 0]


@dataclass(frozen=True)
class RankingInput:
    """fields (B, F, D), extras (B, E, D); linear (B, F) and history when the backbone's needs ask for them."""

    fields: Tensor
    extras: Tensor
    linear: Tensor | None = None
    history: BehaviourInput | None = None

    @property
    def all_fields(self) -> Tensor:
        """(B, F + E, D)."""
        return torch.cat([self.fields, self.extras], dim=1) if self.extras.shape[1] else self.fields


class Backbone(Protocol):
    """Logits (B,) of a RankingInput; no sigmoid inside."""

    needs: Needs

    def __call__(self, inputs: RankingInput) -> Tensor: ...


def no_losses() -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Patterns:
    """extras (B, E, D) stand beside the fields.

    losses: the source's own unweighted losses, called after its estimators have stepped
    estimators: the learning loss of its estimators on detached inputs, None when it has none
    monitors: detached scalars for the run's log
    """

    extras: Tensor
    losses: Losses = no_losses
    estimators: Losses | None = None
    monitors: Mapping[str, Tensor] = field(default_factory=dict)


class PatternSource(Protocol):
    """Adds ``num_extras`` fields of width D to every sample."""

    num_extras: int

    def __call__(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns: ...


class MeanHistory(torch.nn.Module):
    """The plain history of the papers' baselines: mean item-id vector and mean label vector of the behaviours (E = 2)."""

    num_extras = 2

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        mask = batch.history.mask
        weights = mask / mask.sum(dim=1, keepdim=True).clamp_min(1)
        pooled = weights[:, None, :] @ gather(items.fields[:, 0], items.history)
        return Patterns(torch.cat([pooled, embed.signal_mix(batch.history.signals, weights[:, None])], dim=1))
