"""MoRec: one encoder over v_i = f_theta(x_i), no id table (Yuan et al., SIGIR 2023).

Departure, PAD's: the text encoder is frozen, where MoRec trains it end to end.
"""

from __future__ import annotations

from braidrec.registry import Spec
from braidrec.sequential.maps import OURS, TextConfig
from braidrec.sequential.parts import Parts
from braidrec.sequential.stages import single_stage
from braidrec.strict import Strict
from braidrec.training.stages import Stage


class MoRecConfig(Strict):
    text: TextConfig = TextConfig()


def stages(config: MoRecConfig, parts: Parts) -> list[Stage]:
    return [single_stage("train", parts.text_expert(config.text), parts)]


SPEC = Spec("morec", "MoRec", MoRecConfig, stages, presets={"ours": OURS}, reads_text=True)
