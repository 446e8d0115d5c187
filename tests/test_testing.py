"""The contract suite finds what it is there to find: each fault planted here fails it, in words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "plugin" / "src"))

from braidrec_shelf import blurb, counting, tower
from braidrec_shelf.blurb import Blurb
from braidrec_shelf.tower import Tower, TowerConfig

from braidrec.ranking.contracts import RankingInput, Sizes
from braidrec.registry import TASKS, Spec
from braidrec.task import Added
from braidrec.testing import check_backbone, check_method, check_task


def test_what_other_packages_add_is_checked_without_being_installed() -> None:
    check_backbone(tower.SPEC, "ranking")
    check_method(blurb.SPEC, "ranking", backbones=["tower"] if "tower" in TASKS["ranking"].backbones else ["lr", "din"])
    check_task(counting.TASK)
    assert "tower" not in TASKS["ranking"].backbones
    assert "counting" not in TASKS


class Idle(Tower):
    """Has a weight that nothing reads."""

    def __init__(self, config: TowerConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.idle = nn.Parameter(torch.zeros(3))


class Crowded(Tower):
    """Scores a sample by who else is in the batch."""

    def forward(self, inputs: RankingInput) -> Tensor:
        logits = super().forward(inputs)
        return logits - logits.mean()


class Restless(Tower):
    """Draws its weights from outside the seed."""

    def __init__(self, config: TowerConfig, sizes: Sizes):
        super().__init__(config, sizes)
        generator = torch.Generator()
        generator.seed()
        with torch.no_grad():
            for weight in self.parameters():
                weight += torch.rand(weight.shape, generator=generator)


class Forgetful(Tower):
    """Keeps something that decides its scores outside its state."""

    def __init__(self, config: TowerConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.seen = 0.0

    def forward(self, inputs: RankingInput) -> Tensor:
        if self.training:
            self.seen += 1.0
        return super().forward(inputs) * (1.0 + self.seen)


class Broken(Tower):
    def forward(self, inputs: RankingInput) -> Tensor:
        return super().forward(inputs) / 0.0 if not self.training else super().forward(inputs)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Idle, r"no gradient reaches 'backbone\.idle'"),
        (Crowded, "a past alone is scored otherwise|scored otherwise beside fewer"),
        (Restless, "the same seed gave other tensors"),
        (Forgetful, "the loaded run answers otherwise"),
    ],
)
def test_a_backbone_with_a_fault_is_found_out(kind: type[Tower], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_backbone(Spec("tower", "Tower", TowerConfig, kind), "ranking")


def test_scores_that_are_no_numbers_are_found_out() -> None:
    with pytest.raises(Exception, match=r"nan|inf|finite"):
        check_backbone(Spec("tower", "Tower", TowerConfig, Broken), "ranking")


class InPlace(Blurb):
    """Writes added items into the tensors that the model before answers from."""

    def add(self, added: Added) -> None:
        assert self.text.reduced is not None
        self.text.reduced += 1.0
        super().add(added)


def test_a_method_that_changes_the_model_in_place_is_found_out() -> None:
    spec = Spec("blurb", "Blurb", blurb.BlurbConfig, InPlace, reads_text=True)
    with pytest.raises(AssertionError, match="adding items changed the model in place"):
        check_method(spec, "ranking", backbones=["din"])


class Unsaved(Blurb):
    """A table that answers need and that no state holds."""

    def export(self) -> None:
        super().export()
        assert self.text.reduced is not None
        table = self.text.reduced + 1.0
        del self.text.reduced
        self.text.register_buffer("reduced", table, persistent=False)

    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        found: Mapping[str, Tensor] = super().state_dict(*arguments, **keywords)
        return found


def test_a_method_that_does_not_save_what_it_answers_by_is_found_out() -> None:
    spec = Spec("blurb", "Blurb", blurb.BlurbConfig, Unsaved, reads_text=True)
    with pytest.raises(Exception, match=r"answers otherwise|reduced|Missing key|not what this version writes"):
        check_method(spec, "ranking", backbones=["din"])


def test_a_task_whose_default_is_nobody_is_found_out() -> None:
    with pytest.raises(AssertionError, match="its default 'count' is none of its backbones"):
        check_task(replace(counting.TASK, default="count"))
