"""DIN: the history pooled by how much each behaviour matters to the candidate (Zhou et al., KDD 2018).

    paper:    a_t = MLP([q, k_t, q - k_t, q * k_t]) with Dice, no softmax unless asked; u = sum_t a_t k_t
    bilinear: a = softmax_t(k_t . (W q)), the form that the DisCo authors' tables call DIN
    y = MLP([fields ; u ; sum_t a_t l_t ; extras]),  l_t = label vector of behaviour t
q is the candidate's item fields side by side; k_t is the item id's vector ("id") or all item fields ("all").
Departures: the label vector joins as one more field (DisCo, KDD 2024, feeds history labels to every baseline).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.attention import ActivationUnit, Attended, BilinearAttention
from braidrec.layers.mlp import MLP, Norm
from braidrec.ranking.contracts import BehaviourInput, Needs, RankingInput, Sizes
from braidrec.ranking.parts import PATTERNS_INSTEAD, BackboneConfig, Beside, Idle, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width


class DINConfig(BackboneConfig):
    variant: Literal["paper", "bilinear", "none"] = "bilinear"  # none: no history of its own
    softmax: bool = False  # of the paper variant; bilinear always has one
    history_fields: Literal["id", "all"] = "id"
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def takes_mean(self) -> bool:
        return False

    @property
    def pools_history(self) -> bool:
        return self.variant != "none"

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        if not beside.own_history:
            return found | dict.fromkeys(("variant", "softmax", "history_fields"), PATTERNS_INSTEAD)
        if self.variant != "paper":
            found["softmax"] = f"variant = '{self.variant}' leaves no choice of it"
        if self.variant == "none":
            found["history_fields"] = "variant = 'none' reads no history"
        return found


class DIN(nn.Module):
    def __init__(self, config: DINConfig, sizes: Sizes):
        super().__init__()
        variant = config.variant if sizes.own_history else "none"
        self.needs = Needs(history=variant != "none", users_apart=True)
        self.id_only = config.history_fields == "id"
        target = sizes.num_item_fields * sizes.dim
        width = sizes.dim if self.id_only else target
        self.attention: nn.Module | None = None
        if variant == "bilinear":
            self.attention = BilinearAttention(target, width)
        elif variant == "paper":
            self.attention = ActivationUnit(width, softmax=config.softmax)
        self.whole_target = variant == "bilinear"
        own = 0 if self.attention is None else sizes.dim + width
        fields = (sizes.num_fields + sizes.num_extras) * sizes.dim
        self.mlp = MLP(fields + own, config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        parts = [inputs.fields.flatten(1), inputs.extras.flatten(1)]
        if self.attention is not None:
            assert inputs.history is not None
            parts += self._interest(inputs.history)
        out: Tensor = self.mlp(torch.cat(parts, dim=1), inputs.users).squeeze(1)
        return out

    def _interest(self, history: BehaviourInput) -> list[Tensor]:
        """The pooled behaviours (B, width) and their pooled label vectors (B, D)."""
        assert self.attention is not None
        items = history.items[:, 0] if self.id_only else history.items.flatten(1)
        target = history.target if self.whole_target or not self.id_only else history.target[:, :1]
        found: Attended = self.attention(target.flatten(1), items, history.past)
        return [found.pooled[:, 0], history.labels(found)[:, 0]]


SPEC = Spec(
    "din",
    "DIN",
    DINConfig,
    DIN,
    presets={
        "ours": {"variant": "bilinear"},
        "paper": {"variant": "bilinear"},
        "authors": {"variant": "bilinear", "norm": "ln_post"},
        "textbook": {"variant": "paper", "history_fields": "all"},
    },
)
