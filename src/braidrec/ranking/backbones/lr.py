"""Logistic regression: one weight per value, and nothing of one value beside another (Richardson et al., WWW 2007).

    y = b + sum_f w[x_f]
over ids, the mean of a multi-valued field's weights, and numeric fields by a weight per number.
Departure, on request: ``extra_linear`` adds sum_e <u, e> over the extras, one u (D,) for all of them, which is the only way in
for patterns and histories; a model that has extras must set it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.mlp import initialise
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle
from braidrec.registry import Spec


class LRConfig(BackboneConfig):
    extra_linear: bool = False

    @property
    def takes_mean(self) -> bool:
        return self.extra_linear

    def idle_beside(self, beside: Beside) -> Idle:
        return {} if beside.extras else {"extra_linear": NO_EXTRAS}

    def unread(self, beside: Beside) -> Idle:
        return {} if beside.extras else dict.fromkeys(("dim", "initial"), f"'lr' has no vectors of fields, and {NO_EXTRAS}")


class LR(nn.Module):
    """Raises ConfigError for extras that it would not read."""

    needs = Needs(fields=False, linear=True)

    def __init__(self, config: LRConfig, sizes: Sizes):
        super().__init__()
        if sizes.num_extras and not config.extra_linear:
            raise ConfigError(
                f"model.backbone.extra_linear = false: 'lr' would not read the {sizes.num_extras} fields that are added to its "
                "own; set it to true, or leave the enhancer out"
            )
        self.bias = nn.Parameter(torch.zeros(()))
        self.extras = initialise(nn.Linear(sizes.dim, 1, bias=False)) if sizes.num_extras else None

    def forward(self, inputs: RankingInput) -> Tensor:
        assert inputs.linear is not None
        logits = self.bias + inputs.linear.sum(dim=1)
        return logits if self.extras is None else logits + self.extras(inputs.extras.sum(dim=1)).squeeze(1)


SPEC = Spec(
    "lr",
    "LR",
    LRConfig,
    LR,
    joined={preset: {"extra_linear": True} for preset in ("ours", "paper", "authors")},
)
