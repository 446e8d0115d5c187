"""FwFM: a factorisation machine with one weight for each pair of fields (Pan et al., WWW 2018).

    y = b + linear + sum_{i<j} r_ij <v_i, v_j>
    fields:  linear = sum_f <v_f, w_f>, one w_f (D,) a field (the paper's FiLV)
    weights: linear = sum_f w[x_f], one number a value (its LW)
Extras have weights in r and in the linear term of fields.  The paper's third form (FeLV), a second embedding of every value, is
left out: it trails FiLV there.
Departure, on request: ``extras_meet = "ids"`` leaves out pairs of two extras, as in FM.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from braidrec.layers.interactions import Pairs, pairs_of, weighted_pairs
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle
from braidrec.registry import Spec


class FwFMConfig(BackboneConfig):
    linear: Literal["fields", "weights"] = "fields"
    extras_meet: Pairs = "all"

    def idle_beside(self, beside: Beside) -> Idle:
        return {} if beside.extras else {"extras_meet": NO_EXTRAS}


class FwFM(nn.Module):
    _pairs: Tensor

    def __init__(self, config: FwFMConfig, sizes: Sizes):
        super().__init__()
        by_fields = config.linear == "fields"
        self.needs = Needs(linear=not by_fields)
        self.register_buffer("_pairs", pairs_of(sizes.num_fields, sizes.num_extras, config.extras_meet), persistent=False)
        count = self._pairs.shape[1]
        self.bias = nn.Parameter(torch.zeros(()))
        self.pairs = nn.Parameter(torch.randn(count) * (2 / (count + 1)) ** 0.5)  # Xavier-normal, of count numbers into one
        self.fields: nn.Parameter | None = None
        if by_fields:
            self.fields = nn.Parameter(torch.empty(sizes.num_fields + sizes.num_extras, sizes.dim))
            nn.init.xavier_normal_(self.fields)

    def forward(self, inputs: RankingInput) -> Tensor:
        fields = inputs.all_fields
        logits = self.bias + weighted_pairs(fields, self._pairs, self.pairs)
        if self.fields is not None:
            return logits + (fields.flatten(1) @ self.fields.flatten())
        assert inputs.linear is not None
        return logits + inputs.linear.sum(dim=1)


SPEC = Spec("fwfm", "FwFM", FwFMConfig, FwFM, joined={"ours": {"extras_meet": "ids"}})
