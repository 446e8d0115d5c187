"""FinalMLP: two MLPs, each over the fields as its own gate sees them, joined by a bilinear form (Mao et al., AAAI 2023).

    h_s = 2 sigmoid(g_s(context_s)) * [v_1 ; ... ; v_T],  o_s = MLP_s(h_s),  s = 1, 2
    y = b + w_1 . o_1 + w_2 . o_2 + sum_h o_1h^T W_h o_2h
The first gate's context is the user's id fields and the second's the item's ("user_item"), or neither has any, so that each is
one free vector ("learned"), or there are none ("none").  Extras are gated and scored like fields; what is for the MLPs alone
stands behind them, and no gate before it.
Departures: a learned gate is a vector from zero, where the authors' code sends a learned constant through an MLP.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.interactions import BilinearFusion
from braidrec.layers.mlp import MLP, Norm
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import BackboneConfig, Beside, Idle
from braidrec.registry import Spec
from braidrec.strict import Depth, Width


class FinalMLPConfig(BackboneConfig):
    gates: Literal["user_item", "learned", "none"] = "user_item"
    gate_hidden: tuple[Width, ...] = (64,)
    heads: Depth = 2
    mlp: tuple[Width, ...] = Setting(default=(128, 64), min_length=1)
    second: tuple[Width, ...] | None = Setting(default=None, min_length=1)  # the second stream; None: as the first
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def has_mlp(self) -> bool:
        return True

    def idle_beside(self, beside: Beside) -> Idle:
        if self.gates == "user_item":
            return {}
        return {"gate_hidden": f"gates = '{self.gates}' reads no context, so no MLP makes a gate of it"}


class Gate(nn.Module):
    """2 sigmoid of an MLP over the context (B, n), or of one learned vector where n = 0.  -> (B or 1, width)."""

    def __init__(self, context: int, hidden: tuple[int, ...], width: int):
        super().__init__()
        self.mlp = MLP(context, hidden, out=width) if context else None
        self.free = None if context else nn.Parameter(torch.zeros(width))

    def forward(self, context: Tensor) -> Tensor:
        if self.free is not None:
            return 2 * torch.sigmoid(self.free)[None]
        assert self.mlp is not None
        return 2 * torch.sigmoid(self.mlp(context))


class FinalMLP(nn.Module):
    """Raises ConfigError where the heads do not divide what the streams end in."""

    needs = Needs()

    def __init__(self, config: FinalMLPConfig, sizes: Sizes):
        super().__init__()
        streams = (config.mlp, config.second or config.mlp)
        if any(stream[-1] % config.heads for stream in streams):
            raise ConfigError(
                f"model.backbone.heads = {config.heads} does not divide the widths that the streams end in "
                f"({streams[0][-1]} by mlp, {streams[1][-1]} by second); change either"
            )
        width = (sizes.num_fields + sizes.num_extras) * sizes.dim
        first, last = sizes.item_at, sizes.item_at + sizes.num_item_fields
        self.contexts = (slice(0, first), slice(first, last)) if config.gates == "user_item" else (slice(0, 0),) * 2
        self.gates = nn.ModuleList(
            Gate((context.stop - context.start) * sizes.dim, config.gate_hidden, width)
            for context in self.contexts
            if config.gates != "none"
        )
        self.streams = nn.ModuleList(
            MLP(sizes.side_by_side(), stream, norm=config.norm, dropout=config.dropout) for stream in streams
        )
        self.fusion = BilinearFusion(streams[0][-1], streams[1][-1], config.heads)

    def forward(self, inputs: RankingInput) -> Tensor:
        flat = inputs.all_fields.flatten(1)
        seen = [flat, flat]
        if len(self.gates):
            contexts = [inputs.fields[:, context].flatten(1) for context in self.contexts]
            seen = [flat * gate(context) for gate, context in zip(self.gates, contexts, strict=True)]
        first, second = (stream(inputs.before_deep(each)) for stream, each in zip(self.streams, seen, strict=True))
        out: Tensor = self.fusion(first, second)
        return out


SPEC = Spec(
    "finalmlp",
    "FinalMLP",
    FinalMLPConfig,
    FinalMLP,
    presets={
        "ours": {},
        "paper": {},
        "authors": {"norm": "ln_post"},
        "textbook": {"mlp": (400,), "gate_hidden": (64,), "heads": 1},
    },
)
