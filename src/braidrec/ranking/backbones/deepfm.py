"""DeepFM: a factorisation machine and an MLP over the same embeddings (Guo et al., IJCAI 2017).

    y = b + sum_f w[x_f] + sum_{i<j} <v_i, v_j> + MLP([v_1 ; ... ; v_T])
Extras join the pairwise sum and the MLP; the first-order term is over ids alone.
Departure, on request: ``extras_in_fm = False`` keeps them out of the pairwise sum.  DisCo's patterns have norms around 1 where
embeddings have .1, and their 28 products with one another drown the ids' (ML-1M: .7870 against .7963 test AUC).
"""

from __future__ import annotations

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.interactions import fm_second_order
from braidrec.layers.mlp import MLP, Norm
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width


class DeepFMConfig(BackboneConfig):
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    extras_in_fm: bool = True
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def has_mlp(self) -> bool:
        return True

    @property
    def mixes_extras(self) -> bool:
        return self.extras_in_fm

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        return found if beside.extras else {**found, "extras_in_fm": NO_EXTRAS}


class DeepFM(nn.Module):
    def __init__(self, config: DeepFMConfig, sizes: Sizes):
        super().__init__()
        self.needs = Needs(linear=True, mixed=not config.extras_in_fm)
        self.extras_in_fm = config.extras_in_fm
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp = MLP(sizes.side_by_side(), config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        assert inputs.linear is not None
        columns = (inputs.before_deep(inputs.all_fields.flatten(1)),) if self.extras_in_fm else inputs.columns
        deep: Tensor = self.mlp(columns, inputs.kept).squeeze(1)
        pairwise = fm_second_order(inputs.all_fields if self.extras_in_fm else inputs.fields)
        return self.bias + inputs.linear.sum(dim=1) + pairwise + deep


SPEC = Spec(
    "deepfm",
    "DeepFM",
    DeepFMConfig,
    DeepFM,
    presets={"ours": {}, "paper": {}, "authors": {"norm": "ln_post"}, "textbook": {}},
    joined={"ours": {"extras_in_fm": False}},
)
