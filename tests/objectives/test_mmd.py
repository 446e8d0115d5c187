"""MMD against equations (6)-(13) written out, values by hand, its invariances, and what it can and cannot tell apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from braidrec.errors import ConfigError, DataError, TrainingError
from braidrec.objectives.mmd import SCALES, Estimator, Kernel, mmd

KERNELS: tuple[Kernel, ...] = ("gaussian", "laplacian", "linear", "cosine")
ADAPTIVE: tuple[Kernel, ...] = ("gaussian", "laplacian")
ESTIMATORS: tuple[Estimator, ...] = ("biased", "unbiased", "authors")


def normal(count: int, dim: int, seed: int = 0, shift: float = 0.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype) + shift


def bandwidth(pooled: Tensor, kernel: Kernel) -> Tensor:
    """s^2 or m from the whole pooled matrix, zero diagonal included."""
    apart = pooled[:, None] - pooled
    return (apart.square() if kernel == "gaussian" else apart.abs()).sum(dim=2).mean()


def written_out(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    estimator: Estimator = "unbiased",
    scales: tuple[float, ...] = SCALES,
    width: Tensor | None = None,
) -> Tensor:
    """Equations (6)-(13) on the full pooled matrix, one exponential per scale; ``width`` freezes s^2 or m."""
    n, pooled = len(x), torch.cat([x, y])
    width = bandwidth(pooled, kernel).detach() if width is None else width
    apart = pooled[:, None] - pooled
    if kernel == "gaussian":
        gram = sum((torch.exp(-apart.square().sum(dim=2) / (2 * a * width)) for a in scales), torch.zeros(()))
    elif kernel == "laplacian":
        gram = sum((torch.exp(-apart.abs().sum(dim=2) / (a * width)) for a in scales), torch.zeros(()))
    else:
        rows = pooled / pooled.norm(dim=1, keepdim=True).clamp_min(1e-8) if kernel == "cosine" else pooled
        gram = rows @ rows.T
    within_x, within_y, across = gram[:n, :n], gram[n:, n:], gram[:n, n:]
    if estimator == "biased":
        return (within_x.sum() + within_y.sum() - 2 * across.sum()) / n**2
    own = within_x.trace() + within_y.trace()
    value = (within_x.sum() + within_y.sum() - own) / (n * (n - 1)) - 2 * across.mean()
    return value + 2 / (n - 1) if estimator == "authors" else value


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("count", [2, 3, 17])
def test_equations_and_gradients_at_a_constant_bandwidth(kernel: Kernel, estimator: Estimator, count: int) -> None:
    x, y = normal(count, 3).requires_grad_(), normal(count, 3, 1, 0.5).requires_grad_()
    expected = written_out(x, y, kernel, estimator)
    value = mmd(x, y, kernel=kernel, estimator=estimator)
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)
    wanted = torch.autograd.grad(3 * expected, (x, y))
    torch.testing.assert_close(torch.autograd.grad(3 * value, (x, y)), wanted, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_by_finite_differences_at_the_frozen_bandwidth(kernel: Kernel) -> None:
    x, y = normal(4, 2).requires_grad_(), normal(4, 2, 1, 0.5).requires_grad_()
    grads = torch.autograd.grad(mmd(x, y, kernel=kernel), (x, y))
    with torch.no_grad():
        width, h = bandwidth(torch.cat([x, y]), kernel), 1e-6
        moving = 0.0  # how much a gradient through the bandwidth would differ
        for side, grad in ((0, grads[0]), (1, grads[1])):
            for at in range(8):
                step = torch.zeros(8, dtype=torch.float64)
                step[at] = h
                moved = [[z + sign * step.view(4, 2) if own == side else z for own, z in enumerate((x, y))] for sign in (1, -1)]
                frozen = [written_out(a, b, kernel, width=width).item() for a, b in moved]
                assert grad.flatten()[at].item() == pytest.approx((frozen[0] - frozen[1]) / (2 * h), abs=1e-7)
                free = [mmd(a, b, kernel=kernel).item() for a, b in moved]
                moving = max(moving, abs((free[0] - free[1]) / (2 * h) - grad.flatten()[at].item()))
    assert moving > 1e-3 if kernel in ADAPTIVE else moving < 1e-7


@pytest.mark.parametrize("kernel", ["linear", "cosine"])
def test_gradcheck_without_a_bandwidth(kernel: Kernel) -> None:
    x, y = normal(5, 3).requires_grad_(), normal(5, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, kernel=kernel), (x, y))


@pytest.mark.parametrize(
    ("kernel", "scale", "biased", "unbiased"),
    [
        # x = 0, 1 and y = 0, 3.  s^2 = 2 (1 + 0 + 9 + 1 + 4 + 9) / 16 = 3, so a = 1/6 makes k = exp(-d^2)
        ("gaussian", 1 / 6, (1 - math.exp(-4)) / 2, (math.exp(-1) + math.exp(-9) - 1 - math.exp(-4)) / 2),
        # m = 2 (1 + 0 + 3 + 1 + 2 + 3) / 16 = 1.25, so a = .8 makes k = exp(-|d|)
        ("laplacian", 0.8, (1 - math.exp(-2)) / 2, (math.exp(-1) + math.exp(-3) - 1 - math.exp(-2)) / 2),
        # means 1/2 and 3/2; 0 and 0 within, (0 + 0 + 0 + 3) / 4 across
        ("linear", 1.0, 1.0, -1.5),
    ],
)
def test_two_rows_by_hand(kernel: Kernel, scale: float, biased: float, unbiased: float) -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    for estimator, expected in zip(ESTIMATORS, (biased, unbiased, unbiased + 2), strict=True):
        value = mmd(x, y, kernel=kernel, scales=(scale,), estimator=estimator)
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_cosine_by_hand_and_the_sign_of_the_released_code() -> None:
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    # 0 within x, 1 within y, sqrt(1/2) across; the biased form adds own pairs: 1/2 + 1 - sqrt(2)
    assert mmd(x, y, kernel="cosine").item() == pytest.approx(1 - math.sqrt(2), abs=1e-6)
    assert mmd(x, y, kernel="cosine", estimator="biased").item() == pytest.approx(1.5 - math.sqrt(2), abs=1e-6)
    # k = 1 - cos: 1 within x, 0 within y, 1 - sqrt(1/2) across
    legacy = mmd(x, y, kernel="cosine", legacy_cosine_sign=True).item()
    assert legacy == pytest.approx(1 - 2 * (1 - math.sqrt(0.5)), abs=1e-6)
    authors = mmd(x, y, kernel="cosine", legacy_cosine_sign=True, estimator="authors").item()
    assert authors == pytest.approx(legacy + 2, abs=1e-6)


def test_a_zero_row_has_cosine_zero() -> None:
    x, y = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    assert mmd(x, y, kernel="cosine").item() == pytest.approx(0 + 1 - 2 * 0.5, abs=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_identical_samples(kernel: Kernel) -> None:
    x = normal(300, 16, dtype=torch.float32)
    assert abs(mmd(x, x.clone(), kernel=kernel, estimator="biased").item()) < 1e-6
    shuffled = x[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert abs(mmd(x, shuffled, kernel=kernel, estimator="biased").item()) < 1e-5


def test_unbiased_on_identical_samples_is_not_zero() -> None:
    x = normal(256, 16, dtype=torch.float32)
    assert mmd(x, x).item() == pytest.approx(-0.0235, abs=5e-4)
    assert mmd(x, x, estimator="authors").item() == pytest.approx(-0.0157, abs=5e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_authors_constant(kernel: Kernel) -> None:
    for count in (2, 5, 90):
        x, y = normal(count, 4), normal(count, 4, 1, 1.0)
        gap = mmd(x, y, kernel=kernel, estimator="authors") - mmd(x, y, kernel=kernel)
        assert gap.item() == pytest.approx(2 / (count - 1), abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_unbiased_averages_to_nothing_where_biased_does_not(kernel: Kernel) -> None:
    values = torch.tensor([mmd(normal(20, 4, 2 * s), normal(20, 4, 2 * s + 1), kernel=kernel).item() for s in range(300)])
    error = values.std().item() / math.sqrt(300)
    assert abs(values.mean().item()) < 3 * error
    biased = [mmd(normal(20, 4, 2 * s), normal(20, 4, 2 * s + 1), kernel=kernel, estimator="biased") for s in range(300)]
    assert torch.stack(biased).mean().item() > 10 * error


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_symmetry_and_row_order(kernel: Kernel, estimator: Estimator) -> None:
    x, y = normal(30, 5), normal(30, 5, 1, 0.3)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    value = mmd(x, y, kernel=kernel, estimator=estimator).item()
    assert mmd(y, x, kernel=kernel, estimator=estimator).item() == pytest.approx(value, abs=1e-12)
    assert mmd(x[order], y, kernel=kernel, estimator=estimator).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "cosine"])
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_scale_of_both_sets_does_not_matter(kernel: Kernel, scale: float) -> None:
    x, y = normal(60, 8, dtype=torch.float32), normal(60, 8, 1, 0.3, torch.float32)
    assert mmd(scale * x, scale * y, kernel=kernel).item() == pytest.approx(mmd(x, y, kernel=kernel).item(), abs=1e-5)


def test_cosine_ignores_the_length_of_each_row() -> None:
    x, y = normal(30, 5), normal(30, 5, 1, 0.3)
    lengths = torch.rand(30, 1, dtype=torch.float64) * 100 + 1e-3
    value = mmd(x * lengths, y / lengths, kernel="cosine").item()
    assert value == pytest.approx(mmd(x, y, kernel="cosine").item(), abs=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear"])
def test_a_common_offset_does_not_cost_precision(kernel: Kernel) -> None:
    """|z|^2 + |z'|^2 - 2 <z, z'> of rows near 512 would have no correct digit left in single precision."""
    x, y = (normal(60, 8, seed, dtype=torch.float32).mul(64).round() / 64 for seed in (0, 1))  # exact after the shift, too
    for estimator in ("biased", "unbiased") if kernel != "linear" else ("biased",):
        near, far = (mmd(x + c, y + c, kernel=kernel, estimator=estimator).item() for c in (0, 512))
        assert far == pytest.approx(near, abs=2e-5)


def test_characteristic_kernels_see_what_linear_cannot() -> None:
    """Standard normal against +-1 and against N(0, 4), both centred exactly: means agree, the laws do not."""
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(8):
        x = normal(400, 1, seed)
        coins = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat(200, 1)
        wide = 2 * normal(400, 1, 100 + seed)
        for name, y in (("coins", coins), ("wide", wide)):
            a, b = x - x.mean(), y - y.mean()
            assert abs(mmd(a, b, kernel="linear", estimator="biased").item()) < 1e-9
            for kernel in ADAPTIVE:
                found.setdefault((kernel, name), []).append(mmd(a, b, kernel=kernel, estimator="biased").item())
    for key, least, expected, spread in (
        (("gaussian", "coins"), 0.2, 0.44, 0.07),
        (("gaussian", "wide"), 0.15, 0.37, 0.07),
        (("laplacian", "coins"), 1.1, 1.37, 0.06),
        (("laplacian", "wide"), 0.1, 0.27, 0.06),
    ):
        assert min(found[key]) > least
        assert sum(found[key]) / 8 == pytest.approx(expected, abs=spread)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_gradient_step_lowers_the_biased_value(kernel: Kernel) -> None:
    x, y = normal(60, 8).requires_grad_(), normal(60, 8, 1, 0.5).requires_grad_()
    before = mmd(x, y, kernel=kernel, estimator="biased").item()
    grads = torch.autograd.grad(0.2 * mmd(x, y, kernel=kernel), (x, y))
    after = mmd(x - grads[0], y - grads[1], kernel=kernel, estimator="biased").item()
    assert 0 <= after < before
    if kernel == "cosine":  # the released sign does the opposite
        grads = torch.autograd.grad(0.2 * mmd(x, y, kernel=kernel, legacy_cosine_sign=True), (x, y))
        assert mmd(x - grads[0], y - grads[1], kernel=kernel, estimator="biased").item() > before


@pytest.mark.parametrize("kernel", ADAPTIVE)
@pytest.mark.parametrize("scales", [SCALES, (1.0,), (2.0, 0.1, 0.7, 0.35, 0.025), (1.0, 1.0), (16.0, 1.0, 0.5)])
def test_squared_exponentials_equal_fresh_ones(kernel: Kernel, scales: tuple[float, ...]) -> None:
    x, y = normal(90, 12, dtype=torch.float32).requires_grad_(), normal(90, 12, 1, 0.4, torch.float32).requires_grad_()
    a, b = (z.detach().double().requires_grad_() for z in (x, y))
    expected, value = written_out(a, b, kernel, scales=scales), mmd(x, y, kernel=kernel, scales=scales)
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = torch.autograd.grad(expected, (a, b))
    for grad, exact in zip(torch.autograd.grad(value, (x, y)), wanted, strict=True):
        assert (grad - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("kernel", ADAPTIVE)
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_blocks_leave_no_seam(kernel: Kernel, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braidrec.objectives.mmd._BLOCK", rows * 40 + 3)
    x, y = normal(40, 2).requires_grad_(), normal(40, 2, 1, 0.2).requires_grad_()
    expected, value = written_out(x, y, kernel), mmd(x, y, kernel=kernel)
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)
    wanted = torch.autograd.grad(expected, (x, y))
    torch.testing.assert_close(torch.autograd.grad(value, (x, y)), wanted, atol=1e-14, rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_side_without_gradient_stays_without(kernel: Kernel) -> None:
    x, y = normal(9, 3).requires_grad_(), normal(9, 3, 1).requires_grad_()
    wanted = torch.autograd.grad(mmd(x, y, kernel=kernel), (x, y))
    mmd(x, y.detach(), kernel=kernel).backward()
    assert y.grad is None
    torch.testing.assert_close(x.grad, wanted[0])
    x.grad = None
    mmd(x.detach(), y, kernel=kernel).backward()
    assert x.grad is None
    torch.testing.assert_close(y.grad, wanted[1])
    with torch.no_grad():
        assert not mmd(x, y, kernel=kernel).requires_grad
    with torch.inference_mode():
        assert mmd(x, y, kernel=kernel).item() == pytest.approx(written_out(x, y, kernel).item(), abs=1e-12)


@pytest.mark.parametrize("kernel", ADAPTIVE)
def test_backward_may_run_twice_but_not_be_derived(kernel: Kernel) -> None:
    x, y = normal(9, 3).requires_grad_(), normal(9, 3, 1)
    value = mmd(x, y, kernel=kernel)
    first = torch.autograd.grad(2 * value, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(2 * value, x, retain_graph=True)[0], first)
    with pytest.raises(TrainingError, match="no second derivative"):
        torch.autograd.grad(value, x, create_graph=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fill", [0.0, 3.3])
def test_rows_that_are_all_the_same(kernel: Kernel, fill: float) -> None:
    x, y = (torch.full((6, 4), fill, requires_grad=True) for _ in range(2))
    for estimator in ("biased", "unbiased"):
        value = mmd(x, y, kernel=kernel, estimator=estimator)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-5)
    for z in (x, y):
        assert z.grad is not None
        assert z.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kernel", KERNELS)
def test_single_precision_under_autocast(kernel: Kernel) -> None:
    x, y = normal(40, 8, dtype=torch.float32).requires_grad_(), normal(40, 8, 1, dtype=torch.float32)
    value = mmd(x, y, kernel=kernel)
    (wanted,) = torch.autograd.grad(value, x)
    with torch.autocast("cpu", torch.bfloat16):
        again = mmd(x, y, kernel=kernel)
        assert mmd(x.bfloat16(), y.bfloat16(), kernel=kernel).dtype == torch.float32
    assert torch.equal(again, value)
    assert torch.equal(torch.autograd.grad(again, x)[0], wanted)


def test_refuses_what_does_not_fit() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(DataError, match=r"x \(1, 2\) and y \(1, 2\): both must be \(n, D\) with the same n >= 2"):
        mmd(x[:1], x[:1])
    with pytest.raises(DataError, match=r"x \(3, 2\) and y \(2, 2\)"):
        mmd(x, x[:2])
    with pytest.raises(ConfigError, match=r"kernel = 'rbf' is unknown \(accepted: gaussian, laplacian, linear, cosine\)"):
        mmd(x, x, kernel="rbf")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"estimator = 'u' is unknown \(accepted: biased, unbiased, authors\)"):
        mmd(x, x, estimator="u")  # type: ignore[arg-type]
    for scales in ((), (1.0, 0.0), (-1.0,)):
        with pytest.raises(ConfigError, match="all must be above 0"):
            mmd(x, x, scales=scales)
    with pytest.raises(ConfigError, match="belongs to the kernel 'cosine', the kernel is 'gaussian'"):
        mmd(x, x, legacy_cosine_sign=True)
