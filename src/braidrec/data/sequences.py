"""Sequences as gathers: each user's training part is a prefix of their own events, and a window of it is cut per batch.

A user's training sequence is everything before the first held-out event; every item of it but the first is a target of
the items before it (PAD, SIGIR 2025, section 4.1: leave-last-two-out).  Memory is O(N), whatever the window length.
What sequences follow are a data set's `followed` events: its positives, unless it was prepared otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.followed import followed_positions
from braidrec.data.log import InteractionLog
from braidrec.data.negatives import OwnItems, UnmetItems
from braidrec.errors import DataError

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset

Windows = Literal["last", "all"]


@dataclass(frozen=True)
class SequenceBatch:
    """B windows of K positions, oldest first, padded on the left with item 0; K is the longest of the batch.

    user (B,) int32 catalogue rows    items (B, K) int32 inputs    targets (B, K) int32 the item after each input
    negatives (B, K, M) int32 drawn items the user's training sequence lacks; 0 where the position has no target
    A position without a target: padding, and with ties = "exclude" one whose next item is of the same second.
    """

    user: Tensor
    items: Tensor
    targets: Tensor
    negatives: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def mask(self) -> Tensor:
        """(B, K) bool, True on real positions."""
        return self.items > 0

    def to(self, device: torch.device | str) -> SequenceBatch:
        if self.items.device == torch.device(device):
            return self
        return SequenceBatch(**{part.name: getattr(self, part.name).to(device, non_blocking=True) for part in fields(self)})


def disliked(dataset: Dataset) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """User and item (n,) of the events without a positive label that came before the user's first held-out one.

    Without pairs that training follows as well; none where sequences follow every event.
    """
    log, own, positions = dataset.log, dataset.followed, followed_positions(dataset.log, dataset.settings)
    if dataset.settings.sequences == "all":
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    ends = training_ends(own)
    border = training_border(dataset) if dataset.settings.split.at_one_moment else len(log)
    first = np.full(log.num_users + 1, border)
    held = own.log.rank >= ends[own.log.user]
    np.minimum.at(first, own.log.user[held], positions[held])
    rows = np.flatnonzero((log.label <= 0) & (np.arange(len(log)) < first[log.user]))
    width = dataset.num_items + 1
    user, item = training_events(own.log, ends)
    liked = np.isin(log.user[rows].astype(np.int64) * width + log.item[rows], user.astype(np.int64) * width + item)
    return log.user[rows[~liked]], log.item[rows[~liked]]


def training_ends(dataset: Dataset) -> NDArray[np.int64]:
    """(U + 1,) how many of each user's first events belong to training: all before the first that is held out.

    Raises DataError for a split whose training part is no prefix of the users' histories.
    """
    log, split, cut = dataset.log, dataset.split, dataset.settings.split
    if not cut.in_order:
        why = "a shuffle that ignores order" if cut.kind == "ratio" else "ready-made and not known to follow order"
        if dataset.schema.clock is None:
            why = "and the log has neither time nor order"
        remedy = "" if dataset.schema.clock is not None else "name its 'timestamp' or 'order' column and "
        raise DataError(
            f"{dataset.name}: the split is '{cut.kind}', {why}, so it leaves no sequences to train on; "
            f"{remedy}prepare the data with split.kind = 'leave_last_two' or 'temporal'"
        )
    ends = log.history_length.copy()
    ends[0] = 0
    if cut.at_one_moment:
        border = training_border(dataset)
        ends[:] = np.bincount(log.user[:border], minlength=len(ends))
        return ends
    for part in ("valid", "test"):
        np.minimum.at(ends, log.user[split[part]], log.rank[split[part]].astype(np.int64))
    return ends


def training_border(dataset: Dataset) -> int:
    """The first position of the log that is no longer training, of a split at a moment in time."""
    if dataset.settings.split.kind == "date":
        return int(np.searchsorted(dataset.log.timestamp, dataset.settings.split.borders[0]))
    return int(min(dataset.split[part][0] for part in ("valid", "test")))


def training_events(log: InteractionLog, ends: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """User and item (n,) of every training event, user by user, oldest first."""
    users = np.repeat(np.arange(len(ends)), ends)
    slots = np.repeat(log.start[:-1] - np.concatenate([[0], np.cumsum(ends)[:-1]]), ends) + np.arange(ends.sum())
    return users.astype(np.int32), log.slot_item[slots]


def window_ends(ends: NDArray[np.int64], length: int, windows: Windows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User and end (W,) of the training windows, each of up to ``length`` targets.

    ``last``: one per user, the latest targets alone (PAD).  ``all``: every target in exactly one window.
    """
    users = np.flatnonzero(ends >= 2)
    if windows == "last":
        return users, ends[users]
    count = -(-(ends[users] - 1) // length)
    repeated = np.repeat(users, count)
    turn = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return repeated, ends[repeated] - turn * length


class SequenceBatches:
    """Training windows in batches cut from a seeded permutation; its whole state is (seed, epoch, position)."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        length: int,
        windows: Windows = "last",
        negatives: int = 1,
        own_negatives: bool = False,
        seed: int = 0,
    ):
        """own_negatives: the first negative of a position is one of the user's `disliked` items, where there are any."""
        own = OwnItems(*disliked(dataset), dataset.log.num_users) if own_negatives else None
        if own_negatives and dataset.settings.sequences == "all":
            raise DataError(
                f'{dataset.name}: sequences follow every event (sequences = "all"), so none is left to be a negative; prepare '
                'the data with sequences = "positives", or train without own_negatives'
            )
        dataset = dataset.followed
        log, ends = dataset.log, training_ends(dataset)
        self._users, self._ends = window_ends(ends, length, windows)
        # slots whose event shares its second with the one before, which its history may not hold: no target of it
        self._barred: NDArray[np.bool_] | None = None
        if log.visible is not None:
            self._barred = np.r_[False, (log.visible < log.rank)[log.slot_event[1:]]]
            free = self._has_target(log.start[self._users], self._ends, length)
            self._users, self._ends = self._users[free], self._ends[free]
        self._own = own
        if not len(self._users):
            raise DataError(
                f"{dataset.name}: no user has two events before the held-out ones, so there is no next item to learn; "
                "bring longer histories"
            )
        self._start, self._item = log.start, log.slot_item
        self._length, self._batch_size, self._negatives = length, batch_size, negatives
        self._unmet = UnmetItems(*training_events(log, ends), dataset.num_items, seed) if negatives else None
        self._seed, self._epoch, self._position = seed, 0, 0

    def _has_target(self, start: NDArray[np.int64], ends: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """(W,) whether any slot of a window can be a target."""
        assert self._barred is not None
        free = np.r_[0, np.cumsum(~self._barred)]
        last = start + ends
        first = np.maximum(start + 1, last - length)
        return free[last] > free[first]

    @property
    def num_windows(self) -> int:
        return len(self._users)

    def __len__(self) -> int:
        return -(-self.num_windows // self._batch_size)

    def state(self) -> dict[str, int]:
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def restore(self, state: Mapping[str, int]) -> None:
        self._seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]
        if self._unmet is not None:
            self._unmet.seed = self._seed

    def __iter__(self) -> Iterator[SequenceBatch]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self.num_windows, generator=generator).numpy()
        while self._position < len(self):
            begin = self._position * self._batch_size
            self._position += 1
            yield self.cut(order[begin : begin + self._batch_size])
        self._epoch, self._position = self._epoch + 1, 0

    def cut(self, windows: NDArray[np.int64]) -> SequenceBatch:
        """The batch of ``windows`` (B,), numbers below `num_windows`."""
        users, ends = self._users[windows], self._ends[windows]
        width = int(np.minimum(ends, self._length + 1).max())
        ids, slots = left_padded(self._start[users], ends, self._item, width)
        items, targets = ids[:, :-1], np.where(ids[:, :-1] > 0, ids[:, 1:], 0)
        if self._barred is not None:
            targets = np.where(self._barred[slots[:, 1:]], 0, targets)
        negatives = np.zeros((*targets.shape, self._negatives), np.int32)
        if self._unmet is not None:
            row, column = np.nonzero(targets)
            number = slots[row, column + 1][:, None] * self._negatives + np.arange(self._negatives)
            owner = np.repeat(users[row], self._negatives)
            negatives[row, column] = self._unmet.draw(owner, number.reshape(-1), self._epoch).reshape(number.shape)
            if self._own is not None:
                given = self._own.draw(users[row], number[:, 0], self._seed, self._epoch)
                negatives[row, column, 0] = np.where(given > 0, given, negatives[row, column, 0])
        return SequenceBatch(
            torch.from_numpy(users.astype(np.int32)),
            torch.from_numpy(np.ascontiguousarray(items)),
            torch.from_numpy(targets.astype(np.int32)),
            torch.from_numpy(negatives),
        )


def left_padded(
    start: NDArray[np.int64], ends: NDArray[np.int64], slot_item: NDArray[np.int32], width: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The last ``width`` of the first ``ends`` (B,) slots from ``start`` (B,) on: items and slots (B, width), 0 on the left."""
    offset = ends[:, None] - width + np.arange(width)
    slots = np.where(offset >= 0, start[:, None] + offset, 0)
    return slot_item[slots], slots
