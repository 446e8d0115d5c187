"""Text-kNN: items are alike where their texts are; behaviour says only what somebody has.

S = E E^T, E unit rows of centred text vectors; W = max(S, 0)^power, zero diagonal; scores x W
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import PositiveFloat
from torch import Tensor

from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.item_weights import TextSide, TextWeights
from braidrec.collaborative.sizes import check_bytes
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.training.stages import AnyStage, Fitted


class TextKNNConfig(Strict):
    power: PositiveFloat = 3.0
    memory_gib: PositiveFloat = 8.0  # the largest item-item matrix


class TextKNN(TextWeights):
    def __init__(self, num_items: int, power: float):
        super().__init__(num_items)
        self.power = power

    def text_column(self, vectors: Tensor) -> Tensor:
        return sharpened(self.text.vectors @ vectors.T, self.power)

    def text_among(self, vectors: Tensor) -> Tensor:
        return sharpened(vectors @ vectors.T, self.power)

    def text_shares(self, items: Tensor, target: int) -> Tensor | None:
        return self.column_of(items, target)


def sharpened(similarity: Tensor, power: float) -> Tensor:
    """max(S, 0)^power, in the memory of S."""
    return similarity.clamp_min_(0).pow_(power)


def stages(config: TextKNNConfig, parts: Parts) -> list[AnyStage]:
    module = TextKNN(parts.num_items, config.power)

    def fit() -> Mapping[str, Tensor]:
        assert parts.text is not None
        check_bytes("text-knn", parts.num_items, 1, config.memory_gib, "a model of behaviour such as gf-cf")
        side = TextSide.tensors(parts.text)
        weights = sharpened(side["text.vectors"] @ side["text.vectors"].T, config.power)
        weights.diagonal().zero_()
        return {"dense": weights, **side}

    return [Fitted("fit", module, fit)]


SPEC = Spec(
    "text-knn",
    "text-kNN",
    TextKNNConfig,
    stages,
    reads_text=True,
    fitted=True,
    tried=({"power": 2.0}, {"power": 3.0}, {"power": 5.0}),
)
