"""xDeepFM: a compressed interaction network beside first-order weights and an MLP (Lian et al., KDD 2018).

    y = sum_f w[x_f] + Linear([p^1 ; ... ; p^L]) + MLP(x),  p^k = the k-th layer of the CIN over all fields and extras, summed
x is all of them side by side ("flat"), or their sum, of width D ("sum"), the form that the DisCo authors' tables call xDeepFM,
which has no first-order weights either.
Departures: the CIN has no activation, as in its authors' experiments; layers pass all their rows on and are all pooled.  On
request ``extras_in_cin = False`` keeps extras out of the CIN, whose products of three grow with the cube of their norms.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.interactions import CIN
from braidrec.layers.mlp import MLP, Norm, initialise
from braidrec.ranking.contracts import Needs, RankingInput, Sizes
from braidrec.ranking.parts import NO_EXTRAS, BackboneConfig, Beside, Idle, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width


class XDeepFMConfig(BackboneConfig):
    cin: tuple[Width, ...] = Setting(default=(100, 100), min_length=1)
    cin_bias: bool = False
    linear: bool = True
    dnn_input: Literal["flat", "sum"] = "flat"
    extras_in_cin: bool = True
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    @property
    def has_mlp(self) -> bool:
        return True

    @property
    def mixes_extras(self) -> bool:
        return self.extras_in_cin

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        return found if beside.extras else {**found, "extras_in_cin": NO_EXTRAS}


class XDeepFM(nn.Module):
    def __init__(self, config: XDeepFMConfig, sizes: Sizes):
        super().__init__()
        self.needs = Needs(linear=config.linear)
        self.extras_in_cin, self.summed = config.extras_in_cin, config.dnn_input == "sum"
        count = sizes.num_fields + sizes.num_extras
        self.cin = CIN(count if self.extras_in_cin else sizes.num_fields, config.cin, bias=config.cin_bias)
        self.head = initialise(nn.Linear(self.cin.width, 1))
        width = (1 + sizes.num_deep) * sizes.dim if self.summed else sizes.side_by_side()
        self.mlp = MLP(width, config.mlp, out=1, norm=config.norm, dropout=config.dropout)

    def forward(self, inputs: RankingInput) -> Tensor:
        fields = inputs.all_fields
        crossed: Tensor = self.head(self.cin(fields if self.extras_in_cin else inputs.fields)).squeeze(1)
        read = inputs.before_deep(fields.sum(dim=1) if self.summed else fields.flatten(1))
        deep: Tensor = self.mlp(read).squeeze(1)
        return crossed + deep if inputs.linear is None else crossed + deep + inputs.linear.sum(dim=1)


_DISCO = {"linear": False, "dnn_input": "sum"}
SPEC = Spec(
    "xdeepfm",
    "xDeepFM",
    XDeepFMConfig,
    XDeepFM,
    presets={
        "ours": {},
        "paper": _DISCO,
        "authors": {**_DISCO, "norm": "ln_pre"},
        "textbook": {"cin": (32, 32, 32), "cin_bias": True},
    },
)
