"""Hard concrete gates against their closed forms, and the encoder of a set against what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from braidrec.layers.gated import LIMIT, GatedEncoder, SetAttention, chance_of_open, drawn_gates, settled_gates

SHIFT = 2 / 3 * math.log(11)


def draws(logit: float, count: int = 200_000) -> Tensor:
    noise = torch.rand(count, generator=torch.Generator().manual_seed(3))
    return drawn_gates(torch.full((count,), logit), noise)


def test_settled_gates_reach_both_ends_and_stand_in_the_middle() -> None:
    assert settled_gates(torch.tensor([LIMIT, -LIMIT, 0.0])).tolist() == [1.0, 0.0, 0.5]
    found = settled_gates(torch.linspace(-9, 9, 101))
    assert found.min() == 0
    assert found.max() == 1


@pytest.mark.parametrize(("logit", "opened", "whole"), [(0.0, 0.8318, 0.1682), (-2.0, 0.4010, 0.0266), (2.0, 0.9734, 0.5990)])
def test_drawn_gates_open_as_often_as_they_should(logit: float, opened: float, whole: float) -> None:
    found = draws(logit)
    assert (found > 0).float().mean().item() == pytest.approx(opened, abs=0.003)
    assert (found == 1).float().mean().item() == pytest.approx(whole, abs=0.003)
    assert chance_of_open(torch.tensor(logit)).item() == pytest.approx(opened, abs=1e-4)
    assert torch.sigmoid(torch.tensor(logit - SHIFT)).item() == pytest.approx(whole, abs=1e-4)


def test_a_gate_has_a_gradient_where_it_is_not_clamped() -> None:
    logits = torch.linspace(-3, 3, 1000, requires_grad=True)
    gates = drawn_gates(logits, torch.rand(1000, generator=torch.Generator().manual_seed(0)))
    (slope,) = torch.autograd.grad(gates.sum(), logits)
    inside = (gates > 0) & (gates < 1)
    assert (slope[inside] > 0).all()
    assert not slope[~inside].any()
    assert 0 < int(inside.sum()) < 1000


def test_noise_at_its_ends_gives_no_infinities() -> None:
    found = drawn_gates(torch.zeros(2), torch.tensor([0.0, 1.0]))
    assert found.tolist() == [0.0, 1.0]


def encoder(*, gated: bool = True, dim: int = 8, heads: int = 3) -> GatedEncoder:
    torch.manual_seed(0)
    return GatedEncoder(dim, layers=3, heads=heads, head_width=dim, gated=gated)


def members(dim: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    gates = torch.rand(6, 5, generator=random)
    return torch.randn(6, 5, dim, generator=random) * gates[:, :, None], gates


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dim", [16, 8])
def test_the_order_of_members_says_nothing(gated: bool, dim: int) -> None:
    module, (rows, gates) = encoder(gated=gated, dim=dim), members(dim)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        module.rows(rows[:, order], gates[:, order]), module.rows(rows, gates)[:, order], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(module(rows[:, order], gates[:, order]), module(rows, gates), atol=1e-5, rtol=0)


def test_a_layer_is_attention_over_heads_of_a_width_of_their_own() -> None:
    module, (rows, gates) = encoder().layers[0], members()
    normed = module.before_attention(rows)
    mixed = torch.zeros_like(rows)
    for head in range(3):
        q, k, v = (normed @ weight[head] for weight in (module.query, module.key, module.value))
        weights = (q @ k.transpose(1, 2) / math.sqrt(8) + torch.log(gates + 1e-9)[:, None]).softmax(dim=2)
        torch.testing.assert_close(weights.sum(dim=2), torch.ones(6, 5))
        mixed = mixed + weights @ v @ module.out[head]
    after = rows + mixed + module.bias
    wanted = after + module.rest(module.before_rest(after))
    torch.testing.assert_close(module(rows, torch.log(gates + 1e-9)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_gradients_of_a_layer_are_those_of_its_numbers(gated: bool) -> None:
    module, (rows, gates) = encoder().layers[0].double(), members()
    favour = torch.log(gates.double()).requires_grad_() if gated else None
    inputs = [rows.double().requires_grad_(), *([] if favour is None else [favour])]
    assert torch.autograd.gradcheck(lambda rows, *favour: module(rows, *(favour or (None,))), inputs)


def test_logits_of_any_size_leave_attention_finite() -> None:
    module, (rows, gates) = encoder().layers[0], members()
    with torch.no_grad():
        module.query.mul_(1e4)
    found = module(rows, torch.log(gates + 1e-9))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(weight.grad).all() for weight in module.parameters() if weight.grad is not None)


def test_a_closed_member_is_as_if_it_were_not_there() -> None:
    module, (rows, gates) = encoder(), members()
    gates[:, 2] = 0.0
    rows = rows * (gates > 0)[:, :, None]
    left = [0, 1, 3, 4]
    torch.testing.assert_close(module(rows, gates), module(rows[:, left], gates[:, left]), atol=1e-6, rtol=1e-5)
    literal = encoder(gated=False)
    assert not torch.allclose(literal(rows, gates), literal(rows[:, left], gates[:, left]), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_closed_and_all_open_are_finite(value: float) -> None:
    module, (rows, _) = encoder(), members()
    gates = torch.full((6, 5), value, requires_grad=True)
    found = module(rows * value, gates)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert gates.grad is not None
    assert torch.isfinite(gates.grad).all()
    if not value:
        assert not found.any()


def test_the_extractor_keeps_what_each_member_was() -> None:
    torch.manual_seed(0)
    module, rows = SetAttention(8), torch.randn(4, 5, 8)
    weights = (module.query(rows) @ module.key(rows).transpose(1, 2) / math.sqrt(8)).softmax(dim=2)
    torch.testing.assert_close(module(rows), rows + weights @ module.value(rows), atol=1e-5, rtol=1e-5)
