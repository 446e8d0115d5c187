"""Batches of pairs of the graph, each beside items that its user has not: what pairwise models of nodes train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.collaborative.graph import Graph
from braidrec.data.negatives import UnmetItems
from braidrec.errors import DataError


@dataclass(frozen=True)
class PairBatch:
    """Nodes as `braidrec.collaborative.contracts` numbers them, int64: user (b,) has item (b,), and none of negative (b, M)."""

    user: Tensor
    item: Tensor
    negative: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device | str) -> PairBatch:
        return PairBatch(self.user.to(device), self.item.to(device), self.negative.to(device))


class PairBatches:
    """A `braidrec.training.contracts.Batches`: every pair of the graph once in an epoch, in a seeded order.

    negatives: M, drawn uniformly from the items that a user has not, for all pairs of an epoch in one pass
    by_user: users in a seeded order, the pairs of each beside one another, so that few users make a batch
    Raises DataError where negatives are drawn and somebody has every item.
    """

    def __init__(self, graph: Graph, batch_size: int, *, seed: int, negatives: int = 1, by_user: bool = False):
        self._graph, self._batch_size, self._negatives, self._by_user = graph, batch_size, negatives, by_user
        self._user = graph.user.astype(np.int64) - 1
        self._item = graph.item.astype(np.int64) - 1 + graph.num_users
        self._seed, self._epoch, self._position = seed, 0, 0
        self._unmet = UnmetItems(graph.user, graph.item, graph.num_items, seed) if negatives else None
        if negatives and (full := np.flatnonzero(graph.user_counts == graph.num_items)).size:
            raise DataError(
                f"user row {int(full[0])} has all {graph.num_items:,} items, so none is left to be a negative; leave such "
                "users out, bring a larger catalogue, or train with model.loss = 'softmax' and model.negatives = 0"
            )

    def __len__(self) -> int:
        return -(-len(self._user) // self._batch_size)

    def state(self) -> dict[str, int]:
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def restore(self, state: Mapping[str, int]) -> None:
        self._seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]
        if self._unmet is not None:
            self._unmet.seed = self._seed

    def __iter__(self) -> Iterator[PairBatch]:
        order, negative = self._order(), self._drawn()
        while self._position < len(self):
            first = self._position * self._batch_size
            taken = order[first : first + self._batch_size]
            self._position += 1
            yield PairBatch(*(torch.from_numpy(part[taken]) for part in (self._user, self._item, negative)))
        self._epoch, self._position = self._epoch + 1, 0

    def _order(self) -> NDArray[np.int64]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        if not self._by_user:
            return torch.randperm(len(self._user), generator=generator).numpy()
        turn = torch.randperm(self._graph.num_users, generator=generator).numpy()
        return np.argsort(turn[self._user], kind="stable")

    def _drawn(self) -> NDArray[np.int64]:
        """(E, M) negatives of the epoch."""
        shape = (len(self._user), self._negatives)
        if self._unmet is None:
            return np.zeros(shape, np.int64)
        owner = np.repeat(self._graph.user.astype(np.int64), self._negatives)
        drawn = self._unmet.draw(owner, np.arange(len(owner)), self._epoch)
        return drawn.reshape(shape) - 1 + self._graph.num_users
