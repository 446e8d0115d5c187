"""DIN: the history pooled by how much each behaviour matters to the candidate (Zhou et al., KDD 2018).

    paper:    a_t = MLP([q, k_t, q - k_t, q * k_t]) with Dice, no softmax unless asked; u = sum_t a_t k_t
    bilinear: a = softmax_t(k_t . (W q)), the form that the DisCo authors' tables call DIN
    y = MLP([fields ; u ; sum_t a_t l_t ; extras]),  l_t = label vector of behaviour t
q is the candidate's item fields side by side; k_t is the item id's vector ("id") or all item fields ("all").
Departures: the label vector joins as one more field (DisCo, KDD 2024, feeds history labels to every baseline).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.attention import ActivationUnit, BilinearAttention
from braidrec.layers.mlp import MLP, Columns, Norm
from braidrec.ranking.contracts import BehaviourInput, ItemRead, Needs, RankingInput, Sizes
from braidrec.ranking.parts import PATTERNS_INSTEAD, Beside, Idle, PoolingConfig, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width


class DINConfig(PoolingConfig):
    variant: Literal["paper", "bilinear", "none"] = "bilinear"  # none: no history of its own
    softmax: bool = False  # of the paper variant; bilinear always has one
    history_fields: ItemRead = "id"
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

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
        self.needs = Needs(history=variant != "none", mixed=True, users_apart=True)
        self.read = config.history_fields
        width = sizes.of_items(self.read)
        self.attention: BilinearAttention | ActivationUnit | None = None
        if variant == "bilinear":
            self.attention = BilinearAttention(sizes.of_items("all"), width)
        elif variant == "paper":
            self.attention = ActivationUnit(width, softmax=config.softmax)
        whole = sizes.side_by_side(None if self.attention is None else width)
        self.mlp = MLP(whole, config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        own = () if inputs.history is None or self.attention is None else self._interest(inputs.history)
        out: Tensor = self.mlp((*inputs.columns, *own), inputs.kept).squeeze(1)
        return out

    def _interest(self, history: BehaviourInput) -> tuple[Columns, ...]:
        """The pooled behaviours (B, width) and their pooled label vectors (B, D)."""
        if isinstance(self.attention, BilinearAttention):
            queries = history.asked("all", self.attention.query)
            found = history.past.attend(history.rows(self.read), queries[:, None])
        else:
            assert self.attention is not None
            found = self.attention(history.asked(self.read), history.rows(self.read), history.past, history.kept)
        return found.pooled[:, 0], history.said(found.by_signal[:, 0])


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
