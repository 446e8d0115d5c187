"""MAKE: a text model first, then an id expert and that text expert behind a frequency gate (Sheng et al., CIKM 2024).

1. text      v_i = f_theta(x_i), the recommendation loss (MoRec)
2. experts   y = p_id y_id + p_text y_text, all of it trained; the id expert is fresh

Departures, PAD's comparison form: no SimTier, no losses beside the recommendation loss, the gate of PAD's equation (17).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from braidrec.sequential.contracts import Stage, main_group
from braidrec.sequential.maps import TextConfig
from braidrec.sequential.methods.pad import PADConfig, mixture_stage
from braidrec.sequential.model import SequenceModel
from braidrec.sequential.parts import Parts
from braidrec.strict import Strict


class MAKEConfig(Strict):
    name: Literal["make"] = "make"
    text: TextConfig = TextConfig()
    gate_init: Literal["uniform", "authors"] = "uniform"
    unseen: Literal["trained", "text"] = "trained"
    title: ClassVar[str] = "MAKE"


def stages(config: MAKEConfig, parts: Parts) -> list[Stage]:
    text = SequenceModel(parts.text_expert(config.text), loss=parts.loss, trained=parts.trained_only)
    experts = {"id": parts.id_expert(), "text": parts.text_expert(config.text)}
    gate = PADConfig(experts=("id", "text"), gate_init=config.gate_init, unseen=config.unseen)
    mixed = mixture_stage("experts", experts, gate, parts, {"text": {"expert.": "experts.text."}})
    return [Stage("text", text, {"prediction": 1.0}, [main_group(text)]), mixed]
