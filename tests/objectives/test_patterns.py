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


FIRST, SECOND = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), torch.tensor([[[1.0, 1.0], [0.0, 5.0]]])


def test_two_patterns_by_hand() -> None:
    """Cosines of the first views with the second ones: r and 0, r and 1, with r the root of a half; the temperature is .5.

    Two samples of which the second is the first with its patterns in the other order: pairs are those of one sample.
    """
    r = math.sqrt(0.5)
    views = [torch.cat([view, view.flip(1)]) for view in (FIRST, SECOND)]
    alone = (-2 * r + (2 * r - 2)) / 2
    assert pattern_contrast(*views, temperature=0.5).item() == pytest.approx(alone, abs=1e-6)
    whole = (math.log(math.exp(2 * r) + 1) - 2 * r + math.log(math.exp(2 * r) + math.exp(2)) - 2) / 2
    assert pattern_contrast(*views, temperature=0.5, include_positive=True).item() == pytest.approx(whole, abs=1e-6)


def test_a_classifier_of_two_patterns_by_hand() -> None:
    """D = h_1 H_1 - h_2 H_2: real pairs give 2 and -15, the only strange ones 0 and -3."""
    judge = BilinearDiscriminator(2, 2)
    with torch.no_grad():
        judge.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    real, strange = (sum(math.log1p(math.exp(z)) for z in logits) / 2 for logits in ((-2, 15), (0, -3)))
    found = pattern_infomin(FIRST, SECOND, judge, torch.Generator())
    assert found.item() == pytest.approx(real + strange, rel=1e-6)


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
