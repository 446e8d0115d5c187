"""Batches of users and of items with what training knows of each, and of the ratings between them.

Every entry of the matrix is as likely as any other to be in a step's block, so means over blocks are unbiased.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_FULL = 1 / 24  # share of entries above which a dense product is faster than a sum of rows


@dataclass(frozen=True)
class Rows:
    """b sparse rows of ``width`` columns: row k has ``value[start[k]:start[k + 1]]`` at the ``column`` there.

    start (b + 1,) int64    column (n,) int64 from 0    value (n,) float32
    """

    start: Tensor
    column: Tensor
    value: Tensor
    width: int

    @classmethod
    def of(cls, matrix: Any) -> Rows:
        """Of a SciPy CSR matrix."""
        start, column = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
        return cls(start, column, torch.from_numpy(matrix.data.astype(np.float32, copy=False)), matrix.shape[1])

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def owner(self) -> Tensor:
        """(n,) the row of each value."""
        return torch.repeat_interleave(self.start.diff(), output_size=len(self.value))

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.start.to(device), self.column.to(device), self.value.to(device), self.width)

    def with_values(self, value: Tensor) -> Rows:
        return Rows(self.start, self.column, value, self.width)

    def unit(self) -> Rows:
        """Each of length 1; a row of nothing stays."""
        squares = torch.zeros(len(self), device=self.value.device).index_add_(0, self.owner, self.value.square())
        return self.with_values(self.value / squares.sqrt().clamp_min(torch.finfo(torch.float32).tiny)[self.owner])

    def dense(self) -> Tensor:
        found = torch.zeros(len(self), self.width, device=self.value.device)
        found[self.owner, self.column] = self.value
        return found

    def times(self, table: Tensor) -> Tensor:
        """(b, D): the product with ``table`` (width, D)."""
        if len(self.value) > _FULL * len(self) * self.width:
            return self.dense() @ table
        return F.embedding_bag(self.column, table, self.start[:-1], mode="sum", per_sample_weights=self.value)


@dataclass(frozen=True)
class CellBatch:
    """user (b,), item (c,) int64 catalogue rows    users (b, I), items (c, U): their ratings    block (b, c): those of both"""

    user: Tensor
    item: Tensor
    users: Rows
    items: Rows
    block: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device | str) -> CellBatch:
        parts = (part.to(device) for part in (self.user, self.item, self.users, self.items, self.block))
        return CellBatch(*parts)  # type: ignore[arg-type]


class CellBatches:
    """A `braidrec.training.contracts.Batches`: an epoch has every row of the longer side once, those of the other in turn.

    ratings (U + 1, I + 1) SciPy CSR by catalogue rows    users, items: how many of each a batch has at most, evenly cut
    """

    def __init__(self, ratings: Any, users: int, items: int, *, seed: int):
        self._rows = ratings[1:, 1:].tocsr()
        self._columns = self._rows.T.tocsr()
        counts = self._rows.shape
        self._size = tuple(min(size, count) for size, count in zip((users, items), counts, strict=True))
        self._steps = max(-(-count // size) for count, size in zip(counts, self._size, strict=True))
        self._seed, self._epoch, self._position = seed, 0, 0

    def __len__(self) -> int:
        return self._steps

    def state(self) -> dict[str, int]:
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def restore(self, state: Mapping[str, int]) -> None:
        self._seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]

    def __iter__(self) -> Iterator[CellBatch]:
        rng = np.random.default_rng([self._seed, self._epoch])
        sides = [self._cut(count, size, rng) for count, size in zip(self._rows.shape, self._size, strict=True)]
        while self._position < self._steps:
            users, items = (side[self._position] for side in sides)
            self._position += 1
            yield self.batch(users, items)
        self._epoch, self._position = self._epoch + 1, 0

    def batch(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> CellBatch:
        """Of rows (b,) and columns (c,) from 0."""
        own = self._rows[users]
        return CellBatch(
            torch.from_numpy(users + 1),
            torch.from_numpy(items + 1),
            Rows.of(own),
            Rows.of(self._columns[items]),
            torch.from_numpy(own[:, items].toarray()),
        )

    def _cut(self, count: int, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Parts of one permutation where it takes all steps; else of as many as it takes, no row twice in a part."""
        if -(-count // size) == self._steps:
            return np.array_split(rng.permutation(count), self._steps)
        found: list[NDArray[np.int64]] = []
        while len(found) < self._steps:
            found += np.array_split(rng.permutation(count), -(-count // size))
        return found[: self._steps]
