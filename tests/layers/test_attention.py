"""Attention over histories: re-associated forms against the formulas as printed, and nothing read from padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from braidrec.layers import attention
from braidrec.layers.attention import ActivationUnit, BilinearAttention, Dice, _Attend, attend, gather, masked_softmax

MASK = torch.tensor(
    [[True, True, True, True], [True, True, False, False], [False, False, False, False], [True, False, False, False]]
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def history(items: int = 6) -> Tensor:
    """(4, 4) places in a table of ``items`` rows, row 0 where `MASK` is off."""
    index = torch.randint(1, items, MASK.shape, generator=torch.Generator().manual_seed(3))
    return index * MASK


def test_gather_is_indexing_and_its_gradient_sums_repeats() -> None:
    table, index = noise(5, 3).requires_grad_(), torch.tensor([[1, 1], [4, 0]])
    assert torch.equal(gather(table, index), table[index])
    gather(table, index).sum().backward()
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [1, 2, 0, 0, 1]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_masked_softmax(batch: int, length: int, seed: int, share: float) -> None:
    logits = 10 * noise(batch, length, seed=seed)
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < share
    weights = masked_softmax(logits, mask, dim=1)
    torch.testing.assert_close(weights.sum(dim=1), mask.any(dim=1).float(), atol=1e-6, rtol=0)
    assert (weights[~mask] == 0).all()
    for row, kept in enumerate(mask):
        torch.testing.assert_close(weights[row, kept], logits[row, kept].softmax(dim=0))


def test_masked_softmax_has_no_gradient_into_padding_or_empty_rows() -> None:
    logits = noise(4, 4).requires_grad_()
    (masked_softmax(logits, MASK, dim=1) * noise(4, 4, seed=1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[~MASK] == 0).all()


def plain_attend(table: Tensor, index: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row, over the real behaviours only."""
    pooled, weights = [], []
    for b, kept in enumerate(mask):
        items = table[index[b, kept]]
        own = (queries[b] @ items.T).softmax(dim=1)
        pooled.append(own @ items)
        weights.append(torch.zeros(len(queries[b]), len(kept), dtype=own.dtype).index_copy(1, kept.nonzero().squeeze(1), own))
    return torch.stack(pooled), torch.stack(weights)


@pytest.fixture(params=[1, 1 << 18], ids=["a block per sample", "one block"])
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_BLOCK", request.param)


@pytest.mark.usefixtures("_block")
def test_attend_is_the_row_by_row_form() -> None:
    table, queries = noise(6, 5), noise(4, 3, 5, seed=1)
    for mask in (MASK, torch.ones_like(MASK)):
        pooled, weights = attend(table, history(), queries, mask)
        expected = plain_attend(table, history(), queries, mask)
        torch.testing.assert_close(pooled, expected[0])
        torch.testing.assert_close(weights, expected[1])
        torch.testing.assert_close(weights.sum(dim=2), mask.any(dim=1)[:, None].float().expand(4, 3), atol=1e-6, rtol=0)
        assert (weights.transpose(1, 2)[~mask] == 0).all()


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["ragged", "full"])
def test_attend_gradients(mask: Tensor) -> None:
    table = noise(6, 3, dtype=torch.float64).requires_grad_()
    queries = noise(4, 2, 3, seed=1, dtype=torch.float64).requires_grad_()

    def function(table: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        return _Attend.apply(table, history(), queries, mask)

    assert torch.autograd.gradcheck(function, (table, queries))
    # the pooled vectors alone, and the weights alone
    assert torch.autograd.gradcheck(lambda *inputs: function(*inputs)[0], (table, queries))
    assert torch.autograd.gradcheck(lambda *inputs: function(*inputs)[1], (table, queries))


@pytest.mark.usefixtures("_block")
def test_attend_gradients_are_those_of_the_traced_form() -> None:
    inputs = [noise(6, 5), noise(4, 3, 5, seed=1)]
    gradients = []
    for form in (attend, plain_attend):
        table, queries = (part.clone().requires_grad_() for part in inputs)
        pooled, weights = form(table, history(), queries, MASK)
        (pooled.square().sum() + (weights * noise(4, 3, 4, seed=2)).sum()).backward()
        gradients.append((table.grad, queries.grad))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("_block")
def test_attend_ignores_where_padding_points_and_what_is_there() -> None:
    table, queries, index = noise(7, 5), noise(4, 3, 5, seed=1), history()
    loud = table.index_fill(0, torch.tensor([0, 6]), 1e6)
    pairs = (attend(table, index, queries, MASK), attend(loud, torch.where(MASK, index, 6), queries, MASK))
    for before, after in zip(*pairs, strict=True):
        assert torch.equal(before, after)


def test_attend_of_no_samples_and_of_no_steps() -> None:
    table = noise(6, 5).requires_grad_()
    for batch, length in ((0, 4), (3, 0)):
        pooled, weights = attend(
            table, torch.zeros(batch, length, dtype=torch.long), noise(batch, 2, 5), torch.ones(batch, length, dtype=torch.bool)
        )
        assert pooled.shape == (batch, 2, 5)
        assert weights.shape == (batch, 2, length)
        assert not pooled.any()
        pooled.sum().backward()


def test_attend_keeps_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, weights = attend(noise(6, 5).bfloat16(), history(), noise(4, 3, 5, seed=1).bfloat16(), MASK)
    assert pooled.dtype == weights.dtype == torch.float32


def test_bilinear_attention_is_its_formula() -> None:
    bilinear, target, items, index = BilinearAttention(7, 5), noise(4, 7), noise(6, 5, seed=1), history()
    pooled, weights = bilinear(target, items, index, MASK)
    logits = torch.einsum("bkw,wq,bq->bk", items[index], bilinear.query.weight, target)
    expected = masked_softmax(logits, MASK, dim=1)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(pooled, torch.einsum("bk,bkw->bw", expected, items[index]))


# Dice ------------------------------------------------------------------------------------------------------------------


def test_dice_is_its_formula() -> None:
    dice, rows = Dice(3), noise(6, 3)
    dice.alpha.data = torch.tensor([0.0, 0.25, -0.5])
    spread = (rows.var(dim=0, unbiased=False) + 1e-9).sqrt()
    p = torch.sigmoid((rows - rows.mean(dim=0)) / spread)
    torch.testing.assert_close(dice(rows), p * rows + dice.alpha * (1 - p) * rows)


def test_dice_with_alpha_one_is_the_identity() -> None:
    dice, rows = Dice(3), noise(6, 3)
    nn.init.ones_(dice.alpha)
    torch.testing.assert_close(dice(rows), rows)


def test_dice_uses_running_statistics_in_eval_mode() -> None:
    dice, rows = Dice(3), 3 + 2 * noise(50, 3)
    for _ in range(600):
        dice(rows)
    torch.testing.assert_close(dice.norm.running_mean, rows.mean(dim=0), rtol=0.02, atol=0.02)
    dice.eval()
    torch.testing.assert_close(dice(rows)[:1], dice(rows[:1]))  # a row's value depends on no other row
    assert not torch.allclose(dice(rows), dice.train()(rows), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_dice_trains_on_one_row_or_none(count: int) -> None:
    dice, rows = Dice(3), noise(count, 3)
    before = dice.norm.running_mean.clone()
    torch.testing.assert_close(dice(rows), rows * torch.sigmoid(rows))  # fresh statistics: mean 0, variance 1
    assert torch.equal(dice.norm.running_mean, before)


@pytest.mark.parametrize("training", [True, False])
def test_dice_gradients(training: bool) -> None:
    dice = Dice(3).double().train(training)
    dice.alpha.data = torch.tensor([0.0, 0.25, -0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(dice, (noise(5, 3, dtype=torch.float64).requires_grad_(),))


# DIN's activation unit ---------------------------------------------------------------------------------------------------


def plain_unit(unit: ActivationUnit, target: Tensor, items: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """MLP([q, k, q - k, q * k]) on the real behaviours, as printed."""
    k = items[index]
    q = target[:, None, :].expand_as(k)
    pairs = torch.cat([q, k, q - k, q * k], dim=2)[mask]
    logits = torch.zeros(mask.shape)
    logits[mask] = unit.last(unit.activation(unit.first(pairs))).squeeze(1)
    weights = masked_softmax(logits, mask, dim=1) if unit.softmax else logits
    return torch.einsum("bk,bkw->bw", weights, k), weights


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["ragged", "full"])
@pytest.mark.parametrize("training", [True, False])
def test_activation_unit_is_the_mlp_on_the_four_parts(softmax: bool, mask: Tensor, training: bool) -> None:
    torch.manual_seed(0)
    unit = ActivationUnit(5, hidden=7, softmax=softmax).train(training)
    unit.first.bias.data.normal_()
    unit.last.bias.data.normal_()
    unit.activation.alpha.data.normal_()
    target, items, index = noise(4, 5), noise(6, 5, seed=1), history()
    results = []
    for form in (unit, lambda *inputs: plain_unit(unit, *inputs)):
        leaves = [target.clone().requires_grad_(), items.clone().requires_grad_()]
        pooled, weights = form(*leaves, index, mask)
        gradients = torch.autograd.grad(pooled.square().sum(), [*leaves, *unit.parameters()])
        results.append((pooled, weights, *gradients))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_activation_unit_weights() -> None:
    torch.manual_seed(0)
    target, items, index = noise(4, 5), noise(6, 5, seed=1), history()
    for softmax in (True, False):
        unit = ActivationUnit(5, softmax=softmax).eval()
        unit.last.bias.data.fill_(0.7)
        pooled, weights = unit(target, items, index, MASK)
        assert (weights[~MASK] == 0).all()
        assert (pooled[2] == 0).all()  # nothing in its history
        sums = weights.sum(dim=1)[[0, 1, 3]]
        assert torch.allclose(sums, torch.ones(3), atol=1e-6) == softmax


def test_activation_unit_statistics_see_real_behaviours_only() -> None:
    torch.manual_seed(0)
    unit = ActivationUnit(5, hidden=7)
    target, items, index = noise(4, 5), noise(6, 5, seed=1), history()
    unit(target, items, index, MASK)
    first = unit.activation.norm.running_mean.clone()
    unit.activation.norm.reset_running_stats()
    unit(target, items, torch.where(MASK, index, 5), MASK)
    assert torch.equal(unit.activation.norm.running_mean, first)


def test_activation_unit_of_empty_histories() -> None:
    unit = ActivationUnit(5)
    pooled, weights = unit(noise(2, 5), noise(6, 5), torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool))
    pooled.sum().backward()
    assert not pooled.any()
    assert not weights.any()


def test_parameter_counts() -> None:
    """4 W -> 64 -> 1 with Dice, and one matrix."""
    assert sum(weight.numel() for weight in ActivationUnit(32).parameters()) == (4 * 32 + 1) * 64 + 64 + 65
    assert sum(weight.numel() for weight in BilinearAttention(96, 32).parameters()) == 96 * 32
