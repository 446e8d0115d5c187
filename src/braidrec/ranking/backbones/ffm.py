"""FFM: a factorisation machine whose values have one vector for each other field (Juan et al., RecSys 2016).

    y = b + sum_f w[x_f] + sum_{i<j} <v_{i->j}, v_{j->i}>,  v of width d_f (``width``)
A bag's vectors are the mean of its values', a number's come from a layer.  An extra e has no table: its vectors for the T - 1
others are P_e e, one matrix P_e an extra, so an extra of zero adds nothing.
Departures: a bias and first-order weights, which the paper leaves out of its equation; on request ``extras_meet = "ids"``
leaves out pairs of two extras, as in FM.
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.interactions import Pairs, field_aware_products, pairs_of
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle
from braidrec.registry import Spec
from braidrec.strict import Width

_GIB = 1 << 30
_COPIES = 4  # the table, its gradient, and Adam's two moments


class FFMConfig(BackboneConfig):
    width: Width = 4
    extras_meet: Pairs = "all"
    memory_gib: PositiveFloat = 8.0  # what the table may take in training

    def idle_beside(self, beside: Beside) -> Idle:
        return {} if beside.extras else {"extras_meet": NO_EXTRAS}

    def unread(self, beside: Beside) -> Idle:
        return {} if beside.extras else {"dim": f"vectors of 'ffm' are model.backbone.width wide, and {NO_EXTRAS}"}


class FFM(nn.Module):
    """Raises ConfigError for a field alone, and for a table that is larger than it may be."""

    _pairs: Tensor

    def __init__(self, config: FFMConfig, sizes: Sizes):
        super().__init__()
        others = sizes.num_fields + sizes.num_extras - 1
        if others < 1:
            raise ConfigError("'ffm' has vectors of each field for the others, and this model has one field; take lr instead")
        needed = _COPIES * 4 * sizes.rows * others * config.width
        if needed > config.memory_gib * _GIB:
            raise ConfigError(
                f"ffm: {sizes.rows:,} values with {others} vectors of width {config.width} each take {needed:,} bytes with "
                f"their gradients and Adam's two moments, memory_gib = {config.memory_gib:g} allows "
                f"{int(config.memory_gib * _GIB):,}; raise model.backbone.memory_gib where the machine has it, lower "
                "model.backbone.width, or take fwfm, which has one vector a value and one weight a pair of fields"
            )
        self.needs = Needs(fields=False, linear=True, field_aware=config.width)
        self.register_buffer("_pairs", pairs_of(sizes.num_fields, sizes.num_extras, config.extras_meet), persistent=False)
        self.bias = nn.Parameter(torch.zeros(()))
        self.extras: nn.Parameter | None = None
        if sizes.num_extras:
            self.extras = nn.Parameter(torch.empty(sizes.num_extras, sizes.dim, others * config.width))
            for matrix in self.extras:
                nn.init.xavier_normal_(matrix)

    def forward(self, inputs: RankingInput) -> Tensor:
        vectors = inputs.field_aware
        assert vectors is not None
        assert inputs.linear is not None
        if self.extras is not None:
            theirs = torch.einsum("bed,edw->bew", inputs.extras, self.extras)
            vectors = torch.cat([vectors, theirs.unflatten(2, tuple(vectors.shape[2:]))], dim=1)
        return self.bias + inputs.linear.sum(dim=1) + field_aware_products(vectors, self._pairs)


SPEC = Spec("ffm", "FFM", FFMConfig, FFM, joined={"ours": {"extras_meet": "ids"}})
