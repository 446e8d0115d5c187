"""What every method builds from: sizes, text, frequencies, and fresh experts on the chosen backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from braidrec.sequential.maps import FusedMap, IdMap, TextConfig, TextMap
from braidrec.sequential.model import Expert, Loss


@dataclass(frozen=True)
class Parts:
    """The data's side and the settings that all experts share; each call gives an expert with weights of its own.

    knowledge (I + 1, S) text vectors, None where the model reads no text or is loaded with its text reduced
    bucket (I + 1,) int64 frequency buckets 1..num_buckets, 0 for padding    untrained (I + 1,) bool met nowhere in training
    rare: catalogue rows of the coldest bucket that training did meet
    initial_std: of fresh id rows, None for Xavier-normal
    trained_softmax: only items met in training are candidates of the full cross-entropy
    """

    dim: int
    num_items: int
    bucket: Tensor
    num_buckets: int
    untrained: Tensor
    rare: Tensor
    make_encoder: Callable[[], nn.Module]
    loss: Loss
    trained_softmax: bool = False
    initial_std: float | None = None
    knowledge: Tensor | None = None
    semantic_width: int = 0

    @property
    def trained_only(self) -> Tensor | None:
        """(I + 1,) bool of the softmax's candidates; None for all items."""
        if not self.trained_softmax:
            return None
        trained = ~self.untrained
        trained[0] = False
        return trained

    @property
    def candidates(self) -> Tensor | None:
        """The same as catalogue rows (c,)."""
        trained = self.trained_only
        return None if trained is None else trained.nonzero().squeeze(1)

    def id_expert(self) -> Expert:
        return Expert(IdMap(self.num_items, self.dim, std=self.initial_std, rare=self.rare), self.make_encoder())

    def text_expert(self, config: TextConfig) -> Expert:
        return Expert(self._text(config), self.make_encoder())

    def fused_expert(
        self, config: TextConfig, *, fusion: Literal["concat", "add"] = "concat", unseen_by_text: bool = False
    ) -> Expert:
        """unseen_by_text: items that training never met take the stand-in id row at evaluation."""
        untrained = self.untrained if unseen_by_text else None
        ids = IdMap(self.num_items, self.dim, std=self.initial_std, rare=self.rare, untrained=untrained)
        return Expert(FusedMap(ids, self._text(config), fusion=fusion, dropout=config.dropout), self.make_encoder())

    def _text(self, config: TextConfig) -> TextMap:
        return TextMap(self.knowledge, self.semantic_width, self.dim, config)
