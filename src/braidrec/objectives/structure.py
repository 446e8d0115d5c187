"""What two views of the same nodes share, kept as structure: DaRec's four losses and the clustering that one of them reads.

    orthogonality   mean_i cos(specific_i, shared_i)^2                                              eq. 2, of one side
    uniformity      log mean_{i<j} exp(-2 |G(x_i) - G(x_j)|^2), G(x) = x / |x|                      eq. 3, of one side
    global          |A A^T - B B^T|_F^2 / n^2, A and B with rows of length 1                        eqs. 4-5
    local           mean_i (S_ii - 1)^2 + mean_{i != j} S_ij^2, S the cosines of matched centres    eqs. 6-10

The paper leaves G open; the work that it cites has unit rows, without which the loss falls without end as norms grow.
Equation 5 as printed (`global_structure` with ``normalised`` and ``mean`` off) is solved by rows of zeros, and equation 9 as
printed is no cosine: its numerator lacks the first side.

What this costs: no n x n matrix exists as a whole.  |A A^T - B B^T|^2 = |A^T A|^2 + |B^T B|^2 - 2 |A^T B|^2 needs D x D alone;
pairs of the uniformity are made a block at a time, each once, and spent on the gradient at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from braidrec.errors import ConfigError, DataError, TrainingError

_BLOCK = 256  # rows against rows: 256 KiB of float32, which stays in a core's cache
_ROUNDS = 10  # of Lloyd's
_EPS = 1e-8


def orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """Mean over rows of the squared cosine of ``specific`` and ``shared``, (n, D) both, n >= 1; scalar in [0, 1].

    0 where all are at right angles.  A row of zeros counts as such.  Raises DataError on shapes that differ or no row.
    """
    _same_shape("orthogonality", specific, shared, least=1)
    specific, shared = _exact(specific), _exact(shared)
    return F.cosine_similarity(specific, shared, dim=1, eps=_EPS).square().mean()


def uniformity(rows: Tensor) -> Tensor:
    """log of the mean Gaussian potential of all pairs i < j of ``rows`` (n, D), n >= 2, at length 1; scalar in [-8, 0].

    0 where all point one way; lower the more they are spread.  Gradients are once differentiable and worked out on the way.
    Raises DataError for fewer than two rows, TrainingError on a second derivative.
    """
    if rows.dim() != 2 or len(rows) < 2:
        raise DataError(f"uniformity of rows {tuple(rows.shape)}: they must be (n, D) with n >= 2")
    with torch.autocast(rows.device.type, enabled=False):
        unit = F.normalize(_exact(rows), eps=_EPS)
        value: Tensor = _Uniformity.apply(unit if torch.is_grad_enabled() else unit.detach())
    return value


class _Uniformity(torch.autograd.Function):
    """With w_ij = exp(4 <x_i, x_j> - 4) = exp(-2 |x_i - x_j|^2), the gradient is 4 sum_j w_ij x_j / sum_{i<j} w_ij.

    It lacks what points along x_i itself, which the normalisation before takes out anyway.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor) -> Tensor:
        count, device = len(unit), unit.device
        grad = torch.zeros_like(unit) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=unit.dtype, device=device)
        for first in range(0, count, _BLOCK):
            own = unit[first : first + _BLOCK]
            for second in range(first, count, _BLOCK):
                other = unit[second : second + _BLOCK]
                pairs = (own @ other.T).sub_(1).mul_(4).exp_()
                if first == second:
                    pairs = pairs.triu_(1)
                total += pairs.sum()
                if grad is not None:
                    grad[first : first + _BLOCK].addmm_(pairs, other)
                    grad[second : second + _BLOCK].addmm_(pairs.T, own)
        if grad is not None:
            ctx.save_for_backward(grad.mul_(4 / total))
        return (total / (count * (count - 1) / 2)).log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # create_graph: what follows would be constants, and a second derivative silently 0
            raise TrainingError("uniformity has no second derivative: take its gradient without create_graph")
        (own,) = ctx.saved_tensors
        found: Tensor = own * grad
        return found


def global_structure(first: Tensor, second: Tensor, *, normalised: bool = True, mean: bool = True) -> Tensor:
    """|A A^T - B B^T|_F^2 of the rows of ``first`` and ``second``, (n, D) and (n, D'), n >= 1; scalar, at least 0.

    normalised: rows at length 1 first, so that shrinking them solves nothing    mean: over all n^2 pairs, then within [0, 4]
    Turning one side, or moving it by any orthogonal map, changes nothing.  Raises DataError on row counts that differ.
    """
    if first.dim() != 2 or second.dim() != 2 or len(first) != len(second) or not len(first):
        raise DataError(
            f"global structure of {tuple(first.shape)} and {tuple(second.shape)}: both must have the same n >= 1 rows"
        )
    sides = [_exact(first), _exact(second)]
    with torch.autocast(first.device.type, enabled=False):
        if normalised:
            sides = [F.normalize(side, eps=_EPS) for side in sides]
        both, width = torch.cat(sides, dim=1), first.shape[1]
        gram = both.T @ both
        # near 0 it is a difference of large ones
        squares = (gram if gram.device.type == "mps" else gram.double()).square()
        gap = squares[:width, :width].sum() + squares[width:, width:].sum() - 2 * squares[:width, width:].sum()
        found = gap.clamp_min(0).to(both.dtype)
    return found / len(first) ** 2 if mean else found


def local_structure(first: Tensor, second: Tensor) -> Tensor:
    """How far matched ``first`` and ``second``, (K, D) both, are from one orthonormal set; scalar, 0 where they are one.

    Row i of the one goes with row i of the other (`matched`).  The mean of (cos_ii - 1)^2 plus that of cos_ij^2 over i != j.
    More centres than dimensions cannot reach 0: equal ones are at least (K - D) / (D (K - 1)) away.
    Raises DataError on shapes that differ or fewer than two rows.
    """
    _same_shape("local structure", first, second, least=2)
    with torch.autocast(first.device.type, enabled=False):
        cosines = F.normalize(_exact(first), eps=_EPS) @ F.normalize(_exact(second), eps=_EPS).T
        own = cosines.diagonal()
        apart = (cosines.square().sum() - own.square().sum()) / (len(own) * (len(own) - 1))
        return (own - 1).square().mean() + apart


def matched(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (K, D) of both sides in the order in which they go together; gradients pass, the choice has none.

    The nearest pair first, then the nearest of what is left (eqs. 7-8): greedy, not the cheapest matching overall.
    """
    _same_shape("matching", first, second, least=1)
    with torch.no_grad():
        exact = "donot_use_mm_for_euclid_dist"  # equal centres are 0 apart
        rows, columns = match(torch.cdist(_exact(first), _exact(second), compute_mode=exact).cpu().double().numpy())
    return first[torch.from_numpy(rows).to(first.device)], second[torch.from_numpy(columns).to(second.device)]


def match(distances: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(K,) rows and (K,) columns of (K, K), each once: smallest entry first; ties go to the lowest row, then column."""
    count, most = len(distances), np.finfo(np.float64).max
    left = np.nan_to_num(distances, nan=most, posinf=most)  # what is taken is infinite, and nothing else
    found = np.empty((2, count), np.int64)
    for turn in range(count):
        row, column = divmod(int(left.argmin()), count)
        found[:, turn] = row, column
        left[row], left[:, column] = np.inf, np.inf
    return found[0], found[1]


def centres(rows: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """(K, D) means of the ``rows`` (n, D) of each label (n,), with their gradients; zeros for a label that nobody has."""
    member = _members(labels, rows.new_empty(len(labels), clusters))
    return (member.T @ rows) / member.sum(dim=0).clamp_min(1)[:, None]


@torch.no_grad()
def kmeans(rows: Tensor, clusters: int, generator: torch.Generator | None = None, *, start: Tensor | None = None) -> Tensor:
    """(n,) int64 labels 0 .. K - 1 of ``rows`` (n, D); K = min(clusters, n), and no label stays without a row.

    k-means++ draws the first centres by ``generator``, of the CPU, so that a seed draws the same everywhere; ``start`` (K,):
    the rows that are the first centres instead.  At most ten rounds of Lloyd's.  A cluster that nobody is nearest to gets the
    row that is farthest from its own centre.  Raises ConfigError for fewer than one cluster, or neither of the two.
    """
    if clusters < 1:
        raise ConfigError(f"k-means with clusters = {clusters}; accepted: 1 or more")
    rows = _exact(rows)
    clusters = min(clusters, len(rows))
    if start is None:
        if generator is None:
            raise ConfigError("k-means draws its first centres: pass generator=torch.Generator(), or start=rows")
        start = _spread(rows, clusters, generator)
    member = rows.new_empty(len(rows), clusters)
    middle = rows.index_select(0, start)
    labels, counts = _nearest(rows, middle, member)
    for _ in range(_ROUNDS - 1):
        middle, before = (member.T @ rows) / counts[:, None], labels
        labels, counts = _nearest(rows, middle, member)
        if torch.equal(before, labels):
            break
    return labels


def _spread(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """(K,) rows by k-means++ (Arthur & Vassilvitskii 2007): each drawn by its squared distance from those before."""
    draws = torch.rand(clusters, generator=generator, dtype=torch.float64, device=generator.device).to(rows.device)
    first, *others = draws.split(1)  # with one dimension: a device is not waited for to say where a row is
    chosen = [(first * len(rows)).long().clamp_max(len(rows) - 1)]
    distance = (rows - rows.index_select(0, chosen[0])).square().sum(dim=1)
    for draw in others:
        heap = distance.double().cumsum(0)
        chosen.append(torch.searchsorted(heap, draw * heap[-1:], right=True).clamp_max(len(rows) - 1))
        distance = torch.minimum(distance, (rows - rows.index_select(0, chosen[-1])).square().sum(dim=1))
    return torch.cat(chosen)


def _nearest(rows: Tensor, middle: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the nearest centre of each row, ties by the lowest, and (K,) how many each has: one at least.

    member (n, K): is filled with 1 where a row has a centre, and 0
    """
    labels = torch.addmm(middle.square().sum(dim=1) / -2, rows, middle.T).argmax(dim=1)
    counts = _members(labels, member).sum(dim=0)
    if int(counts.min()):
        return labels, counts
    empty = (counts == 0).nonzero().squeeze(1)
    distance = (rows - middle[labels]).square().sum(dim=1)
    # one row of every cluster stays, so that none becomes empty by giving: its first
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(middle),), len(rows), device=rows.device).scatter_reduce(0, labels, places, "amin")
    distance[first[counts > 0]] = -1
    labels[distance.topk(len(empty)).indices] = empty
    return labels, _members(labels, member).sum(dim=0)


def _members(labels: Tensor, member: Tensor) -> Tensor:
    """member (n, K), filled with 1 where a row has the label, and 0."""
    return member.zero_().scatter_(1, labels[:, None], 1)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _same_shape(what: str, first: Tensor, second: Tensor, *, least: int) -> None:
    if first.dim() != 2 or first.shape != second.shape or len(first) < least:
        raise DataError(f"{what} of {tuple(first.shape)} and {tuple(second.shape)}: both must be (n, D) with n >= {least}")
