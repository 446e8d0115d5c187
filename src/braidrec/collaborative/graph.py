"""Who has what: the positives of a log as a sparse matrix of users and items, and as a graph of both."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.collaborative.propagation import Sparse
from braidrec.data.log import InteractionLog
from braidrec.evaluation.closed_form import interactions

Normalisation = Literal["ones", "symmetric", "self_loops"]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Graph:
    """E distinct pairs of a user and an item, ascending by user and then item.

    user, item (E,) int32 catalogue rows, 1..U and 1..I
    `matrix` is indexed by catalogue rows, padding included; the nodes of `adjacency` are users 1..U and behind them items 1..I,
    from 0 on and without padding.
    """

    user: Ints
    item: Ints
    num_users: int
    num_items: int
    _kept: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _operators: dict[str, Sparse] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, log: InteractionLog, positions: NDArray[np.int64], num_items: int) -> Graph:
        """The positives (label 1) among the events at ``positions``; a pair that is met twice is one pair."""
        own = positions[log.label[positions] > 0]
        width = num_items + 1
        keys = np.unique(log.user[own].astype(np.int64) * width + log.item[own])
        return cls((keys // width).astype(np.int32), (keys % width).astype(np.int32), log.num_users, num_items)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_nodes(self) -> int:
        return self.num_users + self.num_items

    @cached_property
    def matrix(self) -> Any:
        """(U + 1, I + 1) float32 CSR of ones, SciPy's."""
        return interactions(self.user, self.item, (self.num_users + 1, self.num_items + 1))

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """(I + 1,) users of each item."""
        return np.bincount(self.item, minlength=self.num_items + 1)

    @cached_property
    def user_counts(self) -> NDArray[np.int64]:
        """(U + 1,) items of each user."""
        return np.bincount(self.user, minlength=self.num_users + 1)

    def adjacency(self, normalisation: Normalisation = "symmetric") -> Tensor:
        """A (N, N) torch CSR, float32 with int32 indices, made once for each name.

        ones: both directions of every pair    symmetric: D^-1/2 A D^-1/2    self_loops: the same of A + I
        A node without an edge has a row of zeros, in ``self_loops`` itself alone.
        """
        if normalisation not in self._kept:
            self._kept[normalisation] = self._normalised(normalisation)
        return self._kept[normalisation]

    def operator(self, normalisation: Normalisation, device: torch.device) -> Sparse:
        """The same as what sums over neighbours, on ``device``, made once for each."""
        key = f"{normalisation} {device}"
        if key not in self._operators:
            self._operators[key] = Sparse.of(self.adjacency(normalisation), device)
        return self._operators[key]

    def users_of_items(self, device: torch.device) -> Tensor:
        """(I,) float32, `item_counts` of nodes on ``device``, made once for each."""
        key = f"users {device}"
        if key not in self._kept:
            self._kept[key] = torch.from_numpy(self.item_counts[1:]).float().to(device)
        return self._kept[key]

    def masked(self, keep: NDArray[np.bool_]) -> Graph:
        """A view without the pairs that ``keep`` (E,) leaves out, with normalisations of its own."""
        return replace(self, user=self.user[keep], item=self.item[keep], _kept={}, _operators={})

    def _normalised(self, normalisation: Normalisation) -> Tensor:
        users, items = self.user.astype(np.int64) - 1, self.item.astype(np.int64) - 1 + self.num_users
        loops = np.arange(self.num_nodes if normalisation == "self_loops" else 0)
        row, column = np.concatenate([users, items, loops]), np.concatenate([items, users, loops])
        order = np.lexsort((column, row))
        row, column = row[order], column[order]
        degree = np.bincount(row, minlength=self.num_nodes)
        values = np.ones(len(row), np.float32)
        if normalisation != "ones":
            scale = 1 / np.sqrt(np.maximum(degree, 1.0))
            values = (scale[row] * scale[column]).astype(np.float32)
        start = np.concatenate([[0], np.cumsum(degree)])
        places = (torch.from_numpy(part.astype(np.int32)) for part in (start, column))
        with warnings.catch_warnings():  # torch calls these tensors beta, once in every process
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")
            size = (self.num_nodes, self.num_nodes)
            return torch.sparse_csr_tensor(
                next(places), next(places), torch.from_numpy(values), size=size, check_invariants=False
            )
