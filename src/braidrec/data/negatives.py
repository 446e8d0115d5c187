"""Items a user never met, drawn by hashing (seed, epoch, sample): no state to keep, so a resumed run draws the same."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.log import InteractionLog
from braidrec.errors import DataError

_ROUNDS = 32


class NegativeSampler:
    """Uniform over the catalogue rows 1..I less every item in the user's whole log.

    Raises DataError, naming the user, when someone met every item.
    """

    def __init__(self, log: InteractionLog, num_items: int, per_positive: int, seed: int):
        self.per_positive = per_positive
        self._num_items, self._seed = num_items, seed
        self._user, self._item = log.user, log.item
        self._met = np.unique(log.user.astype(np.int64) * (num_items + 1) + log.item)

    def draw(self, positions: Tensor, samples: Tensor, turn: Tensor, epoch: int) -> Tensor:
        """(B,) int32 candidates: the event's own item where ``turn`` is 0, a drawn one elsewhere."""
        user = self._user[positions.numpy()].astype(np.int64)
        items = self._item[positions.numpy()].astype(np.int64)
        pending = np.flatnonzero(turn.numpy() > 0)
        for attempt in range(_ROUNDS):
            if not len(pending):
                return torch.from_numpy(items.astype(np.int32))
            mixed = _hash(samples.numpy()[pending].astype(np.uint64), self._seed, epoch, attempt)
            items[pending] = 1 + (mixed % np.uint64(self._num_items)).astype(np.int64)
            keys = user[pending] * (self._num_items + 1) + items[pending]
            at = np.searchsorted(self._met, keys)
            met = self._met[np.minimum(at, len(self._met) - 1)] == keys
            pending = pending[met]
        for at in pending:  # users who met nearly everything: draw from the list of what is left
            left = self._unmet(int(user[at]))
            mixed = _hash(samples.numpy()[at : at + 1].astype(np.uint64), self._seed, epoch, _ROUNDS)
            items[at] = left[int(mixed[0]) % len(left)]
        return torch.from_numpy(items.astype(np.int32))

    def _unmet(self, user: int) -> NDArray[np.int64]:
        first = user * (self._num_items + 1)
        low, high = np.searchsorted(self._met, [first, first + self._num_items + 1])
        left = np.setdiff1d(np.arange(1, self._num_items + 1), self._met[low:high] - first)
        if not len(left):
            raise DataError(
                f"user row {user} met all {self._num_items:,} items, so no negative is left; "
                "drop such users or bring a larger catalogue"
            )
        return left


def _hash(values: NDArray[np.uint64], *salts: int) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), folded over the salts."""
    mixed = values
    for salt in (0, *salts):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + np.uint64((salt * 0xD1342543DE82EF95 + 1) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed
