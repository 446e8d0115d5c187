"""Turbo-CF: a polynomial of the item graph, without any decomposition (Park, Shin and Shin, SIGIR 2024).

    R = D_u^-alpha X D_i^-(1 - alpha)    P = (R^T R)^power, element by element
    order 1    x P        order 2    x (2 P - P^2)        order 3    x (P + .01 (-P^3 + 10 P^2 - 29 P))
Orders 2 and 3 are the paper's polynomials; they are applied to a row, one product after another, so P alone is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat
from torch import Tensor

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.item_weights import ItemWeights, weights_tensors
from braidrec.collaborative.models.graph_filter import normalised
from braidrec.collaborative.sizes import check_product
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.training.stages import AnyStage, Fitted

# of P, P^2 and P^3
_POLYNOMIALS: Mapping[int, tuple[float, ...]] = {1: (1.0,), 2: (2.0, -1.0), 3: (1 - 0.29, 0.1, -0.01)}


class TurboCFConfig(Strict):
    alpha: float = Setting(default=0.5, ge=0, le=1)
    power: PositiveFloat = 0.7
    order: Literal[1, 2, 3] = 1
    memory_gib: PositiveFloat = 8.0  # what pairs of items may take


class TurboCF(ItemWeights):
    def __init__(self, num_items: int, order: int):
        super().__init__(num_items)
        self.polynomial = _POLYNOMIALS[order]

    def _scores(self, baskets: Baskets) -> Tensor:
        reached = super()._scores(baskets)
        found = self.polynomial[0] * reached
        for factor in self.polynomial[1:]:
            reached = reached @ self.dense if self.dense is not None else torch.from_numpy(reached.cpu().numpy() @ self._sparse)
            found = found + factor * reached.to(found.device)
        return found


def weights(matrix: Any, alpha: float, power: float) -> Any:
    """P, SciPy CSR."""
    smooth = normalised(matrix, alpha, 1 - alpha)
    found = (smooth.T @ smooth).tocsr()
    found.data **= power
    return found


def stages(config: TurboCFConfig, parts: Parts) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        check_product("turbo-cf", parts.graph.matrix, config.memory_gib)
        return weights_tensors(weights(parts.graph.matrix, config.alpha, config.power))

    return [Fitted("fit", TurboCF(parts.num_items, config.order), fit)]


SPEC = Spec(
    "turbo-cf",
    "Turbo-CF",
    TurboCFConfig,
    stages,
    fitted=True,
    tried=tuple({"alpha": alpha, "power": power} for alpha in (0.3, 0.5, 0.7) for power in (0.7, 1.0)),
)
