"""FM: first-order weights and all pairs (Rendle, ICDM 2010).

    y = b + sum_f w[x_f] + sum_{i<j} <v_i, v_j>
over ids, bags and numbers; extras join the pairs, their only way in unless ``extra_linear`` adds sum_e <u, e>, one u (D,) for
all of them.
Departure, on request: ``extras_meet = "ids"`` leaves out pairs of two extras.  DisCo's patterns have norms around 1 where
embeddings have .1, so their 28 products with one another are the largest of the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidrec.layers.interactions import Pairs, fm_second_order
from braidrec.layers.mlp import initialise
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle
from braidrec.registry import Spec


class FMConfig(BackboneConfig):
    extras_meet: Pairs = "all"
    extra_linear: bool = False

    def idle_beside(self, beside: Beside) -> Idle:
        return {} if beside.extras else dict.fromkeys(("extras_meet", "extra_linear"), NO_EXTRAS)


class FM(nn.Module):
    needs = Needs(linear=True)

    def __init__(self, config: FMConfig, sizes: Sizes):
        super().__init__()
        self.extras_meet = config.extras_meet
        self.bias = nn.Parameter(torch.zeros(()))
        reads = config.extra_linear and sizes.num_extras
        self.extras = initialise(nn.Linear(sizes.dim, 1, bias=False)) if reads else None

    def forward(self, inputs: RankingInput) -> Tensor:
        assert inputs.linear is not None
        logits = self.bias + inputs.linear.sum(dim=1) + fm_second_order(inputs.all_fields)
        if self.extras_meet == "ids" and inputs.extras.shape[1]:
            logits = logits - fm_second_order(inputs.extras)
        return logits if self.extras is None else logits + self.extras(inputs.extras.sum(dim=1)).squeeze(1)


SPEC = Spec("fm", "FM", FMConfig, FM, joined={"ours": {"extras_meet": "ids"}})
