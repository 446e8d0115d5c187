"""Named groups of test rows: known and new users, known and new items, the tail of the catalogue, buckets of popularity."""

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
COLD_MOST, MEDIAN_MOST = 6, 50  # training events of a cold and of a median item; above is warm


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


def retrieval_slices(item: Ids, train_counts: Ids, bucket: Ids | None = None) -> Slices:
    """Slices of evaluation rows by how often training met their target.

    item (N,) targets, 1..I    train_counts (I + 1,) training events of each item    bucket (I + 1,) 1 (hottest) .. n, or None

    ``warm``: more than 50 training events    ``median``: 7 to 50    ``cold``: 6 or fewer, 0 included (the ranges of PAD's
    released code)    ``unseen``: 0    ``bucket_1`` ..: the target's bucket
    Raises DataError on an item outside 1..I or on tables of different length.
    """
    if bucket is not None and bucket.shape != train_counts.shape:
        raise DataError(f"bucket has shape {bucket.shape}, train_counts {train_counts.shape}; both must be (I + 1,)")
    outside = (item < 1) | (item >= len(train_counts))
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(f"row {row} has item {item[row]}; accepted: 1..{len(train_counts) - 1}, the items of train_counts")
    count = train_counts[item]
    masks = {
        "all": np.ones(len(item), bool),
        "warm": count > MEDIAN_MOST,
        "median": (count > COLD_MOST) & (count <= MEDIAN_MOST),
        "cold": count <= COLD_MOST,
        "unseen": count == 0,
    }
    if bucket is not None:
        masks |= {f"bucket_{number}": bucket[item] == number for number in range(1, int(bucket.max()) + 1)}
    return Slices(masks)
