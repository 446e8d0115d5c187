"""Rankings that are solved at once from who has what: the solvers behind whole models, and baselines of every task.

X (R, C)    binary, sparse: rows are users, columns items, both with a padding row 0    G = X^T X    scores of a row x: x W
Source: specs of the single forms stand at their functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from braidrec.errors import DataError
from braidrec.evaluation.retrieval import RetrievalRows

Ids = NDArray[np.integer[Any]]
_DENSE = 1 / 8  # share of entries above which a product of sparse matrices is slower than one with dense rows
_CELLS = 1 << 25  # of the dense rows that are multiplied at a time


def interactions(row: Ids, column: Ids, shape: tuple[int, int]) -> Any:
    """(R, C) float32 CSR with a 1 for every pair, however often it stands there; indices int32, ascending."""
    found = csr_array((np.ones(len(row), np.float32), (row, column)), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1
    found.indices, found.indptr = found.indices.astype(np.int32), found.indptr.astype(np.int32)
    return found


def gram(matrix: Any) -> Tensor:
    """G = X^T X, dense (C, C) float32, of any sparse X (R, C).

    The pairs of columns that meet in a row are counted out, or, where rows are long, dense rows multiplied in blocks.
    """
    rows, columns = matrix.shape
    lengths = np.diff(matrix.indptr).astype(np.float64)
    if float((lengths**2).sum()) < _DENSE * matrix.nnz * columns:
        return torch.from_numpy((matrix.T @ matrix).toarray(order="C"))
    found = torch.zeros(columns, columns)
    step = max(1, _CELLS // columns)
    for first in range(0, rows, step):
        part = matrix[first : first + step]
        found += torch.from_numpy(part.T @ part.toarray())
    return found


def gram_times(matrix: Any) -> Callable[[Tensor], Tensor]:
    """X^T X times (C, n), without X^T X."""
    columns = matrix.T.tocsr()
    return lambda vectors: torch.from_numpy(columns @ (matrix @ vectors.numpy()))


def item_cosine(matrix: Any, shrink: float = 20.0) -> Any:
    """C_ij = G_ij / (sqrt(G_ii G_jj) + ``shrink``), zero diagonal: (C, C) float32 CSR (item-kNN without a cut)."""
    common = (matrix.T @ matrix).tocoo()
    apart = common.row != common.col
    row, column = common.row[apart], common.col[apart]
    length = np.sqrt(np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float64))
    values = common.data[apart] / (length[row] * length[column] + shrink)
    return csr_array((values.astype(np.float32), (row, column)), shape=common.shape)


def inverse(spd: Tensor, what: str) -> Tensor:
    """The inverse of a symmetric positive definite matrix (n, n) float32 by Cholesky, in its own memory.

    Raises DataError, naming ``what`` must be larger, where it is not positive definite to float32.
    """
    spd, fault = spd.contiguous(), torch.empty((), dtype=torch.int32, device=spd.device)
    torch.linalg.cholesky_ex(spd, out=(spd, fault))
    if int(fault):
        raise DataError(f"the item-item matrix is not positive definite to float32 (row {int(fault)}); use a larger {what}")
    torch.cholesky_inverse(spd, out=spd)
    return spd


def ease_weights(precision: Tensor) -> Tensor:
    """B_ij = -P_ij / P_jj with a zero diagonal, in the memory of P (n, n).

    EASE (Steck, WWW 2019): P = (G + lambda I)^-1 gives the minimiser of ||X - X B||^2 + lambda ||B||^2 with diag(B) = 0.
    """
    weights = precision.div_(-precision.diagonal().clone())
    weights.diagonal().zero_()
    return weights


def leading_vectors(
    product: Callable[[Tensor], Tensor], size: int, count: int, *, rounds: int = 6, seed: int = 0, signed: bool = False
) -> tuple[Tensor, Tensor]:
    """(values (k,), vectors (size, k)) of the ``count`` largest eigenvalues, descending, of a symmetric matrix, at least 0.

    product: of the matrix and any (size, n) float32    Randomised subspace iteration (Halko et al. 2011, algorithm 4.4).
    signed: those furthest from 0 on either side, with their signs
    """
    width = min(size, count + max(16, count // 4))
    drawn = torch.randn(size, width, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(drawn).Q
    for _ in range(rounds):
        basis = torch.linalg.qr(product(basis)).Q
    small = basis.T @ product(basis)
    values, turned = torch.linalg.eigh((small + small.T) / 2)
    if signed:
        kept = values.abs().argsort(descending=True, stable=True)[:count]
        return values[kept], (basis @ turned[:, kept]).contiguous()
    kept = torch.arange(width - 1, max(width - 1 - count, -1), -1)
    return values[kept].clamp_min(0), (basis @ turned[:, kept]).contiguous()


def ease(matrix: Any, penalty: float = 100.0) -> Tensor:
    """EASE's weights (C, C) of X.

    The smaller side is what is inverted: with fewer rows than columns, P = (I - X^T (X X^T + lambda I)^-1 X) / lambda.
    """
    rows, columns = matrix.shape
    back = matrix.T.tocsr()
    found = gram(matrix if rows >= columns else back)
    found.diagonal().add_(penalty)
    found = inverse(found, "penalty")
    if rows < columns:
        half = np.ascontiguousarray((back @ found.numpy()).T)
        found = torch.from_numpy(back @ half).div_(-penalty)
        found.diagonal().add_(1 / penalty)
    return ease_weights(found)


class WeightsScorer:
    """Scores x W of evaluation rows, x what a row has met, each item once.

    weights: (I + 1, I + 1), dense or a SciPy CSR matrix    popularity (I + 1,): of a row that has met nothing
    """

    def __init__(self, rows: RetrievalRows, weights: Any, popularity: NDArray[Any], length: int | None = None):
        self._rows, self._length, self._weights = rows, length, weights
        self._popularity = torch.from_numpy(np.asarray(popularity, np.float32))

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        owner, item = self._rows.past(rows, self._length)
        met = interactions(owner, item, (len(rows), self._rows.num_items + 1))
        if isinstance(self._weights, Tensor):
            found = torch.from_numpy(met @ self._weights.numpy())
        else:
            found = torch.from_numpy((met @ self._weights).toarray().astype(np.float32, copy=False))
        found[torch.from_numpy(np.diff(met.indptr) == 0)] = self._popularity
        return found
