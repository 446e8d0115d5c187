"""The interaction log: one columnar record of who met what, when, and an index to each user's own history.

Everything a model sees is cut from it without copying: ranking samples, histories, sequences, the user-item matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class InteractionLog:
    """N events in (timestamp, user, item) order; in (order, user, item) where there is no clock, (user, item) without either.

    user (N,) int32 catalogue rows 1..U     item (N,) int32 catalogue rows 1..I    timestamp (N,) int64 seconds, or order, or 0
    rating (N,) float32    label (N,) float32 0/1    weight (N,) float32 or None
    signal (N,) int32      row 1..R of the distinct rating or label that a behaviour carries into a history
    rank (N,) int32        how many earlier events the same user has

    The per-user index has N + 1 slots; slot 0 is padding (event -1, item 0, signal 0).  Slots
    ``start[u] .. start[u + 1] - 1`` hold the events of user u, oldest first.
    slot_event, slot_item, slot_signal (N + 1,) int32    start (U + 2,) int64
    """

    user: Ints
    item: Ints
    timestamp: NDArray[np.int64]
    rating: NDArray[np.float32]
    label: NDArray[np.float32]
    weight: NDArray[np.float32] | None
    signal: Ints
    rank: Ints
    slot_event: Ints
    slot_item: Ints
    slot_signal: Ints
    start: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_users(self) -> int:
        return len(self.start) - 2

    @property
    def history_length(self) -> NDArray[np.int64]:
        """(U + 1,) events of each user; entry 0 belongs to no user."""
        return np.diff(self.start)

    @classmethod
    def build(
        cls,
        user: Ints,
        item: Ints,
        timestamp: NDArray[np.int64],
        rating: NDArray[np.float32],
        label: NDArray[np.float32],
        weight: NDArray[np.float32] | None,
        signal: Ints,
        num_users: int,
    ) -> InteractionLog:
        """Index events that are already in log order."""
        order = np.argsort(user, kind="stable").astype(np.int32)
        start = np.zeros(num_users + 2, np.int64)
        start[1:] = np.cumsum(np.bincount(user, minlength=num_users + 1)) + 1
        start[0] = 1
        rank = np.empty(len(user), np.int32)
        rank[order] = (np.arange(len(user)) + 1 - start[user[order]]).astype(np.int32)
        return cls(
            user,
            item,
            timestamp,
            rating,
            label,
            weight,
            signal,
            rank,
            slot_event=np.concatenate([np.array([-1], np.int32), order]),
            slot_item=np.concatenate([np.zeros(1, np.int32), item[order]]),
            slot_signal=np.concatenate([np.zeros(1, np.int32), signal[order]]),
            start=start,
        )
