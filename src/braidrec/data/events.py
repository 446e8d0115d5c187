"""Which events a log holds, in a few numbers, so that the same log grown longer is told from another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset

SAMPLE = 1024  # of a log that lacks 1 % of the events, one in 30,000 passes for one that has them all


def event_keys(dataset: Dataset) -> NDArray[np.uint64]:
    """(N,) of what each event says: raw ids of user and item, time (or order), rating (or label).  Row numbers are no part
    of it, since a longer log may number otherwise.
    """
    log = dataset.log
    key = np.zeros(len(log), np.uint64)
    parts = (
        _of_ids(dataset.user_ids)[log.user],
        _of_ids(dataset.item_ids)[log.item],
        log.timestamp.astype(np.int64).view(np.uint64),
        log.rating.astype(np.float32).view(np.uint32).astype(np.uint64),
    )
    for part in parts:
        key = _mixed(key ^ part)
    return key


def sample_of(dataset: Dataset) -> list[str]:
    """The smallest keys of a log, as text: of any log that holds all of its events they are among the keys, too."""
    keys = event_keys(dataset)
    least = keys if len(keys) <= 4 * SAMPLE else np.partition(keys, 4 * SAMPLE)[: 4 * SAMPLE]
    distinct = np.unique(least)
    if len(distinct) < SAMPLE:  # most of them are repeated
        distinct = np.unique(keys)
    return [f"{key:016x}" for key in distinct[:SAMPLE].tolist()]


def holds(dataset: Dataset, sample: Sequence[str]) -> bool:
    """Whether every event of a log's `sample_of` is there."""
    wanted = np.unique(np.array([int(key, 16) for key in sample], np.uint64))
    keys = event_keys(dataset)
    places = np.searchsorted(wanted, keys)
    inside = places < len(wanted)
    met = places[inside][wanted[places[inside]] == keys[inside]]
    return len(np.unique(met)) == len(wanted)


def _of_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """(n + 1,) by row, row 0 zero."""
    digests = b"".join(hashlib.blake2b(raw.encode(), digest_size=8).digest() for raw in ids)
    return np.concatenate([np.zeros(1, np.uint64), np.frombuffer(digests, "<u8").astype(np.uint64)])


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), without which close numbers have close keys."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
