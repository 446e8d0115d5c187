"""SDIM: what of a long history lies in the candidate's own buckets of random hashes (Cao et al., CIKM 2022).

    code_g(v) = the sides of ``bits`` random hyperplanes on which v lies,  g = 1 .. ``groups``  (the paper's m = groups * bits)
    u = mean_g s_g / |s_g|,  s_g = sum of the k_t with code_g(k_t) = code_g(q);  0 where there is none
    y = MLP([fields ; u ; mean_g mean of l_t there ; extras]),  l_t = label vector of behaviour t
q is the candidate's vector of the kind that k_t is: the item id's ("id") or all item fields' side by side ("all").  The planes
are drawn once, by a generator of their own, and saved; nothing trains them.  The sums of a user's buckets are made once for
the targets that share a window (``model.history.run``), so histories of 1,000 cost about what attention over 30 does.
Departures: the label vectors join as one more field, as in DIN; no attention over recent behaviours stands beside it.
"""

from __future__ import annotations

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.hashing import codes_of
from braidrec.layers.mlp import MLP, Columns, Norm
from braidrec.ranking.contracts import BehaviourInput, ItemRead, Needs, RankingInput, Sizes
from braidrec.ranking.parts import PATTERNS_INSTEAD, Beside, Idle, PoolingConfig, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Depth, Width
from braidrec.training.seeding import spawn


class SDIMConfig(PoolingConfig):
    groups: Depth = 16
    bits: int = Setting(default=3, ge=1, le=8)  # planes of a group
    history_fields: ItemRead = "id"
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        return found if beside.own_history else found | dict.fromkeys(("groups", "bits", "history_fields"), PATTERNS_INSTEAD)


class SDIM(nn.Module):
    planes: Tensor  # (groups, bits, W)

    def __init__(self, config: SDIMConfig, sizes: Sizes):
        super().__init__()
        self.needs = Needs(history=sizes.own_history, mixed=True, users_apart=True)
        self.read = config.history_fields
        width = sizes.of_items(self.read)
        if sizes.own_history:
            generator = torch.Generator().manual_seed(spawn(sizes.seed, "planes"))
            self.register_buffer("planes", torch.randn(config.groups, config.bits, width, generator=generator))
        whole = sizes.side_by_side(width if sizes.own_history else None)
        self.mlp = MLP(whole, config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        own = () if inputs.history is None else self._interest(inputs.history)
        out: Tensor = self.mlp((*inputs.columns, *own), inputs.kept).squeeze(1)
        return out

    def _interest(self, history: BehaviourInput) -> tuple[Columns, ...]:
        """u (B, W) and the label vectors of what it is made of (B, D)."""
        items = history.rows(self.read).float()
        codes = history.kept.of(self, "codes", lambda: codes_of(items, self.planes))
        asked = (
            codes.index_select(0, history.candidate)
            if history.kept.still
            else codes_of(history.asked(self.read).float(), self.planes)
        )
        pooled, shares = history.past.bucketed(items, codes, asked, 1 << self.planes.shape[1])
        return pooled, history.said(shares)


SPEC = Spec(
    "sdim",
    "SDIM",
    SDIMConfig,
    SDIM,
    presets={"ours": {}, "paper": {}, "authors": {"norm": "ln_post"}, "textbook": {"history_fields": "all"}},
)
