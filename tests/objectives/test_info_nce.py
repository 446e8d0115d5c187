"""InfoNCE by hand, in closed form and against the plain softmax over cosines."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import ConfigError, DataError
from braidrec.objectives.info_nce import info_nce


def plain(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    cosines = F.cosine_similarity(query[:, None], key[None], dim=2)
    return F.cross_entropy(cosines / temperature, torch.arange(len(query)))


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_orthonormal_pairs_have_a_closed_form(count: int, temperature: float, symmetric: bool) -> None:
    rows = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q[:count]
    value = info_nce(rows, rows, temperature=temperature, symmetric=symmetric).item()
    assert value == pytest.approx(math.log(1 + (count - 1) * math.exp(-1 / temperature)), abs=1e-12)


def test_two_pairs_by_hand() -> None:
    # cosines of q1: 1, 1; of q2: 0, 0; a tie is ln 2.  With keys as queries both see 1, 0, and k2's own pair is the 0
    query, key = torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0, 0.0], [3.0, 0.0]])
    assert info_nce(query, key, temperature=1.0).item() == pytest.approx(math.log(2), abs=1e-6)
    back = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert info_nce(key, query, temperature=1.0).item() == pytest.approx(back, abs=1e-6)
    both = (math.log(2) + back) / 2
    assert info_nce(query, key, temperature=1.0, symmetric=True).item() == pytest.approx(both, abs=1e-6)
    assert info_nce(key, query, temperature=1.0, symmetric=True).item() == pytest.approx(both, abs=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_the_plain_softmax(symmetric: bool) -> None:
    query, key = (torch.randn(40, 6, requires_grad=True) for _ in range(2))
    expected = plain(query, key, 0.1)
    if symmetric:
        expected = (expected + plain(key, query, 0.1)) / 2
    value = info_nce(query, key, symmetric=symmetric)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(expected, (query, key))
    torch.testing.assert_close(torch.autograd.grad(value, (query, key)), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients(symmetric: bool) -> None:
    query, key = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, k: info_nce(q, k, temperature=0.5, symmetric=symmetric), (query, key))


def test_invariances() -> None:
    query, key = torch.randn(2, 12, 5, dtype=torch.float64)
    value = info_nce(query, key).item()
    scale, order = torch.rand(12, 1, dtype=torch.float64) * 1e6 + 1e-3, torch.randperm(12)
    assert info_nce(query * scale, key * scale.flip(0)).item() == pytest.approx(value, abs=1e-9)
    assert info_nce(query[order], key[order]).item() == pytest.approx(value, abs=1e-9)
    same = torch.ones(12, 5)
    assert info_nce(same, same).item() == pytest.approx(math.log(12), abs=1e-5)


def test_opposite_pairs_at_a_low_temperature_stay_finite() -> None:
    rows = torch.eye(3).requires_grad_()
    value = info_nce(rows, -rows.detach(), temperature=1e-4)
    value.backward()
    assert value.item() == pytest.approx(1e4 + math.log(2), rel=1e-5)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_single_precision_under_autocast() -> None:
    query, key = torch.randn(2, 9, 4)
    with torch.autocast("cpu", torch.bfloat16):
        value = info_nce(query, key)
    assert torch.equal(value, info_nce(query, key))
    assert info_nce(query.bfloat16(), key.bfloat16()).dtype == torch.float32


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match=r"query \(3, 2\) and key \(4, 2\)"):
        info_nce(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(DataError, match=r"query \(0, 2\)"):
        info_nce(torch.ones(0, 2), torch.ones(0, 2))
    with pytest.raises(ConfigError, match=r"temperature = 0\.0: it must be above 0"):
        info_nce(torch.ones(3, 2), torch.ones(3, 2), temperature=0.0)
