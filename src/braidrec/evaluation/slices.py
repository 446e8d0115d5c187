"""Named groups of test rows: known and new users, known and new items, the tail of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import DataError

Mask = NDArray[np.bool_]
Ids = NDArray[np.integer[Any]]

TAIL_SHARE = 0.1


@dataclass(frozen=True)
class Slices:
    """Boolean masks (N,) over the same N test rows, by name; ``all`` comes first."""

    masks: Mapping[str, Mask]

    @property
    def rows(self) -> int:
        return len(self.masks["all"])


def ranking_slices(user: Ids, item: Ids, train_user: Ids, train_item: Ids, num_items: int) -> Slices:
    """Slices of the test rows by what the training rows knew.

    user, item (N,) of the test rows    train_user, train_item (M,) of the training rows    items are 1..num_items

    ``seen_users`` / ``unseen_users``: the user has / has no training row    ``warm_items`` / ``cold_items``: likewise the item
    ``tail``: items among the floor(num_items / 10), at least one, of lowest training frequency; ties by item number, items
    of frequency 0 included (DisCo, KDD 2024, Table 9)    ``tail_seen``: those of them with at least one training row
    Raises DataError on an item outside 1..num_items or on columns of different length.
    """
    for where, users, items in (("test", user, item), ("train", train_user, train_item)):
        if users.shape != items.shape or users.ndim != 1:
            raise DataError(f"{where} rows: users have shape {users.shape}, items {items.shape}; both must be (N,)")
        outside = (items < 1) | (items > num_items)
        if outside.any():
            row = int(np.argmax(outside))
            raise DataError(f"{where} rows: row {row} has item {items[row]}; accepted: 1..{num_items} (num_items)")
    frequency = np.bincount(train_item, minlength=num_items + 1)
    rare_first = np.argsort(frequency[1:], kind="stable") + 1
    in_tail = np.zeros(num_items + 1, bool)
    in_tail[rare_first[: max(1, int(num_items * TAIL_SHARE + 1e-9))]] = True
    seen, warm, tail = np.isin(user, train_user), frequency[item] > 0, in_tail[item]
    return Slices(
        {
            "all": np.ones(len(user), bool),
            "seen_users": seen,
            "unseen_users": ~seen,
            "warm_items": warm,
            "cold_items": ~warm,
            "tail": tail,
            "tail_seen": tail & warm,
        }
    )
