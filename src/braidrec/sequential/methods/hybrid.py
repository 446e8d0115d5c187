"""Hybrid: one encoder over v_i = phi([e_i ; f_theta(x_i)]), trained from scratch on the recommendation loss alone.

The frozen-text form of "ID + modality" in MoRec (Yuan et al., SIGIR 2023), as PAD compares it.  Departures: none known;
PAD's own description of the baseline is not part of its printed text.
"""

from __future__ import annotations

from typing import Literal

from braidrec.registry import Spec
from braidrec.sequential.maps import OURS, TextConfig
from braidrec.sequential.parts import Parts
from braidrec.sequential.stages import single_stage
from braidrec.strict import Strict
from braidrec.training.stages import Stage


class HybridConfig(Strict):
    text: TextConfig = TextConfig()
    fusion: Literal["concat", "add"] = "concat"


def stages(config: HybridConfig, parts: Parts) -> list[Stage]:
    return [single_stage("train", parts.fused_expert(config.text, fusion=config.fusion), parts)]


SPEC = Spec(
    "hybrid",
    "Hybrid",
    HybridConfig,
    stages,
    presets={"ours": {**OURS, "fusion": "add"}},
    training={"ours": {"lr": 1e-3}},
    reads_text=True,
)
