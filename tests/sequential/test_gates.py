"""Frequency gates: equation 17 in numbers, rows that sum to 1, and the row of items that training never met."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from braidrec.errors import ConfigError
from braidrec.sequential.gates import BucketGate, ContextualGate, check_experts

THREE = ("id", "aligned", "text")
DIM, BUCKETS = 4, 5


def with_logits(values: Tensor, experts: tuple[str, ...] = THREE) -> BucketGate:
    gate = BucketGate(experts, len(values) - 1)
    with torch.no_grad():
        gate.logits.copy_(values)
    return gate


def contextual(experts: tuple[str, ...] = THREE) -> ContextualGate:
    torch.manual_seed(0)
    gate = ContextualGate(experts, BUCKETS, DIM)
    with torch.no_grad():
        gate.buckets.normal_()
    return gate


def test_by_hand() -> None:
    shares = with_logits(torch.tensor([[0.0, 0, 0], [math.log(3), 0, -math.log(3)]]))()
    expected = torch.tensor([[1 / 3] * 3, [0.5, 1 / 3, 1 / 6], [0, 2 / 3, 1 / 3]])  # sigmoids .75, .5, .25
    torch.testing.assert_close(shares, expected)


def test_a_fresh_gate_is_even_and_the_authors_is_not() -> None:
    even = BucketGate(THREE, 10)()
    torch.testing.assert_close(even[:-1], torch.full((11, 3), 1 / 3))
    torch.testing.assert_close(even[-1], torch.tensor([0, 0.5, 0.5]))
    authors = BucketGate(THREE, 10, init="authors")()
    assert authors[1, 1].item() == pytest.approx(0.013, abs=0.001)  # the aligned expert, nearly switched off
    assert authors[10, 1].item() == pytest.approx(0.005, abs=0.001)
    assert authors[1, 0] > authors[1, 2]
    assert authors[10, 0] < authors[10, 2]
    logits = BucketGate(THREE, 10, init="authors").logits
    falling, rising = torch.linspace(1, 0, 11), torch.linspace(0, 1, 11)
    torch.testing.assert_close(logits.detach(), torch.stack([falling, falling - 5, rising], dim=1))  # -4 .. -5 in the middle
    assert logits.dtype == torch.float32
    assert sum(weight.numel() for weight in BucketGate(THREE, 10).parameters()) == 33


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=2, max_size=6))
def test_rows_are_shares(values: list[list[float]]) -> None:
    shares = with_logits(torch.tensor(values))()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(values) + 1))
    assert (shares[:-1] > 0).all() or max(abs(x) for row in values for x in row) > 40
    assert shares[-1, 0] == 0
    sigmoid = torch.tensor(values).double().sigmoid()
    torch.testing.assert_close(shares[:-1].double(), sigmoid / sigmoid.sum(dim=1, keepdim=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(shares[-1, 1:].double(), sigmoid[-1, 1:] / sigmoid[-1, 1:].sum(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_saturated_gate_is_one_expert_and_still_learns(column: int) -> None:
    gate = with_logits(torch.full((3, 3), -1e4).index_fill_(1, torch.tensor([column]), 1e4))
    shares = gate()
    assert torch.equal(shares[:-1], F.one_hot(torch.full((3,), column), 3).float())
    assert shares.isfinite().all()  # even where the id expert alone was left
    assert shares[-1].sum() == 1
    shares.square().sum().backward()
    assert gate.logits.grad is not None
    assert gate.logits.grad.isfinite().all()


def test_the_contextual_gate_is_its_formula_user_by_user() -> None:
    gate, states = contextual(), torch.randn(3, 3 * DIM, generator=torch.Generator().manual_seed(2))
    shares = gate(states)
    assert shares.shape == (3, BUCKETS + 2, 3)
    first, second = gate.network[0], gate.network[2]
    for user in range(3):
        for bucket in range(BUCKETS + 1):
            hidden = F.gelu(first.weight @ torch.cat([gate.buckets[bucket], states[user]]) + first.bias)
            logits = second.weight @ hidden + second.bias
            torch.testing.assert_close(shares[user, bucket], logits.softmax(dim=0))
        others = logits[1:].softmax(dim=0)  # of the coldest bucket
        torch.testing.assert_close(shares[user, -1], torch.cat([torch.zeros(1), others]))


def test_first_weights_of_the_contextual_gate() -> None:
    torch.manual_seed(0)
    gate = ContextualGate(THREE, 200, 32)
    assert gate.buckets.shape == (201, 16)
    assert gate.buckets.std().item() == pytest.approx(0.02, rel=0.05)
    first, second = gate.network[0], gate.network[2]
    assert (first.weight.shape, second.weight.shape) == ((64, 16 + 3 * 32), (3, 64))
    assert first.weight.std().item() == pytest.approx((2 / (64 + 112)) ** 0.5, rel=0.05)
    assert second.weight.std().item() == pytest.approx((2 / (3 + 64)) ** 0.5, rel=0.15)
    assert not first.bias.any()
    assert not second.bias.any()


def test_the_contextual_gate_does_not_train_the_experts() -> None:
    gate, states = contextual(), torch.randn(2, 3 * DIM, requires_grad=True)
    gate(states).square().sum().backward()
    assert states.grad is None
    assert all(weight.grad is not None and weight.grad.any() for weight in gate.parameters())
    with torch.no_grad():
        gate.network[2].bias.copy_(torch.tensor([1e4, -1e4, 0.0]))
    gate.zero_grad()
    gate(states).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in gate.parameters())


def test_a_lone_expert_and_one_without_ids_keep_the_coldest_row_for_what_is_new() -> None:
    assert torch.equal(BucketGate(("id",), 4)(), torch.ones(6, 1))
    shares = with_logits(torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), ("aligned", "text"))()
    assert torch.equal(shares[-1], shares[-2])


def test_experts_are_named_once() -> None:
    check_experts(THREE, "enhance")
    for experts in ((), ("id", "id")):
        with pytest.raises(ConfigError, match=r"enhance: experts = .*name at least one of id, aligned, text, each once"):
            check_experts(experts, "enhance")
