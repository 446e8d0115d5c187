"""How often training met each item, and the catalogue cut into buckets of equal interaction mass (PAD, SIGIR 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from braidrec.data.log import InteractionLog
from braidrec.data.sequences import training_ends, training_events
from braidrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset


def train_counts(log: InteractionLog, ends: NDArray[np.int64], num_items: int) -> NDArray[np.int64]:
    """(I + 1,) events of each item in the training sequences: the first ``ends`` (U + 1,) events of each user.

    More than the targets of the training part, which leaves out each user's first events.  Entry 0, padding, is 0.
    """
    return np.bincount(training_events(log, ends)[1], minlength=num_items + 1)


def training_counts(dataset: Dataset) -> NDArray[np.int64]:
    """(I + 1,) events of each item that training met, for every kind of split.

    Where training is what came first (temporal, leave-last-two): `train_counts`, the first events of each user included.
    For a ratio or a given split: the events of the training part alone, as what is in no part has no place before the rest.
    Of the events that sequences follow.
    """
    dataset = dataset.followed
    if dataset.settings.split.in_order:
        return train_counts(dataset.log, training_ends(dataset), dataset.num_items)
    return dataset.item_counts("train")


def frequency_buckets(counts: NDArray[np.int64], num_buckets: int = 10) -> NDArray[np.int32]:
    """(I + 1,) bucket of each item, 1 (hottest) .. ``num_buckets`` (coldest), 0 for padding; of equal mass, not equal size.

    counts (I + 1,) training events of each item, entry 0 being padding.  Items go by count, descending, ties by ascending
    number.  A bucket closes with the item that brings its own mass to total / ``num_buckets``, and the next one starts from
    nothing; the last bucket takes what the closed ones leave, items never met included (the rule behind PAD's edges).
    Where few items hold most of the mass, buckets just before the last stay empty.
    Raises ConfigError below one bucket, DataError where nothing was met.
    """
    if num_buckets < 1:
        raise ConfigError(f"num_buckets = {num_buckets}; accepted: 1 or more")
    total = int(counts[1:].sum())
    if not total:
        raise DataError(f"none of the {len(counts) - 1:,} items has a training event, so there is no mass to cut into buckets")
    order = np.argsort(-counts[1:], kind="stable") + 1
    mass = np.cumsum(counts[order])
    bucket = np.full(len(counts), num_buckets, np.int32)
    bucket[0] = begin = before = 0
    for number in range(1, num_buckets):
        # the first place where num_buckets * (mass - before) >= total, in whole numbers
        end = int(np.searchsorted(mass, before - (-total // num_buckets))) + 1
        if end > len(order):
            break
        bucket[order[begin:end]] = number
        begin, before = end, int(mass[end - 1])
    return bucket
