"""Maximum mean discrepancy between two sets of rows, with several kernels at once (Gretton et al., JMLR 2012; PAD, eqs. 5-13).

    MMD^2(P, Q) = E k(z, z') [both of P] + E k(z, z') [both of Q] - 2 E k(z, z') [one of each]
    gaussian    k = sum_a exp(-|z - z'|^2 / (2 a s^2))    s^2 = mean of |z - z'|^2   }  over all (2n)^2 ordered pairs of the
    laplacian   k = sum_a exp(-|z - z'|_1 / (a m))        m   = mean of |z - z'|_1   }  pooled rows, own pairs (0) included
    linear      k = <z, z'>                               cosine   k = <z, z'> / (max(|z|, 1e-8) max(|z'|, 1e-8))

Kernels are summed over the scales a, not averaged.  s^2 and m are constants to the gradient.  Only the first two are
characteristic: zero means the same law there, and merely the same mean (of the normalised rows) under the last two.

What this costs: distances are made once for all scales, a block of rows at a time.  s^2 and m need no pairs: s^2 is twice
the pooled variance, m follows from sorting each column.  exp(-d / a) at half the scale is the square of the one before, so
five scales cost one exponential.  The linear and cosine kernels are differences of means and need no pairs at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import ConfigError, DataError, TrainingError

Kernel = Literal["gaussian", "laplacian", "linear", "cosine"]
Estimator = Literal["biased", "unbiased", "authors"]
SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)
_BLOCK = 1 << 18  # distances worked on at a time: 1 MiB, which stays in a core's cache
_SQUARINGS = {1.0: 0, 2.0: 1, 4.0: 2}  # ratio of neighbouring scales -> squarings that are cheaper than an exponential
_LEAST = 1e-30  # of s^2 and m, so that identical rows give kernel 1 and gradient 0


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = "gaussian",
    scales: Sequence[float] = SCALES,
    estimator: Estimator = "unbiased",
    legacy_cosine_sign: bool = False,
) -> Tensor:
    """MMD^2 of two sets of n rows; scalar, float32 even under autocast (float64 if given).

    x, y: (n, D), n >= 2; which row of y belongs to which of x does not matter.  scales: the a above, any positive numbers;
    linear and cosine have none.

    - ``biased``: means over all n^2 pairs, own pairs included (eq. 6); never negative, 0 for identical sets.
    - ``unbiased``: within a set over a != b only, so a set's n pairs of a row with itself are left out; across sets over all
      n^2 (eq. 7).  About 0 between samples of one law, hence often negative.
    - ``authors``: unbiased + 2 / (n - 1), the constant of the released code (eq. 8); same gradient.

    legacy_cosine_sign: the released code takes 1 - cos for the cosine kernel.  Its constant cancels and the sign turns: the
    result is -MMD^2 (with ``authors``: -MMD^2 + 2 / (n - 1)), and lowering it pushes the sets apart.
    Raises DataError on shapes that differ or fewer than two rows, ConfigError on unknown names, scales that are not
    positive, and the legacy sign without the cosine kernel, TrainingError on a second derivative of the first two kernels.
    """
    if x.dim() != 2 or x.shape != y.shape or len(x) < 2:
        raise DataError(f"MMD of x {tuple(x.shape)} and y {tuple(y.shape)}: both must be (n, D) with the same n >= 2")
    for setting, given, accepted in (("kernel", kernel, get_args(Kernel)), ("estimator", estimator, get_args(Estimator))):
        if given not in accepted:
            raise ConfigError(f"MMD {setting} = {given!r} is unknown (accepted: {', '.join(accepted)})")
    if not scales or not min(scales) > 0:
        raise ConfigError(f"MMD scales = {tuple(scales)}: at least one is needed, and all must be above 0")
    if legacy_cosine_sign and kernel != "cosine":
        raise ConfigError(f"legacy_cosine_sign belongs to the kernel 'cosine', the kernel is {kernel!r}")
    count, exact = len(x), torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(exact), y.to(exact)
        if kernel == "gaussian" or kernel == "laplacian":
            value = _mixture(x, y, kernel, scales, own_pairs=estimator == "biased")
        else:
            if kernel == "cosine":
                x, y = F.normalize(x, eps=1e-8), F.normalize(y, eps=1e-8)
            value = _linear(x, y, own_pairs=estimator == "biased")
    if legacy_cosine_sign:
        value = -value
    return value + 2 / (count - 1) if estimator == "authors" else value


def _linear(x: Tensor, y: Tensor, *, own_pairs: bool) -> Tensor:
    """With k = <z, z'> the means of pairs are |mean|^2; leaving out own pairs takes the variance of the mean off each."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    gap = (mean_x - mean_y).square().sum()
    if own_pairs:
        return gap
    return gap - ((x - mean_x).square().sum() + (y - mean_y).square().sum()) / (len(x) * (len(x) - 1))


def _mixture(x: Tensor, y: Tensor, kernel: Kernel, scales: Sequence[float], *, own_pairs: bool) -> Tensor:
    if not torch.is_grad_enabled():  # inside a Function the flag is always off, and gradients would be worked out for nobody
        x, y = x.detach(), y.detach()
    with torch.no_grad():
        pooled = torch.cat([x, y])
        centre = pooled.mean(dim=0)  # distances do not see it, but products of large numbers would lose them
        rate = (0.5 if kernel == "gaussian" else 1.0) / _mean_distance(pooled - centre, kernel).clamp_min(_LEAST)
    distances = _squared_distances if kernel == "gaussian" else _taxicab_distances
    value: Tensor = _Mixture.apply(x - centre, y - centre, rate, sorted(scales, reverse=True), distances, own_pairs)
    return value


def _mean_distance(pooled: Tensor, kernel: Kernel) -> Tensor:
    """Mean distance over all ordered pairs of rows of ``pooled`` (N, D), whose mean is 0; own pairs count with 0."""
    count = len(pooled)
    if kernel == "gaussian":
        return 2 * pooled.square().sum() / count  # E|z - z'|^2 = 2 E|z|^2 - 2 |E z|^2
    # sorted from 0, a value is the larger of k pairs and the smaller of N - 1 - k; every pair counts in both orders
    sign = 2 * torch.arange(count, device=pooled.device, dtype=pooled.dtype) - (count - 1)
    return 2 * (sign @ pooled.sort(dim=0).values).sum() / count**2


def _squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """(r, n) |z - z'|^2 by the Gram matrix; rounding can leave tiny negative numbers."""
    return torch.addmm(others.square().sum(dim=1), rows, others.T, alpha=-2) + rows.square().sum(dim=1, keepdim=True)


def _taxicab_distances(rows: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(rows, others, p=1)


class _Mixture(torch.autograd.Function):
    """Sum of exponential kernels of one distance, whose gradient is worked out block by block on the way.

    Within a set k is symmetric, so the gradient through the rows of a block counts twice and that through its columns is
    not taken; the kernel matrices never exist as a whole and nothing but the gradients is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        rate: Tensor,
        scales: Sequence[float],
        distances: Callable[[Tensor, Tensor], Tensor],
        own_pairs: bool,
    ) -> Tensor:
        count, step = len(x), max(1, _BLOCK // len(x))
        share = 1 / (count * (count if own_pairs else count - 1))
        grad_x, grad_y = (torch.zeros_like(z) if need else None for z, need in zip((x, y), ctx.needs_input_grad, strict=False))
        sums = []
        for own, other, grad_own, grad_other, weight in (
            (x, x, grad_x, None, 2 * share),
            (y, y, grad_y, None, 2 * share),
            (x, y, grad_x, grad_y, -2 / count**2),
        ):
            total = x.new_zeros(())
            for begin in range(0, count, step):
                block = slice(begin, begin + step)
                with torch.set_grad_enabled(grad_own is not None or grad_other is not None):
                    rows = own[block].detach().requires_grad_(grad_own is not None)
                    columns = other.detach().requires_grad_(grad_other is not None)
                    distance = distances(rows, columns)
                kernel, slope = _kernel_sum(distance.detach(), rate, scales)
                total += kernel
                if not distance.requires_grad:
                    continue
                slope.mul_(-weight * rate / scales[0])
                wanted = [z for z in (rows, columns) if z.requires_grad]
                found = list(torch.autograd.grad(distance, wanted, slope))
                if grad_own is not None:
                    grad_own[block] += found.pop(0)
                if grad_other is not None:
                    grad_other += found.pop()
            sums.append(total)
        ctx.save_for_backward(grad_x, grad_y)
        within = (sums[0] + sums[1]) * share - 2 * sums[2] / count**2
        return within if own_pairs else within - 2 * len(scales) / (count - 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: what follows would be constants, and a second derivative silently 0
            raise TrainingError(
                "the MMD of an exponential kernel has no second derivative: take its gradient without create_graph"
            )
        return (*(None if each is None else each * grad for each in ctx.saved_tensors), None, None, None, None)


def _kernel_sum(distance: Tensor, rate: Tensor, scales: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Sum over entries and scales of k_a = exp(-rate d / a), and per entry sum_a (scales[0] / a) k_a.

    The second, times -rate / scales[0], is the derivative by the distance.  scales: descending.
    """
    exponent = distance.clamp_min(0).mul_(-rate / scales[0])
    value = exponent.exp()
    total, slope = value.sum(), value.clone()
    for wider, scale in pairwise(scales):
        squarings = _SQUARINGS.get(wider / scale)
        if squarings is None:
            torch.mul(exponent, scales[0] / scale, out=value).exp_()
        for _ in range(squarings or 0):
            value.square_()
        total += value.sum()
        slope.add_(value, alpha=scales[0] / scale)
    return total, slope
