"""What each of b people has, as models of this task read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Baskets:
    """start (b + 1,) int64, item (n,) int64 catalogue rows: person k has ``item[start[k]:start[k + 1]]``, each once.

    user (b,) int64: who that is, as a catalogue row, 0 for somebody new or with news; None: nobody is known.  Models that keep
    something of each user may answer by it; what somebody has is there in any case.
    """

    start: Tensor
    item: Tensor
    user: Tensor | None = None

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.integer[Any]]], user: Sequence[int] | None = None) -> Baskets:
        start = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        item = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        return cls(torch.from_numpy(start), item, None if user is None else torch.tensor(user, dtype=torch.int64))

    @classmethod
    def of_rows(cls, matrix: Any, user: NDArray[np.integer[Any]] | None = None) -> Baskets:
        """The rows of a SciPy CSR matrix of ones; ``user`` (b,): whose they are."""
        start, item = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
        return cls(start, item, None if user is None else torch.from_numpy(user.astype(np.int64)))

    @classmethod
    def alone(cls, items: Tensor) -> Baskets:
        """One person for each of ``items`` (n,), who has nothing else."""
        return cls(torch.arange(len(items) + 1, device=items.device), items)

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def counts(self) -> Tensor:
        """(b,) how many items each has."""
        return self.start.diff()

    @property
    def owner(self) -> Tensor:
        """(n,) whose each item is."""
        return torch.repeat_interleave(self.counts, output_size=len(self.item))  # a length that is known waits for no device

    def to(self, device: torch.device | str) -> Baskets:
        return Baskets(self.start.to(device), self.item.to(device), None if self.user is None else self.user.to(device))

    def times(self, table: Tensor, weight: Tensor | None = None) -> Tensor:
        """(b, k): the sum of the rows of ``table`` (m, k) that each has, times ``weight`` (n,); zeros for who has nothing."""
        return F.embedding_bag(self.item, table, self.start[:-1], mode="sum", per_sample_weights=weight)

    def dense(self, width: int) -> Tensor:
        """(b, width) float32, 1 where somebody has the item."""
        found = torch.zeros(len(self), width, device=self.item.device)
        found[self.owner, self.item] = 1
        return found

    def within(self, first: int, last: int) -> Baskets:
        """Only items ``first`` .. ``last - 1``, numbered from 0 on."""
        kept = (self.item >= first) & (self.item < last)
        counts = torch.bincount(self.owner[kept], minlength=len(self))
        return Baskets(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), self.item[kept] - first, self.user)

    def matrix(self, width: int) -> Any:
        """(b, width) SciPy CSR of ones."""
        from scipy.sparse import csr_array

        start, item = (part.cpu().numpy() for part in (self.start, self.item))
        return csr_array((np.ones(len(item), np.float32), item, start), shape=(len(self), width))
