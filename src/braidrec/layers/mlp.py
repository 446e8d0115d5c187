"""Multi-layer perceptron with the normalisation orders found in CTR work, and the one initialisation rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.layers.kept import ANEW, Anew

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
    """(B, W) columns as the R rows that differ and which of them each row of the batch is.  rows (R, W), index (B,) int64

    same: whether the rows are the same ones in every batch, such as those of a catalogue
    """

    rows: Tensor
    index: Tensor
    same: bool = False

    def dense(self) -> Tensor:
        return self.rows.index_select(0, self.index)


@dataclass(frozen=True)
class Mixed:
    """(B, W) columns as few numbers of each row times what follows from weights alone.  rows (B, w), basis (w, W)

    dense: the columns themselves, by the way that makes them fastest
    """

    rows: Tensor
    basis: Tensor
    dense: Callable[[], Tensor]


Columns = Tensor | Repeated | Mixed


def dense(columns: Columns) -> Tensor:
    """(B, W)"""
    return columns if isinstance(columns, Tensor) else columns.dense()


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that also trains on a single row, which has no spread of its own: by the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and len(rows) < 2:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(rows)


def reads_batch_statistics(module: nn.Module) -> bool:
    """Whether what a row becomes in training depends on the other rows of its batch, by this BatchNorm or torch's own."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


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

    def forward(self, x: Tensor | Sequence[Columns], kept: Anew = ANEW) -> Tensor:
        """x: (B, n), or columns that stand side by side, which the first layer reads in the form that they come in.

        Of rows that repeat it reads each once, and of `Mixed` ones it takes their few numbers, its weights joined with theirs.
        kept: by which `Mixed` columns and those that are ``same`` in every batch are met with weights made once
        """
        if isinstance(x, Tensor):
            out: Tensor = self.layers(x)
            return out
        rest = list(self.layers)
        while isinstance(rest[0], nn.Dropout) and not self.training:
            rest.pop(0)
        if not isinstance(rest[0], nn.Linear) or all(isinstance(part, Tensor) for part in x):
            # dropout of the input is drawn for every row
            return self.forward(torch.cat([dense(part) for part in x], dim=1))
        hidden = self._first(rest[0], x, kept)
        for layer in rest[1:]:
            hidden = layer(hidden)
        return hidden

    def _first(self, layer: nn.Linear, x: Sequence[Columns], kept: Anew) -> Tensor:
        """What the first layer makes of columns in their own forms."""
        rows: list[Tensor] = []  # (B, w) each, and where the layer meets them
        places: list[tuple[int, int, Tensor | None]] = []
        added: list[Repeated] = []  # what it makes of columns by itself
        at = 0
        for part in x:
            width = (
                part.basis.shape[1] if isinstance(part, Mixed) else (part if isinstance(part, Tensor) else part.rows).shape[1]
            )
            first, at = at, at + width
            if isinstance(part, Repeated):
                made = partial(F.linear, part.rows, layer.weight[:, first:at])
                own = kept.of(layer, f"columns from {first}", made) if part.same else made()
                added.append(Repeated(own, part.index))
            else:
                rows.append(part if isinstance(part, Tensor) else part.rows)
                places.append((first, at, None if isinstance(part, Tensor) else part.basis))
        form = [(first, last, basis is None) for first, last, basis in places]
        weight = kept.of(layer, f"weight of {form}", lambda: _met(layer.weight, places))
        joined = torch.cat(rows, dim=1)
        if not kept.still:
            hidden = F.linear(joined, weight, layer.bias)
            for part in added:
                hidden = hidden + part.dense()
            return hidden
        shift: Tensor = sum((part.rows[0] for part in added if len(part.rows) == 1), layer.bias)  # of all rows alike
        several = [part.dense() for part in added if len(part.rows) > 1]
        if not several:
            return F.linear(joined, weight, shift)
        hidden = several[0].addmm_(joined, weight.T)
        for other in (*several[1:], shift):
            hidden += other
        return hidden


def _met(weight: Tensor, places: Sequence[tuple[int, int, Tensor | None]]) -> Tensor:
    """The weights (h, n) of a layer as columns in other forms meet them, (h, w); a view where the columns are as they were."""
    if all(basis is None for _, _, basis in places) and all(one[1] == other[0] for one, other in pairwise(places)):
        return weight[:, places[0][0] : places[-1][1]]
    return torch.cat(
        [weight[:, first:last] if basis is None else weight[:, first:last] @ basis.T for first, last, basis in places], dim=1
    )
