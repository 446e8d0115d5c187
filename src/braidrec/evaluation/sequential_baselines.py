"""Next-item rankings without learning, which every sequential table shows: popularity, item neighbours, a Markov chain.

Counts come from the training sequences; the input of a row is all that its user met before the target, as for a model, so at
test time the validation item counts as input but in no count.  All three rank ties by ascending item number, and everything
is sparse: memory grows with the pairs of items that some user has met, never with the square of the catalogue.

Each is made as ``Name(rows, user, item)`` and scores the evaluation ``rows``.  user, item (M,) int32 of every training event,
user by user, oldest first, as `training_events` gives them; a DataError where there is none or where they differ in length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from braidrec.errors import DataError
from braidrec.evaluation.retrieval import RetrievalRows

LENGTH = 20  # inputs that item-kNN reads, as a sequential model does


class Popularity:
    """Training events of the item."""

    name = "popularity"

    def __init__(self, rows: RetrievalRows, user: NDArray[np.int32], item: NDArray[np.int32]):
        _refuse_nothing(user, item)
        self._counts = torch.from_numpy(np.bincount(item, minlength=rows.num_items + 1).astype(np.float32))

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        return self._counts.repeat(len(rows), 1)


class ItemKNN:
    """Similarity to the last 20 inputs x, one that occurs twice counting twice: sum over x of C_xj / sqrt(d_x d_j).

    C_xj: users with x and j in their training sequence, 0 where x = j    d_j: users with j there
    """

    name = "item-kNN"

    def __init__(self, rows: RetrievalRows, user: NDArray[np.int32], item: NDArray[np.int32], length: int = LENGTH):
        _refuse_nothing(user, item)
        self._rows, self._length, width = rows, length, rows.num_items + 1
        met = _counts(user, item, (int(user.max(initial=0)) + 1, width))
        met.data[:] = 1
        common = (met.T @ met).tocoo()
        apart = common.row != common.col
        row, column = common.row[apart], common.col[apart]
        users = np.bincount(met.indices, minlength=width).astype(np.float64)
        similarity = common.data[apart] / np.sqrt(users[row] * users[column])
        self._similar = csr_array((similarity, (row, column)), shape=(width, width))

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        owner, item = self._rows.past(rows, self._length)
        inputs = _counts(owner, item, (len(rows), self._rows.num_items + 1))
        # summed in double and rounded once: equal sums stay equal whatever the order of their terms
        return torch.from_numpy((inputs @ self._similar).astype(np.float32).toarray())


class Markov:
    """How often j came right after the last input, the more popular first among equals: count + pop_j / (max pop + 1).

    Without input: popularity.
    """

    name = "Markov"

    def __init__(self, rows: RetrievalRows, user: NDArray[np.int32], item: NDArray[np.int32]):
        _refuse_nothing(user, item)
        self._rows, width = rows, rows.num_items + 1
        adjacent = np.flatnonzero(user[1:] == user[:-1])
        self._next = _counts(item[adjacent], item[adjacent + 1], (width, width))
        popularity = np.bincount(item, minlength=width)
        self._prior = (popularity / (popularity.max() + 1)).astype(np.float32)

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        owner, item = self._rows.past(rows, 1)
        newest = np.zeros(len(rows), np.int64)  # nothing follows item 0
        newest[owner] = item
        followers = self._next[newest].astype(np.float32).toarray()
        followers += self._prior
        return torch.from_numpy(followers)


def sequential_baselines(
    rows: RetrievalRows, user: NDArray[np.int32], item: NDArray[np.int32]
) -> tuple[Popularity, ItemKNN, Markov]:
    """The three of them for evaluation ``rows``."""
    return Popularity(rows, user, item), ItemKNN(rows, user, item), Markov(rows, user, item)


def _refuse_nothing(user: NDArray[np.int32], item: NDArray[np.int32]) -> None:
    if not len(item) or user.shape != item.shape:
        raise DataError(f"training events: {len(user):,} users, {len(item):,} items; accepted: as many of each, at least one")


def _counts(row: NDArray[np.integer[Any]], column: NDArray[np.integer[Any]], shape: tuple[int, int]) -> Any:
    """Sparse (R, C) float64: how often each pair occurs."""
    return csr_array((np.ones(len(row)), (row, column)), shape=shape)
