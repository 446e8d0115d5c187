"""AutoInt: self-attention over the fields beside an MLP (Song et al., CIKM 2019).

    y = Linear([o_1 ; ... ; o_T]) + MLP([v_1 ; ... ; v_T]) (+ sum_f w[x_f]),  o = the last attention layer's fields
The form with an MLP is the paper's AutoInt+.  The residual is a projection ("always"), as in the DisCo authors' code, or only
where widths differ ("differing"), as in the paper.
Departures: scores are divided by the root of a head's width, which the paper does not do (``scale``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.interactions import FieldAttention
from braidrec.layers.mlp import MLP, Norm, initialise
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import BackboneConfig, Beside, Idle, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Depth, Width


class AutoIntConfig(BackboneConfig):
    layers: Depth = 1
    heads: Depth = 4
    head_width: Width = 8
    scale: bool = True
    projection: Literal["always", "differing"] = "always"
    linear: bool = False
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def has_mlp(self) -> bool:
        return True

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        if self.layers == 1 and self.heads * self.head_width != beside.dim:
            found["projection"] = "the one layer is heads * head_width wide and fields model.dim, so its residual is projected"
        return found


class AutoInt(nn.Module):
    def __init__(self, config: AutoIntConfig, sizes: Sizes):
        super().__init__()
        self.needs = Needs(linear=config.linear)
        count, total = sizes.num_fields + sizes.num_extras, config.heads * config.head_width
        widths = [sizes.dim, *(total for _ in range(config.layers - 1))]
        self.attention = nn.Sequential(*(self._layer(config, width) for width in widths))
        self.head = initialise(nn.Linear(count * total, 1))
        self.mlp = MLP(sizes.side_by_side(), config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    @staticmethod
    def _layer(config: AutoIntConfig, width: int) -> FieldAttention:
        identity = config.projection == "differing"
        return FieldAttention(width, config.heads, config.head_width, scale=config.scale, identity=identity)

    def forward(self, inputs: RankingInput) -> Tensor:
        fields = inputs.all_fields
        attended: Tensor = self.head(self.attention(fields).flatten(1)).squeeze(1)
        deep: Tensor = self.mlp(inputs.before_deep(fields.flatten(1))).squeeze(1)
        return attended + deep if inputs.linear is None else attended + deep + inputs.linear.sum(dim=1)


SPEC = Spec(
    "autoint",
    "AutoInt",
    AutoIntConfig,
    AutoInt,
    presets={
        "ours": {},
        "paper": {},
        "authors": {"norm": "ln_post"},
        "textbook": {"layers": 3, "heads": 2, "head_width": 20, "scale": False, "projection": "differing"},
    },
)
