"""The MLP: order of its parts, size, initialisation, and a batch of one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from braidrec.layers.mlp import MLP, BatchNorm, Norm, Repeated, initialise, reads_batch_statistics

NORMS: list[Norm] = ["none", "bn", "ln_post", "ln_pre"]


@pytest.mark.parametrize("width", [1, 40, 320])
def test_parameter_count_of_the_papers_mlp(width: int) -> None:
    """(n + 1) 128 + 129 * 64 + 65 for [128, 64] and one logit."""
    mlp = MLP(width, (128, 64), out=1)
    assert sum(weight.numel() for weight in mlp.parameters()) == (width + 1) * 128 + 129 * 64 + 65


@pytest.mark.parametrize("norm", NORMS)
def test_order_of_the_parts(norm: Norm) -> None:
    mlp, x = MLP(6, (5, 4), out=2, norm=norm).eval(), torch.randn(7, 6)
    linears = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    hidden = x
    for linear in linears[:-1]:
        hidden = linear(hidden)
        if norm == "bn":
            hidden = hidden / (1 + 1e-5) ** 0.5  # fresh running statistics: mean 0, variance 1
        elif norm == "ln_pre":
            hidden = F.layer_norm(hidden, hidden.shape[1:])
        hidden = hidden.relu()
        if norm == "ln_post":
            hidden = F.layer_norm(hidden, hidden.shape[1:], eps=1e-8)
    torch.testing.assert_close(mlp(x), linears[-1](hidden))


@pytest.mark.parametrize(("norm", "own"), [("none", 0), ("bn", 2 * 9), ("ln_post", 0), ("ln_pre", 2 * 9)])
def test_what_a_norm_adds(norm: Norm, own: int) -> None:
    """A weight and a bias of each hidden number, but for the form of the authors of DisCo, which only normalises."""
    mlp = MLP(6, (5, 4), out=2, norm=norm)
    assert sum(weight.numel() for weight in mlp.parameters()) == 7 * 5 + 6 * 4 + 5 * 2 + own


@pytest.mark.parametrize("norm", NORMS)
def test_dropout_positions(norm: Norm) -> None:
    parts = [type(layer).__name__ for layer in MLP(6, (5,), out=1, norm=norm, dropout=0.3).layers]
    assert (
        parts
        == {
            "none": ["Linear", "ReLU", "Dropout", "Linear"],
            "bn": ["Linear", "BatchNorm", "ReLU", "Dropout", "Linear"],
            "ln_pre": ["Linear", "LayerNorm", "ReLU", "Dropout", "Linear"],
            "ln_post": ["Dropout", "Linear", "ReLU", "LayerNorm", "Dropout", "Linear"],
        }[norm]
    )


def test_width_says_what_comes_out() -> None:
    for mlp in (MLP(6, (5, 4)), MLP(6, (5, 4), out=3), MLP(6, ()), MLP(6, (), out=2)):
        assert mlp(torch.zeros(2, 6)).shape == (2, mlp.width)


def test_initialise_is_xavier_normal_with_zero_biases() -> None:
    torch.manual_seed(0)
    linear = initialise(nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100, bias=False)))[0]
    assert isinstance(linear, nn.Linear)
    assert linear.weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_batch_of_one(norm: Norm, training: bool) -> None:
    """The last batch of an epoch may hold a single row."""
    mlp = MLP(6, (5, 4), out=1, norm=norm).train(training)
    mlp(torch.randn(1, 6)).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in mlp.parameters())


def test_batch_norm_of_one_row_uses_and_keeps_the_running_statistics() -> None:
    norm, row = BatchNorm(3), torch.tensor([[1.0, -2.0, 4.0]])
    norm.running_mean.copy_(torch.tensor([1.0, 0.0, 2.0]))
    norm.running_var.copy_(torch.tensor([1.0, 4.0, 0.25]))
    torch.testing.assert_close(norm(row), torch.tensor([[0.0, -1.0, 4.0]]), atol=1e-3, rtol=0)
    assert norm.running_mean.tolist() == [1.0, 0.0, 2.0]
    rows = torch.randn(8, 3)
    torch.testing.assert_close(norm(rows), nn.BatchNorm1d(3)(rows))


@pytest.mark.parametrize("norm", ["none", "bn", "ln_pre", "ln_post"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_columns_that_few_rows_differ_in_are_read_once(norm: Norm, dropout: float) -> None:
    torch.manual_seed(0)
    mlp = MLP(7, (6, 4), out=1, norm=norm, dropout=dropout).eval()
    leading, index, rest = torch.randn(3, 5), torch.tensor([2, 0, 0, 1, 2, 2]), torch.randn(6, 2)
    found = mlp([Repeated(leading, index), rest])
    torch.testing.assert_close(found, mlp(torch.cat([leading[index], rest], dim=1)))


def test_what_reads_the_statistics_of_its_batch() -> None:
    assert reads_batch_statistics(MLP(3, (2,), norm="bn"))
    assert reads_batch_statistics(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))  # as other packages have it
    assert not reads_batch_statistics(MLP(3, (2,), norm="ln_pre"))
