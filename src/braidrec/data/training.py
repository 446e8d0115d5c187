"""What training may see of a split: all events outside validation and test; where the split follows time or order, only what
came before the first held-out event.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from braidrec.data.sequences import training_ends

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset

Positions = NDArray[np.int64]


def training_positions(data: Dataset) -> Positions:
    """Events that training may see, ascending."""
    log, split = data.log, data.split
    if data.settings.split.in_order:
        return np.flatnonzero(log.rank < training_ends(data)[log.user])
    held = np.zeros(len(log), np.bool_)
    for part in ("valid", "test"):
        held[split[part]] = True
    return np.flatnonzero(~held)


@dataclass(frozen=True)
class TrainingPart:
    """What each user likes as far as training may see: the positives of `training_positions`, every pair once."""

    data: Dataset

    def items(self, user: int) -> NDArray[np.int32]:
        """(n,) catalogue rows, in the order in which the user first met them.  user: a catalogue row"""
        start, item = self._own
        return item[start[user] : start[user + 1]]

    def digest(self, user: int) -> str:
        """Of the user's id and the ids of those items: where it is equal, in whatever data, the part is the same."""
        ids = self.data.item_ids
        own = sorted(ids[row - 1] for row in self.items(user).tolist())
        return hashlib.sha256(json.dumps([self.data.user_ids[user - 1], own]).encode()).hexdigest()[:32]

    @cached_property
    def _own(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(U + 2,) where each user's items start, and these, user by user."""
        log, positions = self.data.log, training_positions(self.data)
        liked = positions[log.label[positions] > 0]
        pairs = log.user[liked].astype(np.int64) * (self.data.num_items + 1) + log.item[liked]
        first = np.sort(np.unique(pairs, return_index=True)[1])  # of each pair
        user, item = log.user[liked[first]], log.item[liked[first]]
        order = np.argsort(user, kind="stable")
        counts = np.bincount(user, minlength=self.data.num_users + 1)
        return np.concatenate([[0], np.cumsum(counts)]), item[order]
