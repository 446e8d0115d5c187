"""DCN: explicit feature crosses of bounded degree beside an MLP.

    vector (v1): x_{l+1} = x_0 (w_l . x_l) + b_l + x_l                        Wang et al., ADKDD 2017
    matrix (v2): x_{l+1} = x_0 * (W_l x_l + b_l) + x_l                        Wang et al., WWW 2021
    mix:         x_{l+1} = x_l + sum_e G_e(x_l) x_0 * (U_e tanh(C_e tanh(V_e^T x_l)) + b_l)   ibid., low-rank experts
    y = Linear([x_L ; MLP(x_0)]), x_0 = all fields and extras side by side
Departure: mix starts from Xavier-normal factors, not N(0, 1), which saturates both tanh.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.interactions import CrossMatrix, CrossMix, CrossVector
from braidrec.layers.mlp import MLP, Norm, initialise
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import BackboneConfig, Beside, Idle, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Depth, Width


class DCNConfig(BackboneConfig):
    variant: Literal["v1", "v2", "mix"] = "mix"
    layers: Depth | None = None  # 3 for v1 and v2, 4 for mix
    experts: Depth = 2
    rank: Width = 8
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def has_mlp(self) -> bool:
        return True

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        if self.variant != "mix":
            found |= dict.fromkeys(("experts", "rank"), f"variant = '{self.variant}' has no experts")
        return found


class DCN(nn.Module):
    needs = Needs()

    def __init__(self, config: DCNConfig, sizes: Sizes):
        super().__init__()
        width = (sizes.num_fields + sizes.num_extras) * sizes.dim
        layers = config.layers or (4 if config.variant == "mix" else 3)
        self.cross: nn.Module
        if config.variant == "v1":
            self.cross = CrossVector(width, layers)
        elif config.variant == "v2":
            self.cross = CrossMatrix(width, layers)
        else:
            self.cross = CrossMix(width, layers, config.experts, config.rank)
        self.mlp = MLP(sizes.side_by_side(), config.mlp, norm=config.norm, dropout=config.dropout)
        self.head = initialise(nn.Linear(width + self.mlp.width, 1))

    def forward(self, inputs: RankingInput) -> Tensor:
        flat = inputs.all_fields.flatten(1)
        out: Tensor = self.head(torch.cat([self.cross(flat), self.mlp(inputs.before_deep(flat))], dim=1)).squeeze(1)
        return out


SPEC = Spec(
    "dcn",
    "DCN",
    DCNConfig,
    DCN,
    presets={
        "ours": {"variant": "mix"},
        "paper": {"variant": "mix"},
        "authors": {"variant": "mix", "norm": "ln_post"},
        "textbook": {"variant": "v1"},
    },
)
