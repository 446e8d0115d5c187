"""iALS: factors of implicit feedback by alternating least squares over all cells (Hu, Koren and Volinsky, ICDM 2008).

    min sum_ui c_ui (p_ui - x_u y_i)^2 + sum_u r_u |x_u|^2 + sum_i r_i |y_i|^2,    p 1, c 1 + alpha where u has i, else 0, 1
    r_u = penalty (n_u + alpha_0 I)^frequency with alpha_0 = 1 / alpha: Rendle et al., RecSys 2022; frequency 0: penalty for all
One side's rows, the other side's factors Y fixed:    Y^T Y = Q diag(e) Q^T,  W = Y Q, W_u the rows of what u has
    A_u = Q (diag(e + r_u) + alpha W_u^T W_u) Q^T,  x_u = (1 + alpha) A_u^-1 Y_u^T 1
    n_u >= k:  Cholesky of A_u (k, k)    else:  x_u = (1 + alpha) Q D W_u^T (I + alpha W_u D W_u^T)^-1 1, D = diag(e + r_u)^-1
The second follows from the first by the push-through identity, so both are exact; rows of like length are solved as one batch.
A user's factor follows from the items alone, so somebody new is folded in as a known user is: no user factors are kept.
Explanation (Hu et al., section 5): the score is a sum over what u has, with weights that depend on all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.registry import Spec
from braidrec.strict import Length, Strict, Width
from braidrec.training.stages import AnyStage, Fitted

_CELLS = 1 << 19  # numbers of gathered factors at a time


class IALSConfig(Strict):
    """alpha: confidence of a pair above that of other cells    init: standard deviation of fresh factors times sqrt(k)"""

    factors: Width = 128
    penalty: PositiveFloat = 0.05
    alpha: PositiveFloat = 10.0
    frequency: NonNegativeFloat = 0.0
    sweeps: Length = 15
    init: PositiveFloat = 0.1


class IALS(nn.Module, MatrixModel):
    """factors (I + 1, k) of the items."""

    factors: Tensor

    def __init__(self, num_items: int, config: IALSConfig):
        super().__init__()
        self.num_items, self.config = num_items, config
        self.register_buffer("factors", None)

    @property
    def num_rows(self) -> int:
        return self.num_items + 1

    def scores(self, baskets: Baskets) -> Tensor:
        start, column = (part.cpu().numpy() for part in (baskets.start, baskets.item))
        return solve(start, column, self.factors, self.config) @ self.factors.T

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        config, own = self.config, self.factors[items]
        precision = self.factors.T @ self.factors + config.alpha * own.T @ own
        precision.diagonal().add_(penalties(np.array([len(items)]), self.num_items, config)[0])
        return (1 + config.alpha) * own @ torch.linalg.solve(precision, self.factors[target]), None

    def item_vectors(self) -> Mapping[str, Tensor]:
        return {"factors": self.factors}


def penalties(counts: np.ndarray[Any, Any], others: int, config: IALSConfig) -> Tensor:
    """(n,) r of rows with ``counts`` pairs, of a side that has ``others`` on the other one."""
    scaled = config.penalty * (counts + others / config.alpha) ** config.frequency
    return torch.from_numpy(scaled.astype(np.float32))


def solve(start: np.ndarray[Any, Any], column: np.ndarray[Any, Any], other: Tensor, config: IALSConfig) -> Tensor:
    """(n, k) factors of n rows of a CSR matrix, given the other side's (m, k); a row without a pair has zeros.

    Rows of like length are padded to the longest of their batch with a row of zeros, which changes nothing.
    """
    counts, width = np.diff(start), other.shape[1]
    values, turn = torch.linalg.eigh(other.T @ other)
    turned = torch.cat([other @ turn, other.new_zeros(1, width)])
    scale = 1 / (values.clamp_min(0) + penalties(counts, len(other) - 1, config).to(other.device)[:, None])
    found = other.new_zeros(len(counts), width)
    order = np.argsort(counts, kind="stable")
    first = int(np.searchsorted(counts[order], 1))
    while first < len(order):
        least = int(counts[order[first]])
        most = max(int(1.25 * least), least + 2)
        if least < width <= most:
            most = width - 1
        room = max(1, _CELLS // (most * width + min(most, width) ** 2))
        last = min(int(np.searchsorted(counts[order], most, side="right")), first + room, len(order))
        rows = order[first:last]
        longest = int(counts[rows[-1]])
        slots = start[rows][:, None] + np.arange(longest)
        real = np.arange(longest) < counts[rows][:, None]
        places = np.where(real, column[np.minimum(slots, len(column) - 1)], len(other))
        chosen = torch.from_numpy(rows).to(other.device)
        own = turned.index_select(0, torch.from_numpy(places.ravel()).to(other.device)).view(*places.shape, width)
        found[chosen] = _batch(own, scale[chosen], config.alpha)
        first = last
    return found @ turn.T


def _batch(own: Tensor, scale: Tensor, alpha: float) -> Tensor:
    """(b, k) solutions in Q's coordinates; own (b, n, k) gathered rows of W, scale (b, k) the diagonal of D."""
    count, longest, width = own.shape
    if longest >= width:
        precision = torch.baddbmm(torch.diag_embed(1 / scale), own.mT, own, alpha=alpha)
        factor = torch.linalg.cholesky(precision)
        return (1 + alpha) * torch.cholesky_solve(own.sum(1)[..., None], factor).squeeze(-1)
    scaled = own * scale[:, None]
    unit = torch.eye(longest, device=own.device).expand(count, -1, -1)
    factor = torch.linalg.cholesky(torch.baddbmm(unit, scaled, own.mT, alpha=alpha))
    ones = own.new_ones(count, longest, 1)
    return (1 + alpha) * (scaled.mT @ torch.cholesky_solve(ones, factor)).squeeze(-1)


def fit_factors(matrix: Any, config: IALSConfig, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(R, k) and (C, k) factors of a CSR matrix, begun from the global torch generator, ended with the columns."""
    columns = matrix.T.tocsr()
    size = (matrix.shape[1], config.factors)
    items = (torch.randn(size) * config.init / config.factors**0.5).to(device)
    items[torch.from_numpy(np.diff(columns.indptr) == 0).to(device)] = 0
    for _ in range(config.sweeps):
        users = solve(matrix.indptr, matrix.indices, items, config)
        items = solve(columns.indptr, columns.indices, users, config)
    return users, items


def stages(config: IALSConfig, parts: Parts) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        return {"factors": fit_factors(parts.graph.matrix, config, parts.device)[1].cpu()}

    return [Fitted("fit", IALS(parts.num_items, config), fit)]


SPEC = Spec(
    "ials",
    "iALS",
    IALSConfig,
    stages,
    fitted=True,
    tried=tuple({"factors": factors, "alpha": alpha} for factors in (64, 128) for alpha in (3.0, 10.0, 30.0)),
)
