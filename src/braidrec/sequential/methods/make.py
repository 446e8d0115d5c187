"""MAKE: a text model first, then an id expert and that text expert behind a frequency gate (Sheng et al., CIKM 2024).

1. text      v_i = f_theta(x_i), the recommendation loss (MoRec)
2. experts   y = p_id y_id + p_text y_text, all of it trained; the id expert is fresh

Departures, PAD's comparison form: no SimTier, no losses beside the recommendation loss, the gate of PAD's equation (17).
"""

from __future__ import annotations

from typing import Any, Literal

from braidrec.registry import Spec
from braidrec.sequential.gates import GateInit
from braidrec.sequential.maps import OURS, TextConfig
from braidrec.sequential.next_item import Expert
from braidrec.sequential.parts import Parts
from braidrec.sequential.stages import mixture_stage, single_stage
from braidrec.strict import Strict
from braidrec.training.stages import Stage


class MAKEConfig(Strict):
    text: TextConfig = TextConfig()
    gate_init: GateInit = "uniform"
    unseen: Literal["trained", "text"] = "trained"


def stages(config: MAKEConfig, parts: Parts) -> list[Stage]:
    text = single_stage("text", parts.text_expert(config.text), parts)
    experts: dict[str, Expert[Any]] = {"id": parts.id_expert(), "text": parts.text_expert(config.text)}
    starts = {"text": {"expert.": "experts.text."}}
    return [text, mixture_stage(experts, parts, starts, gate_init=config.gate_init, unseen=config.unseen)]


SPEC = Spec(
    "make",
    "MAKE",
    MAKEConfig,
    stages,
    presets={"ours": {**OURS, "unseen": "text"}, "paper": {}, "authors": {"gate_init": "authors"}},
    training={
        "ours": {"phases": {"experts": {"lr": 1e-3}}},
        "authors": {"phases": {"experts": {"lr": 1e-4}}},  # as PAD's
    },
    reads_text=True,
)
