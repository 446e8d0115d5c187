"""Next-item losses by hand, against autograd of the plain softmax, and the promise that no logits are kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from braidrec.errors import ConfigError, DataError, TrainingError
from braidrec.objectives.next_item import binary_cross_entropy, full_cross_entropy

LOG2 = math.log(2)


class Watch(TorchDispatchMode):
    """Every operation by name and the largest tensor that any of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operation(*args, **(kwargs or {}))
        self.names.append(operation.overloadpacket.__name__)
        if isinstance(found, Tensor):
            self.largest = max(self.largest, found.numel())
        return found


# ---- one negative


def test_binary_by_hand() -> None:
    # -log sigmoid(0) = ln 2, -log sigmoid(ln 3) = ln 4/3; negatives: -log(1 - sigmoid(ln 3)) = ln 4
    positive, negative = torch.tensor([0.0, math.log(3)]), torch.tensor([math.log(3)])
    expected = (LOG2 + math.log(4 / 3)) / 2 + math.log(4)
    assert binary_cross_entropy(positive, negative).item() == pytest.approx(expected, abs=1e-6)
    several = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, math.log(3)]])
    expected = (LOG2 + math.log(4 / 3)) / 2 + (5 * LOG2 + math.log(4)) / 6
    assert binary_cross_entropy(positive, several).item() == pytest.approx(expected, abs=1e-6)


def test_binary_is_twice_the_pooled_mean() -> None:
    positive, negative = torch.randn(2, 9).double()
    pooled = F.binary_cross_entropy_with_logits(torch.cat([positive, negative]), torch.tensor([1.0] * 9 + [0.0] * 9).double())
    assert binary_cross_entropy(positive, negative).item() == pytest.approx(2 * pooled.item(), abs=1e-12)
    assert binary_cross_entropy(torch.zeros(3), torch.zeros(3, 2)).item() == pytest.approx(2 * LOG2)


def test_binary_stands_large_logits() -> None:
    positive, negative = (torch.tensor([1e4, -1e4], requires_grad=True) for _ in range(2))
    loss = binary_cross_entropy(positive, negative)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert positive.grad is not None
    assert negative.grad is not None
    assert positive.grad.tolist() == [0.0, -0.5]
    assert negative.grad.tolist() == [0.5, 0.0]


def test_binary_gradients_and_precision() -> None:
    positive = torch.randn(4, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(binary_cross_entropy, (positive, negative))
    with torch.autocast("cpu", torch.bfloat16):
        assert binary_cross_entropy(positive.detach().bfloat16(), negative.detach().bfloat16()).dtype == torch.float32


def test_binary_refuses_nothing() -> None:
    with pytest.raises(DataError, match=r"positives \(0,\) and negatives \(0, 2\)"):
        binary_cross_entropy(torch.zeros(0), torch.zeros(0, 2))


# ---- every item


def plain(
    states: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    counts: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    logits = states @ items.T + (0 if bias is None else bias)
    if counts is not None:
        logits = logits + counts * (1 if weight is None else weight)
    return F.cross_entropy(logits[:, 1:], target - 1)


def case(count: int = 23, items: int = 31, dim: int = 5, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    """States, items, bias, weight (leaves) and counts; targets."""
    rng = torch.Generator().manual_seed(3)
    shapes = [(count, dim), (items + 1, dim), (items + 1,), ()]
    leaves = [torch.randn(shape, generator=rng, dtype=dtype).requires_grad_() for shape in shapes]
    counts = torch.randn(count, items + 1, generator=rng, dtype=dtype)
    return [*leaves, counts], torch.randint(1, items + 1, (count,), generator=rng)


def test_full_by_hand() -> None:
    states, items = torch.ones(1, 1), torch.tensor([[9.0], [0.0], [math.log(3)]])  # the 9 of padding has no say
    assert full_cross_entropy(states, items, torch.tensor([2])).item() == pytest.approx(math.log(4 / 3), abs=1e-6)
    both = full_cross_entropy(torch.ones(2, 1), items, torch.tensor([1, 2]))
    assert both.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, abs=1e-6)
    # ln 3 + ln 2 * 1 against 0 + ln 2 * 3: 6 against 8
    offset, weight = torch.tensor([[50.0, 3.0, 1.0]]), torch.tensor(LOG2)
    mixed = full_cross_entropy(states, items, torch.tensor([2]), offset=lambda *_: offset, offset_weight=weight)
    assert mixed.item() == pytest.approx(math.log(14 / 6), abs=1e-6)
    assert full_cross_entropy(torch.zeros(3, 1), items, torch.tensor([1, 2, 2])).item() == pytest.approx(LOG2)


@pytest.mark.parametrize("rows", [1, 7, 23, 100])
@pytest.mark.parametrize("extras", ["none", "bias", "offset", "all"])
def test_full_equals_the_plain_softmax_whatever_the_block(rows: int, extras: str) -> None:
    (states, items, bias, weight, counts), target = case()
    asked: list[tuple[int, int]] = []

    def offset(begin: int, end: int) -> Tensor:
        asked.append((begin, end))
        return counts[begin:end]

    own_bias = bias if extras in ("bias", "all") else None
    own_weight = weight if extras == "all" else None
    leaves = [leaf for leaf in (states, items, own_bias, own_weight) if leaf is not None]
    mixed = extras in ("offset", "all")
    expected = plain(states, items, target, own_bias, counts if mixed else None, own_weight)
    wanted = torch.autograd.grad(expected, leaves)
    loss = full_cross_entropy(
        states,
        items,
        target,
        bias=own_bias,
        offset=offset if mixed else None,
        offset_weight=own_weight,
        block_bytes=rows * 32 * 4 + 3,
    )
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), wanted, atol=1e-5, rtol=1e-5)
    assert asked == ([(at, min(at + rows, 23)) for at in range(0, 23, rows)] if mixed else [])


def test_full_gradients_in_double_precision() -> None:
    (states, items, bias, weight, counts), target = case(6, 7, 3, torch.float64)

    def loss(states: Tensor, items: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        return (
            3
            * full_cross_entropy(  # times 3: the gradient from above is not always 1
                states,
                items,
                target,
                bias=bias,
                offset=lambda begin, end: counts[begin:end],
                offset_weight=weight,
                block_bytes=4 * 8 * 8,
            )
        )

    assert torch.autograd.gradcheck(loss, (states, items, bias, weight))
    (grad,) = torch.autograd.grad(loss(states, items, bias, weight), items)
    assert not grad[0].any()


@pytest.mark.parametrize("learns", ["states", "items"])
def test_full_works_out_only_the_gradients_it_needs(learns: str) -> None:
    (states, items, *_), target = case()
    wanted = torch.autograd.grad(plain(states, items, target), states if learns == "states" else items)
    leaf, rest = (states, items.detach()) if learns == "states" else (items, states.detach())
    with Watch() as watch:
        loss = full_cross_entropy(*((leaf, rest) if learns == "states" else (rest, leaf)), target)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf), wanted, atol=1e-5, rtol=1e-5)
    assert watch.names.count("mm") == (2 if learns == "states" else 1)
    assert watch.names.count("addmm_") == (0 if learns == "states" else 1)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_full_without_gradients_is_one_product(guard: Any) -> None:
    (states, items, *_), target = case()
    with guard(), Watch() as watch:
        loss = full_cross_entropy(states, items, target)
    assert loss.item() == pytest.approx(plain(states, items, target).item(), abs=1e-5)
    assert watch.names.count("mm") == 1
    assert "addmm_" not in watch.names


def test_full_never_holds_the_logits() -> None:
    count, items, dim, rows = 400, 1_000, 4, 16
    states, table = torch.randn(count, dim, requires_grad=True), torch.randn(items + 1, dim, requires_grad=True)
    target = torch.randint(1, items + 1, (count,))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with Watch() as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = full_cross_entropy(states, table, target, block_bytes=rows * (items + 1) * 4)
        loss.backward()
    assert watch.largest <= rows * (items + 1)
    assert sorted(tensor.numel() for tensor in kept) == [count * dim, (items + 1) * dim]


def test_full_backward_may_run_twice_but_not_be_derived() -> None:
    (states, items, *_), target = case()
    loss = full_cross_entropy(states, items, target)
    first = torch.autograd.grad(2 * loss, items, retain_graph=True)
    assert torch.equal(torch.autograd.grad(2 * loss, items, retain_graph=True)[0], first[0])
    with pytest.raises(TrainingError, match="no second derivative"):
        torch.autograd.grad(loss, items, create_graph=True)


def test_full_stands_large_logits() -> None:
    rng = torch.Generator().manual_seed(0)
    states, items = (100 * torch.randn(9, 4, generator=rng)).requires_grad_(), 100 * torch.randn(12, 4, generator=rng)
    target = torch.arange(1, 10)
    loss = full_cross_entropy(states, items, target)
    exact = states.detach().double().requires_grad_()
    expected = plain(exact, items.double(), target)
    assert (states @ items.T).abs().max() > 1e4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, states)
    torch.testing.assert_close(grad.double(), torch.autograd.grad(expected, exact)[0], atol=1e-4, rtol=1e-4)
    sure = full_cross_entropy(torch.ones(1, 1), torch.tensor([[0.0], [1e4], [-1e4]]), torch.tensor([1]))
    assert sure.item() == 0
    assert full_cross_entropy(torch.ones(1, 1), torch.tensor([[0.0], [1e4], [-1e4]]), torch.tensor([2])).item() == 2e4


def test_full_keeps_single_precision_under_autocast() -> None:
    (states, items, *_), target = case()
    with torch.autocast("cpu", torch.bfloat16):
        loss = full_cross_entropy(states, items, target)
        low = full_cross_entropy(states.bfloat16(), items, target)
    assert loss.item() == pytest.approx(plain(states, items, target).item(), abs=1e-5)
    assert low.dtype == torch.float32
    low.backward()
    assert states.grad is not None
    assert states.grad.dtype == torch.float32


def test_full_learns_the_weight_of_counts() -> None:
    """Targets drawn from exp(2 c): the only thing to learn is the 2."""
    rng = torch.Generator().manual_seed(0)
    counts = torch.randn(4_000, 9, generator=rng)
    target = torch.multinomial((2 * counts[:, 1:]).exp(), 1, generator=rng).squeeze(1) + 1
    weight = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=30)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = full_cross_entropy(
            torch.zeros(4_000, 1), torch.zeros(9, 1), target, offset=lambda a, b: counts[a:b], offset_weight=weight
        )
        loss.backward()
        return loss

    optimiser.step(step)
    assert weight.item() == pytest.approx(2, abs=0.1)


def test_full_refuses_what_does_not_fit() -> None:
    states, items, target = torch.zeros(3, 2), torch.zeros(6, 2), torch.tensor([1, 5, 2])
    with pytest.raises(DataError, match=r"targets reach from 0 to 5; the catalogue holds 1\.\.5"):
        full_cross_entropy(states, items, torch.tensor([1, 5, 0]))
    with pytest.raises(DataError, match="targets reach from 1 to 6"):
        full_cross_entropy(states, items, torch.tensor([1, 5, 6]))
    with pytest.raises(DataError, match=r"states \(0, 2\)"):
        full_cross_entropy(torch.zeros(0, 2), items, torch.zeros(0).long())
    with pytest.raises(DataError, match=r"target \(2,\)"):
        full_cross_entropy(states, items, target[:2])
    with pytest.raises(DataError, match=r"items \(6, 3\)"):
        full_cross_entropy(states, torch.zeros(6, 3), target)
    with pytest.raises(DataError, match=r"bias has shape \(5,\)"):
        full_cross_entropy(states, items, target, bias=torch.zeros(5))
    with pytest.raises(DataError, match=r"offset\(0, 3\) has shape \(1, 6\); needed: \(3, 6\)"):
        full_cross_entropy(states, items, target, offset=lambda *_: torch.zeros(1, 6))
    with pytest.raises(ConfigError, match="offset_weight without offset"):
        full_cross_entropy(states, items, target, offset_weight=torch.ones(()))
