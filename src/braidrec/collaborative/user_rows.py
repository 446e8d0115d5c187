"""Batches of users with all that training knows of them: what models of matrix rows train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.graph import Graph


@dataclass(frozen=True)
class UserBatch:
    """user (b,) int64 catalogue rows, which stand in ``baskets``, too    baskets: what each of them has"""

    user: Tensor
    baskets: Baskets

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device | str) -> UserBatch:
        return UserBatch(self.user.to(device), self.baskets.to(device))


class UserBatches:
    """A `braidrec.training.contracts.Batches`: every user who has anything once in an epoch, in a seeded order."""

    def __init__(self, graph: Graph, batch_size: int, *, seed: int):
        self._graph, self._batch_size = graph, batch_size
        self._users = graph.user_counts.nonzero()[0]
        self._seed, self._epoch, self._position = seed, 0, 0

    def __len__(self) -> int:
        return -(-len(self._users) // self._batch_size)

    def state(self) -> dict[str, int]:
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def restore(self, state: Mapping[str, int]) -> None:
        self._seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]

    def __iter__(self) -> Iterator[UserBatch]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._users), generator=generator).numpy()
        while self._position < len(self):
            first = self._position * self._batch_size
            users = self._users[order[first : first + self._batch_size]]
            self._position += 1
            yield UserBatch(torch.from_numpy(users), Baskets.of_rows(self._graph.matrix[users], users))
        self._epoch, self._position = self._epoch + 1, 0
