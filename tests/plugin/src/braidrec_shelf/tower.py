"""Tower, a ranking backbone: y = MLP([fields ; extras])."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn

from braidrec.layers.mlp import MLP
from braidrec.ranking.contracts import BackboneConfig, Needs, RankingInput, Sizes
from braidrec.registry import Spec


class TowerConfig(BackboneConfig):
    width: PositiveInt = 16


class Tower(nn.Module):
    needs = Needs()

    def __init__(self, config: TowerConfig, sizes: Sizes):
        super().__init__()
        self.mlp = MLP((sizes.num_fields + sizes.num_extras) * sizes.dim, (config.width,), out=1)

    def forward(self, inputs: RankingInput) -> Tensor:
        logits: Tensor = self.mlp(inputs.all_fields.flatten(1)).squeeze(1)
        return logits


SPEC = Spec("tower", "Tower", TowerConfig, Tower, presets={"ours": {"width": 8}, "authors": {}})
