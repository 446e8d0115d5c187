"""Multi-layer perceptron with the normalisation orders found in CTR work, and the one initialisation rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["none", "bn", "ln_post", "ln_pre"]
Part = TypeVar("Part", bound=nn.Module)


def initialise(module: Part) -> Part:
    """Xavier-normal weights and zero biases for every linear layer inside ``module``."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


@dataclass(frozen=True)
class Repeated:
    """(B, W) columns as the R rows that differ and which of them each row of the batch is.  rows (R, W), index (B,) int64"""

    rows: Tensor
    index: Tensor


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that also trains on a single row, which has no spread of its own: by the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and len(rows) < 2:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(rows)


def reads_batch_statistics(module: nn.Module) -> bool:
    """Whether what a row becomes in training depends on the other rows of its batch."""
    return any(isinstance(part, BatchNorm) for part in module.modules())


class MLP(nn.Module):
    """Hidden layers with ReLU; with ``out`` one more linear layer.  (B, n) -> (B, hidden[-1] or out).

    none: Linear-ReLU-dropout    bn: Linear-BatchNorm-ReLU-dropout    ln_pre: Linear-LayerNorm-ReLU-dropout
    ln_post: dropout on the input, then Linear-ReLU-LayerNorm (no affine, eps 1e-8)-dropout
    """

    def __init__(self, width: int, hidden: Sequence[int], *, out: int | None = None, norm: Norm = "none", dropout: float = 0.0):
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(dropout)] if norm == "ln_post" and dropout else []
        for size in hidden:
            layers.append(nn.Linear(width, size))
            if norm == "bn":
                layers.append(BatchNorm(size))
            elif norm == "ln_pre":
                layers.append(nn.LayerNorm(size))
            layers.append(nn.ReLU())
            if norm == "ln_post":
                layers.append(nn.LayerNorm(size, eps=1e-8, elementwise_affine=False))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        if out is not None:
            layers.append(nn.Linear(width, out))
        self.width = width if out is None else out
        self.layers = initialise(nn.Sequential(*layers))

    def forward(self, x: Tensor, leading: Repeated | None = None) -> Tensor:
        """leading: columns that stand before those of ``x``, of which few rows differ; the first layer reads each once."""
        if leading is None:
            out: Tensor = self.layers(x)
            return out
        first = self.layers[0]
        if not isinstance(first, nn.Linear):  # dropout of the input, drawn for every row
            return self(torch.cat([leading.rows.index_select(0, leading.index), x], dim=1))
        width = leading.rows.shape[1]
        own = F.linear(leading.rows, first.weight[:, :width]).index_select(0, leading.index)
        rest: Tensor = self.layers[1:](F.linear(x, first.weight[:, width:], first.bias) + own)
        return rest
