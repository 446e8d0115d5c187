"""What every method builds from: sizes, text, frequencies, and fresh experts on the chosen backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from braidrec.layers.text import TextTable
from braidrec.sequential.maps import FusedMap, IdMap, TextConfig, TextMap
from braidrec.sequential.next_item import Expert, Loss


@dataclass(frozen=True)
class Parts:
    """The data's side and the settings that all experts share; each call gives an expert with weights of its own.

    counts (I + 1,) int64 training events of each item    bucket (I + 1,) int64 frequency buckets 1..num_buckets, 0 for padding
    make_encoder: a fresh encoder of the backbone, an nn.Module, drawn from the global torch generator
    initial_std: of fresh id rows, None for Xavier-normal
    trained_softmax: only items met in training are candidates of the full cross-entropy
    knowledge: text vectors of I + 1 rows, one table for all; None where the model reads no text or is loaded with its text
    reduced, of vectors that were ``semantic_width`` wide
    disliked (n,) int64 catalogue rows that training met without a positive label: never a target, but to be ranked below
    """

    dim: int
    counts: Tensor
    bucket: Tensor
    num_buckets: int
    make_encoder: Callable[[], nn.Module]
    loss: Loss
    trained_softmax: bool = False
    initial_std: float | None = None
    knowledge: TextTable | None = None
    semantic_width: int = 0
    disliked: Tensor | None = None

    @property
    def num_items(self) -> int:
        return len(self.counts) - 1

    @cached_property
    def untrained(self) -> Tensor:
        """(I + 1,) bool: met nowhere in training."""
        untrained = self.counts == 0
        untrained[0] = False
        return untrained

    @cached_property
    def rare(self) -> Tensor:
        """Catalogue rows of the coldest bucket that training did meet."""
        met = self.counts > 0
        rare = ((self.bucket == int(self.bucket.max())) & met).nonzero().squeeze(1)
        # a log may be so small that the coldest bucket holds unmet items alone
        return rare if len(rare) else met.nonzero().squeeze(1)

    @property
    def candidates(self) -> Tensor | None:
        """(c,) catalogue rows that the full cross-entropy knows; None for all items."""
        met = self.counts > 0
        if self.disliked is not None:
            met[self.disliked] = True
        return met.nonzero().squeeze(1) if self.trained_softmax else None

    def id_expert(self) -> Expert[IdMap]:
        return Expert(IdMap(self.num_items, self.dim, std=self.initial_std, rare=self.rare), self.make_encoder())

    def text_expert(self, config: TextConfig) -> Expert[TextMap]:
        return Expert(self._text(config), self.make_encoder())

    def fused_expert(
        self, config: TextConfig, *, fusion: Literal["concat", "add"] = "concat", unseen_by_text: bool = False
    ) -> Expert[FusedMap]:
        """unseen_by_text: items that training never met take the stand-in id row at evaluation."""
        untrained = self.untrained if unseen_by_text else None
        ids = IdMap(self.num_items, self.dim, std=self.initial_std, rare=self.rare, untrained=untrained)
        return Expert(FusedMap(ids, self._text(config), fusion=fusion, dropout=config.dropout), self.make_encoder())

    def _text(self, config: TextConfig) -> TextMap:
        return TextMap(self.knowledge, self.semantic_width, self.dim, config)
