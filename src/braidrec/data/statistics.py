"""Time-causal counts and rates: for a user and a candidate item, only what was known before the moment of the event.

Seven numbers, as engineers put them beside ids: the item's smoothed mean rating and positive rate so far, the user's mean
past residual against each, log counts of both, and the spread of the user's ratings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.data.log import InteractionLog

NAMES = (
    "item mean rating",
    "item positive rate",
    "user rating residual",
    "user label residual",
    "log item count",
    "log user count",
    "user rating spread",
)
_ITEM_PRIOR = 10.0
_USER_PRIOR = 5.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StatisticsScale:
    """What training fixed: prior (2,) rating and label of anybody, mean (7,) and spread (7,) of the columns as computed."""

    prior: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    def to_json(self) -> dict[str, list[float]]:
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def of_json(cls, values: Mapping[str, Sequence[float]]) -> StatisticsScale:
        return cls(**{name: np.array(values[name]) for name in ("prior", "mean", "spread")})


class CausalStatistics:
    """Numbers (n, 7) float32, standardised by the mean and spread of the rows at ``train``.

    ``before(positions)``: as of each event, its copies and (with ties = "exclude") all events of its second left out.
    ``now(user, items)``: as of the end of the log, joined from `items_now` and `user_now`, which stand without the log.

    train: positions of the training rows, or what a model was trained with, for a log that has grown since
    """

    def __init__(self, log: InteractionLog, num_items: int, train: NDArray[np.int64] | StatisticsScale):
        count = len(log)
        rating, label = log.rating.astype(np.float64), log.label.astype(np.float64)
        self._log, self._count, self.num_items = log, count, num_items
        known = train if isinstance(train, StatisticsScale) else None
        rows = np.arange(0) if isinstance(train, StatisticsScale) else train
        self._prior = np.array([rating[rows].mean(), label[rows].mean()]) if known is None else known.prior
        # Slots of one item stand together, oldest first; sums carry one entry more so that differences give any range.
        by_item = np.argsort(log.item, kind="stable")
        self._item_keys = log.item[by_item].astype(np.int64) * count + by_item
        self._item_start = np.concatenate([[0], np.cumsum(np.bincount(log.item, minlength=num_items + 1))])
        self._item_sums = _sums(np.stack([rating, label], axis=1)[by_item])
        own = self._item_part(log.item, log.before)
        residual = np.stack([rating, label], axis=1) - own[:, :2]
        by_user = log.slot_event[1:]
        self._user_sums = _sums(np.column_stack([residual, rating, rating**2])[by_user])
        raw = joined(own, self._user_part(log.user, log.past))
        self._mean = raw[rows].mean(axis=0) if known is None else known.mean
        if known is None:
            spread = raw[rows].std(axis=0)
            self._spread = np.where(spread > 1e-6, spread, 1.0)  # a column that training has one value of is not blown up
        else:
            self._spread = known.spread
        self._rows = self._scale(raw)

    @property
    def scale(self) -> StatisticsScale:
        return StatisticsScale(self._prior, self._mean, self._spread)

    def before(self, positions: NDArray[np.int64], items: NDArray[np.int32] | None = None) -> Floats:
        """As of the events at ``positions`` (n,), for their own items or for others ``items`` (n,) in their place."""
        if items is None:
            return self._rows[positions]
        own = self._item_part(items, positions if self._log.origin is None else self._log.origin[positions])
        return self._scale(joined(own, self._user_part(self._log.user[positions], self._log.past[positions])))

    def now(self, user: int, items: NDArray[np.int32]) -> Floats:
        return joined(self.items_now[items], self.user_now(user))

    @cached_property
    def items_now(self) -> Floats:
        """(I + 1, 3) the item's columns of `joined`; row 0, which nobody ever met, is that of any item without a past."""
        items = np.arange(self.num_items + 1, dtype=np.int32)
        return self._scale(self._item_part(items, np.full(len(items), self._count)), _OF_ITEM)

    def user_now(self, user: int) -> Floats:
        """(4,) the user's columns of `joined`; user 0 is somebody new."""
        length = int(self._log.history_length[user])
        return self._scale(self._user_part(np.array([user]), np.array([length])), _OF_USER)[0]

    def _item_part(self, items: NDArray[np.int32], positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 3): smoothed mean rating, smoothed positive rate, log count of each item before each position."""
        first = self._item_start[items]
        last = np.searchsorted(self._item_keys, items.astype(np.int64) * self._count + positions)
        number = np.maximum(last - first, 0)[:, None]
        sums = self._item_sums[np.maximum(last, first)] - self._item_sums[first]
        return np.column_stack([(sums + _ITEM_PRIOR * self._prior) / (number + _ITEM_PRIOR), np.log1p(number)])

    def _user_part(self, users: NDArray[np.int32], ranks: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n, 4): mean residuals of rating and label, log count, spread of ratings over the first ``ranks`` events."""
        first = self._log.start[users] - 1
        sums = self._user_sums[first + ranks] - self._user_sums[first]
        number = ranks.astype(np.float64)
        mean = sums[:, 2] / np.maximum(number, 1)
        spread = np.sqrt(np.maximum(sums[:, 3] / np.maximum(number, 1) - mean**2, 0.0))
        return np.column_stack([sums[:, :2] / (number + _USER_PRIOR)[:, None], np.log1p(number), spread])

    def _scale(self, raw: NDArray[np.float64], columns: Sequence[int] = range(len(NAMES))) -> Floats:
        at = list(columns)
        scaled: Floats = ((raw - self._mean[at]) / self._spread[at]).astype(np.float32)
        return scaled


# columns as computed: item mean, item rate, residual rating, residual label, log user count, spread, log item count
_ORDER = [0, 1, 2, 3, 6, 4, 5]
_OF_ITEM, _OF_USER = (0, 1, 4), (2, 3, 5, 6)  # where they stand in the end


def joined(items: NDArray[Any], user: NDArray[Any]) -> NDArray[Any]:
    """(n, 7) in the order of `NAMES`, from the columns of the items (n, 3) and those of their users (n, 4), or of one (4,)."""
    own = np.broadcast_to(user, (len(items), len(_OF_USER)))
    return np.column_stack([items[:, :2], own, items[:, 2]])[:, _ORDER]


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
