"""Interactions against the formulas as printed, loop by loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from braidrec.layers.interactions import CrossMatrix, CrossMix, CrossVector, fm_second_order


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with no parameter left at its initial zero."""
    for at, weight in enumerate(module.double().parameters()):
        weight.data = noise(*weight.shape, seed=seed + at) * 0.5
    return module


def size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_fm_is_the_double_loop(batch: int, fields: int, dim: int, seed: int) -> None:
    v = noise(batch, fields, dim, seed=seed)
    pairs = [(v[:, i] * v[:, j]).sum(dim=1) for i, j in itertools.combinations(range(fields), 2)]
    expected = torch.stack(pairs).sum(dim=0) if pairs else torch.zeros(batch, dtype=torch.float64)
    torch.testing.assert_close(fm_second_order(v), expected, rtol=0, atol=1e-9)


def test_fm_by_hand_and_order_does_not_matter() -> None:
    v = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]])
    assert fm_second_order(v).item() == pytest.approx((3 - 2) + (0.5 + 8) + (1.5 - 4))
    assert fm_second_order(v[:, [2, 0, 1]]).item() == pytest.approx(fm_second_order(v).item())
    assert fm_second_order(torch.cat([v, torch.zeros(1, 2, 2)], dim=1)).item() == pytest.approx(fm_second_order(v).item())


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_cross_vector_is_the_layer_loop(layers: int) -> None:
    cross, x = shaken(CrossVector(6, layers)), noise(4, 6, seed=9)
    expected = x
    for w, b in zip(cross.weight, cross.bias, strict=True):
        expected = x * (expected @ w)[:, None] + b + expected
    torch.testing.assert_close(cross(x), expected, rtol=1e-10, atol=1e-10)


def test_cross_vector_without_weights_returns_its_input() -> None:
    cross, x = CrossVector(5, 3), torch.randn(2, 5)
    nn.init.zeros_(cross.weight)
    assert torch.equal(cross(x), x)


def test_cross_matrix_is_the_layer_loop() -> None:
    cross, x = shaken(CrossMatrix(6, 3)), noise(4, 6, seed=9)
    expected = x
    for layer in cross.layers:
        expected = x * (expected @ layer.weight.T + layer.bias) + expected
    torch.testing.assert_close(cross(x), expected)


def test_cross_matrix_of_equal_rows_is_cross_vector() -> None:
    """W_l = 1 w_l^T and b_l = 0 turn v2 into v1; the biases enter differently."""
    vector, matrix, x = shaken(CrossVector(5, 3)), CrossMatrix(5, 3).double(), noise(4, 5, seed=9)
    nn.init.zeros_(vector.bias)
    for layer, w in zip(matrix.layers, vector.weight, strict=True):
        layer.weight.data = w.data.expand(5, 5).clone()
    torch.testing.assert_close(matrix(x), vector(x))


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_cross_mix_is_the_sum_over_experts(experts: int) -> None:
    cross, x = shaken(CrossMix(6, 2, experts, 3)), noise(4, 6, seed=9)
    layer_input = x
    for layer in range(2):
        gates = (layer_input @ cross.gate.weight.T + cross.gate.bias).softmax(dim=1)
        if experts == 1:
            assert torch.equal(gates, torch.ones(4, 1, dtype=torch.float64))
        mixed = torch.zeros_like(x)
        for e in range(experts):
            inner = torch.tanh(torch.tanh(layer_input @ cross.v[layer, e]) @ cross.c[layer, e].T)
            mixed = mixed + gates[:, e : e + 1] * x * (inner @ cross.u[layer, e].T + cross.bias[layer])
        layer_input = layer_input + mixed
    torch.testing.assert_close(cross(x), layer_input)


def test_one_expert_has_a_gate_without_a_say() -> None:
    cross, x = shaken(CrossMix(6, 2, 1, 3)), noise(4, 6, seed=9)
    before = cross(x)
    nn.init.zeros_(cross.gate.weight)
    torch.testing.assert_close(cross(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("cross", [CrossVector(4, 3), CrossMatrix(4, 2), CrossMix(4, 2, 2, 2)], ids=["vector", "matrix", "mix"])
def test_cross_gradients(cross: nn.Module) -> None:
    shaken(cross)
    assert torch.autograd.gradcheck(cross, (noise(3, 4, seed=7).requires_grad_(),))
    weights = dict(cross.named_parameters())

    def by_weights(*values: Tensor) -> Tensor:
        return torch.func.functional_call(cross, dict(zip(weights, values, strict=True)), (noise(3, 4, seed=7),))

    assert torch.autograd.gradcheck(by_weights, tuple(weight.detach().clone().requires_grad_() for weight in weights.values()))


def test_fm_gradients() -> None:
    assert torch.autograd.gradcheck(fm_second_order, (noise(2, 3, 4).requires_grad_(),))


def test_parameter_counts() -> None:
    n, r = 10, 3  # 4 layers of 2 experts
    assert size(CrossVector(n, 3)) == 3 * 2 * n
    assert size(CrossMatrix(n, 3)) == 3 * (n * n + n)
    assert size(CrossMix(n, 4, 2, r)) == 4 * (2 * 2 * n * r + 2 * r * r + n) + 2 * (n + 1)


@pytest.mark.parametrize("cross", [CrossVector(8, 3), CrossMatrix(8, 3), CrossMix(8, 4, 2, 3)], ids=["vector", "matrix", "mix"])
def test_finite_at_scale_ten_and_equal_for_a_batch_of_one(cross: nn.Module) -> None:
    x = 10 * noise(5, 8)
    shaken(cross)
    assert cross.float()(x.float()).isfinite().all()
    torch.testing.assert_close(cross.double()(x[:1]), cross(x)[:1])
