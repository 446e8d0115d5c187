"""Item-kNN: items are alike where the same users have them; all neighbours count, small numbers are shrunk.

C_ij = G_ij / (sqrt(G_ii G_jj) + shrink), zero diagonal; scores x C
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.item_weights import ItemWeights, weights_tensors
from braidrec.collaborative.sizes import check_product
from braidrec.evaluation.closed_form import item_cosine
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.training.stages import AnyStage, Fitted


class ItemKNNConfig(Strict):
    shrink: NonNegativeFloat = 20.0
    memory_gib: PositiveFloat = 8.0  # what pairs of items may take


def stages(config: ItemKNNConfig, parts: Parts) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        check_product("item-knn", parts.graph.matrix, config.memory_gib)
        return weights_tensors(item_cosine(parts.graph.matrix, config.shrink))

    return [Fitted("fit", ItemWeights(parts.num_items), fit)]


SPEC = Spec(
    "item-knn",
    "item-kNN",
    ItemKNNConfig,
    stages,
    fitted=True,
    tried=({"shrink": 0.0}, {"shrink": 10.0}, {"shrink": 20.0}, {"shrink": 50.0}),
)
