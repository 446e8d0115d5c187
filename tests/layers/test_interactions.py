"""Interactions against the formulas as printed, loop by loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from braidrec.layers.interactions import (
    CIN,
    BilinearFusion,
    CrossMatrix,
    CrossMix,
    CrossVector,
    FieldAttention,
    field_aware_products,
    fm_second_order,
    pair_products,
    pairs_of,
    weighted_pairs,
)


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


def test_weights_begin_xavier_normal() -> None:
    """Of DCN-Mix, too, whose factors are N(0, 1) in other code, which saturates both tanh."""
    torch.manual_seed(0)
    mix, cin, attention = CrossMix(300, 1, 2, 100), CIN(10, (200, 100)), FieldAttention(300, 4, 50)
    spreads = [(matrix, 400) for stack in (mix.u[0], mix.v[0]) for matrix in stack] + [(matrix, 200) for matrix in mix.c[0]]
    spreads += [(cin.weights[0], 200 + 10 * 10), (cin.weights[1], 100 + 200 * 10)]
    spreads += [(part, 300 + 200) for part in attention.weight.split(200)]
    for weight, ends in spreads:
        assert weight.std().item() == pytest.approx((2 / ends) ** 0.5, rel=0.05)
    assert not mix.bias.any()
    assert not mix.gate.bias.any()


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


# Pairs ------------------------------------------------------------------------------------------------------------------


def test_pairs_go_by_rows_of_the_upper_triangle() -> None:
    assert pairs_of(3, 0).T.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert pairs_of(2, 2, "ids").T.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    assert pairs_of(1, 0).shape == (2, 0)
    v = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]])
    assert pair_products(v, pairs_of(3, 0)).tolist() == [[1.0, 8.5, -2.5]]


@given(st.integers(1, 5), st.integers(0, 4), st.integers(1, 4), st.booleans(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_products_of_pairs_are_the_loops(fields: int, extras: int, dim: int, whole: bool, seed: int) -> None:
    size = fields + extras
    pairs, v = pairs_of(fields, extras, "all" if whole else "ids"), noise(3, size, dim, seed=seed)
    kept = [(i, j) for i, j in itertools.combinations(range(size), 2) if whole or i < fields]
    assert list(map(tuple, pairs.T.tolist())) == kept
    products = torch.stack([(v[:, i] * v[:, j]).sum(dim=1) for i, j in kept] or [v[:, 0, 0]], dim=1)[:, : len(kept)]
    torch.testing.assert_close(pair_products(v, pairs), products, rtol=0, atol=1e-9)
    r = noise(len(kept), seed=seed + 1)
    torch.testing.assert_close(weighted_pairs(v, pairs, r), products @ r, rtol=0, atol=1e-9)
    if whole:
        torch.testing.assert_close(weighted_pairs(v, pairs, torch.ones_like(r)), fm_second_order(v), rtol=0, atol=1e-9)
    aware = noise(3, size, max(size - 1, 0), dim, seed=seed + 2)
    expected = torch.zeros(3, dtype=torch.float64)
    for i, j in kept:
        expected = expected + (aware[:, i, j - 1] * aware[:, j, i]).sum(dim=1)
    torch.testing.assert_close(field_aware_products(aware, pairs), expected, rtol=0, atol=1e-9)
    if whole and size > 1:  # one vector for every other field: an FM
        same = v[:, :, None].expand(-1, -1, size - 1, -1)
        torch.testing.assert_close(field_aware_products(same, pairs), fm_second_order(v), rtol=0, atol=1e-9)


# CIN --------------------------------------------------------------------------------------------------------------------


def printed_cin(cin: CIN, fields: Tensor) -> Tensor:
    """Equations 6 and 7, every product made."""
    rows, pooled = fields, []
    for at, weight in enumerate(cin.weights):
        rows = torch.einsum("bid,bjd,hij->bhd", rows, fields, weight)
        if cin.biases is not None:
            rows = rows + cin.biases[at][None, :, None]
        pooled.append(rows.sum(dim=2))
    return torch.cat(pooled, dim=1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [(3,), (4, 3), (20, 2), (3, 20, 4), (4, 3, 2, 5)])
@pytest.mark.parametrize(("count", "dim"), [(1, 2), (2, 20), (3, 4), (5, 30)])
def test_cin_is_its_equations(count: int, dim: int, sizes: tuple[int, ...], bias: bool) -> None:
    cin, v = shaken(CIN(count, sizes, bias=bias)), noise(3, count, dim, seed=9)
    assert isinstance(cin, CIN)
    torch.testing.assert_close(cin(v), printed_cin(cin, v), rtol=1e-9, atol=1e-9)
    assert cin(v).shape == (3, cin.width)
    held = 0
    for before, size_of in zip((count, *sizes), sizes, strict=False):
        held += before * count * size_of + bias * size_of
    assert size(cin) == held


def test_cin_by_hand() -> None:
    """Fields 2 and 3 of width 1: products 4, 6, 6, 9; row 1 = 4 + 2 * 6 = 16, row 2 = 9 - 6 = 3, then 16 * 2 + 3 * 3 * .5."""
    cin = CIN(2, (2, 1))
    cin.weights[0].data = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[0.0, -1.0], [0.0, 1.0]]])
    cin.weights[1].data = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])
    assert cin(torch.tensor([[[2.0], [3.0]]])).tolist() == [[16.0, 3.0, 36.5]]


def test_cin_layer_k_is_of_degree_k_plus_one() -> None:
    cin, v = shaken(CIN(4, (3, 2, 2))), noise(5, 4, 6, seed=9)
    degree = torch.tensor([2.0] * 3 + [3.0] * 2 + [4.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(cin(1.5 * v), cin(v) * 1.5**degree)


# Attention over fields, fusion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize(("dim", "identity"), [(6, True), (6, False), (4, True)])
def test_field_attention_is_its_equations(dim: int, identity: bool, scale: bool) -> None:
    layer, z = shaken(FieldAttention(dim, 2, 3, scale=scale, identity=identity)), noise(4, 5, dim, seed=9)
    assert isinstance(layer, FieldAttention)
    parts = layer.weight.split(6)
    heads = []
    for h in range(2):
        q, k, v = (z @ part[3 * h : 3 * h + 3].T for part in parts[:3])
        weights = (q @ k.transpose(1, 2) / (3**0.5 if scale else 1.0)).softmax(dim=2)
        torch.testing.assert_close(layer.attention(z)[:, h], weights)
        heads.append(weights @ v)
    residual = z if dim == 6 and identity else z @ parts[3].T
    torch.testing.assert_close(layer(z), torch.relu(torch.cat(heads, dim=2) + residual))
    assert size(layer) == (3 if dim == 6 and identity else 4) * dim * 6


def test_field_attention_properties() -> None:
    """Rows sum to 1, an order of fields is an order of outputs, and without values the residual is left."""
    layer, z = shaken(FieldAttention(4, 2, 3)), noise(4, 5, 4, seed=9)
    assert isinstance(layer, FieldAttention)
    torch.testing.assert_close(layer.attention(z).sum(dim=3), torch.ones(4, 2, 5, dtype=torch.float64), rtol=0, atol=1e-6)
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(layer(z[:, order]), layer(z)[:, order])
    layer.weight.data[12:18] = 0.0
    torch.testing.assert_close(layer(z), torch.relu(z @ layer.weight[18:].T))


@pytest.mark.parametrize("heads", [1, 2])
def test_bilinear_fusion_is_a_sum_over_heads(heads: int) -> None:
    fusion, first, second = shaken(BilinearFusion(6, 4, heads)), noise(3, 6, seed=8), noise(3, 4, seed=9)
    assert isinstance(fusion, BilinearFusion)
    expected = torch.cat([first, second], dim=1) @ fusion.linear.weight[0] + fusion.linear.bias
    for h in range(heads):
        left, right = first.chunk(heads, dim=1)[h], second.chunk(heads, dim=1)[h]
        expected = expected + torch.einsum("bm,mn,bn->b", left, fusion.weight[h], right)
    torch.testing.assert_close(fusion(first, second), expected)
    assert size(fusion) == 24 // heads + 11


@pytest.mark.parametrize(
    "made",
    [lambda: CIN(3, (2, 2)), lambda: CIN(2, (10, 2), bias=True), lambda: FieldAttention(4, 2, 2)],
    ids=["cin", "cin that meets first", "attention"],
)
def test_gradients_of_field_layers(made: Callable[[], nn.Module]) -> None:
    layer = shaken(made())
    fields = 2 if isinstance(layer, CIN) and layer.biases is not None else 3
    v = noise(2, fields, 4 if isinstance(layer, FieldAttention) else 6, seed=7)
    assert torch.autograd.gradcheck(layer, (v.clone().requires_grad_(),))
    weights = dict(layer.named_parameters())

    def by_weights(*values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(weights, values, strict=True)), (v,))

    assert torch.autograd.gradcheck(by_weights, tuple(weight.detach().clone().requires_grad_() for weight in weights.values()))


def test_gradients_of_pairs() -> None:
    pairs, v, r = pairs_of(2, 2, "ids"), noise(2, 4, 3).requires_grad_(), noise(5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda fields: pair_products(fields, pairs), (v,))
    assert torch.autograd.gradcheck(lambda fields, weights: weighted_pairs(fields, pairs, weights), (v, r))
    aware = noise(2, 4, 3, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda vectors: field_aware_products(vectors, pairs), (aware,))
