"""DIEN against its formulas, its shared extraction, and its auxiliary loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_backbones import EXTRA, SIZES, behaviours, mlp_size, noise, size
from test_packed import pair
from tiny_ranking import DIM, batch, ranker, rows, with_history
from torch import Tensor

from braidrec.data.history import History, SharedHistory
from braidrec.layers.attention import Sequences
from braidrec.layers.recurrent import Steps
from braidrec.ranking import TASK
from braidrec.ranking.backbones.dien import DIEN, DIENConfig, NextBehaviour, unmet
from braidrec.ranking.contracts import RankingInput, Sizes
from braidrec.training.checkpoint import randomness, restore_randomness

GRUS = ["augru", "agru", "aigru", "gru"]


def built(sizes: Sizes = SIZES, **settings: Any) -> DIEN:
    torch.manual_seed(0)
    model = DIEN(DIENConfig.model_validate(settings), sizes).eval()
    for name, weight in model.named_parameters():
        if name.startswith("interest"):
            torch.nn.init.normal_(weight)
    return model


def gru_states(cell: Any, inputs: Tensor, weights: Tensor | None) -> list[Tensor]:
    """One sequence (T, W) by the formulas of the module's docstring."""
    width, state, found = cell.state.weight.shape[1], torch.zeros(cell.state.weight.shape[1]), []
    for at, row in enumerate(inputs):
        weight = None if weights is None else weights[at]
        x = cell.input(row * weight if cell.gate == "aigru" else row).split(width)
        v = cell.state(state).split(width)
        new = torch.tanh(x[-1] + torch.sigmoid(x[-2] + v[-2]) * v[-1])
        gate = weight if cell.gate == "agru" else torch.sigmoid(x[0] + v[0]) * (weight if cell.gate == "augru" else 1)
        state = (1 - gate) * state + gate * new
        found.append(state)
    return found


@pytest.mark.parametrize("gru", GRUS)
@pytest.mark.parametrize("attention", ["bilinear", "dot", "mlp"])
@pytest.mark.parametrize("history_fields", ["id", "all"])
def test_it_is_its_formula(gru: str, attention: str, history_fields: str) -> None:
    model, met = built(EXTRA, gru=gru, attention=attention, history_fields=history_fields), behaviours()
    given = RankingInput(noise(5, 4, DIM), noise(5, 3, DIM, seed=1), None, met)
    interest: Any = model.interest
    of = (lambda rows: rows[:, 0]) if history_fields == "id" else (lambda rows: rows.flatten(1))
    evolved, labels = [], []
    for row, length in enumerate(met.past.mask.sum(dim=1).tolist()):
        if not length:
            evolved.append(torch.zeros(interest.extraction.state.weight.shape[1]))
            labels.append(torch.zeros(DIM))
            continue
        k, q = of(met.items)[met.past.index[row, :length]], of(met.target)[row]
        states = torch.stack(gru_states(interest.extraction, k, None))
        if gru == "gru":
            states = torch.stack(gru_states(interest.evolution, states, None))
        if attention == "mlp":
            four = torch.cat([q.expand_as(states), states, q - states, q * states], dim=1)
            logits = interest.attention.last(interest.attention.activation(interest.attention.first(four)))[:, 0]
        else:
            logits = states @ (interest.attention.query.weight @ q if attention == "bilinear" else q)
        a = logits.softmax(dim=0)
        evolved.append(a @ states if gru == "gru" else gru_states(interest.evolution, states, a)[-1])
        labels.append(a @ met.embed.signals(met.past.signals[row, :length]))
    parts = [given.fields.flatten(1), given.extras.flatten(1), torch.stack(evolved), torch.stack(labels)]
    torch.testing.assert_close(model(given), model.mlp(torch.cat(parts, dim=1)).squeeze(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("history_fields", ["id", "all"])
def test_parameter_counts(history_fields: str) -> None:
    sizes = Sizes(8, 8, 3, 32)
    w = 32 if history_fields == "id" else 96
    cell, top = (w * 3 * w + 3 * w) * 2, mlp_size(16 * 32 + w + 32, out=True)
    own = {"history_fields": history_fields}
    assert size(DIEN(DIENConfig.model_validate(own), sizes)) == 2 * cell + w * w + top
    assert size(DIEN(DIENConfig.model_validate({**own, "attention": "dot"}), sizes)) == 2 * cell + top
    two = (w * 2 * w + 2 * w) * 2
    assert size(DIEN(DIENConfig.model_validate({**own, "gru": "agru"}), sizes)) == cell + two + w * w + top
    auxiliary = (2 * w + 1) * 100 + 101 * 50 + 51
    own |= {"auxiliary": "mlp", "auxiliary_weight": 0.5}
    assert size(DIEN(DIENConfig.model_validate(own), sizes)) == 2 * cell + w * w + top + auxiliary
    assert size(DIEN(DIENConfig(), replace(sizes, own_history=False))) == mlp_size(16 * 32, out=True)


def test_the_bilinear_form_begins_as_a_product() -> None:
    torch.manual_seed(0)
    model = DIEN(DIENConfig(), SIZES)
    assert torch.equal(model.interest.attention.query.weight, torch.eye(DIM))  # type: ignore[union-attr]


def test_attention_sums_to_one_and_an_empty_history_is_zeros() -> None:
    model, met = built(), behaviours()
    assert model.interest is not None
    evolved, attended, _, _ = model.interest(met.target[:, 0], met.items[:, 0], met.past)
    torch.testing.assert_close(attended.weights().sum(dim=2)[:, 0], met.past.some.float())
    assert not evolved[3].any()
    assert evolved[[0, 1, 2, 4]].abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("gru", GRUS)
def test_padding_is_inert_and_order_is_not(gru: str) -> None:
    model, one = ranker("dien", "plain", gru=gru).eval(), batch(14)
    for weight in model.backbone.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(weight.numel()))
    logits = model(one)
    history = one.history
    assert isinstance(history, History)
    wide = [F.pad(part, (0, 5)) for part in (history.items, history.signals, history.mask)]
    wide[0][~wide[2]] = 7
    # products of other shapes may round otherwise
    torch.testing.assert_close(model(replace(one, history=History(*wide))), logits, rtol=1e-5, atol=1e-5)
    full = rows(one, history.mask.all(dim=1).nonzero().squeeze(1))
    back = with_history(full, items=full.history.items.flip(1), signals=full.history.signals.flip(1))
    assert (model(back) - model(full)).abs().min() > 1e-6


def test_extraction_runs_once_for_rows_that_begin_at_one_event() -> None:
    shared, own = pair()
    model = ranker("dien", "plain").eval()
    past = [model.embed.items(one.item, one.history).past for one in (shared, own)]
    counts = [len(each.sequences.length) for each in past]
    assert isinstance(shared.history, SharedHistory)
    assert counts[0] < counts[1] == len(own)
    begins = torch.tensor(
        [max(0, end - 6) for rows, low in ((17, 0), (9, 3), (1, 0), (8, 40), (5, 30)) for end in range(low, low + rows)]
    )
    runs = shared.history.run_of * 1000 + begins
    assert counts[0] <= len(runs.unique())
    windows = past[0].sequences
    assert windows.of is not None
    for row, mask in enumerate(past[1].mask):
        found = windows.index[windows.of[row]][mask]
        assert found.tolist() == past[0].index[row][mask].tolist()


@pytest.mark.parametrize("lengths", [0, 3])
def test_histories_of_nothing_and_windows_wider_than_any(lengths: int) -> None:
    for settings in ({}, {"gru": "gru"}, {"gru": "agru"}, {"auxiliary_weight": 1.0}):
        model = ranker("dien", "plain", **settings)
        one = batch(8, lengths=torch.full((8,), lengths), length=50)
        losses = model.step(one).losses()
        total = torch.stack([*losses.values()]).sum()
        assert math.isfinite(total.item())
        assert all(found.isfinite().all() for found in torch.autograd.grad(total, [*model.backbone.parameters()]))
        if not lengths and len(losses) > 1:
            assert losses["auxiliary"].item() == 0.0


# The auxiliary loss ----------------------------------------------------------------------------------------------------


def test_auxiliary_by_hand() -> None:
    """Two histories, [1, 2] and [3]: one pair, g = 2 k_1, its next k_2, and 3 alone is left to stand against it."""
    items = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]])
    length = torch.tensor([2, 1])
    steps = Steps.of(length, 2)
    states = torch.cat([torch.zeros(1, 2), 2 * items[torch.tensor([[1, 2], [3, 0]]).flatten()[steps.rows]]])
    windows = Sequences(torch.tensor([[1, 2], [3, 0]]), length, None)
    loss = NextBehaviour(2, "dot", 0)(states, steps, items, windows)
    expected = -math.log(1 / (1 + math.exp(-1.0))) - math.log(
        1 - 1 / (1 + math.exp(2.0))
    )  # <(2, 0), k_2> = 1, <(2, 0), k_3> = -2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert NextBehaviour(2, "dot", 0)(0 * states, steps, items, windows).item() == pytest.approx(2 * math.log(2))


def test_auxiliary_is_a_mean_over_the_steps_that_another_follows() -> None:
    """[1, 2, 1] and [3]: g_1 = 2 k_1 before k_2, g_2 = 2 k_2 before k_1, both against 3; nothing follows the last ones."""
    items = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]])
    index, length = torch.tensor([[1, 2, 1], [3, 0, 0]]), torch.tensor([3, 1])
    steps = Steps.of(length, 3)
    states = torch.cat([torch.zeros(1, 2), 2 * items[index.flatten()[steps.rows]]])
    loss = NextBehaviour(2, "dot", 0)(states, steps, items, Sequences(index, length, None))
    first, second = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(wrong)) for wrong in (-2.0, 3.0))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_negatives_are_uniform_among_what_others_met() -> None:
    index = torch.tensor([[4, 2, 4, 0], [9, 7, 5, 2], [0, 0, 0, 0], [2, 2, 0, 0]])
    length = torch.tensor([3, 4, 0, 2])
    generator = torch.Generator().manual_seed(0)
    drawn = [unmet(index, length, generator) for _ in range(3000)]
    assert all(there.all() for _, there in drawn)
    for row, allowed in enumerate(([5, 7, 9], [4], [2, 4, 5, 7, 9], [4, 5, 7, 9])):
        counts = torch.bincount(torch.stack([found[row] for found, _ in drawn]).flatten(), minlength=10)
        assert counts.nonzero().flatten().tolist() == allowed
        assert (counts[allowed].float() * len(allowed) / counts.sum() - 1).abs().max() < 0.1


def test_where_nothing_is_left_there_is_no_pair() -> None:
    index, length = torch.tensor([[1, 2], [2, 1]]), torch.tensor([2, 2])
    _, there = unmet(index, length, torch.Generator())
    assert not there.any()
    steps = Steps.of(length, 2)
    loss = NextBehaviour(3, "mlp", 0)(
        torch.ones(5, 3, requires_grad=True), steps, torch.ones(3, 3), Sequences(index, length, None)
    )
    assert loss.item() == 0.0
    loss.backward()


def test_negatives_come_from_a_generator_that_checkpoints_keep() -> None:
    model, one = ranker("dien", "plain", auxiliary_weight=1.0), batch(14)
    modules = [model]
    before = randomness(modules)
    first, second = (model.step(one).losses()["auxiliary"].item() for _ in range(2))
    restore_randomness(before, modules)
    assert model.step(one).losses()["auxiliary"].item() == first != second


def test_the_auxiliary_loss_reaches_extraction_alone_and_shifts_no_other_draw() -> None:
    plain, model = ranker("dien", "plain"), ranker("dien", "plain", auxiliary="mlp", auxiliary_weight=0.3)
    assert dict(model.weights) == {"prediction": 1.0, "auxiliary": 0.3}
    assert dict(plain.weights) == {"prediction": 1.0}
    kept = dict(model.named_parameters())
    assert all(torch.equal(weight, kept[name]) for name, weight in plain.named_parameters())
    one = batch(14)
    loss = model.step(one).losses()["auxiliary"]
    found = torch.autograd.grad(loss, [*kept.values()], allow_unused=True)
    reached = {name for name, gradient in zip(kept, found, strict=True) if gradient is not None and gradient.any()}
    assert {name.split(".")[1] for name in reached if "embed" not in name} == {"interest", "auxiliary"}
    assert all("extraction" in name for name in reached if "interest" in name)
    assert "embed.table.weight" in reached


def test_presets() -> None:
    presets = TASK.backbones["dien"].presets
    assert {name: presets[name] for name in ("ours", "paper", "authors", "textbook")} == {
        "ours": {},
        "paper": {"auxiliary_weight": 1.0},
        "authors": {"norm": "ln_post"},
        "textbook": {"history_fields": "all"},
    }
