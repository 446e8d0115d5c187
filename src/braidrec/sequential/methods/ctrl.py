"""CTRL: contrast ids with text, then recommend by id alone (Li et al., 2023).

1. contrast   InfoNCE between e_i and f_theta(x_i), both ways, over the distinct items of a batch, from scratch
2. tune       the text is dropped; an id model that starts from the contrasted table learns the recommendation loss

Departures, PAD's comparison form: items are contrasted, where CTRL contrasts tabular rows with their prompts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.objectives.info_nce import info_nce
from braidrec.registry import Spec
from braidrec.sequential.contracts import Distinct, StageModule, spread_rows
from braidrec.sequential.maps import OURS, IdMap, TextConfig, TextMap
from braidrec.sequential.parts import Parts
from braidrec.sequential.stages import single_stage
from braidrec.strict import Strict
from braidrec.training.stages import Stage, main_group
from braidrec.training.step import Step


class CTRLConfig(Strict):
    text: TextConfig = TextConfig()
    temperature: float = Setting(default=0.1, gt=0)


class Contrast(nn.Module, StageModule):
    """Stage 1: two item maps and no encoder."""

    def __init__(self, ids: IdMap, text: TextMap, temperature: float):
        super().__init__()
        self.ids, self.text, self.temperature = ids, text, temperature

    def step(self, batch: SequenceBatch) -> Step:
        rows = Distinct.of(batch).rows[1:]
        loss = info_nce(self.text(rows), self.ids(rows), temperature=self.temperature, symmetric=True)
        return Step(lambda: {"contrast": loss})

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        return {**self.ids.spaces(rows), **self.text.spaces(rows)}

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        """The contrast over up to 1,024 items spread over the catalogue."""
        device = self.ids.table.weight.device
        rows = spread_rows(self.ids.num_rows, device)
        loss = info_nce(self.text(rows), self.ids(rows), temperature=self.temperature, symmetric=True)
        return {"contrast": float(loss)}


def stages(config: CTRLConfig, parts: Parts) -> list[Stage]:
    ids, text = parts.id_expert().items, parts.text_expert(config.text).items
    contrast = Contrast(ids, text, config.temperature)
    return [
        Stage("contrast", contrast, {"contrast": 1.0}, [main_group(contrast)], monitor="contrast", mode="min", reads_text=True),
        single_stage("tune", parts.id_expert(), parts, {"contrast": {"ids.": "expert.items."}}),
    ]


SPEC = Spec("ctrl", "CTRL", CTRLConfig, stages, presets={"ours": OURS}, reads_text=True)
