"""The interaction log: one columnar record of who met what, when, and an index to each user's own history.

Everything a model sees is cut from it without copying: ranking samples, histories, sequences, the user-item matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    visible (N,) int32     how many of the user's first events the history of this one may hold: fewer than ``rank`` where rows
                           equal in user, item and time (or, with ties = "exclude", in user and time) stand before it, since
                           a copy would tell its label; None where none does
    origin (N,) int64      the position before which every statistic of this event stops, likewise; None where that is its own

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
    visible: Ints | None = None
    origin: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_users(self) -> int:
        return len(self.start) - 2

    @property
    def past(self) -> Ints:
        """(N,) int32: how many of its user's first events may stand in an event's history."""
        return self.rank if self.visible is None else self.visible

    @property
    def before(self) -> NDArray[np.int64]:
        """(N,) int64: the position before which an event's statistics stop."""
        return np.arange(len(self)) if self.origin is None else self.origin

    @property
    def history_length(self) -> NDArray[np.int64]:
        """(U + 1,) events of each user; entry 0 belongs to no user."""
        return np.diff(self.start)

    def at(self, positions: NDArray[np.int64], *, exclude_ties: bool = False) -> InteractionLog:
        """A log of the events at ``positions`` (n,), ascending, alone; users and items keep their catalogue rows."""
        weight = None if self.weight is None else self.weight[positions]
        return self.build(
            self.user[positions],
            self.item[positions],
            self.timestamp[positions],
            self.rating[positions],
            self.label[positions],
            weight,
            self.signal[positions],
            self.num_users,
            exclude_ties=exclude_ties,
        )

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
        *,
        exclude_ties: bool = False,
    ) -> InteractionLog:
        """Index events that are already in log order.  exclude_ties: no event is in the history of another of its second."""
        order = np.argsort(user, kind="stable").astype(np.int32)
        start = np.zeros(num_users + 2, np.int64)
        start[1:] = np.cumsum(np.bincount(user, minlength=num_users + 1)) + 1
        start[0] = 1
        rank = np.empty(len(user), np.int32)
        rank[order] = (np.arange(len(user)) + 1 - start[user[order]]).astype(np.int32)
        visible, origin = _limits(user, item, timestamp, rank, order, exclude_ties)
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
            visible=visible,
            origin=origin,
        )


def _limits(
    user: Ints, item: Ints, timestamp: NDArray[np.int64], rank: Ints, order: Ints, exclude_ties: bool
) -> tuple[Ints | None, NDArray[np.int64] | None]:
    """`InteractionLog.visible` and `origin`.  Of one user, rows that are alike stand side by side: order (N,) is by user."""
    own = _equal(timestamp[order]) & _equal(user[order])
    alike = own if exclude_ties else own & _equal(item[order])
    together = _equal(timestamp) if exclude_ties else _equal(timestamp) & _equal(user) & _equal(item)
    if not alike.any() and not together.any():
        return None, None
    visible = np.empty_like(rank)
    visible[order] = rank[order][_first(alike)]
    return visible, _first(together)


def _equal(values: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """(N - 1,) whether each entry is that before it."""
    same: NDArray[np.bool_] = values[1:] == values[:-1]
    return same


def _first(goes_on: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) place where the run of each row begins; goes_on (N - 1,): whether a row belongs to the run of the one before it."""
    places = np.arange(len(goes_on) + 1)
    return np.maximum.accumulate(np.where(np.r_[True, ~goes_on], places, 0))
