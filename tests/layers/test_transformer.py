"""Packing, dropout by shared draws and causal attention, against the forms that pad, draw and loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import ConfigError
from braidrec.layers.transformer import CausalAttention, Heads, Packing, dropout, spread

MASK = torch.arange(5) >= 5 - torch.tensor([5, 3, 0, 1])[:, None]
SOME = [MASK, torch.ones_like(MASK), torch.zeros_like(MASK)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Packing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", SOME)
def test_pack_takes_real_slots_in_order_and_unpack_puts_them_back(mask: Tensor) -> None:
    grid, packing = noise(4, 5, 3), Packing(mask)
    rows = packing.pack(grid)
    assert torch.equal(rows, grid[mask])
    assert torch.equal(packing.unpack(rows), grid * mask[:, :, None])
    assert packing.full == bool(mask.all())


@pytest.mark.parametrize("mask", SOME)
def test_gradients_pass_through_packing_to_real_slots_only(mask: Tensor) -> None:
    grid, weight = noise(4, 5, 3).requires_grad_(), noise(4, 5, 3, seed=1)
    packing = Packing(mask)
    (packing.unpack(packing.pack(grid) * 2.0) * weight).sum().backward()
    assert grid.grad is not None
    torch.testing.assert_close(grid.grad, 2.0 * weight * mask[:, :, None])


def test_spread_adds_rows_that_share_a_place() -> None:
    rows = torch.tensor([[1.0], [2.0], [4.0]])
    assert spread(rows, torch.tensor([3, 0, 3]), 4).tolist() == [[2], [0], [0], [5]]


# Dropout ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(401, 499, dtype=dtype), rate, True)  # 200,099 places, no multiple of four
    assert out.dtype == dtype
    kept = (out != 0).double()
    deviation = (rate * (1 - rate) / out.numel()) ** 0.5
    assert kept.mean().item() == pytest.approx(1 - rate, abs=4 * deviation + 2**-17)
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=1e-4 if dtype != torch.bfloat16 else 1e-2)
    # Places that share a draw are independent: as many pairs of neighbours survive as chance allows.
    for apart in (1, 2, 3, 4):
        flat = kept.flatten()
        both = (flat[:-apart] * flat[apart:]).mean().item()
        assert both == pytest.approx((1 - rate) ** 2, abs=6 * deviation)


def test_dropout_is_the_identity_outside_training_and_follows_the_global_generator() -> None:
    x = noise(50, 7)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(x, 0.5, True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert dropout(x, 0.999_999_9, True).isfinite().all()


def test_gradients_pass_where_dropout_lets_values_pass() -> None:
    torch.manual_seed(0)
    x = torch.ones(30, 5, requires_grad=True)
    out = dropout(x, 0.4, True)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())
    assert set(x.grad.flatten().tolist()) == {0.0, out.max().item()}


# Attention -------------------------------------------------------------------------------------------------------------


def attention(heads: int, bias: bool, rate: float = 0.0) -> CausalAttention:
    torch.manual_seed(0)
    made = CausalAttention(6, heads, dropout=rate, bias=bias).double()
    for name, weight in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return made


def sdpa(made: CausalAttention, grid: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Every row on its own, real positions only: PyTorch's attention, (B, K, D) with zeros in padding."""
    out = torch.zeros_like(grid)
    for row, kept in enumerate(mask):
        if kept.any():
            parts = [
                part(grid[row, kept]).unflatten(1, (heads, -1)).transpose(0, 1) for part in (made.query, made.key, made.value)
            ]
            mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
            out[row, kept] = made.out(mixed.transpose(0, 1).flatten(1))
    return out


@pytest.mark.parametrize("mask", SOME[:2])
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_is_pytorchs_on_every_history_alone(mask: Tensor, heads: int, bias: bool) -> None:
    made, packing, weight = attention(heads, bias), Packing(mask), noise(4, 5, 6, seed=1)

    def packed(grid: Tensor) -> Tensor:
        rows = packing.pack(grid)
        return packing.unpack(made(rows, rows, Heads(packing, heads, rows.dtype)))

    results = []
    for path in (packed, lambda grid: sdpa(made, grid, mask, heads)):
        grid = noise(4, 5, 6).requires_grad_()
        out = path(grid)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [grid, *made.parameters()])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mask", SOME[:2])
def test_the_newest_query_alone_gives_the_last_column(mask: Tensor) -> None:
    made, packing = attention(2, True), Packing(mask)
    rows = packing.pack(noise(4, 5, 6))
    heads = Heads(packing, 2, rows.dtype)
    whole = packing.unpack(made(rows, rows, heads))[:, -1]
    newest = made(packing.unpack(rows)[:, -1], rows, heads, newest=True)
    assert newest.isfinite().all()
    torch.testing.assert_close(newest[mask[:, -1]], whole[mask[:, -1]])


def test_a_huge_logit_of_a_later_key_stays_out_of_sight() -> None:
    grid, packing = noise(1, 5, 6), Packing(torch.ones(1, 5, dtype=torch.bool))
    made = attention(1, False)
    rows = packing.pack(grid)
    first = made(rows, rows, Heads(packing, 1, rows.dtype))[:4]
    rows = torch.cat([rows[:4], 1e9 * rows[4:]])
    assert torch.equal(made(rows, rows, Heads(packing, 1, rows.dtype))[:4], first)


def test_dropout_acts_on_the_weights() -> None:
    """With values of ones and an identity behind them, a state is the sum of its weights: 1 without dropout."""
    made = attention(2, True, rate=0.5)
    for part, weight, bias in ((made.value, 0.0, 1.0), (made.out, None, 0.0)):
        part.weight.data.copy_(torch.eye(6) if weight is None else torch.zeros(6, 6))
        part.bias.data.fill_(bias)
    packing = Packing(MASK)
    rows = packing.pack(noise(4, 5, 6))
    heads = Heads(packing, 2, rows.dtype)
    torch.testing.assert_close(made.eval()(rows, rows, heads), torch.ones_like(rows))
    totals = made.train()(rows, rows, heads)
    torch.testing.assert_close(totals[:, 0], totals[:, 2])  # one head, one sum
    assert totals.unique().numel() > 4
    assert set(totals[[0, -1]].flatten().tolist()) <= {0.0, 2.0}  # first items, whose one weight is dropped or doubled


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads = 4 does not divide dim = 6"):
        CausalAttention(6, 4, dropout=0.0, bias=False)
