"""MoRec: one encoder over v_i = f_theta(x_i), no id table (Yuan et al., SIGIR 2023).

Departure, PAD's: the text encoder is frozen, where MoRec trains it end to end.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from braidrec.sequential.contracts import Stage, main_group
from braidrec.sequential.maps import TextConfig
from braidrec.sequential.model import SequenceModel
from braidrec.sequential.parts import Parts
from braidrec.strict import Strict


class MoRecConfig(Strict):
    name: Literal["morec"] = "morec"
    text: TextConfig = TextConfig()
    title: ClassVar[str] = "MoRec"


def stages(config: MoRecConfig, parts: Parts) -> list[Stage]:
    model = SequenceModel(parts.text_expert(config.text), loss=parts.loss, trained=parts.trained_only)
    return [Stage("train", model, {"prediction": 1.0}, [main_group(model)])]
