"""The terms that keep the patterns of a sample apart, against hand-worked values."""

from __future__ import annotations

import math

import pytest
import torch

from braidrec.objectives.patterns import pattern_contrast, pattern_infomin
from braidrec.objectives.sufficiency import BilinearDiscriminator


@pytest.mark.parametrize(("count", "alone", "both"), [(20, 2.9444, 2.9957), (5, math.log(4), math.log(5))])
def test_patterns_that_are_all_alike(count: int, alone: float, both: float) -> None:
    views = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0)).expand(3, count, 8)
    assert pattern_contrast(views, views).item() == pytest.approx(alone, abs=1e-4)
    assert pattern_contrast(views, views, include_positive=True).item() == pytest.approx(both, abs=1e-4)


@pytest.mark.parametrize(("temperature", "both"), [(0.2, 0.1205), (0.5, 1.2729)])
def test_patterns_at_right_angles(temperature: float, both: float) -> None:
    views = torch.eye(20)[None]
    found = pattern_contrast(views, 3 * views, temperature=temperature)
    assert found.item() == pytest.approx(math.log(19) - 1 / temperature, abs=1e-5)
    assert pattern_contrast(views, views, temperature=temperature, include_positive=True).item() == pytest.approx(
        both, abs=1e-4
    )


def test_a_single_pattern_has_none_to_differ_from() -> None:
    views = torch.randn(4, 1, 8, requires_grad=True)
    for loss in (
        pattern_contrast(views, views),
        pattern_contrast(views, views, include_positive=True),
        pattern_infomin(views, views, BilinearDiscriminator(8, 8), torch.Generator()),
    ):
        (slope,) = torch.autograd.grad(loss, views)
        assert loss.item() == 0
        assert not slope.any()


def test_a_classifier_that_says_nothing_and_one_that_knows() -> None:
    views, generator = torch.eye(6)[None].expand(5, 6, 6), torch.Generator().manual_seed(0)
    judge = BilinearDiscriminator(6, 6)
    with torch.no_grad():
        judge.weight.zero_()
        assert pattern_infomin(views, views, judge, generator).item() == pytest.approx(2 * math.log(2), abs=1e-5)
        judge.weight.copy_(40 * torch.eye(6))
        judge.bias.fill_(-20.0)
        assert pattern_infomin(views, views, judge, generator).item() < 1e-6  # never a pattern beside itself as a fake
