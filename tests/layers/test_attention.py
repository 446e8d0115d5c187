"""Attention over histories: re-associated forms against the formulas as printed, and nothing read from padding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from braidrec.data.history import History, Run, SharedHistory
from braidrec.layers import attention
from braidrec.layers.attention import (
    ActivationUnit,
    BilinearAttention,
    Dice,
    PerSample,
    _Attend,
    attend,
    behaviours,
    gather,
    masked_softmax,
)

MASK = torch.tensor(
    [[True, True, True, True], [True, True, False, False], [False, False, False, False], [True, False, False, False]]
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def history(items: int = 6) -> Tensor:
    """(4, 4) places in a table of ``items`` rows, row 0 where `MASK` is off."""
    index = torch.randint(1, items, MASK.shape, generator=torch.Generator().manual_seed(3))
    return index * MASK


def single(module: nn.Module, target: Tensor, items: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled (B, W) and weights (B, K) of an attention with one head, over histories that carry signals 1 to 3."""
    signals = (torch.arange(index.shape[1]) % 3 + 1) * mask
    found = module(target, items, PerSample(index, mask, signals, 3))
    weights = found.weights()
    by_signal = torch.stack([torch.where(signals == signal, weights[:, 0], 0.0).sum(dim=1) for signal in range(1, 4)], dim=1)
    torch.testing.assert_close(found.by_signal[:, 0, 1:], by_signal)
    return found.pooled[:, 0], weights[:, 0]


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
    pooled, weights = single(bilinear, target, items, index, MASK)
    logits = torch.einsum("bkw,wq,bq->bk", items[index], bilinear.query.weight, target)
    expected = masked_softmax(logits, MASK, dim=1)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(pooled, torch.einsum("bk,bkw->bw", expected, items[index]))


# Targets that share a window ---------------------------------------------------------------------------------------------


def shared_and_own(length: int = 4) -> tuple[SharedHistory, History]:
    """Rows of three users in runs of 5, 1 and 3, the second without a past, of windows that overlap; the same gathered."""
    items, signals = torch.randint(1, 8, (2, 14), generator=torch.Generator().manual_seed(2)).int()
    rows = (torch.tensor([[0, 1, 2, 3, 4], [6, 7, 8, 6, 6]]), torch.tensor([[5]]))
    last = (torch.tensor([[1, 3, 4, 6, 6], [2, 4, 4, 0, 0]]), torch.tensor([[0]]))
    runs = (
        Run(torch.stack([items[:6], items[6:12]]), torch.stack([signals[:6], signals[6:12]]) % 3 + 1, rows[0],
            (last[0] - length).clamp_min(0), last[0]),
        Run(torch.zeros(1, 1).int(), torch.zeros(1, 1).int(), rows[1], last[1], last[1]),
    )  # fmt: skip
    place, users = torch.tensor([0, 1, 2, 3, 4, 10, 5, 6, 7]), torch.tensor([1] * 5 + [2] + [3] * 3)
    shared = SharedHistory(runs, place, users, torch.tensor([0, 5, 6]), users - 1, length)
    return shared, History(shared.items, shared.signals, shared.mask)


def attended(history: History | SharedHistory, table: Tensor, queries: Tensor, parts: tuple[int, ...] | None) -> list[Tensor]:
    """Pooled, by signal, weights, and the gradients of both leaves."""
    leaves = [table.clone().requires_grad_(), queries.clone().requires_grad_()]
    past = behaviours(history, history.slots.long(), 3)
    found = past.mean(leaves[0]) if parts is None else past.attend(*leaves, parts)
    torch.manual_seed(5)
    loss = sum((part * torch.randn_like(part)).sum() for part in (found.pooled, found.by_signal))
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [found.pooled, found.by_signal, found.weights(), *(part for part in gradients if part is not None)]


FORMS = [(None, 6), ((), 6), ((1, 0, 2), 2)]


@pytest.mark.parametrize(("parts", "width"), FORMS, ids=["mean", "attention", "heads of their own"])
def test_shared_windows_and_own_ones_are_the_same(parts: tuple[int, ...] | None, width: int) -> None:
    shared, own = shared_and_own()
    table, queries = noise(8, 6), noise(9, 3, width, seed=1)
    found, expected = (attended(history, table, queries, parts) for history in (shared, own))
    assert own.mask.sum(dim=1).tolist() == [1, 3, 4, 4, 4, 0, 2, 4, 4]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    past = [behaviours(history, history.slots.long(), 3) for history in (shared, own)]
    for part in ("index", "mask", "signals", "some"):
        assert torch.equal(getattr(past[0], part), getattr(past[1], part))
    assert (past[0].user is None, past[1].user) == (False, None)


@pytest.mark.parametrize("change", [(0, 1), (-1, 0)], ids=["the target itself", "one event too many"])
@pytest.mark.parametrize(("parts", "width"), FORMS, ids=["mean", "attention", "heads of their own"])
def test_a_band_one_event_too_wide_is_noticed(parts: tuple[int, ...] | None, width: int, change: tuple[int, int]) -> None:
    shared, own = shared_and_own()
    wide = [
        replace(run, first=(run.first + change[0]).clamp_min(0), last=(run.last + change[1]).clamp_max(run.items.shape[1]))
        for run in shared.runs
    ]
    table, queries = noise(8, 6), noise(9, 3, width, seed=1)
    found = attended(replace(shared, runs=tuple(wide)), table, queries, parts)[0]
    assert not torch.allclose(found, attended(own, table, queries, parts)[0], atol=1e-3)


# Dice ------------------------------------------------------------------------------------------------------------------


def test_dice_is_its_formula() -> None:
    dice, rows = Dice(3), noise(6, 3)
    dice.alpha.data = torch.tensor([0.0, 0.25, -0.5])
    spread = (rows.var(dim=0, unbiased=False) + 1e-9).sqrt()
    p = torch.sigmoid((rows - rows.mean(dim=0)) / spread)
    torch.testing.assert_close(dice(rows), p * rows + dice.alpha * (1 - p) * rows)


def test_dice_moves_its_statistics_by_a_hundredth() -> None:
    dice, rows = Dice(3), 3 + 2 * noise(50, 3)
    dice(rows)
    torch.testing.assert_close(dice.norm.running_mean, rows.mean(dim=0) / 100)
    torch.testing.assert_close(dice.norm.running_var, 0.99 + rows.var(dim=0) / 100)


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
    for form in (partial(single, unit), partial(plain_unit, unit)):
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
        pooled, weights = single(unit, target, items, index, MASK)
        assert (weights[~MASK] == 0).all()
        assert (pooled[2] == 0).all()  # nothing in its history
        sums = weights.sum(dim=1)[[0, 1, 3]]
        assert torch.allclose(sums, torch.ones(3), atol=1e-6) == softmax


def test_activation_unit_statistics_see_real_behaviours_only() -> None:
    torch.manual_seed(0)
    unit = ActivationUnit(5, hidden=7)
    target, items, index = noise(4, 5), noise(6, 5, seed=1), history()
    single(unit, target, items, index, MASK)
    first = unit.activation.norm.running_mean.clone()
    unit.activation.norm.reset_running_stats()
    single(unit, target, items, torch.where(MASK, index, 5), MASK)
    assert torch.equal(unit.activation.norm.running_mean, first)


def test_activation_unit_of_empty_histories() -> None:
    unit = ActivationUnit(5)
    nothing = torch.zeros(2, 3, dtype=torch.long)
    pooled, weights = single(unit, noise(2, 5), noise(6, 5), nothing, nothing > 0)
    pooled.sum().backward()
    assert not pooled.any()
    assert not weights.any()


def test_parameter_counts() -> None:
    """4 W -> 64 -> 1 with Dice, and one matrix."""
    assert sum(weight.numel() for weight in ActivationUnit(32).parameters()) == (4 * 32 + 1) * 64 + 64 + 65
    assert sum(weight.numel() for weight in BilinearAttention(96, 32).parameters()) == 96 * 32
