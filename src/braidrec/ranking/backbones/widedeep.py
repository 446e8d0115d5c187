"""Wide & Deep: first-order weights beside an MLP (Cheng et al., DLRS 2016).

    y = sum_f w[x_f] + MLP([v_1 ; ... ; v_T])
Extras enter the MLP; the wide side is over ids alone.
Departures: no crosses made by hand on the wide side, which no data set brings; one optimiser for both sides, where the paper
trains the wide one by FTRL.
"""

from __future__ import annotations

from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.mlp import MLP, Norm
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import Beside, Idle, MLPConfig, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width


class WideDeepConfig(MLPConfig):
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    def idle_beside(self, beside: Beside) -> Idle:
        return idle_layers(self.mlp, self.norm, self.dropout)


class WideDeep(nn.Module):
    needs = Needs(linear=True, mixed=True)

    def __init__(self, config: WideDeepConfig, sizes: Sizes):
        super().__init__()
        self.mlp = MLP(sizes.side_by_side(), config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        assert inputs.linear is not None
        deep: Tensor = self.mlp(inputs.columns, inputs.kept).squeeze(1)
        return inputs.linear.sum(dim=1) + deep


SPEC = Spec(
    "widedeep",
    "Wide & Deep",
    WideDeepConfig,
    WideDeep,
    presets={"ours": {}, "paper": {}, "authors": {"norm": "ln_post"}, "textbook": {}},
)
