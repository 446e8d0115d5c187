"""Graph filters: scores are a user's row smoothed over the graph of items that share users; nothing is learned by gradient.

    R = D_u^-1/2 X D_i^-1/2
    graph-filter    x R^T R
    gf-cf           x R^T R + alpha x D_i^-1/2 V V^T D_i^1/2, V (I, k) the leading right singular vectors of R
GF-CF: Shen et al., CIKM 2021, its linear filter and its ideal low-pass filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.item_weights import ItemWeights, weights_tensors
from braidrec.collaborative.sizes import check_product
from braidrec.evaluation.closed_form import gram_times, leading_vectors
from braidrec.registry import Spec
from braidrec.strict import Strict, Width, because
from braidrec.training.stages import AnyStage, Fitted


class GraphFilterConfig(Strict):
    memory_gib: PositiveFloat = 8.0  # what pairs of items may take


class GFCFConfig(Strict):
    """factors: k, at most the number of items    alpha: of the low-pass filter"""

    factors: Width = 128
    alpha: NonNegativeFloat = 0.3
    memory_gib: PositiveFloat = 8.0  # what pairs of items may take

    def idle(self) -> Mapping[str, str]:
        return because((not self.alpha, "alpha = 0", "factors"))


def normalised(matrix: Any, user: float = 0.5, item: float = 0.5) -> Any:
    """D_u^-user X D_i^-item, CSR; rows and columns of zeros stay."""
    from scipy.sparse import csr_array

    degrees = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
    left, right = (np.maximum(degree, 1) ** -power for degree, power in zip(degrees, (user, item), strict=True))
    values = matrix.data * left.repeat(degrees[0]) * right[matrix.indices]
    return csr_array((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _stages(name: str, parts: Parts, memory_gib: float, alpha: float = 0.0, factors: int = 0) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        matrix = parts.graph.matrix
        check_product(name, matrix, memory_gib)
        smooth = normalised(matrix)
        tensors = weights_tensors(smooth.T @ smooth)
        if alpha:
            _, vectors = leading_vectors(gram_times(smooth), matrix.shape[1], min(factors, parts.num_items))
            root = torch.from_numpy(np.sqrt(np.maximum(parts.graph.item_counts, 1)).astype(np.float32))[:, None]
            tensors |= {"left": alpha * vectors / root, "right": vectors * root}
        return tensors

    return [Fitted("fit", ItemWeights(parts.num_items), fit)]


def filter_stages(config: GraphFilterConfig, parts: Parts) -> list[AnyStage]:
    return _stages("graph-filter", parts, config.memory_gib)


def gf_cf_stages(config: GFCFConfig, parts: Parts) -> list[AnyStage]:
    return _stages("gf-cf", parts, config.memory_gib, config.alpha, config.factors)


GRAPH_FILTER = Spec("graph-filter", "graph filter", GraphFilterConfig, filter_stages, fitted=True)
SPEC = Spec(
    "gf-cf",
    "GF-CF",
    GFCFConfig,
    gf_cf_stages,
    fitted=True,
    tried=tuple({"factors": factors, "alpha": alpha} for factors in (64, 128, 256) for alpha in (0.1, 0.3, 1.0)),
)
