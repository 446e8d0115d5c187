"""Items a user never met, drawn by hashing (seed, epoch, sample): no state to keep, so a resumed run draws the same."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.log import InteractionLog
from braidrec.errors import DataError

_ROUNDS = 32


class UnmetItems:
    """Uniform over the catalogue rows 1..I less the items that a user met.

    user, item (N,): who met what.  Raises DataError, naming the user, when someone met every item.
    """

    def __init__(self, user: NDArray[np.int32], item: NDArray[np.int32], num_items: int, seed: int):
        self._num_items, self.seed = num_items, seed
        self._met = np.unique(user.astype(np.int64) * (num_items + 1) + item)

    def draw(self, user: NDArray[np.int64], number: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """One item for each of ``user`` (n,); ``number`` (n,) tells the draws of an epoch apart."""
        items = np.zeros(len(user), np.int64)
        pending = np.arange(len(user))
        for attempt in range(_ROUNDS):
            if not len(pending):
                return items
            mixed = _hash(number[pending].astype(np.uint64), self.seed, epoch, attempt)
            items[pending] = 1 + (mixed % np.uint64(self._num_items)).astype(np.int64)
            keys = user[pending] * (self._num_items + 1) + items[pending]
            at = np.searchsorted(self._met, keys)
            met = self._met[np.minimum(at, len(self._met) - 1)] == keys
            pending = pending[met]
        for row in pending:  # users who met nearly everything: draw from the list of what is left
            left = self._unmet(int(user[row]))
            mixed = _hash(number[row : row + 1].astype(np.uint64), self.seed, epoch, _ROUNDS)
            items[row] = left[int(mixed[0]) % len(left)]
        return items

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


class OwnItems:
    """One of the items that belong to a user, such as those they met and did not like.

    user (n,) in 1..num_users, item (n,): whose is what
    """

    def __init__(self, user: NDArray[np.int32], item: NDArray[np.int32], num_users: int):
        order = np.argsort(user, kind="stable")
        self._item = np.concatenate([item[order], np.zeros(1, item.dtype)])
        self._count = np.bincount(user, minlength=num_users + 1)
        self._start = np.cumsum(self._count) - self._count

    def draw(self, user: NDArray[np.int64], number: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int32]:
        """(n,) one item for each of ``user`` (n,), 0 for whoever has none; ``number`` (n,) tells an epoch's draws apart."""
        count = self._count[user]
        turn = _hash(number.astype(np.uint64), seed, epoch, _ROUNDS + 1) % np.maximum(count, 1).astype(np.uint64)
        items: NDArray[np.int32] = np.where(count > 0, self._item[self._start[user] + turn.astype(np.int64)], 0)
        return items


class NegativeSampler:
    """``per_positive`` items that the user meets nowhere, beside each positive event.

    known: positions of the events that count as met, all for None; for training those that it may know, since an item that is
        never drawn is one that somebody met
    """

    def __init__(
        self, log: InteractionLog, num_items: int, per_positive: int, seed: int, known: NDArray[np.int64] | None = None
    ):
        self.per_positive = per_positive
        self._user, self._item = log.user, log.item
        met: NDArray[np.int64] | slice = slice(None) if known is None else known
        self._unmet = UnmetItems(log.user[met], log.item[met], num_items, seed)

    def draw(self, positions: Tensor, samples: Tensor, turn: Tensor, epoch: int) -> Tensor:
        """(B,) int32 candidates: the event's own item where ``turn`` is 0, a drawn one elsewhere."""
        user = self._user[positions.numpy()].astype(np.int64)
        items = self._item[positions.numpy()].astype(np.int64)
        drawn = np.flatnonzero(turn.numpy() > 0)
        items[drawn] = self._unmet.draw(user[drawn], samples.numpy()[drawn], epoch)
        return torch.from_numpy(items.astype(np.int32))


def _hash(values: NDArray[np.uint64], *salts: int) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), folded over the salts."""
    mixed = values
    for salt in (0, *salts):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + np.uint64((salt * 0xD1342543DE82EF95 + 1) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed
