"""PNN: products of pairs beside the fields, all into one MLP (Qu et al., ICDM 2016).

    inner: p = (<v_i, v_j>)_{i<j}, by rows of the upper triangle
    outer: p = (sum_i v_i) (sum_i v_i)^T, sec. III-B's superposition of all outer products
    y = MLP([v_1 ; ... ; v_T ; p]), with no first-order term
Departures: the products enter as they are, where the paper weighs them by factored matrices inside the first layer.  On request
``extras_meet`` keeps products of two extras out ("ids"), or all products with extras ("none"): DisCo's patterns have norms
around 1 where embeddings have .1.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.interactions import pair_products, pairs_of
from braidrec.layers.mlp import MLP, Norm
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width


class PNNConfig(BackboneConfig):
    product: Literal["inner", "outer"] = "inner"
    extras_meet: Literal["all", "ids", "none"] = "all"  # of outer products "ids" is "all": the sum knows no pairs
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def has_mlp(self) -> bool:
        return True

    @property
    def mixes_extras(self) -> bool:
        return self.extras_meet != "none"

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        if not beside.extras:
            found["extras_meet"] = NO_EXTRAS
        elif self.product == "outer" and self.extras_meet == "ids":
            found["extras_meet"] = "product = 'outer' sums all fields before they meet, so it knows no pairs ('none' works)"
        return found


class PNN(nn.Module):
    """A single field has no pair, and so no inner product: what is left is the MLP."""

    needs = Needs()
    _pairs: Tensor

    def __init__(self, config: PNNConfig, sizes: Sizes):
        super().__init__()
        self.outer, self.meeting = config.product == "outer", sizes.num_fields
        meet: Literal["all", "ids"] = "ids" if config.extras_meet == "ids" else "all"
        if config.extras_meet != "none":
            self.meeting += sizes.num_extras
        self.register_buffer("_pairs", pairs_of(sizes.num_fields, self.meeting - sizes.num_fields, meet), persistent=False)
        products = sizes.dim**2 if self.outer else self._pairs.shape[1]
        width = sizes.side_by_side() + products
        self.mlp = MLP(width, config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        fields = inputs.all_fields
        flat, products = inputs.before_deep(fields.flatten(1)), self._products(fields[:, : self.meeting])
        out: Tensor = self.mlp(torch.cat([flat, products], dim=1)).squeeze(1)
        return out

    def _products(self, fields: Tensor) -> Tensor:
        if not self.outer:
            return pair_products(fields, self._pairs)
        total = fields.sum(dim=1)
        return (total[:, :, None] * total[:, None, :]).flatten(1)


SPEC = Spec(
    "pnn",
    "PNN",
    PNNConfig,
    PNN,
    presets={"ours": {}, "paper": {}, "authors": {"norm": "ln_pre"}, "textbook": {}},
)
