"""Hybrid: one encoder over v_i = phi([e_i ; f_theta(x_i)]), trained from scratch on the recommendation loss alone.

The frozen-text form of "ID + modality" in MoRec (Yuan et al., SIGIR 2023), as PAD compares it.  Departures: none known;
PAD's own description of the baseline is not part of its printed text.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from braidrec.sequential.contracts import Stage, main_group
from braidrec.sequential.maps import TextConfig
from braidrec.sequential.model import SequenceModel
from braidrec.sequential.parts import Parts
from braidrec.strict import Strict


class HybridConfig(Strict):
    name: Literal["hybrid"] = "hybrid"
    text: TextConfig = TextConfig()
    fusion: Literal["concat", "add"] = "concat"
    title: ClassVar[str] = "Hybrid"


def stages(config: HybridConfig, parts: Parts) -> list[Stage]:
    expert = parts.fused_expert(config.text, fusion=config.fusion)
    model = SequenceModel(expert, loss=parts.loss, trained=parts.trained_only)
    return [Stage("train", model, {"prediction": 1.0}, [main_group(model)])]
